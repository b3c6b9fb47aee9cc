"""What is broken where nodes are processes of this machine, and how each fault is done."""

import asyncio

from . import schedule
from .schedule import Skipped

# Each kind, with how often it is chosen, and for how long (seconds).
KINDS = {
    "kill": (5, 0.5, 8),
    "kill-leader": (3, 0.5, 8),
    "kill-two": (1, 0.5, 6),
    "kill-all": (2, 0.2, 4),
    "pause": (4, 0.3, 12),
    "pause-leader": (2, 0.3, 12),
    "isolate": (3, 0.5, 12),
    "one-way": (3, 0.5, 9),
    "partial": (3, 0.5, 9),
    "split": (1, 1, 9),
    "clients": (2, 0.5, 8),
    "loss": (2, 2, 8),
    "slow": (2, 2, 6),
    "empty": (1, 0.5, 3),
    "empty-behind": (1, 4, 8),
    "restart": (2, 0, 2),
    "rolling": (1, 0, 0),
    "transfer": (3, 0, 0),
    "fsync": (2, 0.5, 6),
    "fsync-two": (2, 1, 6),
}
# For so long a node is cut off that is to lack something then.
BEHIND = 4
WORDS = {
    "kill": "a node is killed (kill -9) and started again",
    "kill-leader": "the same, of the node that leads a group",
    "kill-two": "two nodes are killed at once",
    "kill-all": "all nodes are killed at once",
    "pause": "a node hangs (SIGSTOP) and goes on",
    "pause-leader": "the same, of the node that leads a group",
    "isolate": "a node is cut off from all others, in both directions; not from clients",
    "one-way": "a node does not hear another one, which hears it",
    "partial": "two nodes are cut off from each other; others reach both",
    "split": "the nodes are two sides that do not reach each other",
    "clients": "a node is cut off from the clients, in one direction or both",
    "loss": "nodes lose a share of what they hear",
    "slow": "a node's link is narrow, so that what it says is late",
    "empty": "a node is killed and comes back with an empty disk",
    "empty-behind": "the same, while a second node lacks what the third one has, which is killed and comes back last",
    "restart": "a node is stopped (SIGTERM) and started again",
    "rolling": "all nodes are stopped and started again, one after the other",
    "transfer": "the leadership of each group goes to another node",
    "fsync": "a node's disk takes no writes",
    "fsync-two": "the disks of two nodes take no writes",
}


def _both_ways(one, others):
    """(who does not hear, whom), of a node and others."""
    return [pair for other in others for pair in ((one.name, other.name), (other.name, one.name))]


