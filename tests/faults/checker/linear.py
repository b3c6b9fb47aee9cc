"""Whether the operations on one register can be put into one order that explains all of them: linearizability.

An operation has an interval in which it took effect at one instant. The search goes through the ends of the intervals in the
order of time, and keeps every state that the register may have: its value, and which of the operations that are not over have taken effect ("just in time
linearization", G. Lowe, Testing for linearizability, 2017). A read takes effect as soon as the register has its value, which never hurts. A write
takes effect no sooner than some operation's end needs it."""

# So many states at once are followed; with more, the answer is None.
STATES = 20_000
# Steps of the search, in the order in which they come at the same instant.
BEGINS, ENDS, LEAVES = 0, 1, 2


class Operation:
    """`end` None: it may take effect at any time from `begin` on, or never."""

    __slots__ = ("begin", "end", "write", "value", "place")

    def __init__(self, begin, end, write, value, place=-1):
        self.begin, self.end, self.write, self.value, self.place = begin, end, write, value, place


def explained(operations, initial=None):
    """None if too many states are possible; else (whether an order explains all, the read that none explains)."""
    operations = _needed(operations)
    # Until when a value is read: a write that need not take effect is of no use later.
    until = {}
    for operation in operations:
        if not operation.write:
            until[operation.value] = max(until.get(operation.value, 0), operation.end)
    steps = []
    for number, operation in enumerate(operations):
        # At the same instant a beginning comes first: what is not ordered may overlap.
        steps.append((operation.begin, BEGINS, number))
        if operation.end is not None:
            steps.append((operation.end, ENDS, number))
        else:
            steps.append((max(operation.begin, until[operation.value]), LEAVES, number))
    steps.sort()
    open_writes, open_reads = [], []
    states = {(initial, frozenset())}
    for _, step, number in steps:
        operation = operations[number]
        if step == BEGINS:
            (open_writes if operation.write else open_reads).append(number)
            if not operation.write:
                states = {_reads(state, operations, (number,)) for state in states}
            continue
        if step == LEAVES:
            open_writes.remove(number)
            states = {(value, done - {number}) for value, done in states}
            continue
        after = set()
        for state in states:
            if not _reach(state, number, operations, open_writes, open_reads, after):
                return None
        if not after:
            return False, operation
        if len(after) > STATES:
            return None
        (open_writes if operation.write else open_reads).remove(number)
        states = {(value, done - {number}) for value, done in after}
    return True, None


def _reach(state, number, operations, open_writes, open_reads, after):
    """Adds to `after` all states in which the operation has taken effect, by the shortest ways. False if they are too many."""
    stack, known = [state], {state}
    while stack:
        value, done = stack.pop()
        if number in done:
            after.add((value, done))
            continue
        for write in open_writes:
            if write in done:
                continue
            following = _reads((operations[write].value, done | {write}), operations, open_reads)
            if following not in known:
                known.add(following)
                stack.append(following)
        if len(known) > STATES:
            return False
    return True


def _reads(state, operations, reads):
    """The state after all of these reads that the value answers."""
    value, done = state
    answered = [number for number in reads if number not in done and operations[number].value == value]
    return (value, done.union(answered)) if answered else state


def _needed(operations):
    """Without the writes that no answer depends on: a write whose value no read returned can take effect right before another write
    whose interval lies within its own; one that need not take effect at all can be left out."""
    values = {operation.value for operation in operations if not operation.write}
    # The intervals of writes that certainly took effect, by beginning.
    kept = []
    unread = []
    for operation in operations:
        if operation.write and operation.value not in values:
            if operation.end is not None:
                unread.append(operation)
        else:
            kept.append(operation)
    # From the last beginning on: the earliest end among the writes that stay.
    sure = sorted((each for each in kept if each.write and each.end is not None), key=lambda each: each.begin, reverse=True)
    unread.sort(key=lambda each: each.begin, reverse=True)
    at, earliest, stay = 0, None, []
    for operation in unread:
        while at < len(sure) and sure[at].begin >= operation.begin:
            earliest = sure[at].end if earliest is None else min(earliest, sure[at].end)
            at += 1
        if earliest is None or earliest > operation.end:
            stay.append(operation)
            earliest = operation.end if earliest is None else min(earliest, operation.end)
    return kept + stay
