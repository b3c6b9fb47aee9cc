"""Nodes, their log, and the connections to them."""

import collections

from .bugs import Bug
from .machine import Machine, matches
from .world import MS

NODES = 3
# The lease, and when a node closes its clients; the others wait a tenth longer.
LEASE, CLOSE = 150 * MS, 350 * MS
# So many messages are on their way to a client.
WINDOW = 10


class Link:
    """One connection. What is sent arrives in order, as long as neither end is gone."""

    def __init__(self, world, number, client, node):
        self.world, self.number, self.client, self.node = world, number, client, node
        # What each end thinks.
        self.client_open = self.node_open = True
        self.epoch = self.name = None
        # CONNACK was sent.
        self.welcome = False
        # Queue entries sent through it, by sequence.
        self.sent = set()
        self._arrivals = [0, 0]
        # Some are slow: what is read late was sent before much else.
        self._slowest = 25 if world.random.random() < 0.15 else 2

    def up(self, packet):
        self._pass(0, self._at_node, packet)

    def down(self, packet):
        if self.node_open:
            self._pass(1, self._at_client, packet)

    def _pass(self, direction, arrive, packet):
        due = max(self._arrivals[direction] + 1, self.world.now + self.world.between(0.3, self._slowest))
        self._arrivals[direction] = due
        self.world.at(due - self.world.now, arrive, packet)

    def _at_node(self, packet):
        self.node.receive(self, packet)

    def _at_client(self, packet):
        if self.client_open:
            self.client.receive(self, packet)

    def cut(self, now=False):
        """The node ends it. What it sent before arrives, unless it died (`now`)."""
        if not self.node_open:
            return
        self.node_open = False
        self.node.links.pop(self, None)
        if now:
            self.world.at(self.world.between(0.3, 2), self.client.ended, self)
            # What is on its way is lost.
            self._at_client = lambda _packet: None
        else:
            self._pass(1, lambda _: self.client.ended(self), None)

    def leave(self):
        """The client ends it."""
        self.client_open = False
        self._pass(0, lambda _: self.node.lost(self), None)


