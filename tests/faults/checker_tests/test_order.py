"""Promise 3, rule by rule."""

import pytest

from story import Story


def begun(qos=1):
    story = Story()
    publisher, subscriber = story.connect("p"), story.connect("s")
    subscriber.sub("#", qos)
    return story, publisher, subscriber


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_the_other_order(qos):
    story, publisher, subscriber = begun(qos)
    first, second = publisher.pub("t", qos), publisher.pub("t", qos)
    subscriber.recv(second, qos)
    subscriber.recv(first, qos)
    assert story.end(publisher, subscriber).violated() == {"order": 1}


def test_over_reconnects_of_both():
    story, publisher, subscriber = begun()
    first = publisher.pub("t")
    publisher.close()
    publisher = story.again("p", node="n1")
    second = publisher.pub("t")
    subscriber.recv(second)
    subscriber.close()
    subscriber = story.again("s")
    subscriber.recv(first)
    assert story.end(publisher, subscriber).violated() == {"order": 1}


def test_topics_qos_and_publishers_have_no_order_among_each_other():
    story, publisher, subscriber = begun()
    other = story.connect("q")
    messages = [publisher.pub("t"), publisher.pub("x"), publisher.pub("t", 2), other.pub("t")]
    for message in reversed(messages):
        subscriber.recv(message)
    assert story.end(publisher, other, subscriber).violated() == {}


def test_what_comes_again_has_no_order():
    story, publisher, subscriber = begun()
    first = publisher.pub("t")
    second = publisher.pub("t")
    subscriber.recv(first)
    subscriber.recv(second)
    subscriber.close()
    subscriber = story.again("s")
    subscriber.recv(second, dup=True)
    subscriber.recv(first, dup=True)
    assert story.end(publisher, subscriber).violated() == {}


@pytest.mark.parametrize(("qos", "early", "violated"), [(1, True, 1), (1, False, 0), (0, True, 0)])
def test_a_message_sent_again_counts_if_the_session_was_subscribed_before_it(qos, early, violated):
    story = Story()
    publisher, subscriber = story.connect("p"), story.connect("s")
    if early:
        subscriber.sub("t", qos)
    first = publisher.pub("t", answered=False)
    if not early:
        subscriber.sub("t", qos)
    second = publisher.pub("t", answered=False)
    publisher.close()
    publisher = story.again("p")
    publisher.resend(first, pid=1)
    publisher.resend(second, pid=2)
    subscriber.recv(second, qos)
    subscriber.recv(first, qos)
    assert story.end(publisher, subscriber).verdict("order").violated == violated


def test_what_is_read_late_from_an_older_connection_was_sent_before():
    story, publisher, old = begun()
    first, second = publisher.pub("t"), publisher.pub("t")
    new = story.again("s")
    new.recv(second)
    old.recv(first)
    old.close("broker")
    assert story.end(publisher, new).violated() == {}


def test_of_connections_made_at_the_same_time_it_is_not_known_which_came_first():
    story, publisher, subscriber = begun()
    first, second = publisher.pub("t"), publisher.pub("t")
    subscriber.close()
    one, two = story.connect("s", answered=False), story.connect("s", answered=False)
    one.connack(True)
    two.connack(True)
    one.recv(second)
    two.recv(first)
    two.close("broker")
    assert story.end(publisher, one).violated() == {}


@pytest.mark.parametrize(("how", "violated"), [("sent once, no SUBACK", 1), ("QoS 2", 1), ("no SUBACK", 0), ("unsubscribed meanwhile", 0)])
def test_what_of_a_subscription_has_to_be_certain(how, violated):
    story = Story()
    publisher, subscriber = story.connect("p"), story.connect("s")
    subscriber.sub("t", 2, answered="no SUBACK" not in how)
    if how == "unsubscribed meanwhile":
        subscriber.recv(publisher.pub("t"))
        subscriber.unsub("t", answered=False)
    qos = 2 if how == "QoS 2" else 1
    first = publisher.pub("t", qos, answered=how == "sent once, no SUBACK")
    second = publisher.pub("t", qos)
    if how != "sent once, no SUBACK":
        publisher.resend(first, qos)
    if how == "unsubscribed meanwhile":
        subscriber.sub("t", answered=False)
    subscriber.recv(second, qos)
    subscriber.recv(first, qos)
    assert story.end(publisher, subscriber).verdict("order").violated == violated


