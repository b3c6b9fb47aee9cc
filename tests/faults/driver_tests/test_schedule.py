"""Faults follow from the seed; what there is of each kind."""

import importlib.machinery
import importlib.util
import json
import pathlib
import random
import subprocess
import sys

import pytest

from driver import faults, workload

FAULTS = pathlib.Path(__file__).resolve().parents[1]


def test_a_seed_is_a_schedule():
    kinds = list(faults.KINDS)
    assert faults.schedule(7, 3, 300, kinds) == faults.schedule(7, 3, 300, kinds)
    assert faults.schedule(7, 3, 300, kinds) != faults.schedule(8, 3, 300, kinds)
    assert all(fault["at"] < 300 for fault in faults.schedule(7, 3, 300, kinds))
    assert len(faults.schedule(7, 3, 1, kinds, count=200)) == 200


def test_every_kind_occurs_and_is_done_and_told():
    counts = {}
    for fault in faults.schedule(1, 3, 0, list(faults.KINDS), count=2000):
        counts[fault["kind"]] = counts.get(fault["kind"], 0) + 1
    assert set(counts) == set(faults.KINDS) == set(faults.WORDS)
    for kind in faults.KINDS:
        assert hasattr(faults.Breaker, "_" + kind.removesuffix("-leader").replace("-", "_")), kind


def test_only_the_kinds_that_are_asked_for():
    found = faults.schedule(1, 3, 300, ["kill", "pause"])
    assert {fault["kind"] for fault in found} == {"kill", "pause"}
    assert faults.schedule(1, 3, 300, []) == []


def test_a_printed_schedule_is_a_script(tmp_path):
    command = [sys.executable, FAULTS / "run", "--schedule", "--seed", "5", "--count", "20"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    script = tmp_path / "script"
    script.write_text("# a comment\n\n" + printed)
    assert faults.read(script) == [json.loads(line) for line in printed.splitlines()] == faults.schedule(5, 3, 0, list(faults.KINDS), count=20)
    script.write_text('{"at": 1, "kind": "earthquake"}')
    with pytest.raises(SystemExit, match="no fault 'earthquake'"):
        faults.read(script)


@pytest.mark.parametrize("nodes", [3, 5])
@pytest.mark.parametrize("name", workload.WORKLOADS)
def test_the_workloads(name, nodes):
    clients = workload.WORKLOADS[name](nodes, random.Random(1), True)
    assert len({about.id for about in clients}) == len(clients)
    assert any(about.paho for about in clients) and sum(about.sentinel for about in clients) == nodes
    assert all(about.home is not None for about in clients) == (name == "live")
    for about in clients:
        # Overlapping filters would give several copies.
        assert len(about.filters) == 1 or not any("+" in topic_filter for topic_filter, _ in about.filters)
        assert not about.will or about.will[0] == f"w/{about.id}" or about.will[0].startswith("w/clean")
    # A retained topic is read where it is written.
    writers = {topic: about.home for about in clients for topic, _, retained in about.topics if retained}
    for number in range(nodes):
        reader = workload.reader("r", number, name == "live")
        assert all(writers[topic] == reader.home for topic in workload.retained(number))


def test_what_blocked_counts(tmp_path):
    loader = importlib.machinery.SourceFileLoader("blocked", str(FAULTS / "blocked"))
    blocked = importlib.util.module_from_spec(importlib.util.spec_from_loader("blocked", loader))
    loader.exec_module(blocked)
    second = 1_000_000_000
    told = [(1, "puback"), (2, "begin"), (2.5, "puback"), (4, "pubrec"), (8, "over"), (9, "puback"), (17, "puback"), (19, "puback")]
    path = tmp_path / "history"
    with open(path, "w", encoding="utf-8") as file:
        for t, what in told:
            event = {"e": what, "code": 0} if what.startswith("pub") else {"e": "fault", "kind": "fsync-two", "over": what == "over"}
            file.write(json.dumps({"t": int(t * second), **event}) + "\n")
    assert blocked.acknowledged(path) == (1, 2, 6.0)
