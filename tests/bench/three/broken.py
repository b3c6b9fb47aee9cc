"""Failures of a cluster of three in network namespaces, and what its clients see of each."""

import asyncio
import contextlib
import json
import os
import platform
import re
import statistics
import subprocess
import tempfile
import time

import measure
from tables import NOTHING, table

from . import nodes
from .client import Client, Gone
from .watch import Publishers, gaps

SHARDS = 16
# Publishers on the nodes that fail, and on others.
ON_VICTIM, ELSEWHERE = 12, 24
BEFORE = 2.0
PATIENCE = 60
# Longer than all that is waited for in one failure, besides the time that it lasts.
MOST = 5 * PATIENCE


def FAILURE(title, victims, begin, end, **more):
    return title, {"victims": victims, "begin": begin, "end": end, **more}


# What breaks, and how it ends: each gets the cluster, the network, the disks and the victims.

async def kill(run):
    await asyncio.gather(*(node.kill() for node in run.victims))


async def start(run):
    for node in run.victims:
        node.start()


async def stop_in_order(run):
    for node in run.victims:
        await node.terminate()


async def pause(run):
    for node in run.victims:
        node.pause()


async def resume(run):
    for node in run.victims:
        node.resume()


async def cut(run):
    for node in run.victims:
        for other in run.others:
            run.network.deaf |= {(node.name, other.name), (other.name, node.name)}
    run.network.apply()


async def deafen(run):
    for node in run.victims:
        run.network.deaf |= {(node.name, other.name) for other in run.others}
    run.network.apply()


async def part(run):
    """From one of the others, which still reaches the third."""
    node, other = run.victims[0], run.others[0]
    run.network.deaf |= {(node.name, other.name), (other.name, node.name)}
    run.network.apply()


async def heal(run):
    run.network.heal()


async def freeze(run):
    for node in run.victims:
        await asyncio.to_thread(run.disks.freeze, node.name)


async def thaw(run):
    for node in run.victims:
        await asyncio.to_thread(run.disks.thaw, node.name)


