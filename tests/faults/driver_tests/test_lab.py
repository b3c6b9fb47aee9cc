"""Whatever happens to a run on pods, its lab goes away. The lab is a script here that writes down what it is asked for."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

FAULTS = pathlib.Path(__file__).resolve().parents[1]
LAB = """#!/bin/sh
echo "$*" >>"$CALLS"
case $1 in
up) mkdir "$RAFTMQ_LAB_STATE"; exit ${FAILS:-0} ;;
exec) exec sh -c "$DOES" ;;
down) sleep 0.3; rmdir "$RAFTMQ_LAB_STATE" && echo gone >>"$CALLS" ;;
esac
"""
RUN = "import sys; from driver import lab; lab.LAB = sys.argv.pop(1); sys.exit(lab._with_lab(['one.tar', 'two.tar'], 3))"


class Outside:
    """The program that was called."""

    def __init__(self, directory, does, fails=0):
        self.directory, self.calls = directory, directory / "calls"
        script = directory / "lab"
        script.write_text(LAB)
        script.chmod(0o755)
        environment = {
            **os.environ, "CALLS": str(self.calls), "DOES": does, "FAILS": str(fails), "TMPDIR": str(directory), "PYTHONPATH": str(FAULTS), "HERE": str(directory),
        }
        # As in a terminal: who runs the tests in the background may ignore it, and what they start would, too.
        told = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
        command = [sys.executable, "-c", RUN, script, "--pods"]
        self.process = subprocess.Popen(command, env=environment, cwd=directory, start_new_session=True, preexec_fn=told)

    def said(self):
        return self.calls.read_text().splitlines() if self.calls.exists() else []

    def wait_for(self, what):
        end = time.monotonic() + 10
        while not any(line.startswith(what) for line in self.said()):
            assert time.monotonic() < end, (what, self.said())
            time.sleep(0.02)

    def left(self):
        return [path.name for path in self.directory.iterdir() if path.name.startswith("raftmq-faults-lab")]


@pytest.mark.parametrize("code", [0, 1, 3])
def test_the_exit_code_is_that_of_the_run(tmp_path, code):
    outside = Outside(tmp_path, f"exit {code}")
    assert outside.process.wait(20) == code
    up, first, second, inside, down, gone = outside.said()
    assert (up, first, second, down, gone) == ("up --nodes 3", "load-image one.tar", "load-image two.tar", "down", "gone")
    assert inside == f"exec {sys.executable} -c --pods" and outside.left() == []


def test_a_lab_that_does_not_come_up_is_taken_down(tmp_path):
    outside = Outside(tmp_path, "exit 0", fails=1)
    assert outside.process.wait(20) == 4
    assert outside.said() == ["up --nodes 3", "down", "gone"] and outside.left() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("all_of_them", [True, False], ids=["group", "alone"])
def test_the_run_is_told_of_signals_and_ends_itself(tmp_path, number, all_of_them):
    outside = Outside(tmp_path, f'trap "echo told >>$CALLS; sleep 0.5; exit 4" {number.name[3:]}; echo inside >>$CALLS; while :; do sleep 0.05; done')
    outside.wait_for("inside")
    (os.killpg if all_of_them else os.kill)(outside.process.pid, number)
    assert outside.process.wait(20) == 4
    assert outside.said()[-2:] == ["down", "gone"] and "told" in outside.said() and outside.left() == []


def test_killed_it_takes_its_lab_with_it(tmp_path):
    outside = Outside(tmp_path, "echo inside >>$CALLS; exec sleep 20")
    outside.wait_for("inside")
    outside.process.kill()
    outside.process.wait(20)
    outside.wait_for("gone")
    end = time.monotonic() + 10
    while outside.left():
        assert time.monotonic() < end
        time.sleep(0.02)
