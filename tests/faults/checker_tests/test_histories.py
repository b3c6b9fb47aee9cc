"""What the checker says of a history as a whole: what it cannot read, what proves too little, how it ends."""

import json

import pytest

from checker import main as command
from checker.events import Malformed
from checker.topics import Topics, matches
from story import Story


def check(tmp_path, story, *arguments):
    path = tmp_path / "history.jsonl"
    path.write_text("".join(json.dumps(event) + "\n" for event in story.events))
    return command.main([str(path), *arguments])


def good():
    story = Story()
    publisher, subscriber = story.connect("p"), story.connect("s")
    subscriber.sub("t")
    subscriber.recv(publisher.pub("t"))
    return story.end(publisher, subscriber)


def test_a_good_one(tmp_path, capsys):
    assert check(tmp_path, good(), "--min-acked", "4", "--require", "loss,once,order,suback,unsuback") == command.HOLDS
    assert "loss       holds             1 messages due to a session" in capsys.readouterr().out


def test_an_empty_one_is_none(tmp_path, capsys):
    (tmp_path / "empty").write_text("")
    assert command.main([str(tmp_path / "empty")]) == command.NOT_ENOUGH
    assert "0 operations were acknowledged, 1 are asked for" in capsys.readouterr().err


def test_too_few_acknowledged(tmp_path, capsys):
    # Two connects, a subscribe and a publish; pings and deliveries are none.
    assert check(tmp_path, good(), "--min-acked", "5") == command.NOT_ENOUGH
    assert "4 operations were acknowledged, 5 are asked for" in capsys.readouterr().err


def test_a_promise_that_nothing_was_checked_of(tmp_path, capsys):
    assert check(tmp_path, good(), "--require", "all") == command.NOT_ENOUGH
    error = capsys.readouterr().err
    assert all(f"nothing to check for {promise}" in error for promise in ("owner", "wills", "retained"))


def test_no_end(tmp_path, capsys):
    story = good()
    story.events.pop()
    assert check(tmp_path, story) == command.NOT_ENOUGH
    assert "no `end`" in capsys.readouterr().err


def test_an_end_in_the_middle_of_deliveries(tmp_path, capsys):
    story = good()
    story.events[-1]["quiet"] = False
    assert check(tmp_path, story) == command.NOT_ENOUGH
    assert "still came" in capsys.readouterr().err


def test_a_session_that_was_not_drained(tmp_path, capsys):
    story = Story()
    publisher, subscriber = story.connect("p"), story.connect("s")
    subscriber.sub("t")
    publisher.pub("t")
    subscriber.close()
    assert check(tmp_path, story.end(publisher)) == command.NOT_ENOUGH
    assert "1 durable sessions were not connected through the drain: s" in capsys.readouterr().err


def test_a_violation_is_shown_with_its_events(tmp_path, capsys):
    story = Story()
    publisher, subscriber = story.connect("p"), story.connect("s")
    subscriber.sub("t")
    publisher.pub("t")
    assert check(tmp_path, story.end(publisher, subscriber)) == command.VIOLATED
    out = capsys.readouterr().out
    assert "a message on t, acknowledged with QoS 1, was never received by session 1 of s until the end" in out
    assert 'history.jsonl:8  {"t": 8000000000, "e": "pub"' in out


def test_for_programs(tmp_path, capsys):
    assert check(tmp_path, good(), "--json") == command.HOLDS
    report = json.loads(capsys.readouterr().out)
    assert report["acknowledged"] == 4
    assert report["promises"]["loss"] == {
        "verdict": "holds", "violations": 0, "checked": {"messages due to a session": 1, "durable sessions": 2}, "leftOut": {}, "first": [],
        "places": [],
    }


def lossy():
    story = good()
    story.events = [event for event in story.events if event["e"] not in ("recv", "ack")]
    return story


def test_where_a_violation_is_for_programs(tmp_path, capsys):
    story = lossy()
    assert check(tmp_path, story, "--json") == command.VIOLATED
    report = json.loads(capsys.readouterr().out)["promises"]["loss"]
    assert len(report["first"]) == len(report["places"]) == 1
    events = [story.events[line - 1]["e"] for path, line in report["places"][0]]
    assert events == ["sub", "pub", "puback"] and {path for path, _ in report["places"][0]} == {str(tmp_path / "history.jsonl")}


def test_what_is_left_out_is_not_judged_and_said(tmp_path, capsys):
    assert check(tmp_path, lossy()) == command.VIOLATED
    capsys.readouterr()
    assert check(tmp_path, lossy(), "--without", "loss,suback") == command.HOLDS
    out = capsys.readouterr().out
    assert "1 loss       not judged" in out and "7 suback     not judged" in out and "3 order      nothing" in out
    assert check(tmp_path, lossy(), "--without", "suback") == command.VIOLATED


