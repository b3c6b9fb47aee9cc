"""What a history says, in tables that hold a million operations: connections, sessions with their subscriptions, messages, deliveries."""

from array import array
from bisect import bisect_right

SECOND = 1_000_000_000
# A time that no event has.
NEVER = 1 << 62

# Flags of a message.
RETAIN, EMPTY, WILL = 1, 2, 4
# Flags of a delivery, above its QoS.
QOS, DUP, REPLAY = 3, 4, 8
# Kinds of deliveries.
PUBLISH, PUBREL = 0, 1


class Connection:
    """One connection of a client, from its CONNECT on. Times are None for what did not happen, or is not known."""

    __slots__ = (
        "number", "name", "client", "node", "version", "clean", "expiry", "keep_alive", "will", "will_delay",
        "connect_t", "connack_t", "present", "session", "disconnect_t", "disconnect_code", "closed_t", "closed_by",
        "served_t", "fence_t", "late", "tried_late", "pending", "pings", "places",
    )

    def __init__(self, number, client, event, place):
        # `name` is its number in the history.
        self.number, self.name, self.client = number, event["c"], client
        self.node = event.get("node", "")
        self.version = event.get("v", 5)
        self.clean = bool(event.get("clean"))
        # The session's expiry interval in seconds; 0: it ends with the connection.
        self.expiry = event.get("expiry", 0)
        self.keep_alive = event.get("ka", 0)
        # The number of the will's message, and its delay in seconds.
        self.will, self.will_delay = None, 0
        self.connect_t = event["t"]
        # Of a CONNACK that took the connection; a refusal is none.
        self.connack_t = None
        self.present = None
        self.session = None
        self.disconnect_t = self.disconnect_code = None
        self.closed_t = self.closed_by = None
        # The latest time at which the broker certainly had the connection: the invocation of the last operation that it answered.
        self.served_t = None
        # CONNACK of the first connection that is certainly newer.
        self.fence_t = None
        # Answers that came after that: (kind, invoked, answered, place of both).
        self.late = None
        # How many operations were invoked after that.
        self.tried_late = 0
        # Operations that are not answered yet: {(kind, packet identifier): (time, place, more)}.
        self.pending = {}
        self.pings = []
        # Where the events stand: {kind: place}.
        self.places = {"connect": place}

    def served(self, t):
        if self.served_t is None or t > self.served_t:
            self.served_t = t

    @property
    def unanswered(self):
        """Whether no CONNACK came: it may have been taken, or be taken later."""
        return "connack" not in self.places

    def alive_at_end(self, history):
        """Whether it was there to the end of the run, with an operation that was invoked in the drain and answered."""
        return (
            self.connack_t is not None and (self.closed_t is None or self.closed_t > history.end_t)
            and self.served_t > history.drain_t and self.fence_t is None
        )

    def __str__(self):
        return f"connection {self.name} of {self.client.id}"


class Client:
    """All connections of a client identifier, and its sessions in their order."""

    __slots__ = ("number", "id", "connections", "sessions", "current", "loose_from")

    def __init__(self, number, client_id):
        self.number, self.id = number, client_id
        self.connections = []
        self.sessions = []
        # The session that it has now, as far as is known.
        self.current = None
        # Since when a CONNECT with clean start, whose fate is unknown, may end its sessions at any time.
        self.loose_from = None


class Episode:
    """One subscription of a session from SUBSCRIBE to UNSUBACK: it is certainly in effect from `suback_t` to `unsub_t` and
    possibly from `sub_t` to `unsuback_t`."""

    __slots__ = ("sub_t", "suback_t", "qos", "unsub_t", "unsuback_t", "place")

    def __init__(self, sub_t, qos, place):
        self.sub_t, self.qos, self.place = sub_t, qos, place
        self.suback_t = self.unsub_t = self.unsuback_t = None

    def possible(self, low, high):
        """Whether it may have been in effect at some time from `low` to `high`."""
        return self.sub_t <= high and (self.unsuback_t is None or self.unsuback_t >= low)


