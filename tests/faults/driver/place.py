"""Where the brokers of a run are: as processes of this machine (`processes`), or as pods of a Kubernetes (`pods`). What clients do, what is written down,
schedules and the verdict are the same for both."""

import asyncio
import sys
import time
from typing import NamedTuple


class Contact(NamedTuple):
    """Where a client connects to. `name`: of the node, for the history; what serves under it is one life of a broker, or several in a row, never two at a
    time."""

    name: str
    address: str
    PORT: int = 1883


class Place:
    """`nodes`: the brokers, each with a `name`; the schedule knows them by number."""

    # For people.
    what = "brokers"
    # Seconds after which a SUBSCRIBE that brought nothing read nothing while faults are made, as the history declares, and some readers stay longer than
    # that; and seconds in which what is healed has to serve.
    patience, heals = 40, 60

    def __init__(self, options, directory):
        self.options, self.directory = options, directory
        self.nodes = []

    async def form(self):
        """Brings the cluster up: all brokers serve."""
        raise NotImplementedError

    def contact(self, number):
        """Where a node is reached now. OSError where that is not known."""
        raise NotImplementedError

    def breaker(self, recorder):
        """Who breaks it."""
        raise NotImplementedError

    def ended_alone(self):
        """[(name of a node, how)]: those that ended without anybody's doing since this was asked last. They are started again."""
        raise NotImplementedError

    async def wait_ready(self, seconds):
        """Waits until all brokers serve; False if they do not in this time."""
        raise NotImplementedError

    async def stop(self):
        """The end, whatever there is of it."""
        raise NotImplementedError


async def serves(address, port):
    """Whether a broker serves, by its own word."""
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(address, port), 1)
        try:
            writer.write(b"GET /readyz HTTP/1.0\r\nHost: node\r\n\r\n")
            line = await asyncio.wait_for(reader.readline(), 2)
        finally:
            writer.close()
        return b" 200 " in line
    except (OSError, TimeoutError):
        return False


async def wait_ready(nodes, seconds):
    """Waits until the nodes serve; False, with the end of a log, if they do not in this time."""
    end = time.monotonic() + seconds
    for node in nodes:
        while not await node.ready():
            if time.monotonic() > end:
                print(f"{node.name} is not ready after {seconds:.0f} s\n{node.log_tail()}", file=sys.stderr)
                return False
            await asyncio.sleep(0.1)
    return True