@pytest.mark.parametrize("arguments", [
    ("--without", "luck"), ("--without", ",".join(command.PROMISES)), ("--without", "loss", "--require", "loss,order"),
    ("--without", "loss", "--require", "all"),
])
def test_what_cannot_be_left_out(tmp_path, arguments):
    with pytest.raises(SystemExit):
        check(tmp_path, good(), *arguments)


def test_faults_are_counted_and_nothing_else(tmp_path, capsys):
    story = good()
    story.events.insert(1, {"t": story.events[0]["t"], "e": "fault", "kind": "kill", "node": "n1"})
    story.events.insert(2, {"t": story.events[0]["t"], "e": "fault", "kind": "kill", "node": "n1", "over": True})
    assert check(tmp_path, story) == command.HOLDS
    assert "faults: 1 kill" in capsys.readouterr().out


def test_several_files_are_merged_by_time(tmp_path):
    events = good().events
    for number in range(3):
        (tmp_path / f"{number}").write_text("".join(json.dumps(event) + "\n" for event in events[number::3]))
    assert command.main([str(tmp_path / f"{number}") for number in range(3)]) == command.HOLDS


@pytest.mark.parametrize(("what", "change"), [
    ("no JSON", lambda events: "{"),
    ("no object", lambda events: "3"),
    ("no time", lambda events: json.dumps({"e": "ping", "c": 1})),
    ("time that goes back", lambda events: json.dumps({**events[-1], "t": 5})),
    ("an unknown event", lambda events: json.dumps({"t": 1 << 50, "e": "lunch"})),
    ("an unknown connection", lambda events: json.dumps({"t": 1 << 50, "e": "ping", "c": 99})),
    ("a second CONNECT", lambda events: json.dumps({**events[1], "t": 1 << 50})),
    ("a second CONNACK", lambda events: json.dumps({**events[2], "t": 1 << 50})),
    ("another format", lambda events: json.dumps({"t": 1 << 50, "e": "run", "format": 2})),
    ("a shared subscription", lambda events: json.dumps({"t": 1 << 50, "e": "sub", "c": 1, "pid": 1, "f": [["$share/g/t", 1]]})),
    ("a message of two clients", lambda events: json.dumps({"t": 1 << 50, "e": "pub", "c": 2, "q": 1, "pid": 1, "topic": "t", "m": 1})),
    ("a message sent again on another topic",
     lambda events: json.dumps({"t": 1 << 50, "e": "pub", "c": 1, "q": 1, "pid": 1, "topic": "x", "m": 1})),
    ("a message sent again with another QoS",
     lambda events: json.dumps({"t": 1 << 50, "e": "pub", "c": 1, "q": 2, "pid": 1, "topic": "t", "m": 1})),
    ("a will that is no new message",
     lambda events: json.dumps({**events[1], "t": 1 << 50, "c": 9, "will": {"m": 1, "topic": "t", "q": 1}})),
])
def test_what_cannot_be_read(tmp_path, capsys, what, change):
    events = good().events
    path = tmp_path / "history.jsonl"
    path.write_text("".join(json.dumps(event) + "\n" for event in events) + change(events) + "\n")
    assert command.main([str(path)]) == command.MALFORMED, what
    assert f"history.jsonl:{len(events) + 1}" in capsys.readouterr().err


def test_an_operation_before_connack_or_after_the_end():
    story = Story()
    story.connect("c", answered=False).ping()
    with pytest.raises(Malformed, match="before CONNACK"):
        story.history()
    story = Story()
    client = story.connect("c")
    client.close()
    client.ping()
    with pytest.raises(Malformed, match="after the end"):
        story.history()


def test_a_delivery_before_its_publish():
    story = Story()
    client = story.connect("c")
    client.sub("t")
    message = client.pub("t")
    client.recv(message)
    pub = next(event for event in story.events if event["e"] == "pub")
    story.events.remove(pub)
    story.events.append({**pub, "t": story.events[-1]["t"]})
    # The delivery is then of what nobody had published.
    assert story.violated() == {"once": 1}


NAMES = ["a", "a/b", "a/b/c", "a/", "/a", "b/b", "$SYS/a"]


@pytest.mark.parametrize(("topic_filter", "names"), [
    ("a", ["a"]), ("a/b", ["a/b"]), ("+", ["a"]), ("a/+", ["a/b", "a/"]), ("+/b", ["a/b", "b/b"]), ("#", NAMES[:-1]),
    ("a/#", ["a", "a/b", "a/b/c", "a/"]), ("+/+", ["a/b", "a/", "/a", "b/b"]), ("/+", ["/a"]), ("$SYS/#", ["$SYS/a"]), ("+/a", ["/a"]),
    ("a/b/c/#", ["a/b/c"]), ("x", []),
])
def test_filters(topic_filter, names):
    topics = Topics()
    numbers = {topics.number(name): name for name in NAMES}
    assert sorted(numbers[number] for number in topics.matching(topic_filter)) == sorted(names)
    assert [name for name in NAMES if matches(topic_filter, name)] == names