class Breaker(schedule.Breaker):
    """The faults of nodes that are processes."""

    KINDS, WORDS = KINDS, WORDS

    def __init__(self, cluster, network, disks, recorder):
        super().__init__(cluster, recorder)
        self.network, self.disks = network, disks

    async def _in_order(self, fault, nodes):
        return await self._leader_first(fault["group"], nodes) if fault["kind"].endswith("-leader") else nodes

    @staticmethod
    def _touched(kind, count):
        if kind in ("kill-all", "empty-behind", "rolling", "transfer", "split", "loss"):
            return count
        return 2 if kind in ("kill-two", "one-way", "partial", "fsync-two") else 1

    async def _leader_first(self, group, nodes):
        leaders = await self.cluster.leaders()
        leader = leaders[group % len(leaders)][1] if leaders else None
        # A sort keeps the order of the others.
        return sorted(nodes, key=lambda node: node.name != leader)

    # Processes.

    async def _kill(self, fault, nodes):
        await self._killed(nodes[:1], fault["seconds"])

    async def _kill_two(self, fault, nodes):
        await self._killed(nodes[:2], fault["seconds"])

    async def _kill_all(self, fault, nodes):
        await self._killed(nodes, fault["seconds"])

    async def _killed(self, nodes, seconds):
        await asyncio.gather(*(node.kill() for node in nodes))
        await asyncio.sleep(seconds)
        for node in nodes:
            node.start()

    async def _pause(self, fault, nodes):
        nodes[0].pause()
        await asyncio.sleep(fault["seconds"])
        nodes[0].resume()

    async def _empty(self, fault, nodes):
        # What a quorum's disks have is promised: one disk at a time, when all others have what is on it.
        if not await self.cluster.can_lose(nodes[0], 60):
            raise Skipped(f"{nodes[0].name} is needed")
        await nodes[0].kill()
        nodes[0].wipe()
        await asyncio.sleep(fault["seconds"])
        nodes[0].start()
        await self.cluster.wait_ready(60)

    async def _empty_behind(self, fault, nodes):
        # One disk is lost, and what was on it is on the third one's; the second one cannot be asked to do without that.
        if len(nodes) != 3:
            raise Skipped("it is made of three nodes")
        behind, emptied, last = nodes
        if not await self.cluster.can_lose(emptied, 60):
            raise Skipped(f"{emptied.name} is needed")
        self.network.deaf.update(_both_ways(behind, [emptied, last]))
        await asyncio.to_thread(self.network.apply)
        await asyncio.sleep(BEHIND)
        await asyncio.gather(emptied.kill(), last.kill())
        await asyncio.to_thread(self.network.heal)
        emptied.wipe()
        emptied.start()
        await asyncio.sleep(fault["seconds"])
        last.start()
        await self.cluster.wait_ready(60)

    async def _restart(self, fault, nodes):
        await nodes[0].terminate()
        await asyncio.sleep(fault["seconds"])
        nodes[0].start()

    async def _rolling(self, _fault, nodes):
        for node in nodes:
            await self.cluster.wait_ready(60)
            await node.terminate()
            node.start()
        await self.cluster.wait_ready(60)

    async def _transfer(self, _fault, nodes):
        for number, (group, leader) in enumerate(await self.cluster.leaders()):
            others = [node for node in nodes if node.name != leader]
            await self.cluster.ctl("transfer", group, others[number % len(others)].name)

    # Networks.

    async def _cut(self, pairs, seconds):
        """`pairs`: (who does not hear, whom)."""
        self.network.deaf.update(pairs)
        await asyncio.to_thread(self.network.apply)
        await asyncio.sleep(seconds)
        self.network.deaf.difference_update(pairs)
        await asyncio.to_thread(self.network.apply)

    async def _isolate(self, fault, nodes):
        await self._cut(_both_ways(nodes[0], nodes[1:]), fault["seconds"])

    async def _one_way(self, fault, nodes):
        await self._cut([(nodes[0].name, nodes[1].name)], fault["seconds"])

    async def _partial(self, fault, nodes):
        await self._cut(_both_ways(nodes[0], nodes[1:2]), fault["seconds"])

    async def _split(self, fault, nodes):
        half = len(nodes) // 2
        await self._cut([pair for one in nodes[:half] for pair in _both_ways(one, nodes[half:])], fault["seconds"])

    async def _clients(self, fault, nodes):
        pairs = [(nodes[0].name, "clients")] + ([("clients", nodes[0].name)] if fault["both"] else [])
        await self._cut(pairs, fault["seconds"])

    async def _loss(self, fault, nodes):
        self.network.loss.update({node.name: fault["percent"] for node in nodes})
        await asyncio.to_thread(self.network.apply)
        await asyncio.sleep(fault["seconds"])
        self.network.loss.clear()
        await asyncio.to_thread(self.network.apply)

    async def _slow(self, fault, nodes):
        self.network.slow[nodes[0].name] = fault["kbit"]
        await asyncio.to_thread(self.network.apply)
        await asyncio.sleep(fault["seconds"])
        self.network.slow.clear()
        await asyncio.to_thread(self.network.apply)

    # Disks.

    async def _fsync(self, fault, nodes):
        await self._frozen(nodes[:1], fault["seconds"])

    async def _fsync_two(self, fault, nodes):
        await self._frozen(nodes[:2], fault["seconds"])

    async def _frozen(self, nodes, seconds):
        try:
            for node in nodes:
                await asyncio.to_thread(self.disks.freeze, node.name)
            await asyncio.sleep(seconds)
        finally:
            for node in nodes:
                await asyncio.to_thread(self.disks.thaw, node.name)

    async def heal(self):
        """Everything that can be healed at once; nodes that do not run are started."""
        for node in self.cluster.nodes:
            await asyncio.to_thread(self.disks.thaw, node.name)
            node.resume()
            if not node.running():
                node.start()
        await asyncio.to_thread(self.network.heal)
