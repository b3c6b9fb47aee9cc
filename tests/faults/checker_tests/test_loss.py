"""Promise 1, rule by rule."""

import pytest

from story import EXPIRY, Story


def begun(**run):
    """A publisher, and a subscriber that has its SUBACK."""
    story = Story(**run)
    publisher, subscriber = story.connect("p"), story.connect("s")
    subscriber.sub("t")
    return story, publisher, subscriber


def test_an_acknowledged_message_that_never_comes_is_lost():
    story, publisher, subscriber = begun()
    subscriber.recv(publisher.pub("t"))
    publisher.pub("t")
    assert story.end(publisher, subscriber).violated() == {"loss": 1}


@pytest.mark.parametrize("qos", [1, 2])
def test_what_comes_over_reconnects_is_not(qos):
    story, publisher, subscriber = begun()
    subscriber.close()
    subscriber = story.again("s")
    if qos == 2:
        subscriber.sub("t", 2)
    message = publisher.pub("t", qos)
    subscriber.close()
    subscriber = story.again("s")
    subscriber.recv(message, qos)
    verdict = story.end(publisher, subscriber).verdict("loss")
    assert (verdict.violated, verdict.checked["messages due to a session"]) == (0, 1)


@pytest.mark.parametrize("how", [
    "not acknowledged", "refused", "QoS 0", "subscribed with QoS 0", "SUBACK later", "no SUBACK", "SUBACK refused", "UNSUBSCRIBE before PUBACK",
    "other topic", "empty",
])
def test_what_need_not_come(how):
    story = Story()
    publisher, subscriber = story.connect("p"), story.connect("s")
    if how == "SUBACK later":
        pid = subscriber.sub("t", answered=False)
        publisher.pub("t")
        subscriber.suback(pid)
    elif how == "no SUBACK":
        subscriber.sub("t", answered=False)
        publisher.pub("t")
    elif how == "UNSUBSCRIBE before PUBACK":
        subscriber.sub("t")
        publisher.pub("t", answered=False)
        subscriber.unsub("t", answered=False)
        publisher.puback(publisher.last)
    else:
        subscriber.sub("t", 0 if how == "subscribed with QoS 0" else 1, code=0x80 if how == "SUBACK refused" else None)
        publisher.pub("x" if how == "other topic" else "t", 0 if how == "QoS 0" else 1, answered=how not in ("not acknowledged", "refused"),
                      **({"retain": True, "empty": True} if how == "empty" else {}))
        if how == "refused":
            publisher.puback(publisher.last, 0x97)
    assert story.end(publisher, subscriber).violated() == {}


def test_a_reason_code_that_is_no_error_is_an_acknowledgement():
    story, publisher, subscriber = begun()
    publisher.pub("t", answered=False)
    # "No matching subscribers", which is not so.
    publisher.puback(publisher.last, 0x10)
    assert story.end(publisher, subscriber).violated() == {"loss": 1, "suback": 1}


@pytest.mark.parametrize(("forwarded", "violated"), [(False, {"loss": 1}), (True, {})])
def test_unsubscribe_after_the_acknowledgement_excuses_qos_1_only_where_it_is_forwarded(forwarded, violated):
    story, publisher, subscriber = begun(forwarded=forwarded)
    subscriber.recv(publisher.pub("t"))
    publisher.pub("t")
    subscriber.unsub("t")
    assert story.end(publisher, subscriber).violated() == violated


def test_what_is_forwarded_is_lost_all_the_same():
    story, publisher, subscriber = begun(forwarded=True)
    subscriber.recv(publisher.pub("t"))
    publisher.pub("t")
    assert story.end(publisher, subscriber).violated() == {"loss": 1}


def test_it_may_overtake_what_an_outbox_has():
    story = Story()
    publisher, subscriber = story.connect("p"), story.connect("s")
    subscriber.sub("t", 2)
    publisher.pub("t", 2)
    subscriber.unsub("t")
    assert story.end(publisher, subscriber).violated() == {}


def test_an_unsubscribe_of_unknown_fate_ends_what_is_certain_until_the_next_suback():
    story, publisher, subscriber = begun()
    subscriber.unsub("t", answered=False)
    publisher.pub("t")
    subscriber.close()
    subscriber = story.again("s")
    subscriber.sub("t")
    subscriber.recv(publisher.pub("t"))
    publisher.pub("t")
    assert story.end(publisher, subscriber).violated() == {"loss": 1}


def test_a_second_subscribe_does_not_interrupt_the_first():
    story, publisher, subscriber = begun()
    subscriber.recv(publisher.pub("t"))
    pid = subscriber.sub("t", answered=False)
    publisher.pub("t")
    subscriber.suback(pid)
    assert story.end(publisher, subscriber).violated() == {"loss": 1}


def test_without_a_drain_only_what_was_passed_over_is_lost():
    story, publisher, subscriber = begun()
    publisher.pub("t")
    subscriber.recv(publisher.pub("t"))
    publisher.pub("t")
    subscriber.close()
    verdict = story.end(publisher).verdict("loss")
    assert (verdict.violated, verdict.left_out) == (1, {"messages of sessions without a drain": 1})


def test_nothing_is_said_of_what_is_missing_when_messages_still_came():
    story, publisher, subscriber = begun()
    subscriber.recv(publisher.pub("t"))
    publisher.pub("t")
    assert story.end(publisher, subscriber, quiet=False).violated() == {}


def test_an_expired_message_is_missing_rightly():
    story, publisher, subscriber = begun()
    publisher.pub("t", expiry=20)
    assert story.end(publisher, subscriber).violated() == {}


