"""Clients that do what clients do, at random, and write down all of it."""

import itertools

from .broker import Link
from .world import MS

# How long a client waits for an answer before it tries another node.
PATIENCE = 120 * MS
EXPIRY = 3600
KEEP_ALIVE = 0.1


class Client:
    """`topics`: to publish to, (topic, QoS, retained). `filters`: [(filter, QoS)] of which it has all, or, if it `churns`, some at a time."""

    numbers = None

    def __init__(self, population, name, durable=True, topics=(), filters=(), churns=False, will=None, restless=1.0, pace=(4, 20),
                 empty=0.2):
        self.population, self.world, self.cluster = population, population.world, population.cluster
        self.name, self.durable, self.topics, self.filters = name, durable, list(topics), list(filters)
        self.churns, self.will, self.restless, self.pace, self.empty = churns, will, restless, pace, empty
        self.link = None
        self.connected = False
        self.left = []
        # Of the session: (what was sent and is not done by identifier), and QoS 2 identifiers received.
        self.out, self.held = {}, set()
        self.wanted, self.waiting = set(), {}
        self.begun = False
        self.stopped = False
        self.answered_t = 0

    # Connections.

    def connect(self, node=None):
        if self.stopped and not self.durable:
            return
        node = node or self.world.random.choice(self.cluster.nodes)
        if not node.alive:
            self.world.at(self.world.between(5, 30), self.retry)
            return
        number = next(self.population.connections)
        link = self.link = Link(self.world, number, self, node)
        self.connected = False
        self.waiting.clear()
        will, event = None, {}
        if self.will is not None:
            topic, qos, delay = self.will
            m = next(self.population.messages)
            will = m, topic, qos, delay
            event["will"] = {"m": m, "topic": topic, "q": qos, "delay": delay}
        clean, expiry = not self.durable, EXPIRY if self.durable else 0
        self.log("connect", id=self.name, node=node.name, v=5, clean=clean, expiry=expiry, ka=KEEP_ALIVE, **event)
        link.up(("connect", self.name, clean, expiry, will))
        self.world.at(PATIENCE * (2 + self.world.random.random()), self.give_up, link)

    def retry(self):
        if self.link is None:
            self.connect()

    def give_up(self, link):
        if link is self.link and not self.connected:
            self.close()

    def close(self):
        """Without DISCONNECT."""
        link, self.link, self.connected = self.link, None, False
        self.log("closed", by="client", link=link)
        link.leave()
        self.world.at(self.world.between(1, 60), self.retry)

    def disconnect(self):
        self.log("disconnect", code=0)
        self.link.up(("disconnect",))
        self.connected = False
        # Waits until the broker closes.
        self.world.at(PATIENCE * 2, lambda link=self.link: link is self.link and not self.connected and self.close())

    def ended(self, link):
        if not link.client_open:
            return
        link.client_open = False
        self.log("closed", by="broker", link=link)
        if link is self.link:
            self.link, self.connected = None, False
            self.world.at(self.world.between(1, 60), self.retry)

    def take_over(self):
        """A second connection, while the first one is left as it is."""
        old, self.link, self.connected = self.link, None, False
        self.left.append(old)
        self.world.at(self.world.between(100, 600), lambda: old.client_open and self._leave(old))
        self.connect()

    def _leave(self, link):
        self.log("closed", by="client", link=link)
        link.leave()

    def log(self, e, link=None, **event):
        self.world.log(e, c=(link or self.link).number, **event)

    # What it does.

    def act(self):
        if self.stopped:
            return
        self.world.at(self.world.between(*self.pace), self.act)
        chance = self.world.random.random
        for old in self.left:
            if old.client_open and chance() < 0.3:
                self.log("ping", link=old)
                old.up(("ping",))
        if self.link is None or not self.connected:
            return
        if self.world.now - self.answered_t > PATIENCE and (self.out or self.waiting) and chance() < 0.2:
            self.take_over()
        elif chance() < 0.012 * self.restless:
            self.world.random.choice([self.close, self.disconnect, self.take_over])()
        elif self.churns and chance() < 0.15:
            self.churn()
        elif chance() < 0.08:
            self.ping()
        elif self.topics and len(self.out) < 6:
            self.publish(*self.world.random.choice(self.topics))

    def ping(self):
        self.log("ping")
        self.link.up(("ping",))

    def churn(self):
        topic_filter, qos = self.world.random.choice(self.filters)
        if any(topic_filter in [each for each, _ in filters] for _, filters in self.waiting.values()):
            return
        if topic_filter in self.wanted:
            self.unsubscribe(topic_filter, qos)
        else:
            self.subscribe([(topic_filter, qos)])

    def _pid(self):
        taken = self.out.keys() | self.waiting.keys()
        return next(pid for pid in itertools.count(1) if pid not in taken)

    def subscribe(self, filters):
        pid = self._pid()
        self.wanted.update(topic_filter for topic_filter, _ in filters)
        self.waiting[pid] = "suback", filters
        self.log("sub", pid=pid, f=[list(each) for each in filters])
        self.link.up(("subscribe", pid, filters))

    def unsubscribe(self, topic_filter, qos):
        pid = self._pid()
        self.wanted.discard(topic_filter)
        self.waiting[pid] = "unsuback", [(topic_filter, qos)]
        self.log("unsub", pid=pid, f=[topic_filter])
        self.link.up(("unsubscribe", pid, [topic_filter]))

    def publish(self, topic, qos, retain):
        m, pid = next(self.population.messages), self._pid() if qos else 0
        empty = retain and self.world.random.random() < self.empty
        packet = [pid, m, topic, qos, retain, empty]
        if qos:
            self.out[pid] = ["pub", packet]
        self._send(packet)

    def _send(self, packet, dup=False):
        pid, m, topic, qos, retain, empty = packet
        more = {key: True for key, value in (("retain", retain), ("empty", empty), ("dup", dup)) if value}
        self.log("pub", q=qos, pid=pid, topic=topic, m=m, **more)
        self.link.up(("publish", *packet))

    # What it is told.

    def receive(self, link, packet):
        kind, *arguments = packet
        if link is self.link:
            self.answered_t = self.world.now
        getattr(self, "on_" + kind)(link, *arguments)

    def on_connack(self, link, present):
        self.log("connack", link=link, code=0, present=present)
        if link is not self.link:
            return
        self.connected = True
        if not present:
            self.out.clear()
            self.held.clear()
            self.wanted.clear()
        for pid, (stage, packet) in list(self.out.items()):
            if stage == "pub":
                self._send(packet, dup=True)
            else:
                self._release(link, pid, packet)
        missing = [each for each in self.filters if each[0] not in self.wanted]
        if missing and not self.churns:
            self.subscribe(missing)

    def _release(self, link, pid, packet):
        self.log("pubrel", link=link, pid=pid, m=packet[1])
        link.up(("pubrel", pid))

    def on_suback(self, link, pid, codes):
        self.log("suback", link=link, pid=pid, codes=codes)
        if link is self.link:
            self.waiting.pop(pid, None)

    def on_unsuback(self, link, pid):
        self.log("unsuback", link=link, pid=pid, codes=[0])
        if link is self.link:
            self.waiting.pop(pid, None)

    def on_puback(self, link, pid):
        self.log("puback", link=link, pid=pid, code=0)
        if link is self.link:
            self.out.pop(pid, None)

    def on_pubrec(self, link, pid):
        self.log("pubrec", link=link, pid=pid, code=0)
        if link is self.link and pid in self.out:
            self.out[pid][0] = "rel"
            self._release(link, pid, self.out[pid][1])

    def on_pubcomp(self, link, pid):
        self.log("pubcomp", link=link, pid=pid, code=0)
        if link is self.link:
            self.out.pop(pid, None)

    def on_pong(self, link):
        self.log("pong", link=link)

    def on_publish_in(self, link, pid, m, topic, qos, dup, replay):
        more = {key: True for key, value in (("dup", dup), ("retain", replay)) if value}
        self.log("recv", link=link, q=qos, pid=pid, topic=topic, m=m, **more)
        if qos == 2:
            self.held.add(pid)
        # Sometimes it is slow to acknowledge; sometimes too slow.
        if qos:
            kind = "puback" if qos == 1 else "pubrec"
            self.world.at(self.world.between(0, 4), self._acknowledge, link, kind, pid)

    def on_pubrel_in(self, link, pid):
        self.log("rel", link=link, pid=pid)
        self.held.discard(pid)
        self._acknowledge(link, "pubcomp", pid)

    on_pubrel = on_pubrel_in

    def _acknowledge(self, link, kind, pid):
        if link.client_open:
            self.log("ack", link=link, pid=pid, k=kind)
            link.up(("ack", kind, pid))


class Reader:
    """Reads the retained messages by one fresh subscription after the other."""

    def __init__(self, population, name, topics, stay):
        self.population, self.name, self.topics, self.stay = population, name, topics, stay
        self.world = population.world
        self.count = itertools.count()
        self.stopped = False

    def act(self):
        if self.stopped:
            return
        # One filter with wildcards, or a topic.
        topic = self.world.random.choice(self.topics)
        client = Client(self.population, f"{self.name}-{next(self.count)}", durable=False, filters=[(topic, 1)], restless=0, pace=(30, 60))
        self.population.passing.append(client)
        client.connect()
        client.act()
        self.world.at(self.world.between(40, 160), self.act)
        stay = self.stay * self.world.random.choice([0.1, 1.2])
        self.world.at(stay * 1000 * MS, self._leave, client)

    def _leave(self, client):
        client.stopped = True
        if client.link is not None and client.connected:
            client.disconnect()