async def fill(run):
    """All that is free, but for some kilobytes."""
    for node in run.victims:
        free = os.statvfs(node.disk)
        with open(node.disk / "ballast-of-the-test", "wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, free.f_bavail * free.f_frsize - 65536))


async def empty(run):
    for node in run.victims:
        (node.disk / "ballast-of-the-test").unlink()


async def lose(run):
    await kill(run)
    for node in run.victims:
        node.wipe()


FAILURES = {
    "dies": FAILURE("the node that leads meta is killed", "leader", kill, start),
    "follower": FAILURE("another node is killed", "follower", kill, start),
    "stops": FAILURE("a node is stopped in order", "leader", stop_in_order, start),
    "hangs": FAILURE("the node that leads meta hangs", "leader", pause, resume),
    "cut-off": FAILURE("it is cut off from the others, not from clients", "leader", cut, heal),
    "one-way": FAILURE("it does not hear the others, who hear it", "leader", deafen, heal),
    "partial": FAILURE("it and one other do not reach each other; both reach the third", "leader", part, heal),
    "two-lost": FAILURE("two nodes are killed; the clients are the last one's", "two", kill, start, survivor=True),
    "all-nodes": FAILURE("all nodes are killed", "all", kill, start, hold=2.0),
    "blocked": FAILURE("a node's disk takes no writes", "leader", freeze, thaw),
    "two-blocked": FAILURE("the disks of two nodes take no writes", "two", freeze, thaw),
    "full": FAILURE("a node's disk is full", "leader", fill, empty),
    "disk-lost": FAILURE("a node comes back with an empty disk", "leader", lose, start, hold=2.0),
}
COLUMNS = {
    "elsewhere": "Longest without PUBACK, on other nodes", "last": "Last PUBACK of the node", "closed": "Its clients are closed", "code": "with", "takeover": "Its client, elsewhere: CONNACK",
    "suback": "New SUBACK elsewhere", "down": "Declared down", "ready": "Serves again, after the end", "acknowledges": "Acknowledges there again",
}


class Run:
    """One failure on a cluster of its own."""

    def __init__(self, directory):
        # Here, since the namespaces have to be entered first.
        from driver.cluster import Cluster
        from driver.disks import Disks
        from driver.net import Network

        settings = {"workers": 1}
        names = ["raftmq-0", "raftmq-1", "raftmq-2"]
        self.network = Run.network = getattr(Run, "network", None) or Network(names)
        self.disks = Disks(directory, names)
        self.cluster = Cluster(directory, self.network, self.disks, settings, shards=SHARDS)
        self.victims = self.others = ()

    async def choose(self, which):
        leaders = dict(await self.cluster.leaders())
        everybody = self.cluster.nodes
        leading = [node for node in everybody if node.name == leaders.get("meta")] or everybody[:1]
        rest = [node for node in everybody if node not in leading]
        self.victims = {"leader": leading, "follower": rest[:1], "two": [*leading, rest[0]], "all": everybody}[which]
        self.others = [node for node in everybody if node not in self.victims]

    async def formed(self):
        """Waits until the shards take sessions."""
        end = time.monotonic() + PATIENCE
        for number in range(40):
            while True:
                client = Client(f"formed-{number}", clean=False)
                try:
                    await client.connect(at(self.cluster.nodes[number % 3]))
                    client.disconnect()
                    break
                except Gone:
                    if time.monotonic() > end:
                        raise
                    await asyncio.sleep(0.2)

    def close(self):
        self.network.heal()
        for name in list(self.disks.frozen):
            self.disks.thaw(name)
        self.cluster.stop()
        self.disks.close(self.network.names)


def at(node):
    return node.address, node.PORT


class At:
    """A node as watch.Publishers wants it."""

    def __init__(self, node):
        self.at = at(node)


async def one(name, parent, hold):
    """The figures of one failure: seconds since it began, or since it ended."""
    title, about = FAILURES[name]
    directory = tempfile.mkdtemp(prefix=f"{name}-", dir=parent)
    run = Run(directory)
    try:
        await run.cluster.form()
        await run.formed()
        await run.choose(about["victims"])
        return await watched(run, about["begin"], about["end"], min(hold, about.get("hold", hold)), about.get("survivor", False))
    finally:
        run.close()


async def watched(run, begin, end, hold, survivor):
    """`survivor`: who is looked at is not the node that fails, but who is left."""
    everywhere = [At(node) for node in run.cluster.nodes]
    victims, others = [At(node) for node in run.victims], [At(node) for node in run.others]
    if survivor:
        victims, others = others, []
    there = await Publishers.start(victims, ON_VICTIM, "there", everywhere=everywhere)
    elsewhere = await Publishers.start(others, ELSEWHERE, "elsewhere", everywhere=everywhere) if others else None
    observer, moving = Client("observer", level=5), Client("moving", clean=False, level=5)
    await observer.connect(victims[0].at)
    await moving.connect(victims[0].at)
    await asyncio.sleep(BEFORE)

    begun = time.monotonic()
    doing = asyncio.create_task(begin(run))
    seen = {"takeover": None, "suback": None, "down": None}
    tasks = [doing, asyncio.create_task(ended(observer))]
    if len(run.others) > 1:
        tasks += [
            asyncio.create_task(noted(seen, "takeover", begun, moved(run.others[0]))), asyncio.create_task(noted(seen, "suback", begun, subscribed(run.others[1]))),
            asyncio.create_task(noted(seen, "down", begun, declared(run.others[0]))),
        ]
    await asyncio.sleep(max(0.0, begun + hold - time.monotonic()))
    await doing
    over = time.monotonic()
    await end(run)
    ready = await run.cluster.wait_ready(PATIENCE, run.victims)
    serves = time.monotonic() - over
    acknowledges = await first_after(there, over)
    await asyncio.sleep(1.0)

    made = {
        "elsewhere": max(gaps(elsewhere, begun - 0.1, over)) if elsewhere else None,
        # Those that were on their way when it began do not count as served afterwards: what does is said.
        "last": max((moment - begun for moments in there.acknowledged for moment in moments if moment <= over), default=None),
        "closed": observer.ended - begun if observer.ended else None, "code": f"{observer.code:#04x}" if observer.code is not None else None,
        **seen, "ready": serves if ready else None, "acknowledges": acknowledges,
    }
    there.stop()
    if elsewhere:
        elsewhere.stop()
    for task in tasks:
        task.cancel()
    # One that had its own time limit at that moment may not have noticed.
    await asyncio.wait(tasks, timeout=5)
    for client in (observer, moving):
        client.close()
    # What was closed by its own node before it could be written to has no code, and a negative time is noise of the clock.
    return {key: max(0.0, value) if isinstance(value, float) else value for key, value in made.items()}


async def ended(client):
    await client.over.wait()


async def noted(seen, name, begun, doing):
    with contextlib.suppress(Gone, OSError, TimeoutError):
        await doing
        seen[name] = time.monotonic() - begun


async def moved(node):
    while True:
        client = Client("moving", clean=False, level=5)
        with contextlib.suppress(Gone):
            await client.connect(at(node), 20)
            client.disconnect()
            return
        await asyncio.sleep(0.1)


async def subscribed(node):
    while True:
        client = Client("new", level=5)
        with contextlib.suppress(Gone):
            await client.connect(at(node), 20)
            await client.subscribe("new/#", 1)
            client.disconnect()
            return
        await asyncio.sleep(0.1)


async def declared(node):
    """Until this node knows that a member is down."""
    while True:
        with contextlib.suppress(OSError, TimeoutError, ValueError):
            reader, writer = await asyncio.wait_for(asyncio.open_connection(node.address, node.METRICS), 1)
            writer.write(b"GET /metrics HTTP/1.0\r\nHost: node\r\n\r\n")
            text = (await asyncio.wait_for(reader.read(), 3)).decode()
            writer.close()
            found = re.search(r'^raftmq_members\{state="down"\} ([0-9.]+)', text, re.MULTILINE)
            if found and float(found[1]) > 0:
                return
        await asyncio.sleep(0.1)


async def first_after(publishers, moment):
    """Seconds until the first acknowledgement after this moment; None if there is none."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        for moments in publishers.acknowledged:
            if moments and moments[-1] > moment:
                later = [each for moments in publishers.acknowledged for each in moments if each > moment]
                return min(later) - moment
        await asyncio.sleep(0.02)
    return None


# The figures

def about(hold):
    cpu = [line.partition(":")[2].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    import brokers

    commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=brokers.REPO, capture_output=True, text=True, timeout=20).stdout.strip()
    return {"date": measure.now(), "commit": commit, "cpu": cpu[0] if cpu else platform.machine(), "cores": os.cpu_count(), "hold": hold}


def read(path):
    return json.loads(path.read_text()) if path.exists() else {}


def save(figures, path):
    path.write_text(json.dumps(figures, indent=1) + "\n")


def said(values):
    known = [value for value in values if value is not None]
    if not known:
        return NOTHING
    if isinstance(known[0], str):
        return ", ".join(dict.fromkeys(known))
    text = f"{statistics.median(known):.1f}"
    return text if len(known) == 1 else f"{text} ({min(known):.1f} to {max(known):.1f})"


def table_of(figures, only=None):
    rows = []
    for name, (title, _) in FAILURES.items():
        if figures.get(name) and (only is None or name in only):
            rows.append([title, *(said([made[column] for made in figures[name]]) for column in COLUMNS)])
    return table(["What", *COLUMNS.values()], rows)


def write(figures, directory):
    """Puts tables between their marks in all pages there: `<!-- table: NAME,NAME -->`, or `all`."""
    for path in sorted(directory.glob("*.md")):
        text = path.read_text()

        def made(match):
            names = match[1].split(",")
            return f"<!-- table: {match[1]} -->\n{table_of(figures, None if names == ['all'] else names)}\n<!-- end: {match[1]} -->"

        new = re.sub(r"<!-- table: ([a-z,-]+) -->.*?<!-- end: \1 -->", made, text, flags=re.DOTALL)
        at = figures.get("about", {})
        said_about = f"{at.get('date')}, commit {at.get('commit')}, {at.get('cpu')}, {at.get('cores')} processors for all; a failure lasts {at.get('hold'):g} s where nothing else is said."
        new = re.sub(r"<!-- about -->.*?<!-- end: about -->", lambda _m: f"<!-- about -->\n{said_about}\n<!-- end: about -->", new, flags=re.DOTALL)
        if new != text:
            path.write_text(new)
