"""Promise 2: QoS 2 is exactly once, and a duplicate of QoS 1 has a reason.

**Rule.** Deliveries of one message to one session (replays of retained messages apart) make *instances*. A delivery belongs to the instance of the one
before when it is its resend: the same packet identifier, DUP set, on a later connection, no other message in between under that identifier,
and for QoS 2 no PUBREL for it received since. Everything else is an instance of its own. Of a message there are at most
- QoS 2, to a durable session: one for each session of the publisher that it was sent in (a client that lost its session, and sends it once
  more, has sent two), and one for each time that the publisher sent it again without DUP ([MQTT-3.3.1-1]): that is a message of its own to whoever reads it. paho
  does so after a PUBREL whose answer was lost;
- QoS 1, and QoS 2 to a session that ends with its connection: one for each attempt of the publisher, which sends again, with DUP, when a
  connection ended before the acknowledgement. Exactly once is promised between durable sessions: what a node that died had given to others
  nobody knows;
- QoS 0: one; where the run declares that QoS 0 passes by sessions, one on each connection;
- a will: one.
Filters of the session that overlap multiply this. What is read from an older connection after the CONNACK of a newer one was sent before it, and
counts as received before it.

**Why this is exact.** A client that keeps its session knows of a QoS 2 identifier from the first PUBLISH to PUBREL, and a PUBLISH that comes
again in between is no second receipt: the application was given one. After PUBREL, it is: the broker
sends PUBREL only when it has PUBREC for good. A resend on the same connection is no duplicate, but MQTT 5 forbids it
([MQTT-4.4.0-1]), as all versions forbid it without DUP ([MQTT-3.3.1-1]): it is reported. That QoS 1 is sent again although PUBACK was sent is
allowed on a later connection, however old PUBACK is: acknowledgements are replicated in batches. But not once its identifier was used for
another message: the broker had it for acknowledged then ([MQTT-2.2.1-4]).

Also here: whatever is received was published, on that topic."""

from . import model
from .report import Verdict

TITLE = "QoS 2 is received once; QoS 1 twice only after a disconnection, under the same identifier"


def check(history):
    verdict = Verdict("once", TITLE)
    verdict.checked = {"deliveries of QoS 2": 0, "of QoS 1": 0, "of QoS 0": 0, "resends": 0}
    for connection, name, place in history.invented:
        verdict.violation(f"{connection} received what nobody published: {name!r}", place)
    for name, place, published in history.altered:
        verdict.violation(f"message {name} was received on another topic", published, place)
    for session in history.sessions:
        _session(history, session, verdict)
    return verdict


class _Seen:
    """What a session received of a message so far, from its second delivery on."""

    __slots__ = ("instances", "last")

    def __init__(self, first):
        self.instances = 1
        # The last delivery of each instance, by packet identifier.
        self.last = {first[0]: first[1]}


def _session(history, session, verdict):
    deliveries = history.deliveries
    kinds, flags_of, pids, of_message = deliveries.kind, deliveries.flags, deliveries.pid, deliveries.message
    first, more = session.received, {}
    # The last message under each identifier; and those of QoS 2 without PUBREL.
    under, held = {}, {}
    counts = [0, 0, 0]
    for at in session.deliveries:
        pid = pids[at]
        if kinds[at] == model.PUBREL:
            held.pop(pid, None)
            continue
        flags, message = flags_of[at], of_message[at]
        qos = flags & model.QOS
        counts[qos] += 1
        if message >= 0 and not flags & model.REPLAY and first[message] != at:
            seen = more.get(message)
            if seen is None:
                before = first[message]
                seen = more[message] = _Seen((pids[before], before))
            _again(history, session, message, at, seen, under, held, verdict)
        if qos:
            under[pid] = message
            if qos == 2:
                held[pid] = message
    for qos, what in enumerate(("of QoS 0", "of QoS 1", "deliveries of QoS 2")):
        verdict.checked[what] += counts[qos]


def _again(history, session, message, at, seen, under, held, verdict):
    deliveries = history.deliveries
    pid, flags = deliveries.pid[at], deliveries.flags[at]
    qos = flags & model.QOS
    before = seen.last.get(pid)
    same = qos > 0 and before is not None and under.get(pid) == message and (qos == 1 or held.get(pid) == message)
    if same and deliveries.connection[before] != deliveries.connection[at] and flags & model.DUP:
        seen.last[pid] = at
        verdict.count("resends")
        return
    previous = before if before is not None else max(seen.last.values())
    if history.beside(deliveries.connection[previous], deliveries.connection[at]):
        verdict.leave_out("pairs of connections made at the same time")
        return
    if qos == 0 and history.passing and deliveries.connection[previous] != deliveries.connection[at]:
        seen.last[pid] = at
        verdict.leave_out("with QoS 0 again, on another connection")
        return
    places = history.messages.pub_place[message], deliveries.place[previous], deliveries.place[at]
    if same and deliveries.connection[before] == deliveries.connection[at]:
        seen.last[pid] = at
        if qos == 2 and history.connections[deliveries.connection[at]].version < 5 and flags & model.DUP:
            return
    if same and qos == 2:
        how = "without DUP" if not flags & model.DUP else "on the same connection"
        verdict.violation(f"{session} was sent a message of QoS 2 again {how}", *places)
        return
    seen.instances += 1
    seen.last[pid] = at
    if seen.instances > allowed(history, session, message):
        verdict.violation(f"{session} received a message of QoS {qos} again{_how(before, same, flags, qos)}", *places)


def _how(before, same, flags, qos):
    if before is None:
        return " under another identifier"
    if not same:
        return " after PUBREL" if qos == 2 else " after its identifier was used for another message"
    return " on the same connection" if flags & model.DUP else " without DUP"


def allowed(history, session, message):
    """How many instances of a message a session may receive."""
    messages = history.messages
    qos = messages.qos[message]
    times = 1
    if message in messages.resent:
        times = len(messages.resent[message]) if qos == 2 and session.durable else messages.attempts[message]
    topic = messages.topic[message]
    filters = sum(topic in history.matching_set(topic_filter) for topic_filter in session.subscriptions)
    return times * max(1, filters)
