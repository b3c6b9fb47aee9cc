"""The checker on whole runs of the simulated cluster: it finds each planted bug, and nothing where there is none.

    CHECKER_SEEDS=2000 pytest test_planted.py -s        so many runs without a bug, and a tenth of that for each bug; prints how soon each is found

The seeds are the first ones, and were not chosen."""

import os

import pytest

from checker.history import History
from checker.main import judge, shortcomings
from sim.bugs import BREAKS, Bug
from sim.run import simulate, write

SEEDS = int(os.environ.get("CHECKER_SEEDS", "10"))
# A bug must be found within so many runs.
TRIES = max(8, SEEDS // 10)
# Most promises have something to check in every run, these in most.
SELDOM = {"owner"}


def verdicts(tmp_path, seed, bug=None):
    path = tmp_path / "history.jsonl"
    write(simulate(seed, bug), path)
    history = History([path])
    return history, judge(history)


def test_what_keeps_its_promises_passes(tmp_path):
    checked = {}
    for seed in range(SEEDS):
        history, found = verdicts(tmp_path, seed)
        wrong = {verdict.promise: [text for text, _ in verdict.violations] for verdict in found if verdict.violated}
        assert not wrong, f"seed {seed}: {wrong}"
        assert not shortcomings(history, found, 300, {verdict.promise for verdict in found} - SELDOM), f"seed {seed}"
        for verdict in found:
            for what, count in verdict.checked.items():
                checked[verdict.promise, what] = checked.get((verdict.promise, what), 0) + count
    # Nothing is held to be right because it did not occur.
    assert all(checked.values()), checked
    for (promise, what), count in checked.items():
        print(f"{promise}: {count / SEEDS:.1f} {what} a run")


@pytest.mark.parametrize("bug", Bug, ids=lambda bug: bug.name)
def test_a_planted_bug_is_found(tmp_path, bug):
    found = []
    for seed in range(TRIES):
        _, judged = verdicts(tmp_path, seed, bug)
        if any(verdict.violated for verdict in judged if verdict.promise == BREAKS[bug]):
            found.append(seed)
            if "CHECKER_SEEDS" not in os.environ:
                return
    assert found, f"{bug.value}: not found by the promise {BREAKS[bug]} with {TRIES} seeds"
    print(f"{bug.name}: in {len(found)} of {TRIES} runs, first with seed {found[0]}: {bug.value}")


def test_a_seed_is_a_run():
    assert simulate(3) == simulate(3)
    assert simulate(3) != simulate(4)