class Node:
    def __init__(self, cluster, name):
        self.cluster, self.world, self.name = cluster, cluster.world, name
        self.alive, self.paused, self.isolated = True, False, False
        self.boot = self.sequence = 0
        # Since when it cannot reach a quorum.
        self.cut_since = None
        self.down = False
        # In their order, so that a seed is a run.
        self.links = {}
        self.inbox = []
        # Filters that it knows of.
        self.routes = set()
        # Proposals that are not committed yet: (sequence, command, callback).
        self.pending = collections.deque()

    # Leases.

    def reaches(self):
        return self.alive and not self.paused and not self.isolated and self.cluster.quorum()

    def serving(self):
        if not self.alive or self.paused:
            return False
        return self.cut_since is None or self.world.now - self.cut_since < LEASE or self.cluster.bug is Bug.SERVE_PAST_LEASE

    def fenced(self):
        return self.cut_since is not None and self.world.now - self.cut_since > LEASE * 1.1

    def regained(self):
        """Reaches a quorum again."""
        self.down = False
        self.routes = self.cluster.filters()
        machine = self.cluster.machine
        self.cluster.bury(self, lambda client: not client.owner[1].node_open)
        for link in list(self.links):
            client = machine.clients.get(link.name)
            stale = link.epoch is not None and (client is None or client.epoch != link.epoch or client.owner is None)
            if stale and self.cluster.bug is not Bug.DROP_EPOCH:
                link.cut()
        self.take_up()

    def take_up(self):
        waiting, self.inbox = self.inbox, []
        for link, packet in waiting:
            self.receive(link, packet)
        for link in list(self.links):
            self.pump(link)

    def close_all(self):
        for link in list(self.links):
            link.cut()

    # The log.

    def propose(self, command, callback):
        self.pending.append((self.sequence, command, callback))
        self.sequence += 1
        self.world.at(self.world.between(2, 12), self._commit, self.boot)

    def _commit(self, boot):
        if boot != self.boot or not self.pending:
            return
        if not self.reaches():
            self.world.at(5 * MS, self._commit, boot)
            return
        sequence, command, callback = self.pending.popleft()
        answer = self.cluster.apply((self.name, boot), sequence, command)
        self.world.at(self.world.between(0.5, 8), self._answered, boot, callback, answer)

    def _answered(self, boot, callback, answer):
        if boot == self.boot and self.alive:
            if self.paused:
                self.inbox.append((None, lambda: callback(answer)))
            else:
                callback(answer)

    # Clients.

    def receive(self, link, packet):
        if not self.alive or (link is not None and not link.node_open):
            return
        if not self.serving():
            self.inbox.append((link, packet))
        elif link is None:
            packet()
        else:
            kind, *arguments = packet
            getattr(self, "on_" + kind)(link, *arguments)

    def lost(self, link):
        if self.alive and link.node_open:
            if self.paused:
                self.inbox.append((None, lambda: self.lost(link)))
                return
            link.node_open = False
            self.links.pop(link, None)
            if link.epoch is not None:
                self.cluster.gone(self, link, said=False)

    def _or_cut(self, link, then):
        """Calls `then` with an answer; without one the session is another connection's."""
        def callback(answer):
            if answer is None:
                link.cut()
            elif link.node_open:
                then(answer)
        return callback

    def on_connect(self, link, name, clean, expiry, will):
        link.name = name
        self.links[link] = True
        owner = self.name, link

        def taken(answer):
            epoch, present, before = answer
            link.epoch = epoch
            self.cluster.supersede(before, lambda: welcome(present))

        def welcome(present):
            self.cluster.direct(("closed", name))
            client = self.cluster.machine.clients.get(name)
            if link.node_open and client is not None and client.epoch == link.epoch:
                link.down(("connack", present))
                link.welcome = True
                self.pump(link)
            elif link.node_open:
                link.cut()
            else:
                self.cluster.gone(self, link, said=False)

        self.propose(("connect", name, owner, clean, expiry, will), taken)

    def on_publish(self, link, pid, m, topic, qos, retain, empty):
        routed = any(matches(topic_filter, topic) for topic_filter in self.routes)
        message = m, topic, qos, retain, empty, routed
        if qos == 2:
            command = "publish2", link.name, link.epoch, pid, *message
            self.propose(command, self._or_cut(link, lambda _: link.down(("pubrec", pid))))
        elif qos == 1 and not routed and not retain:
            # Nobody there: nothing has to be kept.
            link.down(("puback", pid))
        elif qos == 1 and self.cluster.bug is Bug.ACK_BEFORE_COMMIT:
            self.propose(("publish1", link.name, link.epoch, *message), lambda _: None)
            link.down(("puback", pid))
        else:
            answer = (lambda _: link.down(("puback", pid))) if qos else (lambda _: None)
            self.propose(("publish1", link.name, link.epoch, *message), self._or_cut(link, answer))

    def on_pubrel(self, link, pid):
        command = "release", link.name, link.epoch, pid
        if self.cluster.bug is Bug.RELEASE_EARLY:
            link.down(("pubcomp", pid))
            self.world.at(self.world.between(100, 300), lambda: link.node_open and self.propose(command, lambda _: None))
        else:
            self.propose(command, self._or_cut(link, lambda _: link.down(("pubcomp", pid))))

    def on_subscribe(self, link, pid, filters):
        def known(_):
            self.cluster.announce(filters)
            if self.cluster.bug is Bug.SKIP_BARRIER:
                done()
            else:
                self.cluster.barrier(filters, done)

        def done():
            if link.node_open:
                link.down(("suback", pid, [qos for _, qos in filters]))
                self.cluster.replay(link, filters)

        self.propose(("subscribe", link.name, link.epoch, filters), self._or_cut(link, known))

    def on_unsubscribe(self, link, pid, filters):
        command = "unsubscribe", link.name, link.epoch, filters
        if self.cluster.bug is Bug.UNSUBSCRIBED_LATE:
            link.down(("unsuback", pid))
            self.world.at(self.world.between(50, 300), self.propose, command, lambda _: None)
        else:
            self.propose(command, self._or_cut(link, lambda _: link.down(("unsuback", pid))))

    def on_ack(self, link, kind, pid):
        then = (lambda _: link.down(("pubrel", pid))) if kind == "pubrec" else (lambda _: self.pump(link))
        self.propose(("acked", link.name, link.epoch, pid, kind), self._or_cut(link, then))

    def on_ping(self, link):
        link.down(("pong",))

    def on_disconnect(self, link):
        self.cluster.gone(self, link, said=True)

    def pump(self, link):
        """Sends what waits for a client, within its window."""
        client = self.cluster.machine.clients.get(link.name)
        if client is None or client.session is None or client.owner != (self.name, link) or not self.serving():
            return
        if self.cut_since is not None or not link.node_open or not link.welcome or link.epoch != client.epoch:
            return
        for entry in list(client.session.queue)[:WINDOW]:
            if entry.seq in link.sent:
                continue
            link.sent.add(entry.seq)
            if entry.rec:
                link.down(("pubrel_in", entry.pid))
                continue
            dup = entry.sent and self.cluster.bug is not Bug.NO_DUP
            link.down(("publish_in", entry.pid if entry.qos else 0, entry.m, entry.topic, entry.qos, dup, entry.replay))
            self.cluster.direct(("sent", link.name, link.epoch, entry.seq))


