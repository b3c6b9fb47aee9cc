"""Promise 5: wills.

In what follows *c* is a connection with a will, *u* the invocation of the last operation that it answered (at least its CONNECT): the latest time at which
the broker certainly had it. Its *delay* is the will delay, or the session's expiry if that is less.

**Rule 1: not while the client is up.** The will is not received by anybody before *u*.

**Rule 2: not before the delay.** It is not received before *u* + delay, unless a CONNECT with clean start of the same client was invoked before: that ends the
session, and with it the delay.

**Rule 3: not when the client came back in time.** If a CONNACK with session present of a later connection of the client arrived before *u* + delay,
and before a CONNECT with clean start was invoked, the will is never received.

**Rule 4: not after a DISCONNECT.** If the client sent DISCONNECT with reason code 0, and the broker closed the connection after that, the will is never
received. The broker may have died just then: so this is held against it only if another connection to the node, open before the DISCONNECT,
answered an operation that was invoked after the will was received. Then the node neither died nor was declared down in between: either
ends all of its connections before their wills are sent.

**Rule 5: once.** A session receives it once; a resend (same packet identifier, DUP, later connection) is no second time.

**Rule 6: it comes.** A durable session receives the will of a connection that certainly ended without DISCONNECT, if its subscription had SUBACK before *u* and no
UNSUBSCRIBE of it was invoked, if it was connected through the drain, neither QoS is 0, and the will was due: its connection was seen closed, or
superseded, 1.5 × Keep Alive + delay + `settle` before the end. With a delay it is due only if no later CONNECT of the client was invoked,
which may have cancelled it.

**Why this is exact.** What the broker answered it had after it was invoked, so the connection's end is after *u* and the will after that; the will
was published before it was received."""

from . import model
from .report import Verdict

TITLE = "a will is received exactly once, and never of a client that is up, came back in time or said DISCONNECT"


def check(history):
    verdict = Verdict("wills", TITLE)
    verdict.checked = {
        "wills received": 0, "wills due to a session": 0, "connections with a will that said DISCONNECT": 0,
        "that came back within the delay": 0,
    }
    receipts = _receipts(history, verdict)
    subscribers = _subscribers(history)
    for connection in history.connections:
        if connection.will is None:
            continue
        came = receipts.get(connection.will, ())
        if connection.connack_t is None:
            # It may have been there, and may have ended at any time.
            verdict.leave_out("connections without CONNACK")
            continue
        cleared = _session_ended(connection)
        _early(history, connection, came, cleared, verdict)
        _resumed(history, connection, came, cleared, verdict)
        _said_goodbye(history, connection, came, verdict)
        _missing(history, connection, subscribers, verdict)
    return verdict


def _receipts(history, verdict):
    """The deliveries of wills, resends left out: {message: [delivery]}. Rule 5."""
    deliveries, messages, found = history.deliveries, history.messages, {}
    if not any(flags & model.WILL for flags in messages.flags):
        return found
    for session in history.sessions:
        before = {}
        for at in session.deliveries:
            message = deliveries.message[at]
            if message < 0 or not messages.flags[message] & model.WILL:
                continue
            found.setdefault(message, []).append(at)
            verdict.count("wills received")
            flags, last = deliveries.flags[at], before.get(message)
            if flags & model.REPLAY:
                continue
            before[message] = at
            if last is None or _overlap(history, session, message):
                continue
            resend = (
                flags & model.DUP and deliveries.pid[last] == deliveries.pid[at]
                and deliveries.connection[last] != deliveries.connection[at]
            )
            if not resend and not history.beside(deliveries.connection[last], deliveries.connection[at]):
                verdict.violation(
                    f"{session} received a will twice", messages.pub_place[message], deliveries.place[last], deliveries.place[at]
                )
    return found


def _overlap(history, session, message):
    topic = history.messages.topic[message]
    return sum(topic in history.matching_set(topic_filter) for topic_filter in session.subscriptions) > 1


