"""Promise 6: retained messages.

**Rule 1: each topic is a linearizable register.** Writes are publishes with RETAIN (an empty payload writes "none"), reads are what a SUBSCRIBE
is answered with. There is one order of all of them that agrees with the time of the machine, in which every read returns the last write before it.
Their intervals:
- a write of QoS 1 or 2: from its first invocation to PUBACK or PUBREC. Not acknowledged, of QoS 0, or refused with an error: from its first invocation on, and it may never take
  effect. Each further attempt is one more write that may take effect at any time;
- a will with RETAIN: from its CONNECT on, maybe never;
- a message with an expiry: a second write, of "none", that may take effect from then on;
- a read that returned a message: from the invocation of the SUBSCRIBE to the delivery with RETAIN set. Which SUBSCRIBE of several it
  belongs to: the n-th replay of a session cannot be of an earlier one than the n-th;
- a read that returned none: there was nothing on that topic within `patience` seconds of SUBACK (in the drain `settle`; as the run declares), no UNSUBSCRIBE, and the
  connection answered an operation invoked after that: up to that time. Otherwise it is not known what was read.

**Rule 2: never newer, then older.** A session that received a message of the topic is not given an older one afterwards, where one of the two is a
replay: older is one of QoS 1, sent once, that was acknowledged before the other was invoked. (Between two live messages of different publishers no order is promised;
these are counted.) Resends of what was received before are left out.

What MQTT does not let a client see is not judged: the live delivery of an empty payload carries nothing to know it by."""

from bisect import bisect_left, bisect_right

from . import linear, model
from .report import Verdict

TITLE = "each topic's retained message is a linearizable register; nobody is given an older one after a newer one"


def check(history):
    verdict = Verdict("retained", TITLE)
    verdict.checked = {"reads": 0, "of them of nothing": 0, "writes": 0, "topics": 0, "pairs with a replay": 0}
    writes = _writes(history)
    for topic, reads in _reads(history, writes).items():
        _register(history, topic, writes[topic], reads, verdict)
    _monotonic(history, verdict)
    return verdict


def _writes(history):
    """All writes by topic: {topic: [Operation]}."""
    messages, found = history.messages, {}
    for message, flags in enumerate(messages.flags):
        if not flags & model.RETAIN:
            continue
        begin, place = messages.pub_t[message], messages.pub_place[message]
        acked = messages.ack_t[message]
        end = acked if acked >= 0 and messages.qos[message] > 0 else None
        value = None if flags & model.EMPTY else message
        of_topic = found.setdefault(messages.topic[message], [])
        of_topic.append(linear.Operation(begin, end, True, value, place))
        # Each further attempt may take effect, too.
        of_topic.extend(linear.Operation(begin, None, True, value, place) for _ in range(messages.attempts[message] - 1))
        expiry = messages.expiry.get(message)
        if expiry is not None:
            of_topic.append(linear.Operation(begin + int(expiry * model.SECOND), None, True, None, place))
    return found


def _replays(history, writes):
    """Deliveries with RETAIN set, resends left out: {(session, topic): [delivery]}."""
    deliveries, messages, found = history.deliveries, history.messages, {}
    for session in history.sessions:
        under = {}
        for at in session.deliveries:
            flags, message = deliveries.flags[at], deliveries.message[at]
            if message < 0 or not flags & model.REPLAY or messages.topic[message] not in writes:
                continue
            pid = deliveries.pid[at]
            if flags & model.DUP and under.get(pid) == message:
                continue
            under[pid] = message
            found.setdefault((session.number, messages.topic[message]), []).append(at)
    return found


def _reads(history, writes):
    """{topic: [Operation]}."""
    deliveries, found, asked = history.deliveries, {}, {}
    for subscribe in history.subscribes:
        if subscribe.handling == 2:
            continue
        for topic in history.topics.matching(subscribe.filter):
            if topic in writes:
                asked.setdefault((subscribe.session.number, topic), []).append(subscribe)
    replays = _replays(history, writes)
    for key, subscribes in asked.items():
        got, of_topic = replays.get(key, ()), found.setdefault(key[1], [])
        for number, at in enumerate(got):
            begin = subscribes[min(number, len(subscribes) - 1)].sub_t
            if begin <= deliveries.t[at]:
                of_topic.append(linear.Operation(begin, deliveries.t[at], False, deliveries.message[at], deliveries.place[at]))
        if not got:
            of_topic.extend(filter(None, (_nothing(history, key[1], subscribe) for subscribe in subscribes)))
    return {topic: reads for topic, reads in found.items() if reads}


