"""Promise 6, rule by rule."""

import pytest

from story import Story


class Readers:
    """Each read is a fresh subscription."""

    def __init__(self, story):
        self.story, self.count = story, 0

    def read(self, message, answered=True, stay=11, code=None, handling=0):
        """`message` None: nothing comes while it stays."""
        self.count += 1
        reader = self.story.connect(f"r{self.count}", clean=True, expiry=0)
        reader.sub("t", answered=answered, code=code, handling=handling)
        if message is not None:
            reader.recv(message, retain=True)
        self.story.wait(stay)
        reader.ping()
        reader.close()
        return reader


def begun():
    story = Story()
    return story, story.connect("p"), Readers(story)


def test_what_was_written_last_is_read():
    story, publisher, readers = begun()
    readers.read(None)
    publisher.pub("t", retain=True)
    readers.read(publisher.pub("t", retain=True))
    publisher.pub("t", retain=True, empty=True)
    readers.read(None)
    verdict = story.end(publisher).verdict("retained")
    assert verdict.violated == 0
    assert (verdict.checked["reads"], verdict.checked["of them of nothing"], verdict.checked["writes"]) == (3, 2, 3)


@pytest.mark.parametrize("read", ["older", "nothing", "deleted"])
def test_what_was_not(read):
    story, publisher, readers = begun()
    older = publisher.pub("t", retain=True)
    publisher.pub("t", retain=True, **({"empty": True} if read == "deleted" else {}))
    readers.read(None if read == "nothing" else older)
    assert story.end(publisher).violated() == {"retained": 1}


@pytest.mark.parametrize("how", ["not long enough", "unsubscribed", "no SUBACK", "a live message came", "not asked for",
                                 "asked for if new"])
def test_nothing_is_not_always_known_to_be_nothing(how):
    story, publisher, readers = begun()
    publisher.pub("t", retain=True)
    if how == "not long enough":
        readers.read(None, stay=5)
    elif "asked" in how:
        readers.read(None, handling=2 if how == "not asked for" else 1)
    elif how == "no SUBACK":
        readers.read(None, answered=False)
    else:
        reader = story.connect("r", clean=True, expiry=0)
        reader.sub("t")
        if how == "unsubscribed":
            reader.unsub("t")
        else:
            reader.recv(publisher.pub("t", retain=True))
        story.wait(20)
        reader.ping()
    assert story.end(publisher).violated() == {}


@pytest.mark.parametrize(("qos", "violated"), [(0, {}), (1, {})])
def test_a_write_that_was_not_acknowledged_may_or_may_not_be(qos, violated):
    story, publisher, readers = begun()
    message = publisher.pub("t", qos, answered=False, retain=True)
    readers.read(None)
    reader = readers.read(message)
    readers.read(message)
    assert reader and story.end(publisher).violated() == violated


def test_one_that_was_read_stays():
    story, publisher, readers = begun()
    message = publisher.pub("t", answered=False, retain=True)
    readers.read(message)
    readers.read(None)
    assert story.end(publisher).violated() == {"retained": 1}


def test_qos_2_is_written_when_pubrec_comes():
    story, publisher, readers = begun()
    publisher.pub("t", 2, retain=True)
    reader = readers.read(None)
    assert reader and story.end(publisher).violated() == {"retained": 1}


def test_a_message_sent_again_may_be_written_again():
    story, publisher, readers = begun()
    first = publisher.pub("t", answered=False, retain=True)
    publisher.resend(first)
    second = publisher.pub("t", retain=True)
    readers.read(second)
    readers.read(first)
    assert story.end(publisher).violated() == {}


def test_an_expired_message_is_gone_but_not_before():
    for waited, violated in ((40, {}), (1, {"retained": 1})):
        story, publisher, readers = begun()
        publisher.pub("t", retain=True, expiry=30)
        story.wait(waited)
        readers.read(None)
        assert story.end(publisher).violated() == violated


def test_a_will_may_be_written():
    story, publisher, readers = begun()
    client = story.connect("c", will=("t", 1, 0))
    story.events[-2]["will"]["retain"] = True
    client.close()
    readers.read(None)
    readers.read(client.will)
    verdict = story.end(publisher).verdict("retained")
    assert (verdict.violated, verdict.checked["reads"]) == (0, 2)


# Newer, then older.

