"""Promise 2, rule by rule."""

import pytest

from story import Story


def begun(qos, version=5):
    story = Story()
    publisher, subscriber = story.connect("p"), story.connect("s", version=version)
    subscriber.sub("t", qos)
    return story, publisher, subscriber


def deliver(qos, second, reconnect=True, first=None, attempts=1, between=None, version=5):
    """A message comes, and once more: `first` and `second` say how."""
    story, publisher, subscriber = begun(qos, version)
    message = publisher.pub("t", qos, answered=attempts == 1)
    if attempts > 1:
        publisher.close()
        publisher = story.again("p")
        publisher.resend(message, qos)
    subscriber.recv(message, qos, pid=7, **(first or {}))
    if between:
        between(story, publisher, subscriber)
    if reconnect:
        subscriber.close()
        subscriber = story.again("s", version=version)
    subscriber.recv(message, qos, **{"pid": 7, "dup": True, **second})
    return story.end(publisher, subscriber).verdict("once")


@pytest.mark.parametrize(("name", "how", "told"), [
    ("a resend after a reconnection", None, {"qos": 1, "second": {}}),
    ("without DUP", "again without DUP", {"qos": 1, "second": {"dup": False}}),
    ("under another identifier", "again under another identifier", {"qos": 1, "second": {"pid": 8}}),
    ("on the same connection", "again on the same connection", {"qos": 1, "second": {}, "reconnect": False}),
    ("on the same connection of MQTT 3.1.1", "again on the same connection", {"qos": 1, "second": {}, "reconnect": False, "version": 4}),
    ("the publisher sent it twice", None, {"qos": 1, "second": {"pid": 8, "dup": False}, "attempts": 2}),
    ("QoS 2, a resend before PUBREC", None, {"qos": 2, "second": {}, "first": {"acked": False}}),
    ("QoS 2, without DUP", "again without DUP", {"qos": 2, "second": {"dup": False}, "first": {"acked": False}}),
    ("QoS 2, without DUP, though the publisher sent it twice", "again without DUP",
     {"qos": 2, "second": {"dup": False}, "first": {"acked": False}, "attempts": 2}),
    ("QoS 2, under another identifier", "under another identifier", {"qos": 2, "second": {"pid": 8}, "first": {"acked": False}}),
    ("QoS 2, on the same connection", "again on the same connection",
     {"qos": 2, "second": {}, "first": {"acked": False}, "reconnect": False}),
    ("QoS 2, on the same connection of MQTT 3.1.1", None,
     {"qos": 2, "second": {}, "first": {"acked": False}, "reconnect": False, "version": 4}),
    ("the same without DUP", "again without DUP",
     {"qos": 2, "second": {"dup": False}, "first": {"acked": False}, "reconnect": False, "version": 4}),
    ("QoS 2, after PUBREL", "again after PUBREL", {"qos": 2, "second": {}}),
    ("QoS 2, after PUBREL, MQTT 3.1.1", "again after PUBREL", {"qos": 2, "second": {}, "reconnect": False, "version": 4}),
    ("QoS 2, the publisher sent it twice", "under another identifier", {"qos": 2, "second": {"pid": 8, "dup": False}, "attempts": 2}),
])
def test_a_second_delivery(name, how, told):
    verdict = deliver(**told)
    texts = [text for text, _ in verdict.violations]
    assert [text.endswith(how) for text in texts] == [True] if how else not texts, (name, texts)


def test_qos_1_may_come_again_long_after_its_puback():
    story, publisher, subscriber = begun(1)
    messages = [publisher.pub("t") for _ in range(3)]
    for message in messages:
        subscriber.recv(message)
    for _ in range(2):
        subscriber.close()
        subscriber = story.again("s")
        for message in messages:
            subscriber.recv(message, dup=True)
    verdict = story.end(publisher, subscriber).verdict("once")
    assert (verdict.violated, verdict.checked["resends"]) == (0, 6)


def test_but_not_when_its_identifier_was_used_again():
    def another(_story, publisher, subscriber):
        subscriber.recv(publisher.pub("t"), pid=7)
    texts = [text for text, _ in deliver(1, {}, between=another).violations]
    assert len(texts) == 1 and texts[0].endswith("again after its identifier was used for another message")


def test_a_resend_of_qos_2_after_pubrec_whose_pubrel_was_not_seen():
    story, publisher, subscriber = begun(2)
    message = publisher.pub("t", 2)
    subscriber.recv(message, 2, pid=7, acked=False)
    subscriber.add("ack", pid=7, k="pubrec")
    subscriber.close()
    subscriber = story.again("s")
    subscriber.recv(message, 2, pid=7, dup=True)
    assert story.end(publisher, subscriber).violated() == {}


def test_a_third_delivery_is_one_too_many_for_two_attempts():
    story, publisher, subscriber = begun(1)
    message = publisher.pub("t", answered=False)
    publisher.resend(message)
    for pid in (7, 8, 9):
        subscriber.recv(message, pid=pid)
    assert story.end(publisher, subscriber).violated() == {"once": 1}


def test_a_publisher_that_lost_its_session_sends_a_second_one():
    story, publisher, subscriber = begun(2)
    message = publisher.pub("t", 2, answered=False)
    publisher.close()
    publisher = story.connect("p", clean=True)
    publisher.resend(message, 2)
    subscriber.recv(message, 2, pid=7)
    subscriber.recv(message, 2, pid=8)
    assert story.end(publisher, subscriber).violated() == {}