@pytest.mark.parametrize(("waited", "violated"), [(30, {}), (1, {"loss": 1})])
def test_it_is_lost_when_a_later_one_came_before_its_expiry(waited, violated):
    story, publisher, subscriber = begun()
    subscriber.recv(publisher.pub("t"))
    publisher.pub("t", expiry=20)
    story.wait(waited)
    subscriber.recv(publisher.pub("t"))
    assert story.end(publisher, subscriber).violated() == violated


@pytest.mark.parametrize(("limit", "lost"), [(3, 0), (4, 1)])
def test_a_declared_limit_excuses_only_what_may_have_been_over_it(limit, lost):
    story, publisher, subscriber = begun(limits={"queue": limit})
    subscriber.recv(publisher.pub("t"))
    publisher.pub("t")
    waiting = [publisher.pub("t") for _ in range(2)]
    for message in waiting:
        subscriber.recv(message)
    assert story.end(publisher, subscriber).verdict("loss").violated == lost


def test_a_session_that_is_gone_is_a_loss():
    story, publisher, subscriber = begun()
    subscriber.close()
    subscriber = story.connect("s", present=False)
    assert story.end(publisher, subscriber).violated() == {"loss": 1}


@pytest.mark.parametrize("how", ["expired", "clean start", "clean start of unknown fate", "ended by DISCONNECT"])
def test_a_session_that_may_be_gone(how):
    story, publisher, subscriber = begun()
    publisher.pub("t")
    if how == "expired":
        subscriber.close()
        story.wait(EXPIRY)
    elif how == "clean start":
        subscriber.close()
        story.connect("s", clean=True).close()
        story.wait(EXPIRY)
    elif how == "clean start of unknown fate":
        subscriber.close()
        story.connect("s", clean=True, answered=False).close()
    else:
        subscriber.disconnect(expiry=0)
    subscriber = story.connect("s", present=False)
    assert story.end(publisher, subscriber).violated() == {}


def test_after_a_clean_start_of_unknown_fate_nothing_is_certain():
    story, publisher, subscriber = begun()
    story.connect("s", clean=True, answered=False).close()
    publisher.pub("t")
    verdict = story.end(publisher, subscriber).verdict("loss")
    assert (verdict.violated, verdict.left_out) == (0, {"uncertain sessions": 1})


def test_a_session_from_nowhere():
    story = Story()
    story.again("s")
    assert story.end().violated() == {"loss": 1}


def test_a_clean_start_has_no_session():
    story = Story()
    story.connect("s").close()
    story.connect("s", clean=True, present=True)
    assert story.end().violated() == {"loss": 1}


def test_connections_made_at_the_same_time_are_of_one_session():
    story, publisher, _ = begun()
    one, two = story.connect("x", answered=False), story.connect("x", answered=False)
    # The answers may arrive in either order.
    two.connack(present=True)
    one.connack(present=False)
    one.sub("t")
    message = publisher.pub("t")
    one.close()
    last = story.again("x")
    last.recv(message)
    assert story.end(publisher, last).violated() == {}


def test_a_message_of_two_subscriptions_is_lost_once():
    story, publisher, subscriber = begun()
    subscriber.sub("+")
    subscriber.recv(publisher.pub("t"))
    publisher.pub("t")
    assert story.end(publisher, subscriber).violated() == {"loss": 1}


@pytest.mark.parametrize("when", ["before it was subscribed", "before it was published"])
def test_a_queue_that_was_full_excuses_nothing(when):
    story = Story(limits={"queue": 3})
    publisher, subscriber = story.connect("p"), story.connect("s")
    if when == "before it was subscribed":
        for _ in range(4):
            publisher.pub("t")
    subscriber.sub("t")
    waiting = [publisher.pub("t") for _ in range(1 if when == "before it was subscribed" else 4)]
    for message in waiting:
        subscriber.recv(message)
    publisher.pub("t")
    assert story.end(publisher, subscriber).violated() == {"loss": 1}


def test_the_driver_closes_connections_after_the_end():
    story, publisher, subscriber = begun()
    subscriber.recv(publisher.pub("t"))
    publisher.pub("t")
    story.end(publisher, subscriber)
    subscriber.close()
    assert story.violated() == {"loss": 1}


def test_a_second_subscribe_that_is_refused_leaves_nothing_certain():
    story, publisher, subscriber = begun()
    subscriber.recv(publisher.pub("t"))
    subscriber.sub("t", code=0x80)
    publisher.pub("t")
    assert story.end(publisher, subscriber).violated() == {}


def test_of_a_session_from_nowhere_no_more_is_held_against_the_broker():
    story = Story()
    story.again("s").close()
    story.connect("s", present=False)
    assert story.end().violated() == {"loss": 1}


def test_answers_to_nothing_are_no_acknowledgements():
    story, publisher, subscriber = begun()
    for kind in ("puback", "pubrec", "pubcomp", "suback", "unsuback"):
        publisher.add(kind, pid=99, code=0, codes=[0])
    publisher.add("pong")
    # Nor is a PUBACK for a message of QoS 2.
    publisher.pub("t", 2, answered=False)
    publisher.puback(publisher.last)
    story.end(publisher, subscriber)
    history = story.history()
    assert (history.strays, history.acknowledged) == (7, 3)
    assert story.violated() == {}


def test_a_connection_that_ends_in_the_drain_was_not_there_to_the_end():
    story, publisher, subscriber = begun()
    subscriber.recv(publisher.pub("t"))
    publisher.pub("t")
    story.add("drain")
    subscriber.ping()
    subscriber.close("broker")
    story.add("end", quiet=True)
    assert story.violated() == {}