@pytest.mark.parametrize(("newer_is_replay", "older_is_replay", "violated"), [
    (True, True, 1), (True, False, 1), (False, True, 1), (False, False, 0),
])
def test_an_older_one_after_a_newer_one(newer_is_replay, older_is_replay, violated):
    story, publisher, _ = begun()
    other = story.connect("q")
    subscriber = story.connect("s")
    subscriber.sub("t", answered=False)
    older, newer = publisher.pub("t", retain=True), other.pub("t", retain=True)
    subscriber.recv(newer, **({"retain": True} if newer_is_replay else {}))
    subscriber.recv(older, **({"retain": True} if older_is_replay else {}))
    verdict = story.end(publisher, other, subscriber).verdict("retained")
    assert (verdict.violated > 0) == bool(violated)


def test_of_two_written_at_a_time_neither_is_older():
    story, publisher, _ = begun()
    other, subscriber = story.connect("q"), story.connect("s")
    subscriber.sub("t", answered=False)
    one = publisher.pub("t", answered=False, retain=True)
    two = other.pub("t", answered=False, retain=True)
    publisher.puback(publisher.last)
    other.puback(other.last)
    subscriber.recv(two, retain=True)
    subscriber.recv(one)
    assert story.end(publisher, other, subscriber).violated() == {}


def test_a_resend_of_a_replay_is_no_second_one():
    story, publisher, _ = begun()
    subscriber = story.connect("s")
    older = publisher.pub("t", retain=True)
    subscriber.sub("t")
    subscriber.recv(older, pid=7, retain=True)
    subscriber.recv(publisher.pub("t", retain=True))
    subscriber.close()
    subscriber = story.again("s")
    subscriber.recv(older, pid=7, retain=True, dup=True)
    assert story.end(publisher, subscriber).violated() == {}


def test_the_second_replay_is_not_of_the_first_subscribe():
    story, publisher, _ = begun()
    subscriber = story.connect("s")
    older = publisher.pub("t", retain=True)
    subscriber.sub("t")
    subscriber.recv(older, pid=7, retain=True)
    publisher.pub("t", retain=True)
    subscriber.sub("t")
    subscriber.recv(older, pid=8, retain=True)
    assert story.end(publisher, subscriber).verdict("retained").violated == 1


@pytest.mark.parametrize(("how", "violated"), [("QoS 2", False), ("sent again", False), ("the same", False), ("otherwise", True)])
def test_what_is_certainly_older(how, violated):
    story, publisher, _ = begun()
    other, subscriber = story.connect("q"), story.connect("s")
    subscriber.sub("t", 2, answered=False)
    qos = 2 if how == "QoS 2" else 1
    older = publisher.pub("t", qos, answered=how != "sent again", retain=True)
    if how == "sent again":
        publisher.resend(older)
    newer = older if how == "the same" else other.pub("t", retain=True)
    subscriber.recv(newer, retain=True)
    subscriber.recv(older, qos)
    texts = [text for text, _ in story.end(publisher, other, subscriber).verdict("retained").violations]
    assert ("session 2 of s received a retained message on t after a newer one" in texts) == violated


@pytest.mark.parametrize(("what", "told"), [
    ("message", "no order of writes and reads explains that a SUBSCRIBE was answered with a message on t"),
    ("nothing", "no order of writes and reads explains that a SUBSCRIBE was answered with nothing on t"),
])
def test_what_is_told(what, told):
    story, publisher, readers = begun()
    older = publisher.pub("t", retain=True)
    publisher.pub("t", retain=True)
    readers.read(older if what == "message" else None)
    assert [text for text, _ in story.end(publisher).verdict("retained").violations] == [told]


def test_too_many_orders_are_not_decided():
    story = Story()
    publisher = story.connect("p")
    subscriber = story.connect("s")
    reader = [story.connect(f"r{number}", clean=True, expiry=0) for number in range(13)]
    for each in reader:
        each.sub("t")
    messages = [publisher.pub("t", answered=False, retain=True) for _ in range(13)]
    for each, message in zip(reader, messages):
        each.recv(message, retain=True)
    for pid in range(1, 14):
        publisher.puback(pid)
    verdict = story.end(publisher, subscriber).verdict("retained")
    assert (verdict.violated, verdict.left_out) == (0, {"topics with too many orders": 1})


@pytest.mark.parametrize(("patience", "violated"), [(None, 1), (30, 0)])
def test_while_faults_are_made_a_replay_may_take_longer(patience, violated):
    story = Story(**({"patience": patience} if patience else {}))
    publisher, readers = story.connect("p"), Readers(story)
    publisher.pub("t", retain=True)
    readers.read(None, stay=15)
    assert story.end(publisher).verdict("retained").violated == violated
    # In the drain it may not.
    story.events.pop()
    readers.read(None, stay=15)
    story.add("end", quiet=True)
    assert story.verdict("retained").violated == 1
