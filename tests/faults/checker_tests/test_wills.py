"""Promise 5, rule by rule."""

import pytest

from story import Story


def begun(delay=0, qos=1, granted=1, **event):
    """Somebody who listens, and a client with a will."""
    story = Story()
    watcher = story.connect("w", node="n1")
    watcher.sub("will", granted)
    return story, watcher, story.connect("c", will=("will", qos, delay), **event)


def test_a_will_that_comes():
    story, watcher, client = begun()
    client.close()
    watcher.recv(client.will)
    verdict = story.end(watcher).verdict("wills")
    assert (verdict.violated, verdict.checked["wills due to a session"], verdict.checked["wills received"]) == (0, 1, 1)


@pytest.mark.parametrize("how", ["closed", "taken over", "DISCONNECT with will"])
def test_one_that_does_not(how):
    story, watcher, client = begun()
    if how == "closed":
        client.close("broker")
    elif how == "taken over":
        story.again("c")
    else:
        client.disconnect(code=4)
    assert story.end(watcher).violated() == {"wills": 1}


@pytest.mark.parametrize("how", ["DISCONNECT", "QoS 0", "granted QoS 0", "closed too late", "subscribed later", "unsubscribed"])
def test_one_that_need_not(how):
    story = Story()
    watcher = story.connect("w", node="n1")
    if how != "subscribed later":
        watcher.sub("will", int(how != "granted QoS 0"))
    client = story.connect("c", will=("will", int(how != "QoS 0"), 0))
    if how == "subscribed later":
        watcher.sub("will")
    if how == "DISCONNECT":
        client.disconnect()
    elif how != "closed too late":
        client.close()
    if how == "unsubscribed":
        watcher.unsub("will")
    story.end(watcher)
    if how == "closed too late":
        end = story.events.pop()
        client.close()
        story.add("end", **{key: value for key, value in end.items() if key not in ("t", "e")})
    assert story.violated() == {}


def test_while_the_client_is_up():
    story, watcher, client = begun()
    watcher.recv(client.will)
    client.ping()
    client.close()
    assert story.end(watcher).violated() == {"wills": 1}


def test_a_delivery_shows_that_it_is_up():
    story, watcher, client = begun()
    client.sub("t", 0)
    watcher.recv(client.will)
    client.recv(watcher.pub("t", 0), 0)
    client.close()
    assert story.end(watcher).violated() == {"wills": 1}


def test_an_answer_to_what_was_asked_before_does_not():
    story, watcher, client = begun()
    client.ping(answered=False)
    watcher.recv(client.will)
    client.add("pong")
    client.close()
    assert story.end(watcher).violated() == {}


@pytest.mark.parametrize(("waited", "violated"), [(25, {"wills": 1}), (31, {})])
def test_the_delay(waited, violated):
    story, watcher, client = begun(delay=30)
    client.ping()
    client.close()
    # PINGREQ, PINGRESP and the end have taken two seconds, and the delivery takes one.
    story.wait(waited - 3)
    watcher.recv(client.will)
    assert story.end(watcher).violated() == violated


def test_the_end_of_the_session_ends_the_delay():
    story, watcher, client = begun(delay=30)
    client.close()
    story.connect("c", clean=True)
    watcher.recv(client.will)
    assert story.end(watcher).violated() == {}


def test_the_sessions_expiry_bounds_the_delay():
    story, watcher, client = begun(delay=30, expiry=5)
    client.close()
    story.wait(5)
    watcher.recv(client.will)
    assert story.end(watcher).violated() == {}


@pytest.mark.parametrize(("present", "waited", "violated"), [(True, 5, {"wills": 1}), (True, 40, {}), (False, 5, {"loss": 1})])
def test_a_client_that_comes_back(present, waited, violated):
    story, watcher, client = begun(delay=30)
    client.close()
    story.wait(waited)
    again = story.connect("c", present=present)
    story.wait(40)
    watcher.recv(client.will)
    assert story.end(watcher, again).violated() == violated


