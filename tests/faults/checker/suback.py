"""Promise 7: from SUBACK on, a publish on any node is matched.

**Rule**, for durable sessions. Of the messages that such a session has to get (`expected.py`) by a subscription, take those published on one node, in
their order: all up to the first one that was received have to be received. They are what shows whether SUBACK was sent before that node
knew of the subscription; what is missing later is `loss` alone.

**Rule**, for sessions that end with their connection. A message that such a connection has to get, of QoS 1 acknowledged or of QoS 2 completed, is received
through it if it and the publisher's connection were there long enough to say so:
- a later message of the same stream, sent on the same connection of the publisher and on no other, was received: then it was passed over (what was sent
  again elsewhere may have come from there);
- or the connection answered an operation that was invoked in the drain, was open to the end, and so did some connection to the publisher's
  node that was open before the message was sent.
An UNSUBSCRIBE may overtake what is forwarded: in the first case none may have been invoked before the later message came, in the second none at all.

**Why this is exact.** Delivery to such sessions survives no node's death, but neither node died: a node that dies or is declared down
loses all its connections, and in each case there is one on either side that outlived the message. Between two living nodes
messages are kept until they are acknowledged, in order.

QoS 0 may be dropped, and is not judged."""

from .expected import expected, later_received, stream_of
from .report import Verdict

TITLE = "a message published on any node after SUBACK is matched"


def check(history):
    verdict = Verdict("suback", TITLE)
    verdict.checked = {"messages": 0, "of them on another node": 0, "subscriptions": 0}
    for session in history.sessions:
        if not session.durable:
            _clean(history, session, verdict)
        elif not session.uncertain:
            for topic_filter, episodes in session.subscriptions.items():
                for episode in episodes:
                    _durable(history, session, topic_filter, episode, verdict)
    return verdict


def _durable(history, session, topic_filter, episode, verdict):
    messages = history.messages
    due = sorted(message for message, _ in expected(history, topic_filter, episode, True))
    if not due:
        return
    drained, last = history.quiet and session.drained(history), None
    shown, waiting = set(), {}
    home = _home(session, episode)
    for message in due:
        node = history.connections[messages.connection[message]].node
        if node in shown:
            continue
        received = message in session.received
        if not received:
            if messages.attempts[message] > 1:
                # Which node it came by is not known.
                continue
            waiting.setdefault(node, []).append(message)
            continue
        shown.add(node)
        verdict.count("messages")
        verdict.count("of them on another node", int(node != home))
    verdict.count("subscriptions", int(bool(shown or waiting)))
    for node, missing in waiting.items():
        for message in missing:
            if message in messages.expiry or history.run.get("limits", {}).get("queue") is not None:
                verdict.leave_out("messages that may be dropped")
                continue
            if last is None:
                last = later_received(history, session)
            if drained or last.get(stream_of(messages, message), -1) > message:
                _missed(history, session, episode, message, node, verdict)


def _home(session, episode):
    """The node at which a session subscribed."""
    return next(
        (each.node for each in reversed(session.connections) if each.connack_t < episode.sub_t), session.connections[-1].node
    )


def _clean(history, session, verdict):
    messages, connection = history.messages, session.connections[-1]
    alive = history.quiet and connection.alive_at_end(history)
    # The last message of each stream and connection of its publisher that was received, and can have come by that alone.
    later = {}
    for message in session.received:
        if messages.attempts[message] > 1:
            continue
        stream = (*stream_of(messages, message), messages.connection[message])
        later[stream] = max(later.get(stream, -1), message)
    for topic_filter, episodes in session.subscriptions.items():
        for episode in episodes:
            due = 0
            for message, _ in expected(history, topic_filter, episode, False):
                received = message in session.received
                if received or _due(history, session, episode, message, later, alive):
                    due += 1
                    publisher = history.connections[messages.connection[message]]
                    verdict.count("messages")
                    verdict.count("of them on another node", int(publisher.node != connection.node))
                    if not received:
                        _missed(history, session, episode, message, publisher.node, verdict)
            verdict.count("subscriptions", int(due > 0))


def _due(history, session, episode, message, later, alive):
    """Whether a message that a session which ends with its connection did not receive had to be received."""
    messages = history.messages
    if messages.qos[message] == 2 and messages.comp_t[message] < 0 or messages.attempts[message] > 1:
        return False
    stream = (*stream_of(messages, message), messages.connection[message])
    passed = later.get(stream, -1)
    if passed > message:
        # UNSUBSCRIBE may overtake what is forwarded.
        return episode.unsub_t is None or history.deliveries.t[session.received[passed]] < episode.unsub_t
    node = history.connections[messages.connection[message]].node
    return alive and episode.unsub_t is None and history.witnesses.served(node, messages.pub_t[message], history.drain_t)


def _missed(history, session, episode, message, node, verdict):
    messages = history.messages
    verdict.violation(
        f"{session} had its SUBACK, and a message published on {node or 'a node'} later, on "
        f"{history.topics.names[messages.topic[message]]}, did not reach it",
        episode.place, messages.pub_place[message], messages.ack_place[message],
    )
