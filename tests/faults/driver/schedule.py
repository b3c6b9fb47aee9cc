"""What is broken, when and for how long: a schedule, which follows from the seed or comes from a file, and who follows it. Which faults there are is
said by `faults`, and for pods by `pod_faults`: tables of their kinds, each with how often it is chosen, and for how long (seconds)."""

import asyncio
import json
import random as randoms


def make(table, seed, nodes, seconds, kinds, pause=(0.5, 5.0), count=None):
    """[{at, kind, nodes, seconds…}], the times in seconds from the start: the same for the same arguments. `count`: so many of them, however long it
    takes."""
    random = randoms.Random(f"faults/{seed}")
    kinds = [kind for kind in kinds if kind in table]
    weights = [table[kind][0] for kind in kinds]
    at, found = random.uniform(1, 3), []
    while kinds and (at < seconds if count is None else len(found) < count):
        kind = random.choices(kinds, weights)[0]
        _, low, high = table[kind]
        # Most are short, some are longer than anything waits for.
        length = round(low + (high - low) * random.random() ** 1.5, 3)
        chosen = random.sample(range(nodes), nodes)
        found.append({
            "at": round(at, 3), "kind": kind, "nodes": chosen, "seconds": length, "both": random.random() < 0.5,
            "percent": random.choice([5, 10, 20, 40]), "group": random.randrange(64), "kbit": random.choice([64, 256]),
        })
        at += length + random.uniform(*pause)
    return found


def read(table, path):
    """A script: JSON lines as `make` makes them; only `at` and `kind` have to be there."""
    found = []
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip() or line.startswith("#"):
                continue
            fault = json.loads(line)
            if fault.get("kind") not in table:
                raise SystemExit(f"{path}:{number}: no fault {fault.get('kind')!r}: {', '.join(table)}")
            found.append({"nodes": [0, 1, 2], "seconds": 3, "both": True, "percent": 20, "group": 0, "kbit": 256, **fault})
    return found


class Skipped(Exception):
    """A fault that cannot be made now."""


class Breaker:
    """Does the faults of a schedule: each in a method by its name."""

    KINDS, WORDS = {}, {}
    # Whether the time between two faults begins when the first one is over, although that took longer than the schedule knew.
    PATIENT = False

    def __init__(self, cluster, recorder):
        self.cluster, self.recorder = cluster, recorder
        self.done = {}
        # For the display: what is broken now.
        self.now = ""

    async def follow(self, faults):
        loop = asyncio.get_running_loop()
        start = loop.time()
        for fault in faults:
            await asyncio.sleep(max(0, start + fault["at"] - loop.time()))
            await self.do(fault)
            if self.PATIENT:
                start += max(0, loop.time() - start - fault["at"] - fault["seconds"])

    async def do(self, fault):
        kind = fault["kind"]
        nodes = [self.cluster.nodes[number] for number in fault["nodes"] if number < len(self.cluster.nodes)]
        nodes = await self._in_order(fault, nodes)
        touched = nodes[:self._touched(kind, len(nodes))]
        names = [node.name for node in touched]
        self.now = f"{kind} {' '.join(names)}"
        self.recorder.event("fault", kind=kind, nodes=names, seconds=fault["seconds"])
        try:
            await getattr(self, "_" + kind.removesuffix("-leader").replace("-", "_"))(fault, nodes)
            self.done[kind] = self.done.get(kind, 0) + 1
        except Skipped as why:
            print(f"skipped: {kind}: {why}", flush=True)
        finally:
            self.recorder.event("fault", kind=kind, nodes=names, over=True)
            self.now = ""

    async def _in_order(self, _fault, nodes):
        """The nodes, those that the fault is made to first."""
        return nodes

    @staticmethod
    def _touched(_kind, _count):
        """How many nodes are named."""
        return 1

    async def heal(self):
        """Everything that can be healed at once; nodes that do not run are started."""
        raise NotImplementedError
