"""Promise 8: no new delivery after UNSUBACK.

**Rule.** Every delivery is explained by a subscription of its session: one whose filter matches and that may have been in effect, from the
invocation of its SUBSCRIBE to the arrival of its UNSUBACK, at some time between the first invocation of the message and the delivery. So a
message published after UNSUBACK is not received; one that was on its way may be.

**Why this is exact.** The broker executed SUBSCRIBE after it was invoked and UNSUBSCRIBE before UNSUBACK arrived. A subscription of unknown fate may be in
effect from its invocation, and one whose UNSUBACK never came for the rest of the session. A session that is not there any more (CONNACK without
session present) has taken its subscriptions with it.

That a message which was acknowledged before SUBSCRIBE is delivered all the same is counted: no promise forbids it, since messages are
forwarded between nodes and handed on between shards after their acknowledgement, and matched where they arrive."""

from . import model
from .report import Verdict

TITLE = "a message published after UNSUBACK is not delivered"


def check(history):
    verdict = Verdict("unsuback", TITLE)
    verdict.checked = {"deliveries": 0, "ended subscriptions": 0}
    for session in history.sessions:
        _session(history, session, verdict)
    return verdict


def _session(history, session, verdict):
    messages, deliveries = history.messages, history.deliveries
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
        replay = deliveries.flags[at] & model.REPLAY
        low, high = messages.pub_t[message], deliveries.t[at]
        early = False
        for episode in episodes:
            if episode.possible(low, high):
                if replay or not 0 <= messages.ack_t[message] < episode.sub_t:
                    break
                early = True
        else:
            if early:
                verdict.leave_out("messages acknowledged before SUBSCRIBE")
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
        why = "its subscription had ended before that was published" if ended else "it had not subscribed yet"
    verdict.violation(
        f"{session} received a message on {history.topics.names[messages.topic[message]]}: {why}",
        before.place if before else None, messages.pub_place[message], messages.ack_place[message], history.deliveries.place[at],
    )