def _delay(connection):
    return int(min(connection.will_delay, connection.expiry) * model.SECOND)


def _session_ended(connection):
    """From when on a CONNECT with clean start, whatever its fate, may have ended the session."""
    return min(
        (each.connect_t for each in connection.client.connections if each.clean and each.connect_t > connection.connect_t),
        default=model.NEVER,
    )


def _early(history, connection, came, cleared, verdict):
    """Rules 1 and 2."""
    delay = _delay(connection)
    for at in came:
        t, place = history.deliveries.t[at], history.deliveries.place[at]
        if t < connection.served_t:
            verdict.violation(
                f"the will of {connection} was received, and an operation invoked later was answered",
                connection.places["connect"], place,
            )
        elif t < connection.served_t + delay and t < cleared:
            verdict.violation(
                f"the will of {connection} was received {(t - connection.served_t) / model.SECOND:.3f} s after it was certainly "
                f"there; its delay is {delay / model.SECOND:.0f} s", connection.places["connect"], place,
            )


def _resumed(history, connection, came, cleared, verdict):
    """Rule 3."""
    delay = _delay(connection)
    if not delay:
        return
    for later in connection.client.connections:
        if (
            later.connack_t is not None and later.present and later.connect_t > connection.connack_t
            and later.connack_t < min(connection.served_t + delay, cleared)
        ):
            verdict.count("that came back within the delay")
            for at in came:
                verdict.violation(
                    f"the will of {connection} was received, although connection {later.name} resumed the session in time",
                    connection.places["connect"], later.places["connack"], history.deliveries.place[at],
                )
            return


def _said_goodbye(history, connection, came, verdict):
    """Rule 4."""
    if connection.disconnect_t is None or connection.disconnect_code != 0 or connection.closed_by != "broker":
        return
    verdict.count("connections with a will that said DISCONNECT")
    for at in came:
        t = history.deliveries.t[at]
        if history.witnesses.served(connection.node, connection.disconnect_t, t):
            verdict.violation(
                f"the will of {connection} was received, although it said DISCONNECT",
                connection.places["connect"], connection.places["disconnect"], history.deliveries.place[at],
            )
        else:
            verdict.leave_out("wills after DISCONNECT of a node that may have died")


def _subscribers(history):
    """The sessions that must get wills, with their certain subscriptions: [(session, filter, episode)]."""
    if not history.quiet:
        return []
    return [
        (session, topic_filter, episode)
        for session in history.sessions
        if session.durable and not session.uncertain and session.drained(history)
        for topic_filter, episodes in session.subscriptions.items()
        for episode in episodes
        if episode.suback_t is not None and episode.unsub_t is None and episode.qos > 0
    ]


def _missing(history, connection, subscribers, verdict):
    """Rule 6."""
    messages, will = history.messages, connection.will
    if connection.disconnect_t is not None and connection.disconnect_code == 0 or messages.qos[will] == 0:
        return
    over = min(t for t in (connection.closed_t, connection.fence_t, model.NEVER) if t is not None)
    if not connection.keep_alive and connection.closed_by != "broker" and connection.fence_t is None:
        # The broker need not have noticed.
        over = model.NEVER
    delay = _delay(connection)
    due = over + int((1.5 * connection.keep_alive + history.settle) * model.SECOND) + delay
    if over == model.NEVER or due > history.end_t:
        verdict.leave_out("wills not due at the end")
        return
    if delay and any(each.connect_t > connection.connect_t for each in connection.client.connections):
        verdict.leave_out("wills that may have been cancelled")
        return
    topic = messages.topic[will]
    for session, topic_filter, episode in subscribers:
        if episode.suback_t < connection.served_t and topic in history.matching_set(topic_filter):
            verdict.count("wills due to a session")
            if will not in session.received:
                verdict.violation(
                    f"the will of {connection} never reached {session}",
                    episode.place, connection.places["connect"], connection.places.get("closed"),
                )