def test_a_will_has_no_place_in_the_order():
    story, publisher, subscriber = begun()
    client = story.connect("c", will=("t", 1, 0))
    subscriber.recv(client.pub("t"))
    client.close()
    subscriber.recv(client.will)
    assert story.end(publisher, subscriber).violated() == {}


@pytest.mark.parametrize(("durable", "between", "violated"), [
    (True, None, 1), (True, "a reconnection", 1), (False, None, 1), (False, "a reconnection", 0), (False, "a resend", 0),
])
def test_to_a_session_that_ends_only_one_connection_of_the_publisher_has_an_order(durable, between, violated):
    story = Story()
    publisher, subscriber = story.connect("p"), story.connect("s", clean=not durable, expiry=1000 if durable else 0)
    subscriber.sub("t")
    first = publisher.pub("t")
    if between == "a reconnection":
        publisher.close()
        publisher = story.again("p", node="n1")
    second = publisher.pub("t")
    if between == "a resend":
        publisher.resend(second)
    subscriber.recv(second)
    subscriber.recv(first)
    assert story.end(publisher, subscriber).verdict("order").violated == violated


@pytest.mark.parametrize(("publisher_again", "subscriber_again", "violated"), [
    (False, False, {"order": 1}), (True, False, {}), (False, True, {}), (True, True, {}),
])
@pytest.mark.parametrize("qos", [0, 1])
def test_what_passes_by_sessions_has_the_order_of_a_connection(publisher_again, subscriber_again, violated, qos):
    story = Story(qos0="connection")
    publisher, subscriber = story.connect("p"), story.connect("s")
    subscriber.sub("t", 0)
    first = publisher.pub("t", qos)
    if publisher_again:
        publisher.close()
        publisher = story.again("p", node="n1")
    second = publisher.pub("t", qos)
    subscriber.recv(second, 0)
    if subscriber_again:
        subscriber.close()
        subscriber = story.again("s", node="n1")
    subscriber.recv(first, 0)
    assert story.end(publisher, subscriber).violated() == violated


def test_where_qos_0_passes_by_the_others_have_their_order():
    story = Story(qos0="connection")
    publisher, subscriber = story.connect("p"), story.connect("s")
    subscriber.sub("t", 1)
    first, second = publisher.pub("t"), publisher.pub("t")
    subscriber.recv(second)
    subscriber.close()
    subscriber = story.again("s")
    subscriber.recv(first)
    assert story.end(publisher, subscriber).violated() == {"order": 1}


@pytest.mark.parametrize("qos", [0, 1])
def test_what_passes_by_and_was_sent_again_has_no_order(qos):
    story = Story(qos0="connection")
    publisher, subscriber = story.connect("p"), story.connect("s")
    subscriber.sub("t", 0)
    first, second = publisher.pub("t", qos), publisher.pub("t", qos)
    if qos:
        publisher.resend(first)
    subscriber.recv(second, 0)
    subscriber.recv(first, 0)
    assert story.end(publisher, subscriber).violated() == ({} if qos else {"order": 1})


@pytest.mark.parametrize(("clean", "reconnect", "violated"), [(False, True, {"order": 1}), (True, True, {}), (True, False, {"order": 1})])
def test_over_connections_a_publisher_without_a_session_has_no_order(clean, reconnect, violated):
    story = Story()
    publisher, subscriber = story.connect("p", clean=clean, expiry=0 if clean else 1000), story.connect("s")
    subscriber.sub("t")
    first = publisher.pub("t", answered=False)
    if reconnect:
        publisher.close()
        publisher = story.connect("p", clean=clean, expiry=0 if clean else 1000, present=not clean, node="n1")
    second = publisher.pub("t")
    subscriber.recv(second)
    subscriber.recv(first)
    assert story.end(publisher, subscriber).violated() == violated
