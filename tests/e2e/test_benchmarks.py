"""The recipes of tests/bench, with RaftMQ alone: that they measure, go on where they ended, and leave nothing behind."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

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


def test_a_cluster_is_measured_node_by_node(tmp_path):
    out = tmp_path / "raw.jsonl"
    done = run("--smoke", "--out", str(out), "--works", "link-fanout-qos0,link-idle")
    assert done.returncode == 0, done.stdout + done.stderr
    _, across, one, idle = (json.loads(line) for line in out.read_text().splitlines())
    assert (across["broker"], one["broker"], idle["broker"]) == ("raftmq-across", "raftmq-one", "raftmq-across")
    for record, busy in ((across, 1), (one, 0)):
        report = record["reports"][0]
        assert report["ok"] and report["messages"]["delivered"] == 500 * report["messages"]["sent"] > 0
        # Who has the 500 subscribers has the work.
        cpu = [watched["cpu_seconds"] for watched in report["watched"]]
        assert len(cpu) == 3 and cpu[busy] == max(cpu) > 0, cpu
    # A message goes over the link once, however many subscribers there are; or not at all.
    assert across["reports"][0]["link"]["frames"] == across["reports"][0]["messages"]["sent"]
    assert one["reports"][0]["link"]["frames"] == 0
    assert all(watched["cpu_seconds"] is not None for watched in idle["reports"][0]["watched"])
    for row in ("| 1 → 500 QoS 0, 50,000/s |", "| the node that leads |"):
        assert row in done.stdout, done.stdout


@pytest.mark.parametrize("broker, work, count", [("raftmq", "pairs-qos0", 2), ("raftmq-across", "link-pairs-qos0", 5)])
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_running(tmp_path, how, broker, work, count):
    arguments = ["--out", str(tmp_path / "raw.jsonl"), "--brokers", broker, "--works", work, "--duration", "60"]
    with subprocess.Popen(
        [*RUN, *ON, *arguments], env={**os.environ, "RAFTMQ_BIN": BINARY, "TMPDIR": str(tmp_path)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            # Broker and clients; or `up`, three brokers and clients.
            wait_until("all run", lambda: len(found := programs(process.pid)) == count and any(map(is_bench, found)), 60)
            started = programs(process.pid)
        finally:
            process.send_signal(how)
    wait_until("all are gone", lambda: not [pid for pid in started if alive(pid)], 15)


def programs(parent):
    """Processes of raftmq below this one, at any depth."""
    parents = {}
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            parents[entry.name] = (entry / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
    below, found = {str(parent)}, {str(parent)}
    while found:
        found = {pid for pid, its in parents.items() if its in found} - below
        below |= found
    return [pid for pid in below if name(pid) == "raftmq"]


def name(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return None


def is_bench(pid):
    try:
        return b"\0bench\0" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def alive(pid):
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


DURABLE = str(REPO / "tests" / "bench" / "durable")


def durable(*arguments):
    return subprocess.run([DURABLE, *arguments], capture_output=True, text=True, timeout=300, env={**os.environ, "RAFTMQ_BIN": BINARY})


def test_a_cluster_that_keeps_what_it_acknowledges_is_measured_and_killed(tmp_path):
    out = tmp_path / "raw.jsonl"
    arguments = ["--quick", "--out", str(out), "--brokers", "raftmq", "--works", "durable-qos1,queued,loss-all,barrier"]
    done = durable(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    _, rate, queued, loss, barrier = (json.loads(line) for line in out.read_text().splitlines())
    assert rate["result"]["ok"] and rate["result"]["lost"] == 0
    # Kept: the payload is in the log of each node.
    assert min(rate["result"]["log_bytes_per_message"]) >= 256 and min(rate["result"]["fsyncs_per_thousand"]) > 0
    assert queued["result"]["delivered"] == queued["result"]["messages"]
    assert loss["result"]["accepted"] > 100 and loss["result"]["missing"] == 0
    assert barrier["result"]["delivered"] == barrier["result"]["subscriptions"]
    assert "| 64 pairs QoS 1, window 64 | RaftMQ, 3 nodes |" in done.stdout

    again = durable(*arguments)
    assert again.returncode == 0 and len(out.read_text().splitlines()) == 5, again.stdout + again.stderr


def test_what_a_broker_lost_is_counted(tmp_path):
    """By a broker that acknowledges and keeps nothing: the recipe of losses is believed only if it finds that."""
    out = tmp_path / "raw.jsonl"
    if not shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin"):
        pytest.skip("Debian's mosquitto is not installed")
    done = durable("--quick", "--out", str(out), "--brokers", "mosquitto", "--works", "loss-all")
    assert done.returncode == 0, done.stdout + done.stderr
    _, loss = (json.loads(line) for line in out.read_text().splitlines())
    # All of them, where it was killed before it had written its file once.
    assert loss["result"]["accepted"] >= loss["result"]["missing"] > 0


def failure(name, tmp_path):
    """The figures of a failure of 8 s, and what the recipe prints."""
    if os.geteuid():
        pytest.skip("network namespaces need root")
    out = tmp_path / "figures.json"
    command = [str(REPO / "tests" / "bench" / "failures"), "--quick", "--only", name, "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env={**os.environ, "RAFTMQ_BIN": BINARY})
    assert done.returncode == 0, done.stdout + done.stderr
    figures, = json.loads(out.read_text())[name]
    return figures, done.stdout


def test_a_failure_has_its_figures(tmp_path):
    figures, printed = failure("dies", tmp_path)
    assert 0 < figures["elsewhere"] < 30 and figures["ready"] is not None and figures["acknowledges"] is not None
    assert "| the node that leads meta is killed |" in printed


def test_two_nodes_that_do_not_reach_each_other_go_on_by_way_of_the_third(tmp_path):
    figures, _ = failure("partial", tmp_path)
    # It lasts for 8 s, and so would they without a way.
    assert max(figures["elsewhere"], figures["takeover"], figures["suback"]) < 6, figures
    assert (figures["closed"], figures["down"]) == (None, None), figures


def test_the_longest_time_without_an_acknowledgement():
    script = """
from three.watch import gaps
class Found:
    acknowledged = [[1.0, 1.5, 9.0, 9.5], [], [0.5, 3.0, 3.5]]
print(gaps(Found, 2.0, 10.0))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=REPO / "tests" / "bench", capture_output=True, text=True, timeout=20)
    # What began before the fault counts from there, what did not end counts to the end; who never had one, all of it.
    assert done.stdout.strip() == "[7.5, 8.0, 6.5]", done.stdout + done.stderr
