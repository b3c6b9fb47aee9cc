"""Faults follow from the seed; what there is of each kind."""

import asyncio
import importlib.machinery
import importlib.util
import json
import pathlib
import random
import subprocess
import sys

import pytest

from driver import faults, pod_faults, schedule, workload

FAULTS = pathlib.Path(__file__).resolve().parents[1]


both = pytest.mark.parametrize("what", [faults, pod_faults], ids=["processes", "pods"])


@both
def test_a_seed_is_a_schedule(what):
    table = what.KINDS
    assert schedule.make(table, 7, 3, 300, list(table)) == schedule.make(table, 7, 3, 300, list(table))
    assert schedule.make(table, 7, 3, 300, list(table)) != schedule.make(table, 8, 3, 300, list(table))
    assert all(fault["at"] < 300 for fault in schedule.make(table, 7, 3, 300, list(table)))
    assert len(schedule.make(table, 7, 3, 1, list(table), count=200)) == 200


def test_schedules_of_seeds_that_are_in_reports_stay():
    found = schedule.make(faults.KINDS, 1, 3, 120, list(faults.KINDS))
    first = [(2.197, "kill-all", [1, 0, 2]), (9.581, "loss", [0, 2, 1]), (18.253, "one-way", [2, 0, 1])]
    assert [(fault["at"], fault["kind"], fault["nodes"]) for fault in found[:3]] == first


@both
def test_every_kind_occurs_and_is_done_and_told(what):
    counts = {}
    for fault in schedule.make(what.KINDS, 1, 3, 0, list(what.KINDS), count=2000):
        counts[fault["kind"]] = counts.get(fault["kind"], 0) + 1
    assert set(counts) == set(what.KINDS) == set(what.WORDS)
    for kind in what.KINDS:
        assert hasattr(what.Breaker, "_" + kind.removesuffix("-leader").replace("-", "_")), kind
        assert 0 <= what.Breaker._touched(kind, 3) <= 3


def test_only_the_kinds_that_are_asked_for():
    found = schedule.make(faults.KINDS, 1, 3, 300, ["kill", "pause"])
    assert {fault["kind"] for fault in found} == {"kill", "pause"}
    assert schedule.make(faults.KINDS, 1, 3, 300, []) == []


@both
def test_a_printed_schedule_is_a_script(what, tmp_path):
    command = [sys.executable, FAULTS / "run", "--schedule", "--seed", "5", "--count", "20", *(["--pods"] if what is pod_faults else [])]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    script = tmp_path / "script"
    script.write_text("# a comment\n\n" + printed)
    expected = schedule.make(what.KINDS, 5, 3, 0, list(what.KINDS), count=20)
    assert schedule.read(what.KINDS, script) == [json.loads(line) for line in printed.splitlines()] == expected
    script.write_text('{"at": 1, "kind": "earthquake"}')
    with pytest.raises(SystemExit, match="no fault 'earthquake'"):
        schedule.read(what.KINDS, script)


def test_a_run_is_done_again(tmp_path):
    """Where it is done, and what is kept, is said anew."""
    given = {"seed": 5, "count": 20, "pods": True, "faults": "kill,drain", "nodes": 3}
    (tmp_path / "run.json").write_text(json.dumps(given))
    command = [sys.executable, FAULTS / "run", "--schedule", "--replay", tmp_path, "--images", "elsewhere", "--seed", "6"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert [json.loads(line) for line in printed.splitlines()] == schedule.make(pod_faults.KINDS, 5, 3, 0, ["kill", "drain"], count=20)


def test_a_patient_breaker_counts_from_the_end_of_a_fault():
    class Slow(schedule.Breaker):
        async def do(self, fault):
            begun.append(loop.time())
            await asyncio.sleep(fault["takes"])

    class Patient(Slow):
        PATIENT = True

    # The first one takes 5 s longer than it was to take.
    plan = [{"at": 1, "seconds": 1, "takes": 6}, {"at": 4, "seconds": 1, "takes": 1}, {"at": 20, "seconds": 0, "takes": 0}]
    for kind, times in ((Slow, [1, 7, 20]), (Patient, [1, 9, 25])):
        loop, begun = Skipping(), []
        loop.run_until_complete(kind(None, None).follow(plan))
        loop.close()
        assert [round(t) for t in begun] == times


class Skipping(asyncio.SelectorEventLoop):
    """Whose time goes on at once to what is next."""

    def __init__(self):
        super().__init__()
        self.now = 0.0

    def time(self):
        return self.now

    def _run_once(self):
        if not self._ready and self._scheduled:
            self.now = max(self.now, self._scheduled[0].when())
        super()._run_once()


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
