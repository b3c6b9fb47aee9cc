"""Makes the tables of a history from its events, in one pass in the order of time."""

from array import array
from bisect import bisect_right

from . import model
from .events import Malformed, read
from .model import NEVER, SECOND, Client, Connection, Deliveries, Episode, Messages, Session, Subscribe, Witnesses
from .topics import Topics

FORMAT = 1


class History:
    def __init__(self, paths):
        self.paths = [str(path) for path in paths]
        self.run = {}
        self.topics = Topics()
        self.connections = []
        self.by_number = {}
        self.clients = {}
        self.client_list = []
        self.sessions = []
        self.messages = Messages()
        self.deliveries = Deliveries()
        # Messages by topic, wills apart: {topic: array of messages}.
        self.by_topic = {}
        self.subscribes = []
        # What cannot be: (what, place…). `lost`: durable sessions that were not there any more.
        self.invented, self.altered, self.lost, self.unborn = [], [], [], []
        self.strays = 0
        self.faults = {}
        self.drain_t = self.end_t = NEVER
        self.ended = self.quiet = False
        # Answered operations: {kind: number}.
        self.answered = dict.fromkeys(("connect", "subscribe", "unsubscribe", "publish", "release", "ping"), 0)
        self.invoked = dict(self.answered)
        self.events = 0
        self._sets = {}
        handlers = {name[4:]: getattr(self, name) for name in dir(self) if name.startswith("_on_")}
        place = -1
        try:
            for place, event in read(self.paths):
                handlers[event["e"]](event, place)
                self.events += 1
        except Malformed as error:
            raise Malformed(str(error) if str(error).startswith(tuple(self.paths)) else f"{self._where(place)}: {error}") from None
        except (KeyError, TypeError, ValueError, IndexError, OverflowError, AttributeError) as error:
            raise Malformed(f"{self._where(place)}: {type(error).__name__}: {error}") from error
        self._finish()

    def _where(self, place):
        return f"{self.paths[place >> 40]}:{place & ((1 << 40) - 1)}" if place >= 0 else "the history"

    @property
    def acknowledged(self):
        """Operations that the broker acknowledged: connects, subscribes, unsubscribes, publishes."""
        return sum(self.answered[kind] for kind in ("connect", "subscribe", "unsubscribe", "publish"))

    @property
    def settle(self):
        """Seconds within which a healthy cluster does what is due, as the run declares."""
        return self.run.get("settle", 10)

    @property
    def patience(self):
        """The same while faults are made."""
        return self.run.get("patience", self.settle)

    @property
    def passing(self):
        """Whether what is delivered with QoS 0 passes by sessions: it is promised to their connections, of connections."""
        return self.run.get("qos0") == "connection"

    def matching_set(self, topic_filter):
        """The numbers of all topics of the history that match a filter."""
        found = self._sets.get(topic_filter)
        if found is None:
            found = self._sets[topic_filter] = frozenset(self.topics.matching(topic_filter))
        return found

    def beside(self, one, other):
        """Whether two connections (by number) were made at the same time, so that it is not known which one is newer."""
        one, other = self.connections[one], self.connections[other]
        return one is not other and one.connect_t <= other.connack_t and other.connect_t <= one.connack_t

    def after(self, t):
        """The first message that was invoked after this time."""
        return bisect_right(self.messages.pub_t, t)

    # The run itself.

    def _on_run(self, event, _place):
        if event.get("format") != FORMAT:
            raise Malformed(f"format {event.get('format')!r}: this checker knows {FORMAT}")
        # Of several files each has one; they belong together.
        self.run.update({key: value for key, value in event.items() if key not in ("t", "e")})

    def _on_drain(self, event, _place):
        self.drain_t = event["t"]

    def _on_end(self, event, _place):
        self.end_t, self.ended, self.quiet = event["t"], True, bool(event.get("quiet"))

    def _on_fault(self, event, _place):
        kind = event["kind"]
        self.faults[kind] = self.faults.get(kind, 0) + (0 if event.get("over") else 1)

    # Connections and sessions.

    def _on_connect(self, event, place):
        number = event["c"]
        if number in self.by_number:
            raise Malformed(f"a second CONNECT of connection {number}")
        client = self.clients.get(event["id"])
        if client is None:
            client = self.clients[event["id"]] = Client(len(self.client_list), event["id"])
            self.client_list.append(client)
        connection = Connection(len(self.connections), client, event, place)
        self.by_number[number] = connection
        self.connections.append(connection)
        client.connections.append(connection)
        will = event.get("will")
        if will:
            flags = model.WILL | (model.RETAIN if will.get("retain") else 0)
            if will["m"] in self.messages.index:
                raise Malformed(f"the will is no new message: {will['m']}")
            connection.will = self.messages.add(
                will["m"], event["t"], self.topics.number(will["topic"]), will["q"], flags, client.number, connection.number, place
            )
            connection.will_delay = will.get("delay", 0)
        self.invoked["connect"] += 1

    def _on_connack(self, event, place):
        connection = self.by_number[event["c"]]
        connection.places["connack"] = place
        if event.get("code", 0) != 0:
            return
        if connection.connack_t is not None:
            raise Malformed("a second CONNACK")
        t = event["t"]
        connection.connack_t, connection.present = t, bool(event.get("present"))
        connection.served_t = connection.connect_t
        self.answered["connect"] += 1
        for older in connection.client.connections:
            if older.connack_t is not None and older.connack_t < connection.connect_t:
                if older.fence_t is None:
                    older.fence_t, older.late = t, []
        self._begin(connection, place)

    def _begin(self, connection, place):
        """The session of a connection that was taken."""
        client, current = connection.client, connection.client.current
        beside = [
            other for other in client.connections
            if other is not connection
            and (other.unanswered if other.connack_t is None else other.connack_t > connection.connect_t)
        ]
        # Whose CONNACK never came, for whatever reason, may still be carried out, at any time.
        if client.loose_from is None and any(other.clean for other in beside):
            client.loose_from = min(other.connect_t for other in beside if other.clean)
        joins = not connection.clean and current is not None and (
            connection.present or any(other.connack_t is not None and not other.clean for other in beside)
        )
        if connection.present and (connection.clean or current is None and not any(
            other.expiry > 0 for other in client.connections if other is not connection
        )):
            self.unborn.append((connection, place))
        if joins:
            session = current
        else:
            if current is not None:
                current.ended_t = connection.connect_t
                certain = client.loose_from is None and self._certain(current, connection)
                if certain and not connection.clean:
                    self.lost.append((current, connection, place))
            session = Session(len(self.sessions), client, connection.present)
            self.sessions.append(session)
            client.sessions.append(session)
        if client.loose_from is not None:
            session.uncertain = True
        session.connections.append(connection)
        connection.session = session
        client.current = session

    @staticmethod
    def _certain(session, connection):
        """Whether the session must still be there at this connection: nothing ended it, and its expiry cannot be over."""
        if session.uncertain or not session.durable:
            return False
        seen = max(each.served_t for each in session.connections)
        return connection.connack_t < seen + session.connections[-1].expiry * SECOND

    def _on_disconnect(self, event, place):
        connection = self.by_number[event["c"]]
        connection.disconnect_t, connection.disconnect_code = event["t"], event.get("code", 0)
        connection.places["disconnect"] = place
        if "expiry" in event:
            connection.expiry = event["expiry"]

    def _on_disconnected(self, event, place):
        self.by_number[event["c"]].places["disconnected"] = place

    def _on_closed(self, event, place):
        connection = self.by_number[event["c"]]
        connection.closed_t, connection.closed_by = event["t"], event.get("by", "error")
        connection.places["closed"] = place
        connection.pending.clear()
        connection.pings.clear()

    # Operations and their answers.

    def _serving(self, event):
        connection = self.by_number[event["c"]]
        if connection.session is None:
            raise Malformed(f"{event['e']} before CONNACK")
        if connection.closed_t is not None:
            raise Malformed(f"{event['e']} after the end of connection {connection.name}")
        return connection

    def _invoke(self, connection, key, event, place, more=None):
        connection.pending[key] = event["t"], place, more
        if connection.fence_t is not None:
            connection.tried_late += 1

    def _answer(self, connection, key, event, place):
        """The operation that is answered: (time, place, more); None if there is none."""
        found = connection.pending.pop(key, None)
        if found is None:
            self.strays += 1
            return None
        invoked = found[0]
        if invoked > connection.served_t:
            connection.served_t = invoked
        if connection.fence_t is not None:
            connection.late.append((event["e"], invoked, event["t"], found[1], place))
        return found

    def _on_sub(self, event, place):
        connection = self._serving(event)
        filters = event["f"]
        taken = []
        for topic_filter, qos, *rest in filters:
            if topic_filter.startswith("$share/"):
                raise Malformed("shared subscriptions: this checker does not judge them")
            episodes = connection.session.subscriptions.setdefault(topic_filter, [])
            if episodes and episodes[-1].unsub_t is None:
                # Replaced: it goes on, with the lower QoS of the two for what is certain.
                episode = episodes[-1]
                episode.qos = min(episode.qos, qos)
            else:
                episode = Episode(event["t"], qos, place)
                episodes.append(episode)
            subscribe = Subscribe(
                connection.session, connection, topic_filter, episode, rest[0] if rest else 0, event["t"], place
            )
            self.subscribes.append(subscribe)
            taken.append(subscribe)
        self.invoked["subscribe"] += 1
        self._invoke(connection, ("suback", event["pid"]), event, place, taken)

    def _on_suback(self, event, place):
        connection = self._serving(event)
        found = self._answer(connection, ("suback", event["pid"]), event, place)
        if found is None:
            return
        self.answered["subscribe"] += 1
        for subscribe, code in zip(found[2], event["codes"], strict=True):
            episode = subscribe.episode
            if code >= 0x80:
                # Refused: whether it is in effect is not known from its SUBSCRIBE on.
                if episode.unsub_t is None:
                    episode.unsub_t = found[0]
                continue
            episode.qos = min(episode.qos, code)
            if episode.suback_t is None:
                episode.suback_t = event["t"]
            subscribe.suback_t = event["t"]

    def _on_unsub(self, event, place):
        connection = self._serving(event)
        taken = []
        for topic_filter in event["f"]:
            episodes = connection.session.subscriptions.get(topic_filter)
            for episode in episodes or ():
                # All of the filter that may be in effect: those of unknown fate end with it, too.
                if episode.unsub_t is None:
                    episode.unsub_t = event["t"]
                if episode.unsuback_t is None:
                    taken.append(episode)
        self.invoked["unsubscribe"] += 1
        self._invoke(connection, ("unsuback", event["pid"]), event, place, taken)

    def _on_unsuback(self, event, place):
        connection = self._serving(event)
        found = self._answer(connection, ("unsuback", event["pid"]), event, place)
        if found is None:
            return
        self.answered["unsubscribe"] += 1
        codes = event.get("codes") or []
        if all(code < 0x80 for code in codes):
            for episode in found[2]:
                episode.unsuback_t = event["t"]

    def _on_pub(self, event, place):
        connection = self._serving(event)
        name, qos = event["m"], event["q"]
        messages = self.messages
        message = messages.index.get(name)
        if message is None:
            topic = self.topics.number(event["topic"])
            flags = (model.RETAIN if event.get("retain") else 0) | (model.EMPTY if event.get("empty") else 0)
            message = messages.add(name, event["t"], topic, qos, flags, connection.client.number, connection.number, place)
            if "expiry" in event:
                messages.expiry[message] = event["expiry"]
            self.by_topic.setdefault(topic, array("i")).append(message)
            self.invoked["publish"] += 1
        else:
            if messages.topic[message] != self.topics.numbers.get(event["topic"]) or messages.qos[message] != qos:
                raise Malformed(f"message {name} is sent again with another topic or QoS")
            if messages.publisher[message] != connection.client.number:
                raise Malformed(f"message {name} is sent by a second client")
            messages.attempts[message] += 1
            first = self.connections[messages.connection[message]].session.number
            sent_in = messages.resent.setdefault(message, {first})
            # Without DUP it is another message, as far as anybody can know.
            sent_in.add(connection.session.number if event.get("dup") else (connection.session.number, messages.attempts[message]))
        if qos:
            self._invoke(connection, ("pub", event["pid"]), event, place, message)

    def _on_puback(self, event, place):
        self._acknowledged(event, place, 1)

    def _on_pubrec(self, event, place):
        self._acknowledged(event, place, 2)

    def _acknowledged(self, event, place, qos):
        connection = self._serving(event)
        found = self._answer(connection, ("pub", event["pid"]), event, place)
        if found is None:
            return
        messages, message = self.messages, found[2]
        if messages.qos[message] != qos:
            self.strays += 1
        elif event.get("code", 0) < 0x80:
            if messages.ack_t[message] < 0:
                messages.ack_t[message] = event["t"]
                messages.ack_place[message] = place
            self.answered["publish"] += 1
            connection.pending[("rec", event["pid"])] = event["t"], place, message

    def _on_pubrel(self, event, place):
        connection = self._serving(event)
        known = connection.pending.pop(("rec", event["pid"]), None)
        message = known[2] if known else self.messages.index.get(event.get("m"))
        self.invoked["release"] += 1
        self._invoke(connection, ("pubcomp", event["pid"]), event, place, message)

    def _on_pubcomp(self, event, place):
        connection = self._serving(event)
        found = self._answer(connection, ("pubcomp", event["pid"]), event, place)
        if found is None:
            return
        self.answered["release"] += 1
        if found[2] is not None and self.messages.comp_t[found[2]] < 0:
            self.messages.comp_t[found[2]] = event["t"]

    def _on_ping(self, event, place):
        connection = self._serving(event)
        connection.pings.append((event["t"], place))
        self.invoked["ping"] += 1
        if connection.fence_t is not None:
            connection.tried_late += 1

    def _on_pong(self, event, place):
        connection = self._serving(event)
        if not connection.pings:
            self.strays += 1
            return
        connection.pending["ping"] = (*connection.pings.pop(0), None)
        self._answer(connection, "ping", event, place)
        self.answered["ping"] += 1

    # Deliveries.

    def _on_recv(self, event, place):
        connection = self._serving(event)
        t = event["t"]
        name = event.get("m")
        qos = event["q"]
        message = self.messages.index.get(name, -1)
        flags = qos | (model.DUP if event.get("dup") else 0) | (model.REPLAY if event.get("retain") else 0)
        if message >= 0:
            if self.messages.topic[message] != self.topics.numbers.get(event["topic"]):
                self.altered.append((name, place, self.messages.pub_place[message]))
            connection.served(self.messages.pub_t[message])
        elif not event.get("empty"):
            self.invented.append((connection, name, place))
        self._deliver(model.PUBLISH, t, connection, event.get("pid", 0), message, flags, place)

    def _on_rel(self, event, place):
        connection = self._serving(event)
        self._deliver(model.PUBREL, event["t"], connection, event["pid"], -1, 0, place)
        if ("sent", event["pid"]) in connection.pending:
            self._answer(connection, ("sent", event["pid"]), event, place)

    def _deliver(self, kind, t, connection, pid, message, flags, place):
        deliveries, session = self.deliveries, connection.session
        index = len(deliveries.t)
        deliveries.kind.append(kind)
        deliveries.t.append(t)
        deliveries.connection.append(connection.number)
        deliveries.pid.append(pid)
        deliveries.message.append(message)
        deliveries.flags.append(flags)
        deliveries.place.append(place)
        session.deliveries.append(index)
        if message >= 0 and not flags & model.REPLAY and message not in session.received:
            session.received[message] = index

    def _on_ack(self, event, place):
        connection = self._serving(event)
        if event["k"] == "pubrec":
            self._invoke(connection, ("sent", event["pid"]), event, place)

    def _finish(self):
        for connection in self.connections:
            connection.pending = connection.pings = None
        for client in self.client_list:
            # A clean CONNECT without an answer may be carried out at any time.
            loose = [each.connect_t for each in client.connections if each.clean and each.unanswered]
            if loose:
                client.loose_from = min(loose)
                for session in client.sessions:
                    # Those that were over before are what they were.
                    if session.ended_t is None or session.ended_t > client.loose_from:
                        session.uncertain = True
        for session in self.sessions:
            if any(connection.fence_t is not None for connection in session.connections):
                self._by_connection(session)
        self.witnesses = Witnesses(self.connections)

    def _by_connection(self, session):
        """What is read from an older connection after the CONNACK of a newer one was sent before it: puts it there."""
        of = self.deliveries.connection
        place = {connection.number: at for at, connection in enumerate(session.connections)}
        places = [place[of[at]] for at in session.deliveries]
        if all(one <= other for one, other in zip(places, places[1:])):
            return
        session.deliveries = array("i", sorted(session.deliveries, key=lambda at: place[of[at]]))
        session.received = {}
        for at in session.deliveries:
            message = self.deliveries.message[at]
            if message >= 0 and not self.deliveries.flags[at] & model.REPLAY:
                session.received.setdefault(message, at)
