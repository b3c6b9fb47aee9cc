"""Promises 7 and 8, rule by rule."""

import pytest

from story import Story


# Promise 7, durable sessions.

def durable():
    story = Story()
    return story, story.connect("p", node="n1"), story.connect("q", node="n2"), story.connect("s")


def test_the_first_messages_of_a_node():
    story, publisher, other, subscriber = durable()
    subscriber.sub("t")
    subscriber.recv(publisher.pub("t"))
    other.pub("t")
    subscriber.recv(other.pub("t"))
    assert story.end(publisher, other, subscriber).violated() == {"loss": 1, "suback": 1}


def test_what_is_missing_later_is_a_loss_only():
    story, publisher, _, subscriber = durable()
    subscriber.sub("t")
    subscriber.recv(publisher.pub("t"))
    publisher.pub("t")
    subscriber.recv(publisher.pub("t"))
    assert story.end(publisher, subscriber).violated() == {"loss": 1}


def test_each_subscription_begins_anew():
    story, publisher, _, subscriber = durable()
    subscriber.sub("t")
    subscriber.recv(publisher.pub("t"))
    subscriber.unsub("t")
    subscriber.sub("t")
    publisher.pub("t")
    verdict = story.end(publisher, subscriber).verdict("suback")
    assert (verdict.violated, verdict.checked) == (1, {"messages": 1, "of them on another node": 1, "subscriptions": 2})


@pytest.mark.parametrize("how", ["sent again", "a session that may have ended", "messages still came", "a declared limit", "may expire"])
def test_what_says_nothing_of_suback(how):
    story, publisher, _, subscriber = durable()
    if how == "a declared limit":
        story.events[0]["limits"] = {"queue": 1000}
    subscriber.sub("t")
    message = publisher.pub("t", answered=how != "sent again", **({"expiry": 3600} if how == "may expire" else {}))
    if how == "sent again":
        publisher.resend(message)
    if how == "a session that may have ended":
        story.connect("s", clean=True, answered=False)
    assert story.end(publisher, subscriber, quiet=how != "messages still came").verdict("suback").violated == 0


def test_a_first_message_that_was_passed_over():
    story, publisher, _, subscriber = durable()
    subscriber.sub("t")
    publisher.pub("t")
    subscriber.recv(publisher.pub("t"))
    publisher.pub("t")
    subscriber.close()
    assert story.end(publisher).violated() == {"loss": 1, "suback": 1}


def test_the_node_of_a_subscription_is_where_it_was_made():
    story, publisher, _, subscriber = durable()
    subscriber.sub("t")
    message = publisher.pub("t")
    subscriber.close()
    subscriber = story.again("s", node="n1")
    subscriber.recv(message)
    assert story.end(publisher, subscriber).verdict("suback").checked["of them on another node"] == 1


# Promise 7, sessions that end with their connection.

def clean(subscriber_node="n0"):
    story = Story()
    return story, story.connect("p", node="n1", clean=True, expiry=0), story.connect("s", node=subscriber_node, clean=True, expiry=0)


def test_a_message_that_was_passed_over():
    story, publisher, subscriber = clean()
    subscriber.sub("t")
    publisher.pub("t")
    subscriber.recv(publisher.pub("t"))
    subscriber.close()
    assert story.end(publisher).violated() == {"suback": 1}


@pytest.mark.parametrize("how", ["another connection of the publisher", "QoS 0", "QoS 2 not completed", "subscribed later", "unsubscribed",
                                 "sent again", "by one that was sent again elsewhere"])
def test_what_may_be_passed_over(how):
    story, publisher, subscriber = clean()
    if how != "subscribed later":
        subscriber.sub("t", 2)
    qos = {"QoS 0": 0, "QoS 2 not completed": 2}.get(how, 1)
    publisher.pub("t", qos, answered=qos != 2)
    if qos == 2:
        publisher.add("pubrec", pid=publisher.last, code=0)
    elif how == "sent again":
        publisher.resend(1)
    if how == "another connection of the publisher":
        publisher.close()
        publisher = story.connect("p", node="n1", clean=True, expiry=0)
    elif how == "subscribed later":
        subscriber.sub("t")
    elif how == "unsubscribed":
        # UNSUBSCRIBE overtakes what is forwarded.
        subscriber.unsub("t")
        subscriber.sub("t")
    if how == "by one that was sent again elsewhere":
        message = publisher.pub("t", answered=False)
        publisher.close()
        publisher = story.connect("p", node="n0", clean=True, expiry=0)
        publisher.resend(message)
        subscriber.recv(message)
    else:
        subscriber.recv(publisher.pub("t", qos), qos)
    subscriber.close()
    assert story.end(publisher).violated() == {}


@pytest.mark.parametrize(("who", "violated"), [
    (("publisher", "subscriber"), {"suback": 1}), (("subscriber",), {}), (("publisher",), {}), (("subscriber", "neighbour"), {"suback": 1}),
    (("subscriber", "late neighbour"), {}),
])
def test_a_message_that_had_to_come_if_both_nodes_lived(who, violated):
    story, publisher, subscriber = clean()
    neighbour = story.connect("n", node="n1", clean=True, expiry=0)
    subscriber.sub("t")
    publisher.pub("t")
    late = story.connect("l", node="n1", clean=True, expiry=0)
    alive = {"publisher": publisher, "subscriber": subscriber, "neighbour": neighbour, "late neighbour": late}
    for name, connection in alive.items():
        if name not in who:
            connection.close()
    assert story.end(*(alive[name] for name in who)).violated() == violated