class Subscribe:
    """One filter of a SUBSCRIBE packet that may be answered with retained messages."""

    __slots__ = ("session", "connection", "filter", "episode", "handling", "sub_t", "suback_t", "place")

    def __init__(self, session, connection, topic_filter, episode, handling, sub_t, place):
        self.session, self.connection, self.filter, self.episode = session, connection, topic_filter, episode
        # Retain Handling (MQTT 5, section 3.8.3.1).
        self.handling = handling
        # `suback_t` None: not acknowledged with success.
        self.sub_t, self.suback_t, self.place = sub_t, None, place


class Session:
    """The state that a client has at the broker over its connections, as the CONNACKs tell it."""

    __slots__ = ("number", "client", "connections", "subscriptions", "uncertain", "ended_t", "deliveries", "received")

    def __init__(self, number, client, uncertain):
        self.number, self.client = number, client
        self.connections = []
        # {filter: [Episode]}
        self.subscriptions = {}
        # It may have ended, or be another one than is thought: no promise can be held against it.
        self.uncertain = uncertain
        # From when on it certainly need not exist.
        self.ended_t = None
        # Indices of its deliveries, in their order.
        self.deliveries = array("i")
        # First delivery of each message that is no replay of a retained one: {message: delivery}.
        self.received = {}

    @property
    def durable(self):
        return self.connections[-1].expiry > 0

    def drained(self, history):
        """Whether it was connected in the drain and to the end, so that nothing was left for it."""
        return self.ended_t is None and self.connections[-1].alive_at_end(history)

    def episodes(self, history, topic):
        """Its episodes whose filter matches the topic (by number)."""
        return [
            episode for topic_filter, episodes in self.subscriptions.items()
            if topic in history.matching_set(topic_filter) for episode in episodes
        ]

    def __str__(self):
        return f"session {self.number} of {self.client.id}"


class Messages:
    """Columns, one place a message, in the order of their first invocation. A message is one publish of an application, whatever the number
    of its attempts, or a will."""

    def __init__(self):
        self.index = {}
        self.pub_t = array("q")
        self.topic = array("i")
        self.qos = array("b")
        self.flags = array("b")
        # The number of the client, and of the connection of the first attempt.
        self.publisher = array("i")
        self.connection = array("i")
        self.attempts = array("H")
        # PUBACK, or PUBREC of QoS 2; -1 if there was none. And PUBCOMP.
        self.ack_t = array("q")
        self.comp_t = array("q")
        self.pub_place = array("q")
        self.ack_place = array("q")
        # Where it is not one: the sessions of the publisher that it was sent in, by number.
        self.resent = {}
        # Expiry in seconds, where there is one.
        self.expiry = {}

    def __len__(self):
        return len(self.pub_t)

    def add(self, name, t, topic, qos, flags, publisher, connection, place):
        number = self.index[name] = len(self.pub_t)
        self.pub_t.append(t)
        self.topic.append(topic)
        self.qos.append(qos)
        self.flags.append(flags)
        self.publisher.append(publisher)
        self.connection.append(connection)
        self.attempts.append(1)
        self.ack_t.append(-1)
        self.comp_t.append(-1)
        self.pub_place.append(place)
        self.ack_place.append(-1)
        return number


class Deliveries:
    """Columns, one place a PUBLISH or PUBREL that a client received, in the order of time."""

    def __init__(self):
        self.kind = array("b")
        self.t = array("q")
        self.connection = array("i")
        self.pid = array("H")
        # -1 for a PUBREL, and for a payload that is no message's.
        self.message = array("i")
        self.flags = array("b")
        self.place = array("q")

    def __len__(self):
        return len(self.t)


class Witnesses:
    """Which connections a node had: proof that it lived, from the side of clients."""

    def __init__(self, connections):
        nodes = {}
        for connection in connections:
            if connection.connack_t is not None:
                nodes.setdefault(connection.node, []).append((connection.connack_t, connection.served_t))
        self.nodes = {}
        for node, found in nodes.items():
            found.sort()
            most, best = [], -1
            for _, served in found:
                best = max(best, served)
                most.append(best)
            self.nodes[node] = [t for t, _ in found], most

    def served(self, node, before, after):
        """Whether one connection that was open before `before` had an operation answered that was invoked after `after`: the node then
        neither died nor closed its clients between the two."""
        starts, most = self.nodes.get(node, ((), ()))
        at = bisect_right(starts, before)
        return at > 0 and most[at - 1] > after
