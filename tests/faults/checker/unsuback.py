"""Promise 8: no new delivery after UNSUBACK.

**Rule.** Every delivery is explained by a subscription of its session: one whose filter matches and that may have been in effect, from the
invocation of its SUBSCRIBE to the arrival of its UNSUBACK, at some time at which the broker may have matched the message. That is
from its first invocation to
- its acknowledgement, where it is of QoS 1, was sent once, and the session is durable: it is matched in the log before PUBACK;
- else the delivery itself. A clean session's messages are forwarded between nodes and matched where they arrive; those of QoS 2 are handed on
  after PUBREC.
So a message published after UNSUBACK is not received, nor is one that was acknowledged before SUBSCRIBE; those that were on their way may be. A
replay of a retained message (RETAIN set) is explained by any SUBSCRIBE invoked before it.

**Why this is exact.** The broker executed SUBSCRIBE after it was invoked and UNSUBSCRIBE before UNSUBACK arrived. A subscription of unknown fate may be in
effect from its invocation, and one whose UNSUBACK never came for the rest of the session. A session that is not there any more (CONNACK without
session present) has taken its subscriptions with it."""

from . import model
from .report import Verdict

TITLE = "a message published after UNSUBACK, or acknowledged before SUBSCRIBE, is not delivered"


def check(history):
    verdict = Verdict("unsuback", TITLE)
    verdict.checked = {"deliveries": 0, "ended subscriptions": 0}
    for session in history.sessions:
        _session(history, session, verdict)
    return verdict


def _session(history, session, verdict):
    messages, deliveries = history.messages, history.deliveries
    durable = session.durable
    explaining = {}
    count = 0
    for at in session.deliveries:
        message = deliveries.message[at]
        if message < 0:
            continue
        count += 1
        topic = messages.topic[message]
        episodes = explaining.get(topic)
        if episodes is None:
            episodes = explaining[topic] = session.episodes(history, topic)
        t = deliveries.t[at]
        if deliveries.flags[at] & model.REPLAY:
            low, high = 0, t
        else:
            low, high = messages.pub_t[message], t
            if durable and messages.qos[message] == 1 and messages.ack_t[message] >= 0 and messages.attempts[message] == 1:
                high = min(high, messages.ack_t[message])
        for episode in episodes:
            if episode.sub_t <= high and (episode.unsuback_t is None or episode.unsuback_t >= low):
                break
        else:
            _unexplained(history, session, episodes, message, at, verdict)
    verdict.count("deliveries", count)
    verdict.count("ended subscriptions", sum(
        episode.unsuback_t is not None for episodes in session.subscriptions.values() for episode in episodes
    ))


def _unexplained(history, session, episodes, message, at, verdict):
    messages = history.messages
    why = "it had no subscription for it"
    before = None
    if episodes:
        ended = [episode for episode in episodes if episode.unsuback_t is not None
                 and episode.unsuback_t < messages.pub_t[message]]
        before = max(ended, key=lambda episode: episode.unsuback_t) if ended else episodes[0]
        why = "its subscription had ended before that was published" if ended else "it subscribed after that was acknowledged"
    verdict.violation(
        f"{session} received a message on {history.topics.names[messages.topic[message]]}: {why}",
        before.place if before else None, messages.pub_place[message], messages.ack_place[message], history.deliveries.place[at],
    )
