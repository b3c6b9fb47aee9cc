"""The replicated state: what a command does, the same wherever it is applied, and any number of times."""

import sys

from .bugs import Bug

sys.path.insert(0, str(__file__).rsplit("/", 3)[0])

from checker.topics import matches  # noqa: E402


class Entry:
    """A message in a session's queue."""

    __slots__ = ("seq", "m", "topic", "qos", "replay", "sent", "rec")

    def __init__(self, seq, m, topic, qos, replay):
        self.seq, self.m, self.topic, self.qos, self.replay = seq, m, topic, qos, replay
        self.sent = self.rec = False

    @property
    def pid(self):
        return self.seq % 65535 + 1


class Session:
    def __init__(self, expiry):
        self.expiry = expiry
        self.subscriptions = {}
        self.queue = []
        self.next = 0
        # QoS 2 identifiers of the client that are not released.
        self.inbound = set()


class Client:
    def __init__(self):
        self.epoch = 0
        # (node, connection) that it is connected by.
        self.owner = None
        self.session = None
        # (message, topic, QoS, delay) of the connection; and whether one waits for its delay.
        self.will = None
        self.waiting = None
        # Wills of connections that were taken over, until they are closed.
        self.left = []


class Machine:
    def __init__(self, bug=None):
        self.bug = bug
        self.clients = {}
        self.retained = {}
        # What was applied of each stream: {(node, boot): {sequence: answer}}.
        self.streams = {}
        # Whom there is something to deliver to since somebody looked.
        self.woken = set()

    def apply(self, stream, sequence, command):
        """One command of a stream, once, whatever the number of times it comes."""
        done = self.streams.setdefault(stream, {})
        if sequence in done and self.bug is not Bug.FORGET_SEQUENCE:
            return done[sequence]
        answer = done[sequence] = self.execute(command)
        return answer

    def execute(self, command):
        kind, *arguments = command
        return getattr(self, "do_" + kind)(*arguments)

    def _valid(self, name, epoch):
        client = self.clients.get(name)
        if client is None or client.session is None:
            return None
        if client.epoch != epoch and self.bug is not Bug.DROP_EPOCH:
            return None
        return client

    # Connections.

    def do_connect(self, name, owner, clean, expiry, will):
        client = self.clients.setdefault(name, Client())
        before = client.owner
        if before is not None:
            # Taken over: the older connection ends without DISCONNECT.
            self._end(client, resumed=not clean, taken_over=True)
        if client.waiting is not None and (clean or client.session is None):
            client.left.append(client.waiting)
        client.waiting = None
        present = client.session is not None and not clean
        if not present:
            client.session = Session(expiry)
        client.session.expiry = expiry
        client.epoch += 1
        client.owner, client.will = owner, will
        if self.bug is Bug.OTHER_IDENTIFIER and present:
            for entry in client.session.queue:
                if entry.sent and not entry.rec:
                    entry.seq, client.session.next = client.session.next, client.session.next + 1
        return client.epoch, present, before

    def do_gone(self, name, epoch, said):
        """A connection ended; `said`: by DISCONNECT. How many seconds its will waits."""
        client = self.clients.get(name)
        if client is None or client.epoch != epoch or client.owner is None:
            return 0
        if said and self.bug is not Bug.WILL_AFTER_DISCONNECT:
            client.will = None
        self._end(client, resumed=False)
        if client.session is not None and client.session.expiry == 0:
            client.session = None
        return client.waiting[3] if client.waiting else 0

    def _end(self, client, resumed, taken_over=False):
        client.owner = None
        if client.will is None:
            return
        *_, delay = client.will
        if delay and client.session is not None and client.session.expiry and self.bug is not Bug.WILL_NO_DELAY:
            if not resumed:
                client.waiting = client.will
        elif taken_over:
            client.left.append(client.will)
        else:
            client.waiting = client.will
            self._send_will(client)
        client.will = None

    def _send_will(self, client):
        m, topic, qos, _ = client.waiting
        client.waiting = None
        self._match(m, topic, qos)

    def do_closed(self, name):
        """The connection that was taken over is closed, or fenced."""
        client = self.clients.get(name)
        if client is not None:
            for m, topic, qos, _ in client.left:
                self._match(m, topic, qos)
            client.left.clear()

    def do_will_due(self, name, epoch):
        client = self.clients.get(name)
        if client is not None and client.epoch == epoch and client.waiting is not None:
            self._send_will(client)

    def do_will_now(self, name):
        """The bug: a will of a client that is up."""
        client = self.clients.get(name)
        if client is not None and client.owner is not None and client.will is not None:
            m, topic, qos, _ = client.will
            client.will = None
            self._match(m, topic, qos)

    def do_forget_sessions(self, node):
        """The bug: a node's death takes its sessions."""
        for client in self.clients.values():
            if client.owner is not None and client.owner[0] == node:
                client.session = None

    # Subscriptions.

    def do_subscribe(self, name, epoch, filters):
        client = self._valid(name, epoch)
        if client is None:
            return None
        for topic_filter, qos in filters:
            client.session.subscriptions[topic_filter] = qos
        return True

    def do_replay(self, name, epoch, filters, retained):
        """Hands the retained messages to a new subscription; `retained`: from this instead of the own ones (a bug)."""
        client = self._valid(name, epoch)
        if client is None:
            return
        for topic_filter, qos in filters:
            for topic, (m, published) in (self.retained if retained is None else retained).items():
                if matches(topic_filter, topic):
                    self._queue(name, client, m, topic, min(qos, published), True)

    def do_unsubscribe(self, name, epoch, filters):
        client = self._valid(name, epoch)
        if client is None:
            return None
        for topic_filter in filters:
            client.session.subscriptions.pop(topic_filter, None)
        return True

    # Messages.

    def do_publish1(self, name, epoch, *message):
        """Of QoS 1 and 0: nothing of a connection that was taken over is carried out later."""
        return self.do_publish(*message) if self._valid(name, epoch) else None

    def do_publish(self, m, topic, qos, retain, empty, routed):
        if retain:
            if empty:
                self.retained.pop(topic, None)
            else:
                self.retained[topic] = m, qos
        if routed and not empty:
            self._match(m, topic, qos)
        return True

    def do_publish2(self, name, epoch, pid, *message):
        client = self._valid(name, epoch)
        if client is None:
            return None
        if pid not in client.session.inbound:
            client.session.inbound.add(pid)
            self.do_publish(*message)
        return True

    def do_release(self, name, epoch, pid):
        client = self._valid(name, epoch)
        if client is None:
            return None
        client.session.inbound.discard(pid)
        return True

    def _match(self, m, topic, qos):
        for name, client in self.clients.items():
            if client.session is None:
                continue
            granted = [q for topic_filter, q in client.session.subscriptions.items() if matches(topic_filter, topic)]
            if granted:
                self._queue(name, client, m, topic, min(qos, max(granted)), False)

    def _queue(self, name, client, m, topic, qos, replay):
        session = client.session
        if qos == 0 and client.owner is None:
            return
        session.queue.append(Entry(session.next, m, topic, qos, replay))
        session.next += 1
        self.woken.add(name)

    # Deliveries.

    def do_sent(self, name, epoch, seq):
        client = self._valid(name, epoch)
        for entry in client.session.queue if client else ():
            if entry.seq == seq:
                entry.sent = True
                if entry.qos == 0:
                    client.session.queue.remove(entry)
                return

    def do_acked(self, name, epoch, pid, kind):
        client = self._valid(name, epoch)
        if client is None:
            return None
        for entry in client.session.queue:
            if entry.pid == pid and entry.sent:
                if kind == "pubrec":
                    entry.rec = True
                else:
                    client.session.queue.remove(entry)
                break
        return True