@pytest.mark.parametrize(("dup", "told"), [(True, "again under another identifier"), (False, None)])
def test_a_publisher_that_forgets_dup_has_sent_another_message(dup, told):
    story, publisher, subscriber = begun(2)
    message = publisher.pub("t", 2, answered=False)
    publisher.close()
    publisher = story.again("p")
    publisher.add("pub", q=2, pid=1, topic="t", m=message, **({"dup": True} if dup else {}))
    publisher.add("pubrec", pid=1, code=0)
    subscriber.recv(message, 2, pid=7)
    subscriber.recv(message, 2, pid=8)
    verdict = story.end(publisher, subscriber).verdict("once")
    assert [told in text for text, _ in verdict.violations] == [True] if told else not verdict.violations


@pytest.mark.parametrize(("durable", "violated"), [(True, {"once": 1}), (False, {})])
def test_exactly_once_is_between_durable_sessions(durable, violated):
    story = Story()
    publisher, subscriber = story.connect("p"), story.connect("s", clean=not durable, expiry=1000 if durable else 0)
    subscriber.sub("t", 2)
    message = publisher.pub("t", 2, answered=False)
    publisher.close()
    publisher = story.again("p", node="n1")
    publisher.resend(message, 2)
    subscriber.recv(message, 2, pid=7)
    subscriber.recv(message, 2, pid=8)
    assert story.end(publisher, subscriber).violated() == violated


def test_qos_0_comes_once():
    story, publisher, subscriber = begun(0)
    message = publisher.pub("t", 0)
    subscriber.recv(message, 0)
    subscriber.recv(message, 0)
    assert story.end(publisher, subscriber).violated() == {"once": 1}


def test_overlapping_filters_may_each_give_one():
    story, publisher, subscriber = begun(1)
    subscriber.sub("+")
    message = publisher.pub("t")
    subscriber.recv(message, pid=7)
    subscriber.recv(message, pid=8)
    assert story.end(publisher, subscriber).violated() == {}


def test_a_replay_of_a_retained_message_is_no_duplicate():
    story, publisher, subscriber = begun(1)
    message = publisher.pub("t", retain=True)
    subscriber.recv(message)
    subscriber.sub("t")
    subscriber.recv(message, pid=9, retain=True)
    assert story.end(publisher, subscriber).violated() == {}


def test_what_nobody_published():
    story, publisher, subscriber = begun(1)
    subscriber.add("recv", q=1, pid=1, topic="t", m=77)
    assert story.end(publisher, subscriber).violated() == {"once": 1}


def test_a_message_on_another_topic():
    story, publisher, subscriber = begun(1)
    message = publisher.pub("t")
    subscriber.add("recv", q=1, pid=1, topic="x", m=message)
    assert story.end(publisher, subscriber).violated() == {"once": 1}


def test_what_is_read_late_from_an_older_connection_was_sent_before():
    story, publisher, old = begun(1)
    message = publisher.pub("t")
    new = story.again("s")
    new.recv(message, pid=7, dup=True)
    old.recv(message, pid=7)
    old.close("broker")
    assert story.end(publisher, new).violated() == {}


def test_of_connections_made_at_the_same_time_it_is_not_known_which_came_first():
    story, publisher, subscriber = begun(1)
    message = publisher.pub("t")
    subscriber.close()
    one, two = story.connect("s", answered=False), story.connect("s", answered=False)
    one.connack(True)
    two.connack(True)
    one.recv(message, pid=7, dup=True)
    two.recv(message, pid=7)
    two.close("broker")
    assert story.end(publisher, one).violated() == {}


def test_a_live_message_after_its_replay_is_no_duplicate():
    story, publisher, subscriber = begun(1)
    message = publisher.pub("t", retain=True)
    subscriber.sub("t")
    subscriber.recv(message, pid=9, retain=True)
    subscriber.recv(message, pid=10)
    assert story.end(publisher, subscriber).violated() == {}


def test_the_live_delivery_of_an_empty_payload_has_nothing_to_know_it_by():
    story, publisher, subscriber = begun(1)
    publisher.pub("t", retain=True, empty=True)
    subscriber.add("recv", q=1, pid=3, topic="t", empty=True)
    assert story.end(publisher, subscriber).violated() == {}


@pytest.mark.parametrize(("declared", "reconnect", "violated"), [
    ({}, False, {"once": 1}), ({}, True, {"once": 1}), ({"qos0": "connection"}, False, {"once": 1}), ({"qos0": "connection"}, True, {}),
])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_qos_0_once_or_once_a_connection(declared, reconnect, violated, qos):
    story = Story(**declared)
    publisher, subscriber = story.connect("p"), story.connect("s")
    subscriber.sub("t", 0)
    message = publisher.pub("t", qos)
    subscriber.recv(message, 0)
    if reconnect:
        subscriber.close()
        subscriber = story.again("s", node="n1")
    subscriber.recv(message, 0)
    assert story.end(publisher, subscriber).violated() == violated


def test_where_qos_0_passes_by_other_deliveries_do_not():
    story = Story(qos0="connection")
    publisher, subscriber = story.connect("p"), story.connect("s")
    subscriber.sub("t", 1)
    message = publisher.pub("t", 1)
    subscriber.recv(message, 1, pid=7)
    subscriber.close()
    subscriber = story.again("s")
    subscriber.recv(message, 1, pid=8, dup=True)
    assert story.end(publisher, subscriber).violated() == {"once": 1}