def test_a_delayed_will_of_a_client_that_came_back_may_be_missing():
    story, watcher, client = begun(delay=30)
    client.close()
    story.wait(100)
    again = story.again("c")
    assert story.end(watcher, again).violated() == {}


@pytest.mark.parametrize(("witness", "violated"), [("answers later", {"wills": 1}), ("answers earlier", {}), ("of another node", {}),
                                                   ("opened later", {})])
def test_after_disconnect(witness, violated):
    story = Story()
    watcher = story.connect("w", node="n1")
    watcher.sub("will")
    other = story.connect("o", node="n2" if witness == "of another node" else "n0") if witness != "opened later" else None
    client = story.connect("c", will=("will", 1, 0))
    client.disconnect()
    other = other or story.connect("o")
    if witness == "answers earlier":
        other.ping()
        other.close()
    watcher.recv(client.will)
    if witness != "answers earlier":
        other.ping()
    assert story.end(watcher).violated() == violated


def test_a_disconnect_that_the_broker_may_not_have_read():
    story, watcher, client = begun()
    other = story.connect("o")
    client.disconnect(closed=False)
    client.close()
    watcher.recv(client.will)
    other.ping()
    assert story.end(watcher, other).violated() == {}


def test_twice():
    story, watcher, client = begun()
    client.close()
    watcher.recv(client.will, pid=1)
    watcher.recv(client.will, pid=2)
    assert story.end(watcher).violated() == {"once": 1, "wills": 1}


def test_a_resend_is_no_second_will():
    story, watcher, client = begun()
    client.close()
    watcher.recv(client.will, pid=1)
    watcher.close()
    watcher = story.again("w")
    watcher.recv(client.will, pid=1, dup=True)
    assert story.end(watcher).violated() == {}


def test_a_connection_without_connack_may_have_been_there():
    story, watcher, client = begun(answered=False)
    watcher.recv(client.will)
    client.close()
    assert story.end(watcher).violated() == {}


def test_without_keep_alive_the_broker_need_not_notice():
    story = Story()
    watcher = story.connect("w")
    watcher.sub("will")
    client = story.connect("c", will=("will", 1, 0))
    story.events[-2]["ka"] = 0
    client.close()
    assert story.end(watcher).violated() == {}


@pytest.mark.parametrize(("filters", "violated"), [(["+"], {}), (["x"], {"once": 1, "wills": 1})])
def test_overlapping_filters_may_each_give_one(filters, violated):
    story, watcher, client = begun()
    for topic_filter in filters:
        watcher.sub(topic_filter)
    client.close()
    watcher.recv(client.will, pid=1)
    watcher.recv(client.will, pid=2)
    assert story.end(watcher).violated() == violated


@pytest.mark.parametrize("second", [{"dup": False}, {"pid": 2}, {"reconnect": False}])
def test_what_is_no_resend(second):
    story, watcher, client = begun()
    client.close()
    watcher.recv(client.will, pid=1)
    second = {"pid": 1, "dup": True, "reconnect": True, **second}
    if second.pop("reconnect"):
        watcher.close()
        watcher = story.again("w")
    watcher.recv(client.will, **second)
    assert story.end(watcher).violated() == {"once": 1, "wills": 1}


def test_of_connections_made_at_the_same_time_it_is_not_known_which_came_first():
    story, watcher, client = begun()
    watcher.close()
    one, two = story.connect("w", answered=False), story.connect("w", answered=False)
    one.connack(True)
    two.connack(True)
    client.close()
    one.recv(client.will, pid=1, dup=True)
    two.recv(client.will, pid=1)
    two.close("broker")
    assert story.end(one).violated() == {}