@pytest.mark.parametrize("how", ["QoS 2 completed", "unsubscribed when the later one had come"])
def test_what_may_not(how):
    story, publisher, subscriber = clean()
    subscriber.sub("t", 2)
    qos = 2 if how == "QoS 2 completed" else 1
    publisher.pub("t", qos)
    subscriber.recv(publisher.pub("t", qos), qos)
    subscriber.unsub("t")
    subscriber.close()
    # With QoS 2, UNSUBSCRIBE excuses what an outbox has.
    assert story.end(publisher).violated() == ({} if qos == 2 else {"suback": 1})


def test_qos_2_completed_is_passed_over():
    story, publisher, subscriber = clean()
    subscriber.sub("t", 2)
    publisher.pub("t", 2)
    subscriber.recv(publisher.pub("t", 2), 2)
    subscriber.close()
    assert story.end(publisher).violated() == {"suback": 1}


@pytest.mark.parametrize("how", ["messages still came", "unsubscribed"])
def test_what_need_not_come_at_the_end(how):
    story, publisher, subscriber = clean()
    subscriber.sub("t")
    publisher.pub("t")
    if how == "unsubscribed":
        subscriber.unsub("t")
    assert story.end(publisher, subscriber, quiet=how == "unsubscribed").violated() == {}


# Promise 8.

def subscribed(durable_session=True):
    story = Story()
    publisher = story.connect("p")
    return story, publisher, story.connect("s", clean=not durable_session, expiry=1000 if durable_session else 0)


def test_a_message_published_after_unsuback():
    story, publisher, subscriber = subscribed()
    subscriber.sub("t")
    subscriber.unsub("t")
    subscriber.recv(publisher.pub("t"))
    assert story.end(publisher, subscriber).violated() == {"unsuback": 1}


@pytest.mark.parametrize("how", ["published before", "no UNSUBACK", "another filter", "subscribed again"])
def test_what_may_come(how):
    story, publisher, subscriber = subscribed()
    subscriber.sub("t")
    message = None
    if how == "published before":
        message = publisher.pub("t", answered=False)
    if how == "another filter":
        subscriber.sub("+")
    subscriber.unsub("t", answered=how != "no UNSUBACK")
    if how == "subscribed again":
        subscriber.sub("t", answered=False)
    message = message or publisher.pub("t")
    subscriber.recv(message)
    assert story.end(publisher, subscriber).violated() == {}


def test_a_message_acknowledged_before_subscribe_is_counted():
    story, publisher, subscriber = subscribed()
    message = publisher.pub("t")
    subscriber.sub("t")
    subscriber.recv(message)
    verdict = story.end(publisher, subscriber).verdict("unsuback")
    assert (verdict.violated, verdict.left_out) == (0, {"messages acknowledged before SUBSCRIBE": 1})


def test_an_unsubscribe_that_was_refused_ends_nothing_for_certain():
    story, publisher, subscriber = subscribed()
    subscriber.sub("t")
    pid = subscriber.unsub("t", answered=False)
    subscriber.add("unsuback", pid=pid, codes=[0x83])
    subscriber.recv(publisher.pub("t"))
    publisher.pub("t")
    assert story.end(publisher, subscriber).violated() == {}


def test_a_session_that_is_new_has_no_subscriptions():
    story, publisher, subscriber = subscribed(durable_session=False)
    subscriber.sub("t")
    subscriber.close()
    subscriber = story.connect("s", clean=True, expiry=0)
    subscriber.recv(publisher.pub("t"))
    assert story.end(publisher, subscriber).violated() == {"unsuback": 1}


def test_without_any_subscription():
    story, publisher, subscriber = subscribed()
    subscriber.recv(publisher.pub("t"))
    assert story.end(publisher, subscriber).violated() == {"unsuback": 1}


def test_a_replay_needs_a_subscribe():
    story, publisher, subscriber = subscribed()
    subscriber.recv(publisher.pub("t", retain=True), retain=True)
    assert story.end(publisher, subscriber).violated() == {"unsuback": 1}


@pytest.mark.parametrize(("how", "told"), [
    ("ended", "its subscription had ended before that was published"), ("later", "it had not subscribed yet"),
    ("none", "it had no subscription for it"),
])
def test_what_is_told(how, told):
    story, publisher, subscriber = subscribed()
    message = publisher.pub("t") if how == "later" else None
    if how == "ended":
        subscriber.sub("t")
        subscriber.unsub("t")
    subscriber.recv(message or publisher.pub("t"))
    if how == "later":
        subscriber.sub("t")
    verdict = story.end(publisher, subscriber).verdict("unsuback")
    assert [text for text, _ in verdict.violations] == [f"session 1 of s received a message on t: {told}"]