def _nothing(history, topic, subscribe):
    """The read of nothing by a SUBSCRIBE that no replay came for, if that can be told."""
    if subscribe.suback_t is None or subscribe.handling:
        return None
    seconds = history.settle if subscribe.sub_t > history.drain_t else history.patience
    until = subscribe.suback_t + int(seconds * model.SECOND)
    unsub = subscribe.episode.unsub_t
    if subscribe.connection.served_t <= until or (unsub is not None and unsub <= until):
        return None
    # A live message that came meanwhile may stand for the replay.
    session, deliveries = subscribe.session, history.deliveries
    first, last = bisect_left(deliveries.t, subscribe.sub_t), bisect_right(deliveries.t, until)
    for at in session.deliveries:
        message = deliveries.message[at]
        if first <= at < last and deliveries.kind[at] == model.PUBLISH and (message < 0 or history.messages.topic[message] == topic):
            return None
    return linear.Operation(subscribe.sub_t, until, False, None, subscribe.place)


def _register(history, topic, writes, reads, verdict):
    verdict.count("topics")
    verdict.count("reads", len(reads))
    verdict.count("of them of nothing", sum(read.value is None for read in reads))
    verdict.count("writes", len(writes))
    answer = linear.explained(writes + reads)
    if answer is None:
        verdict.leave_out("topics with too many orders")
        return
    explained, operation = answer
    if explained:
        return
    name = history.topics.names[topic]
    messages = history.messages
    written = messages.pub_place[operation.value] if operation.value is not None else None
    newer = [write for write in writes if write.end is not None and write.end < operation.begin]
    last = max(newer, key=lambda write: write.begin).place if newer else None
    what = "nothing" if operation.value is None else "a message"
    verdict.violation(
        f"no order of writes and reads explains that a SUBSCRIBE was answered with {what} on {name}", written, last, operation.place
    )


def _monotonic(history, verdict):
    messages, deliveries = history.messages, history.deliveries
    for session in history.sessions:
        # The newest message so far, by its invocation: of all deliveries, and of replays: {topic: delivery}.
        newest, newest_replay, seen = {}, {}, {}
        for at in session.deliveries:
            message = deliveries.message[at]
            if message < 0 or not messages.flags[message] & model.RETAIN:
                continue
            flags, topic = deliveries.flags[at], messages.topic[message]
            replay = bool(flags & model.REPLAY)
            # A resend, or a duplicate, which `once` judges.
            if (not replay and session.received[message] != at) or (flags & model.DUP and message in seen):
                continue
            seen[message] = at
            before = newest.get(topic) if replay else newest_replay.get(topic)
            if before is not None:
                verdict.count("pairs with a replay")
                if _older(messages, message, deliveries.message[before]):
                    other = deliveries.message[before]
                    verdict.violation(
                        f"{session} received a retained message on {history.topics.names[topic]} after a newer one",
                        messages.pub_place[message], messages.ack_place[message], messages.pub_place[other],
                        deliveries.place[before], deliveries.place[at],
                    )
            elif not replay and topic in newest and _older(messages, message, deliveries.message[newest[topic]]):
                verdict.leave_out("live messages of two publishers in the other order")
            for tops in (newest, newest_replay) if replay else (newest,):
                top = tops.get(topic)
                if top is None or messages.pub_t[deliveries.message[top]] < messages.pub_t[message]:
                    tops[topic] = at


def _older(messages, message, other):
    """Whether a message was certainly written before the other one."""
    return (
        message != other and messages.qos[message] == 1 and messages.attempts[message] == 1
        and 0 <= messages.ack_t[message] < messages.pub_t[other]
    )