class Cluster:
    def __init__(self, world):
        self.world, self.bug = world, world.bug
        self.machine = Machine(self.bug)
        self.nodes = [Node(self, f"n{number}") for number in range(NODES)]
        # Every command in its order: (time, stream, sequence, command).
        self.entries = []
        self.stale = {}
        self._directs = 0

    def quorum(self):
        return sum(node.alive and not node.paused and not node.isolated for node in self.nodes) * 2 > NODES

    def filters(self):
        return {
            topic_filter for client in self.machine.clients.values() if client.session
            for topic_filter in client.session.subscriptions
        }

    # The log.

    def apply(self, stream, sequence, command):
        self.entries.append((self.world.now, stream, sequence, command))
        answer = self.machine.apply(stream, sequence, command)
        self._wake()
        return answer

    def direct(self, command):
        """A command of the leader itself, at once."""
        self._directs += 1
        return self.apply("leader", self._directs, command)

    def _wake(self):
        woken, self.machine.woken = sorted(self.machine.woken), set()
        for name in woken:
            client = self.machine.clients.get(name)
            if client is not None and client.owner is not None:
                node, link = client.owner
                self.world.at(self.world.between(0.3, 3), self.node(node).pump, link)

    def change_leader(self):
        """What was not answered is proposed again, and answered as before."""
        recent = [entry for entry in self.entries if entry[0] > self.world.now - 15 * MS and entry[1] != "leader"]
        for _, stream, sequence, command in recent:
            if command[0] == "publish1" or self.bug is not Bug.FORGET_SEQUENCE:
                self.machine.apply(stream, sequence, command)
        if self.bug is Bug.REORDER:
            for node in self.nodes:
                self.world.random.shuffle(node.pending)
        self._wake()

    def roll_back(self):
        """The bug: the last entries are gone."""
        lost = self.world.random.randrange(5, 40)
        self.entries = self.entries[:-lost]
        self.machine = Machine(self.bug)
        for _, stream, sequence, command in self.entries:
            self.machine.apply(stream, sequence, command)

    def apply_again(self):
        """The bug: a snapshot, and the entries that it has."""
        for _, _, _, command in self.entries[-self.world.random.randrange(5, 30):]:
            if command[0].startswith(("publish", "subscribe")):
                self.machine.execute(command)
        self._wake()

    # What the nodes do together.

    def node(self, name):
        return next(node for node in self.nodes if node.name == name)

    def announce(self, filters):
        for node in self.nodes:
            for topic_filter, _ in filters:
                self.world.at(self.world.between(1, 40), self._learn, node, topic_filter)

    def _learn(self, node, topic_filter):
        if node.reaches():
            node.routes.add(topic_filter)

    def barrier(self, filters, done):
        missing = [
            node for node in self.nodes
            if not node.fenced() and any(topic_filter not in node.routes for topic_filter, _ in filters)
        ]
        if missing:
            for node in missing:
                for topic_filter, _ in filters:
                    self._learn(node, topic_filter)
            self.world.at(3 * MS, self.barrier, filters, done)
        else:
            done()

    def replay(self, link, filters):
        stale = dict(self.stale) if self.bug is Bug.RETAINED_STALE else None
        self.direct(("replay", link.name, link.epoch, filters, stale))

    def supersede(self, before, then):
        """Calls `then` when the older connection is closed, or its node fenced."""
        if before is None:
            then()
            return
        node, link = self.node(before[0]), before[1]
        if self.bug is Bug.DROP_EPOCH:
            self.world.at(self.world.between(50, 400), link.cut)
            then()
            return
        if node.reaches():
            link.cut()
        if not link.node_open or not node.alive and node.fenced() or node.fenced():
            self.world.at(self.world.between(1, 3), then)
        else:
            self.world.at(5 * MS, self.supersede, before, then)

    def gone(self, node, link, said):
        def done(delay):
            self._will_later(link.name, link.epoch, delay)
            link.cut()
        node.propose(("gone", link.name, link.epoch, said), done)

    def _will_later(self, name, epoch, delay):
        if delay:
            self.world.at(delay * MS * 1000, lambda: self.direct(("will_due", name, epoch)))

    def tick(self):
        """Leases, and nodes that are declared down."""
        now = self.world.now
        for node in self.nodes:
            if node.reaches():
                if node.cut_since is not None:
                    node.cut_since = None
                    node.regained()
            elif node.cut_since is None:
                node.cut_since = now
            cut = 0 if node.cut_since is None else now - node.cut_since
            if cut > CLOSE and node.alive and not node.paused and self.bug is not Bug.SERVE_PAST_LEASE:
                node.close_all()
            if cut > CLOSE * 1.1 and not node.down and self.quorum():
                node.down = True
                self._declare_down(node)
        self.world.at(4 * MS, self.tick)

    def _declare_down(self, node):
        # Its stream is closed: what it had proposed is void.
        node.boot += 1
        node.pending.clear()
        if self.bug is Bug.FORGET_SESSIONS:
            self.direct(("forget_sessions", node.name))
        self.bury(node, lambda _: True)

    def bury(self, node, condition):
        """Ends the connections of a node that fulfil the condition."""
        for name, client in sorted(self.machine.clients.items()):
            if client.owner is not None and client.owner[0] == node.name and condition(client):
                delay = self.direct(("gone", name, client.epoch, self.bug is Bug.WILL_LOST))
                self._will_later(name, client.epoch, delay)

    def keep_stale(self):
        """The bug: a copy of the retained messages that lags."""
        self.stale = dict(self.machine.retained)
        self.world.at(self.world.between(50, 250), self.keep_stale)

    # Faults.

    def kill(self, node):
        node.alive = False
        node.boot += 1
        node.pending.clear()
        node.inbox.clear()
        for link in list(node.links):
            link.cut(now=True)
        self.change_leader()

    def restart(self, node, empty=False):
        node.alive = True
        if self.bug is Bug.REUSE_IDENTITY and empty:
            self.roll_back()
        if self.bug is Bug.APPLY_TWICE:
            self.apply_again()

    def pause(self, node):
        node.paused = True
        self._will_bug(node)

    def resume(self, node):
        node.paused = False
        cut = 0 if node.cut_since is None else self.world.now - node.cut_since
        if cut > CLOSE:
            node.close_all()
        if cut < LEASE or self.bug is Bug.SERVE_PAST_LEASE:
            node.take_up()

    def isolate(self, node):
        node.isolated = True
        self._will_bug(node)

    def heal(self, node):
        node.isolated = False

    def _will_bug(self, node):
        if self.bug is Bug.WILL_WHILE_UP:
            for name, client in sorted(self.machine.clients.items()):
                if client.owner is not None and client.owner[0] == node.name:
                    self.world.at(20 * MS, lambda name=name: self.direct(("will_now", name)))
