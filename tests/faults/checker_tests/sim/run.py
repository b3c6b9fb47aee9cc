"""One run by seed: clients, faults, the drain, and the history."""

import itertools
import json

from .broker import Cluster
from .client import Client, Reader
from .world import MS, World

# Seconds of a run with faults, of the time in which all is healed before the end, and what the run declares to be enough.
LENGTH, DRAIN, SETTLE = 2.5, 2.0, 0.5


class Population:
    """The clients of a run."""

    def __init__(self, world, cluster):
        self.world, self.cluster = world, cluster
        self.connections, self.messages = itertools.count(1), itertools.count(1)
        self.passing = []
        topics = ["t/0", "t/1", "t/2"]
        retained = ["r/0", "r/1"]
        # Where there is nothing most of the time.
        seldom = "r/2"
        self.clients = [
            Client(self, "p0", topics=[(topic, 1, False) for topic in topics], will=("w/p0", 1, 0)),
            Client(self, "p1", topics=[(topic, 2, False) for topic in topics], will=("w/p1", 2, 0.2)),
            Client(self, "p2", durable=False, topics=[(topic, qos, False) for topic in topics for qos in (0, 1)], will=("w/p2", 1, 0)),
            Client(self, "s0", filters=[("t/#", 2)], restless=2),
            Client(self, "s1", filters=[("t/0", 1), ("t/1", 0)], will=("w/s1", 1, 0.1), restless=2),
            Client(self, "churn", filters=[(topic, 1) for topic in topics], churns=True, pace=(2, 8)),
            Client(self, "live", durable=False, filters=[("t/+", 1)], restless=0),
            Client(self, "watch", filters=[("w/+", 2)], restless=0.5),
            *[Client(self, f"node{number}", durable=False, restless=0, pace=(10, 30)) for number in range(len(cluster.nodes))],
            *[
                Client(self, f"writer{number}", topics=[(topic, 1, True) for topic in retained], restless=0.5, pace=(20, 80))
                for number in range(2)
            ],
            Client(self, "seldom", topics=[(seldom, 1, True)], restless=0.5, pace=(150, 700), empty=0.7),
        ]
        self.reader = Reader(self, "reader", [*retained, seldom, "r/#"], SETTLE)

    def start(self):
        for client in self.clients:
            node = self.cluster.node(client.name.replace("node", "n")) if client.name.startswith("node") else None
            client.connect(node)
            client.act()
        self.reader.act()

    def drain(self):
        """Nothing new is published; who has a session stays connected."""
        self.reader.stopped = True
        for client in self.clients:
            client.stopped = True
        for topic in self.reader.topics[:-1]:
            last = Client(self, f"last-{topic}", durable=False, filters=[(topic, 1)], restless=0)
            last.connect()
            self.clients.append(last)
        self._keep()

    def _keep(self):
        """Pings, which show that connections serve."""
        for client in self.clients:
            if client.link is not None and client.connected:
                client.ping()
            elif client.link is None and client.durable:
                client.connect()
        self.world.at(200 * MS, self._keep)


class Faults:
    """One fault after the other at random; each ends by itself."""

    def __init__(self, world, cluster):
        self.world, self.cluster = world, cluster
        self.stopped = False

    def act(self):
        if self.stopped:
            return
        random = self.world.random
        kind = random.choice(["kill", "kill", "empty", "pause", "isolate", "isolate", "leader", "all"])
        node = random.choice(self.cluster.nodes)
        long = self.world.between(20, 800)
        if kind == "leader":
            self.cluster.change_leader()
        elif kind == "all":
            for each in self.cluster.nodes:
                if each.alive and not each.paused:
                    self._kill(each, self.world.between(20, 250), False)
        elif not node.alive or node.paused or node.isolated:
            kind = None
        elif kind in ("kill", "empty"):
            self._kill(node, long, kind == "empty")
        elif kind == "pause":
            self.cluster.pause(node)
            self.world.at(long, self.cluster.resume, node)
        else:
            self.cluster.isolate(node)
            self.world.at(long, self.cluster.heal, node)
        if kind:
            self.world.log("fault", kind=kind, node=node.name)
        self.world.at(self.world.between(60, 300), self.act)

    def _kill(self, node, long, empty):
        self.cluster.kill(node)
        self.world.at(long, self.cluster.restart, node, empty)


def simulate(seed, bug=None, faults=True):
    """The events of a run."""
    world = World(seed, bug)
    cluster = Cluster(world)
    world.log("run", format=1, seed=seed, settle=SETTLE)
    population, breaking = Population(world, cluster), Faults(world, cluster)
    cluster.tick()
    cluster.keep_stale()
    population.start()
    if faults:
        world.at(100 * MS, breaking.act)
    world.run(int(LENGTH * 1000 * MS))
    # What was broken heals within a second.
    breaking.stopped = True
    world.run(world.now + 900 * MS)
    world.log("drain")
    population.drain()
    world.run(world.now + int(DRAIN * 1000 * MS))
    world.log("end", quiet=True)
    return world.events


def write(events, path):
    with open(path, "w", encoding="utf-8") as file:
        for event in events:
            file.write(json.dumps(event, separators=(",", ":")) + "\n")
