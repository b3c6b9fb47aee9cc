"""Promise 4, rule by rule."""

import pytest

from story import Story


def begun():
    story = Story()
    old = story.connect("c")
    return story, old


OPERATIONS = {
    "PUBLISH": lambda c: c.pub("t"),
    "PUBLISH of QoS 2": lambda c: (c.add("pub", q=2, pid=9, topic="t", m=900), c.add("pubrec", pid=9, code=0)),
    "PUBREL": lambda c: (c.add("pubrel", pid=9), c.add("pubcomp", pid=9, code=0)),
    "SUBSCRIBE": lambda c: c.sub("t"),
    "UNSUBSCRIBE": lambda c: c.unsub("t"),
    "PINGREQ": lambda c: c.ping(),
    "PUBREC": lambda c: (c.add("ack", pid=3, k="pubrec"), c.add("rel", pid=3)),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_invoked_after_the_newer_connack_and_answered(operation):
    story, old = begun()
    new = story.again("c")
    OPERATIONS[operation](old)
    assert story.end(new).violated() == {"owner": 1}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_one_invoked_before(operation):
    story, old = begun()
    new = story.connect("c", answered=False)
    OPERATIONS[operation](old)
    new.connack(True)
    assert story.end(new).violated() == {}


def test_an_answer_that_was_on_its_way():
    story, old = begun()
    old.pub("t", answered=False)
    old.ping(answered=False)
    new = story.again("c")
    old.puback(old.last)
    old.add("pong")
    old.ping(answered=False)
    old.close("broker")
    verdict = story.end(new).verdict("owner")
    assert (verdict.violated, verdict.checked["takeovers"], verdict.checked["operations on superseded connections"]) == (0, 1, 1)


@pytest.mark.parametrize(("before", "violated"), [(True, {}), (False, {"owner": 1})])
def test_a_delivery_on_the_older_connection(before, violated):
    story, old = begun()
    publisher = story.connect("p")
    old.sub("t")
    message = publisher.pub("t", 0) if before else None
    new = story.again("c")
    if not before:
        message = publisher.pub("t", 0)
    old.recv(message, 0)
    assert story.end(publisher, new).violated() == violated


def test_a_refused_connection_supersedes_none():
    story, old = begun()
    story.connect("c", answered=False).connack(code=0x97)
    assert story.end(old).violated() == {}


def test_one_without_connack_supersedes_none():
    story, old = begun()
    story.connect("c", answered=False)
    assert story.end(old).violated() == {}


@pytest.mark.parametrize(("serving", "violated"), [("both", {"owner": 1}), ("one", {}), ("two", {})])
def test_connections_made_at_the_same_time(serving, violated):
    story = Story()
    one, two = story.connect("c", answered=False), story.connect("c", answered=False)
    one.connack()
    two.connack(True)
    for name, connection in (("one", one), ("two", two)):
        connection.ping(answered=serving in (name, "both"))
        if serving not in (name, "both"):
            connection.close("broker")
    assert story.end(*([two] if serving == "two" else [one])).violated() == violated


def test_one_after_the_other_is_no_takeover():
    story, old = begun()
    old.close()
    new = story.again("c")
    verdict = story.end(new).verdict("owner")
    assert verdict.word == "nothing to check"


def test_the_first_of_three():
    story, old = begun()
    second = story.again("c")
    second.close("broker")
    third = story.again("c")
    old.ping()
    assert story.end(third).violated() == {"owner": 1}


def test_one_between_the_second_and_the_third():
    story, old = begun()
    story.again("c")
    old.ping()
    third = story.again("c")
    assert story.end(third).violated() == {"owner": 1}
