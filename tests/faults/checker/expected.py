"""Which messages a session certainly has to get.

A message is expected by a session for a subscription when
- its SUBACK was received before the message's first invocation: so the subscription was in effect whenever the broker matched it;
- the message was acknowledged, by PUBACK, or PUBREC for QoS 2, on any of its attempts, with a reason code of success;
- no UNSUBSCRIBE of the filter was invoked before that: the broker matches a QoS 1 message before it acknowledges it. With QoS 2
  what PUBREC says is that the outbox has the message; it is handed on later, and an UNSUBSCRIBE may overtake it: then none may
  have been invoked at all;
- the subscription was not granted QoS 0; a message of QoS 0 is never acknowledged."""

from bisect import bisect_left

from . import model


def expected(history, topic_filter, episode, durable):
    """Yields the messages, in the order of their invocation within each topic, with the topic's number: (message, topic)."""
    if episode.suback_t is None or episode.qos == 0:
        return
    messages = history.messages
    forwarded = durable and history.run.get("forwarded", False)
    first = history.after(episode.suback_t)
    unsub = model.NEVER if episode.unsub_t is None else episode.unsub_t
    for topic in history.topics.matching(topic_filter):
        of_topic = history.by_topic.get(topic)
        if of_topic is None:
            continue
        for at in range(bisect_left(of_topic, first), len(of_topic)):
            message = of_topic[at]
            if messages.pub_t[message] >= unsub:
                break
            qos, acked = messages.qos[message], messages.ack_t[message]
            if acked < 0 or messages.flags[message] & model.EMPTY:
                continue
            if acked >= unsub or (unsub != model.NEVER and (qos == 2 or forwarded)):
                continue
            yield message, topic


def later_received(history, session):
    """For each stream (publisher, topic, QoS) the last of its messages that the session received: {stream: message}. What is missing before it
    was passed over."""
    messages, last = history.messages, {}
    for message in session.received:
        stream = stream_of(messages, message)
        if last.get(stream, -1) < message:
            last[stream] = message
    return last


def stream_of(messages, message):
    return messages.publisher[message], messages.topic[message], messages.qos[message]
