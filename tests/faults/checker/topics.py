"""Topic names and filters: which names match a filter (MQTT 5, section 4.7)."""


class Topics:
    """All topic names of a history, numbered, as a tree of their levels."""

    def __init__(self):
        self.names = []
        self.numbers = {}
        self._root = {}
        self._matches = {}

    def number(self, name):
        number = self.numbers.get(name)
        if number is None:
            number = self.numbers[name] = len(self.names)
            self.names.append(name)
            at = self._root
            for level in name.split("/"):
                at = at.setdefault(level, {})
            # No level is the empty tuple.
            at[()] = number
            self._matches.clear()
        return number

    def matching(self, topic_filter):
        """The numbers of the names that match the filter."""
        found = self._matches.get(topic_filter)
        if found is None:
            found = self._matches[topic_filter] = list(self._walk(self._root, topic_filter.split("/"), 0))
        return found

    def _walk(self, at, levels, depth):
        if depth == len(levels):
            if () in at:
                yield at[()]
            return
        level = levels[depth]
        if level == "#":
            yield from self._below(at, depth == 0)
        elif level == "+":
            for name, below in at.items():
                if name != () and not (depth == 0 and name.startswith("$")):
                    yield from self._walk(below, levels, depth + 1)
        elif level in at:
            yield from self._walk(at[level], levels, depth + 1)

    def _below(self, at, first):
        for name, below in at.items():
            if name == ():
                yield below
            elif not (first and name.startswith("$")):
                yield from self._below(below, False)


def matches(topic_filter, name):
    """Whether one name matches one filter."""
    wanted, levels = topic_filter.split("/"), name.split("/")
    if name.startswith("$") and wanted[0] in ("#", "+"):
        return False
    for at, level in enumerate(wanted):
        if level == "#":
            return True
        if at >= len(levels) or level not in ("+", levels[at]):
            return False
    return len(wanted) == len(levels)
