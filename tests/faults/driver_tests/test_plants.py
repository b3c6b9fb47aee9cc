"""How the runs with planted bugs are judged."""

import importlib.machinery
import importlib.util
import json
import pathlib
import re
import subprocess
import types

import pytest

from checker.main import PROMISES
from driver import faults

FAULTS = pathlib.Path(__file__).resolve().parents[1]
SECOND = 1_000_000_000


def load():
    loader = importlib.machinery.SourceFileLoader("plants", str(FAULTS / "plants"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("plants", loader))
    loader.exec_module(module)
    return module


plants = load()


def write(path, *events):
    """A run in which a message is acknowledged and never comes; `events`: (second, event)."""
    told = [
        (0, {"e": "run", "format": 1, "settle": 1}),
        (1, {"e": "connect", "c": 1, "id": "s", "node": "n1", "v": 5, "clean": False, "expiry": 1000, "ka": 0}),
        (1, {"e": "connack", "c": 1, "code": 0, "present": False}),
        (1, {"e": "sub", "c": 1, "pid": 1, "f": [["t", 1, 0]]}),
        (2, {"e": "suback", "c": 1, "pid": 1, "codes": [1]}),
        (3, {"e": "connect", "c": 2, "id": "p", "node": "n1", "v": 5, "clean": False, "expiry": 1000, "ka": 0}),
        (3, {"e": "connack", "c": 2, "code": 0, "present": False}),
        (4, {"e": "fault", "kind": "kill"}),
        (5, {"e": "fault", "kind": "kill", "over": True}),
        (5, {"e": "pub", "c": 2, "q": 1, "pid": 1, "topic": "t", "m": 1}),
        (7, {"e": "puback", "c": 2, "pid": 1, "code": 0}),
        (8, {"e": "fault", "kind": "ended", "nodes": ["n1"]}),
        (9, {"e": "fault", "kind": "pause"}),
        *events,
        (20, {"e": "drain"}), (21, {"e": "ping", "c": 1}), (21, {"e": "pong", "c": 1}),
        (40, {"e": "ping", "c": 1}), (40, {"e": "pong", "c": 1}), (41, {"e": "end", "quiet": True}),
    ]
    with open(path, "w", encoding="utf-8") as file:
        for second, event in told:
            file.write(json.dumps({"t": second * SECOND, **event}) + "\n")
    return path


def test_a_violation_is_where_its_last_event_is(tmp_path):
    run = plants.judged(write(tmp_path / "history"), ("loss", "order"), 1, "")
    assert run.violated == ["loss", "suback"] and run.seconds == 41 and run.faults == 2
    by, after, begun, words = run.first
    assert (by, after, begun) == ("loss", 7, 1) and "acknowledged with QoS 1" in words


def test_another_promise_does_not_count(tmp_path):
    run = plants.judged(write(tmp_path / "history"), ("order",), 1, "")
    assert run.violated == ["loss", "suback"] and run.first is None


def test_what_came_is_no_violation(tmp_path):
    came = (10, {"e": "recv", "c": 1, "q": 1, "pid": 1, "topic": "t", "m": 1}), (10, {"e": "ack", "c": 1, "pid": 1, "k": "puback"})
    run = plants.judged(write(tmp_path / "history", *came), ("loss",), 0, "")
    assert (run.violated, run.first, run.why) == ([], None, "")


def test_no_history_is_no_finding(tmp_path):
    run = plants.judged(tmp_path / "none", ("loss",), 4, "the run failed")
    assert (run.code, run.violated, run.first, run.why) == (4, [], None, "the run failed")


def test_the_table():
    rows = [
        {"bug": "drop-epoch", "by": "loss", "also": ["once"], "seeds": 2, "seconds": 61.6, "faults": 17},
        {"bug": "reuse-id", "by": None, "also": [], "seeds": 6, "seconds": 700.0, "faults": 30},
    ]
    lines = plants.table(rows).splitlines()
    assert lines[2].endswith("| `loss` | 2 | 62 | 17 | `once` |") and "**not found**" in lines[3]


def work_of(tmp_path, monkeypatch, minutes=None):
    """What does no run, but says that bugs are found with the second seed; and the runs that were asked of it."""
    options = types.SimpleNamespace(
        planted=tmp_path / "planted", plain=tmp_path / "plain", seed=7, tries=3, shards=4, keep=tmp_path / "keep", record=tmp_path / "record",
        minutes=minutes, verbose=False,
    )
    work, done = plants.Work(options), []

    def run(command, **_):
        done.append([str(word) for word in command[2:]])
        bug, seed = done[-1][done[-1].index("--plant") + 1], done[-1][done[-1].index("--seed") + 1]
        found = bug and seed == "8"
        directory = pathlib.Path(done[-1][-1])
        directory.mkdir(parents=True)
        came = () if found else ((10, {"e": "recv", "c": 1, "q": 1, "pid": 1, "topic": "t", "m": 1}),)
        write(directory / "history.jsonl", *came)
        return types.SimpleNamespace(stdout=[], wait=lambda timeout: int(bool(found)), poll=lambda: 0)

    monkeypatch.setattr(plants, "subprocess", types.SimpleNamespace(**{**vars(subprocess), "Popen": run}))
    for binary in (options.planted, options.plain):
        if not binary.exists():
            binary.write_text(str(binary))
    return work, done


def test_what_is_recorded_is_not_done_again(tmp_path, monkeypatch):
    work, done = work_of(tmp_path, monkeypatch)
    row, bad = work.look_for("ack-before-commit"), work.prove_plain()
    assert (row["by"], row["seeds"], row["seconds"], row["faults"], bad) == ("loss", 2, 48, 3, []) and len(done) == 4
    again, done = work_of(tmp_path, monkeypatch)
    assert again.look_for("ack-before-commit") == row and again.prove_plain() == [] and done == []
    # Another bug, and another build, is another thing.
    assert again.look_for("release-before-commit")["by"] == "loss" and len(done) == 2
    done.clear()
    (tmp_path / "planted").write_text("built again")
    assert again.look_for("ack-before-commit")["by"] == "loss" and len(done) == 2


def test_no_run_begins_that_would_not_end_in_time(tmp_path, monkeypatch):
    work, done = work_of(tmp_path, monkeypatch, minutes=1)
    with pytest.raises(plants.OutOfTime):
        work.look_for("ack-before-commit")
    assert done == []
    work, done = work_of(tmp_path, monkeypatch, minutes=2)
    assert work.look_for("ack-before-commit")["by"] == "loss" and len(done) == 2


@pytest.mark.parametrize("bug", plants.PLANTS)
def test_each_is_looked_for_by_what_there_is(bug):
    how = plants.PLANTS[bug]
    assert set(how.promises) <= set(PROMISES) and set(how.faults.split(",")) <= set(faults.KINDS)


def test_they_are_those_of_the_broker():
    source = (FAULTS.parents[1] / "broker/planted/src/lib.rs").read_text(encoding="utf-8")
    assert re.findall(r'Self::\w+ => "([a-z0-9-]+)"', source) == list(plants.PLANTS)
