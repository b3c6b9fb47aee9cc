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
