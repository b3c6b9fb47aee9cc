"""Publishers that note when each of their messages was acknowledged."""

import asyncio
import contextlib
import itertools
import time

from .client import Client, Gone


class Publishers:
    """Each publishes with QoS 1 to a topic of its own, waits for PUBACK, and goes on. A durable session is subscribed to each topic."""

    def __init__(self):
        self.acknowledged, self.accepted, self.clients, self.tasks = [], set(), [], []
        self.running = True

    @classmethod
    async def start(cls, nodes, count, name, everywhere=None, topics=None, window=1, pause=0.01, reconnect=True):
        """On these nodes in turn; their subscribers on `everywhere` in turn, and away. Given `topics`, these are used, and nobody is subscribed here."""
        made = cls()
        for number in range(count):
            topic = topics[number % len(topics)] if topics else f"{name}/{number}"
            if not topics:
                subscriber = Client(f"{name}-s{number}", clean=False)
                await subscriber.connect((everywhere or nodes)[number % len(everywhere or nodes)].at, 20)
                await subscriber.subscribe(topic, 1)
                subscriber.disconnect()
            moments = []
            made.acknowledged.append(moments)
            node = nodes[number % len(nodes)]
            for lane in range(window):
                made.tasks.append((number, lane, node, topic, moments))
        # One connection a publisher, as many messages on their way as `window`.
        clients = {}
        made.tasks = [asyncio.create_task(made._publish(clients, name, *task, pause, reconnect)) for task in made.tasks]
        return made

    async def _publish(self, clients, name, number, lane, node, topic, moments, pause, reconnect):
        for count in itertools.count():
            # 24 bytes that name it, the rest is payload.
            payload = f"{name}/{number}/{lane}/{count}".ljust(24)[:24].encode()
            while self.running:
                try:
                    client = await self._client(clients, name, number, node)
                    await client.publish(topic, payload + bytes(232))
                    moments.append(time.monotonic())
                    self.accepted.add(payload)
                    break
                except Gone:
                    if not reconnect:
                        return
                    clients.pop(number, None)
                    await asyncio.sleep(0.02)
            if not self.running:
                return
            if pause:
                await asyncio.sleep(pause)

    async def _client(self, clients, name, number, node):
        """The one connection of this publisher, made by whichever of its lanes comes first."""
        if number not in clients:
            clients[number] = asyncio.create_task(self._connect(f"{name}-p{number}", node))
        return await asyncio.shield(clients[number])

    async def _connect(self, client_id, node):
        client = Client(client_id)
        await client.connect(node.at)
        self.clients.append(client)
        return client

    def stop(self):
        self.running = False
        for task in self.tasks:
            task.cancel()
        for client in self.clients:
            with contextlib.suppress(Exception):
                client.close()


def gaps(publishers, begin, end):
    """For each publisher: the longest time between two acknowledgements that begins or ends within this time."""
    found = []
    for moments in publishers.acknowledged:
        before = [moment for moment in moments if moment <= begin][-1:] or [begin]
        within = [moment for moment in moments if begin < moment <= end]
        edges = [*before, *within, end]
        found.append(max(later - earlier for earlier, later in itertools.pairwise(edges)))
    return found
