"""The clock, what is to happen, and the history that comes of it."""

import heapq
import itertools
import random

MS = 1_000_000


class World:
    def __init__(self, seed, bug):
        self.random = random.Random(seed)
        self.bug = bug
        self.now = 1
        self.events = []
        self._queue = []
        self._numbers = itertools.count()

    def at(self, delay, call, *arguments):
        """Calls something in `delay` nanoseconds."""
        heapq.heappush(self._queue, (self.now + max(0, int(delay)), next(self._numbers), call, arguments))

    def between(self, low, high):
        """A time in milliseconds at random, as nanoseconds."""
        return int(self.random.uniform(low, high) * MS)

    def log(self, e, **event):
        # Each instant has one event at most, as on a real machine.
        self.now += 1
        self.events.append({"t": self.now, "e": e, **event})

    def run(self, until):
        while self._queue and self._queue[0][0] <= until:
            t, _, call, arguments = heapq.heappop(self._queue)
            self.now = max(self.now, t)
            call(*arguments)
        self.now = max(self.now, until)