def test_a_replay_of_a_retained_will_is_no_second_one():
    story, watcher, client = begun()
    story.events[-2]["will"]["retain"] = True
    client.close()
    watcher.recv(client.will)
    watcher.sub("will")
    watcher.recv(client.will, pid=9, retain=True)
    assert story.end(watcher).violated() == {}


def test_what_is_no_will_may_come_twice():
    story, watcher, client = begun()
    message = watcher.pub("will", answered=False)
    watcher.resend(message)
    watcher.recv(message, pid=1)
    watcher.recv(message, pid=2)
    client.disconnect()
    assert story.end(watcher).violated() == {}


@pytest.mark.parametrize("code", [None, 4])
def test_a_broker_that_closes_is_no_disconnect(code):
    story, watcher, client = begun()
    other = story.connect("o")
    if code is None:
        client.close("broker")
    else:
        client.disconnect(code=code)
    watcher.recv(client.will)
    other.ping()
    assert story.end(watcher).violated() == {}


@pytest.mark.parametrize("how", ["closed by the broker", "taken over"])
def test_the_broker_may_notice_without_keep_alive(how):
    story = Story()
    watcher = story.connect("w")
    watcher.sub("will")
    client = story.connect("c", will=("will", 1, 0))
    story.events[-2]["ka"] = 0
    if how == "taken over":
        story.again("c")
    client.close("broker" if how == "closed by the broker" else "client")
    assert story.end(watcher).violated() == {"wills": 1}


def test_a_delayed_will_that_never_comes():
    story, watcher, client = begun(delay=20)
    client.close()
    assert story.end(watcher).violated() == {"wills": 1}


def test_one_whose_delay_is_longer_than_the_run_was():
    story, watcher, client = begun(delay=200)
    client.close()
    assert story.end(watcher).violated() == {}


@pytest.mark.parametrize("earlier", ["an earlier connection", "an earlier clean start", "a later one without CONNACK"])
def test_what_does_not_cancel_a_delayed_will(earlier):
    story = Story()
    watcher = story.connect("w", node="n1")
    watcher.sub("will")
    if earlier == "an earlier connection":
        story.connect("c").close()
    elif earlier == "an earlier clean start":
        story.connect("c", clean=True).close()
    client = story.connect("c", will=("will", 1, 30), present=earlier != "a later one without CONNACK")
    client.close()
    if earlier == "a later one without CONNACK":
        story.connect("c", answered=False).close()
    early = earlier == "an earlier clean start"
    if not early:
        story.wait(30)
    watcher.recv(client.will)
    assert story.end(watcher).violated() == ({"wills": 1} if early else {})


@pytest.mark.parametrize("who", ["a session that ends", "one that may have ended", "without a drain", "no SUBACK", "another topic"])
def test_who_need_not_get_it(who):
    story = Story()
    watcher = story.connect("w", node="n1", expiry=0 if who == "a session that ends" else 1000)
    watcher.sub("x" if who == "another topic" else "will", answered=who != "no SUBACK")
    client = story.connect("c", will=("will", 1, 0))
    if who == "one that may have ended":
        story.connect("w", clean=True, answered=False)
    client.close()
    if who == "without a drain":
        watcher.close()
        assert story.end().violated() == {}
    else:
        assert story.end(watcher).violated() == {}


def test_nothing_is_said_of_a_will_that_is_missing_when_messages_still_came():
    story, watcher, client = begun()
    client.close()
    assert story.end(watcher, quiet=False).violated() == {}


def test_what_is_told():
    story, watcher, client = begun()
    watcher.recv(client.will)
    client.ping()
    story.end(watcher)
    assert [text for text, _ in story.verdict("wills").violations] == [
        "the will of connection 2 of c was received, and an operation invoked later was answered",
    ]


def test_answers_in_another_order_show_no_less():
    story, watcher, client = begun()
    client.ping(answered=False)
    watcher.recv(client.will)
    client.pub("x")
    client.add("pong")
    client.close()
    assert story.end(watcher).violated() == {"wills": 1}
