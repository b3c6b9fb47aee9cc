"""Promise 1: what is acknowledged is not lost.

**Rule.** A message that a durable session certainly has to get (`expected.py`) is received by it at least once: by the end of the run if
the session was connected through the drain, else before any later message of its stream (publisher, topic, QoS), since a stream
is delivered in order. And a durable session is there when its client comes back before its expiry.

**Why this is exact.** All times are of one machine. PUBACK was received after the broker sent it, SUBACK likewise, and what was invoked later
was executed later. So between SUBACK's arrival and the invocation of UNSUBSCRIBE the subscription was in effect, and the message
was matched within the time between its first invocation and its acknowledgement. Whether a delivery was lost on the way to a
client that went away does not matter: it did not acknowledge it, and it comes again.

A session is held to the end when its last connection was open from the CONNACK to the `end` event and answered an operation invoked
after `drain`. The driver ends the drain only when nothing came any more; else (`quiet` is false) nothing can be said of what is missing, and the
history is incomplete.

**What excuses a loss.** *Expiry*: a message with an expiry may be gone when it is over; it is a loss when a later one of its stream was
received before the expiry could be over (invocation + expiry). *Declared limits*: with `limits.queue` = N in the run's header a message may
have been dropped when N messages may have waited for the session at some time from its invocation on; counted are all messages that
may match, from invocation to first delivery. *Uncertain sessions*: a CONNECT with clean start whose fate is unknown may
end them at any time."""

from . import model
from .expected import expected, later_received, stream_of
from .report import Verdict

TITLE = "what is acknowledged reaches every durable session that was subscribed"


def check(history):
    verdict = Verdict("loss", TITLE)
    verdict.checked = {"messages due to a session": 0, "durable sessions": 0}
    for session, connection, place in history.lost:
        verdict.violation(
            f"{session} is not there any more: it had {sum(map(len, session.subscriptions.values()))} subscriptions",
            session.connections[-1].places["connack"], place,
        )
    for connection, place in history.unborn:
        verdict.violation(f"{connection}: session present, but there can be none", connection.places["connect"], place)
    for session in history.sessions:
        if session.durable:
            _session(history, session, verdict)
    return verdict


def _session(history, session, verdict):
    if session.uncertain:
        verdict.leave_out("uncertain sessions")
        return
    drained = history.quiet and session.drained(history)
    last = None
    limit = history.run.get("limits", {}).get("queue")
    backlog = None
    count = 0
    verdict.count("durable sessions")
    received = session.received
    judged = set()
    for topic_filter, episodes in session.subscriptions.items():
        for episode in episodes:
            for message, _ in expected(history, topic_filter, episode, True):
                count += 1
                if message in received or message in judged:
                    continue
                judged.add(message)
                if last is None:
                    last = later_received(history, session)
                later = last.get(stream_of(history.messages, message), -1)
                passed = later > message
                if not (drained or passed):
                    verdict.leave_out("messages of sessions without a drain")
                    continue
                if _expired(history, session, message, received.get(later) if passed else None):
                    verdict.leave_out("expired")
                    continue
                if limit is not None:
                    backlog = _Backlog(history, session) if backlog is None else backlog
                    if backlog.most_after(message) >= limit:
                        verdict.leave_out("over the declared limit of the queue")
                        continue
                _lost(history, session, episode, message, received.get(later) if passed else None, verdict)
    verdict.count("messages due to a session", count)


def _expired(history, session, message, later):
    """Whether its expiry excuses that it is missing."""
    expiry = history.messages.expiry.get(message)
    if expiry is None:
        return False
    over = history.messages.pub_t[message] + int(expiry * model.SECOND)
    return later is None or history.deliveries.t[later] >= over


def _lost(history, session, episode, message, later, verdict):
    messages = history.messages
    topic = history.topics.names[messages.topic[message]]
    how = "although a later one of its stream was" if later is not None else "until the end"
    verdict.violation(
        f"a message on {topic}, acknowledged with QoS {messages.qos[message]}, was never received by {session} {how}",
        episode.place, messages.pub_place[message], messages.ack_place[message],
        history.deliveries.place[later] if later is not None else None,
    )


class _Backlog:
    """How many messages may have waited for a session at a time."""

    def __init__(self, history, session):
        steps = []
        self.messages = history.messages
        for topic_filter, episodes in session.subscriptions.items():
            low = min(episode.sub_t for episode in episodes)
            for topic in history.topics.matching(topic_filter):
                for message in history.by_topic.get(topic, ()):
                    if self.messages.pub_t[message] < low:
                        continue
                    steps.append((self.messages.pub_t[message], 1))
                    got = session.received.get(message)
                    if got is not None:
                        steps.append((history.deliveries.t[got], -1))
        steps.sort(reverse=True)
        waiting = sum(step for _, step in steps)
        most = waiting
        # The most from each time on: [(time, most)], the latest first.
        self.tops = []
        for t, step in steps:
            self.tops.append((t, most))
            waiting -= step
            most = max(most, waiting)

    def most_after(self, message):
        t, found = self.messages.pub_t[message], 0
        for at, most in self.tops:
            found = most
            if at < t:
                break
        return found
