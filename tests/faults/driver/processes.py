"""Brokers that are processes of this machine, each in a namespace of its own with a disk of its own."""

from .cluster import BINARY, Cluster
from .disks import Disks
from .faults import Breaker
from .net import Network
from .place import Contact, Place


class Processes(Place):
    what = f"nodes of {BINARY}"

    def __init__(self, options, directory):
        super().__init__(options, directory)
        self.names = [f"n{number + 1}" for number in range(options.nodes)]
        self.network = self.disks = self.cluster = None

    async def form(self):
        options = self.options
        self.network = Network(self.names)
        self.disks = Disks(self.directory, self.names)
        self.cluster = Cluster(
            self.directory, self.network, self.disks, {}, shards=options.shards, snapshot_bytes=options.snapshot_bytes, plant=options.plant
        )
        self.nodes = self.cluster.nodes
        await self.cluster.form()

    def contact(self, number):
        return Contact(self.nodes[number].name, self.nodes[number].address)

    def breaker(self, recorder):
        return Breaker(self.cluster, self.network, self.disks, recorder)

    def ended_alone(self):
        found = []
        for node, code in self.cluster.ended_alone():
            found.append((node.name, f"exit code {code}\n{node.log_tail()}"))
            node.start()
        return found

    async def wait_ready(self, seconds):
        return await self.cluster.wait_ready(seconds)

    async def stop(self):
        if self.disks is not None:
            for name in list(self.disks.frozen):
                self.disks.thaw(name)
        if self.cluster is not None:
            self.cluster.stop()
        if self.disks is not None:
            self.disks.close(self.names)
