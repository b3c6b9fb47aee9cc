"""Promise 3: order.

**Rule.** For one publisher (client identifier), topic and published QoS, a session receives the messages for the first time in the order in
which they were published: no first delivery of one that was invoked before another one that has been delivered. Over reconnects, too, of the
session, and of a publisher whose own session outlives its connections.

**Why this is exact.** A publisher invokes its messages one after the other and, after a reconnect, sends again what is not
acknowledged in that order, before anything new. A broker takes the packets of a connection in their order, so whatever prefix of them it
has taken when a connection ends, the first message that it can take afterwards is the first that is missing. A session receives what it
receives through one connection at a time; what is read from an older connection after the CONNACK of a newer one was sent before it,
and counts as received before it. Which of two connections made at the same time is the older one is not known: what came
through one and the other is not compared.

A publisher whose session ends with its connection sends nothing again. What it had no acknowledgement for, of unknown fate, may be committed when it
has long connected to another node: nothing orders the sessions of such a client.

A message of QoS 1 that was sent again is matched again: the first time before the session was subscribed, perhaps, the second time after later
ones. So it is held against the rule only if the session was certainly subscribed, not with QoS 0, before its first invocation.

To a session that ends with its connection, messages of two connections of the publisher may come by two nodes, and nothing orders them: PUBACK
says that they were handed over, not that they arrived. There the rule is for messages that were sent once, on one connection of the publisher. Where
the run declares that QoS 0 passes by sessions, it is the same for what is delivered with QoS 0 to others, on one connection of the session, too.

Second deliveries may come in any order, and what is missing is for the promises of loss. Replays of retained messages are for
`retained`. A client whose sending violates its part (the driver's never do) has to use new identifiers."""

from . import model
from .report import Verdict

TITLE = "for one publisher, topic and QoS first deliveries come in the order of publishing"


def check(history):
    verdict = Verdict("order", TITLE)
    verdict.checked = {"first deliveries": 0, "streams": 0}
    for session in history.sessions:
        _session(history, session, verdict)
    return verdict


def _session(history, session, verdict):
    messages, deliveries = history.messages, history.deliveries
    publisher, topics, qos_of, flags = messages.publisher, messages.topic, messages.qos, messages.flags
    durable, delivered = session.durable, deliveries.flags
    last, count = {}, 0
    # A dictionary keeps the order of first deliveries.
    for message, at in session.received.items():
        if flags[message] & model.WILL:
            continue
        count += 1
        stream = publisher[message], topics[message], qos_of[message]
        if not durable:
            if messages.attempts[message] > 1:
                verdict.leave_out("sent again, to a session that ends with its connection")
                continue
            stream = *stream, messages.connection[message]
        elif history.passing and not delivered[at] & model.QOS:
            if messages.attempts[message] > 1:
                verdict.leave_out("sent again, and delivered with QoS 0")
                continue
            stream = *stream, messages.connection[message], deliveries.connection[at]
        if not history.connections[messages.connection[message]].session.durable:
            stream = *stream, "of", messages.connection[message]
        before = last.get(stream, -1)
        if before > message:
            if history.beside(deliveries.connection[session.received[before]], deliveries.connection[at]):
                verdict.leave_out("pairs of connections made at the same time")
                continue
            if messages.attempts[message] > 1 and qos_of[message] == 1 and not _subscribed(history, session, message, at):
                verdict.leave_out("sent again, and not certainly subscribed before")
                continue
            verdict.violation(
                f"{session} received on {history.topics.names[topics[message]]} what {history.client_list[publisher[message]].id} "
                f"published earlier after what it published later (QoS {qos_of[message]})",
                messages.pub_place[message], messages.pub_place[before],
                deliveries.place[session.received[before]], deliveries.place[at],
            )
        else:
            last[stream] = message
    verdict.count("first deliveries", count)
    verdict.count("streams", len(last))


def _subscribed(history, session, message, at):
    """Whether the session was certainly subscribed to a message, not with QoS 0, from its first invocation to this delivery."""
    published, delivered = history.messages.pub_t[message], history.deliveries.t[at]
    return any(
        episode.suback_t is not None and episode.suback_t < published and episode.qos > 0
        and (episode.unsub_t is None or episode.unsub_t > delivered)
        for episode in session.episodes(history, history.messages.topic[message])
    )
