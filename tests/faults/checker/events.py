"""Reads histories: files of JSON lines, each in the order of time, several merged by time."""

import heapq
import json

# So many lines are parsed by one call.
CHUNK = 2000


class Malformed(Exception):
    """A history that cannot be judged: it says nothing of the broker, only of who wrote it."""


def read(paths):
    """Yields (place, event) in the order of time. A place is (number of the file, number of the line), packed by `pack`."""
    streams = [_file(number, path) for number, path in enumerate(paths)]
    if len(streams) == 1:
        return streams[0]
    return heapq.merge(*streams, key=lambda item: item[1]["t"])


def pack(number, line):
    return number << 40 | line


def lines(paths, places):
    """The text of these places: {place: line}."""
    wanted = set(places)
    found = {}
    for number, path in enumerate(paths):
        if not any(place >> 40 == number for place in wanted):
            continue
        with open(path, encoding="utf-8") as source:
            for line, text in enumerate(source, 1):
                place = pack(number, line)
                if place in wanted:
                    found[place] = text.strip()
    return found


def _file(number, path):
    before, line = None, 0
    with open(path, encoding="utf-8") as source:
        while True:
            chunk = source.readlines(CHUNK * 100)
            if not chunk:
                return
            for event in _parse(path, line, chunk):
                line += 1
                if event is None:
                    continue
                try:
                    now = event["t"]
                    if before is not None and now < before:
                        raise Malformed(f"{path}:{line}: time goes back from {before} to {now}")
                except (TypeError, KeyError):
                    raise Malformed(f"{path}:{line}: no event: an object with a time `t` in nanoseconds") from None
                before = now
                yield number << 40 | line, event


def _parse(path, line, chunk):
    """One value a line; None for an empty one."""
    try:
        found = json.loads("[" + ",".join(chunk) + "]")
        if len(found) == len(chunk):
            return found
    except ValueError:
        pass
    found = []
    for at, text in enumerate(chunk, line + 1):
        try:
            found.append(json.loads(text) if text.strip() else None)
        except ValueError as error:
            raise Malformed(f"{path}:{at}: {error}") from None
    return found
