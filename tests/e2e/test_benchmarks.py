"""The recipes of tests/bench, with RaftMQ alone: that they measure, go on where they ended, and leave nothing behind."""

import json
import os
import pathlib
import signal
import subprocess

import pytest
from harness import BINARY, REPO, wait_until

RUN = [str(REPO / "tests" / "bench" / "run")]
CPUS = sorted(os.sched_getaffinity(0))
ON = ["--broker-cpus", str(CPUS[0]), "--client-cpus", str(CPUS[-1])]


def run(*arguments, **environment):
    return subprocess.run(
        [*RUN, *ON, *arguments], capture_output=True, text=True, timeout=240, env={**os.environ, "RAFTMQ_BIN": BINARY, **environment}
    )


def test_a_run_measures_and_is_not_done_twice(tmp_path):
    out = tmp_path / "raw.jsonl"
    arguments = ["--smoke", "--out", str(out), "--brokers", "raftmq", "--works", "pairs-qos0,connects"]
    done = run(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    environment, pairs, connects = (json.loads(line) for line in out.read_text().splitlines())
    assert environment["environment"]["versions"]["raftmq"].startswith("raftmq ")
    report = pairs["reports"][0]
    assert report["messages"]["lost"] == 0 and report["messages"]["delivered"] >= 40_000
    assert report["watched"][0]["cpu_seconds_per_million"] > 0
    assert connects["reports"][0]["connections"]["connected"] == 10_000
    cpu = report["watched"][0]["cpu_seconds_per_million"]
    row = next(line for line in done.stdout.splitlines() if line.startswith("| 200 pairs QoS 0, 20,000/s |"))
    assert abs(float(row.split("|")[5]) - cpu) <= 0.05 + cpu / 100, row

    again = run(*arguments)
    assert again.returncode == 0 and "0 measurements" in again.stdout, again.stdout + again.stderr
    assert len(out.read_text().splitlines()) == 3

    other = json.loads(out.read_text().splitlines()[0])
    other["environment"]["binary"] = "another"
    out.write_text("\n".join([json.dumps(other), *out.read_text().splitlines()[1:]]) + "\n")
    refused = run(*arguments)
    assert refused.returncode == 1 and "results of another raftmq" in refused.stderr


def test_a_broker_that_does_not_start_is_said(tmp_path):
    out = tmp_path / "raw.jsonl"
    done = run("--smoke", "--out", str(out), "--brokers", "forwarder", "--works", "pairs-qos0", RAFTMQ_FORWARDER_BIN="/bin/false")
    assert done.returncode == 1 and "forwarder does not start (status 1)" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_running(tmp_path, how):
    arguments = ["--out", str(tmp_path / "raw.jsonl"), "--brokers", "raftmq", "--works", "pairs-qos0", "--duration", "60"]
    with subprocess.Popen(
        [*RUN, *ON, *arguments], env={**os.environ, "RAFTMQ_BIN": BINARY, "TMPDIR": str(tmp_path)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            # Broker and clients.
            wait_until("both run", lambda: len(programs(process.pid)) == 2, 60)
            started = programs(process.pid)
        finally:
            process.send_signal(how)
    wait_until("both are gone", lambda: not [pid for pid in started if alive(pid)], 15)


def programs(parent):
    children = pathlib.Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [pid for pid in children if pathlib.Path(f"/proc/{pid}/comm").read_text().strip() == "raftmq"]


def alive(pid):
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
