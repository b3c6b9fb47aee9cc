"""What the driver makes of what Kubernetes says of pods, and of their logs."""

import asyncio
import json

import pytest

from driver import pod_faults
from driver.pod_logs import Logs
from driver.pods import Pod, documents


def pod(uid="a", restarts=0, ready=True, address="198.18.129.2", code=None, reason="Error"):
    container = {"restartCount": restarts}
    if code is not None:
        container["lastState"] = {"terminated": {"exitCode": code, "reason": reason}}
    return {
        "metadata": {"name": "raftmq-0", "uid": uid}, "spec": {"nodeName": "node-1"},
        "status": {
            "podIP": address, "containerStatuses": [container], "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
        },
    }


@pytest.fixture
def node(tmp_path):
    made = Pod("raftmq-0", Logs([], tmp_path))
    made.see(pod())
    return made


def test_a_pod_is_seen(node):
    assert (node.uid, node.address, node.host, node.is_ready, node.ends) == ("a", "198.18.129.2", "node-1", True, [])


def test_one_that_is_gone_has_no_address(node):
    node.end()
    node.see(pod("b", address="198.18.129.3"))
    # Late news of the older one.
    node.see(pod("a"), deleted=True)
    assert node.address == "198.18.129.3"
    node.see(pod("b"), deleted=True)
    assert node.address is None and not node.is_ready


@pytest.mark.parametrize(("then", "told"), [
    (pod(restarts=1, code=101), "exit code 101, Error"), (pod(restarts=1, code=137), "exit code 137, Error"), (pod("b"), "another pod came for it"),
    (pod(ready=False), None),
])
def test_what_nobody_did_is_told(node, then, told):
    node.see(then)
    node.see(then)
    assert node.ends == ([told] if told else [])


@pytest.mark.parametrize(("then", "told"), [
    (pod(restarts=1, code=137), []), (pod(restarts=1, code=255, reason="Unknown"), []), (pod("b"), []),
    # It is killed, and then something else happens to it.
    (pod(restarts=1, code=101), ["exit code 101, Error"]), (pod(restarts=1, code=137, reason="OOMKilled"), ["exit code 137, OOMKilled"]),
])
def test_what_somebody_did_is_not(node, then, told):
    node.end()
    node.see(then)
    assert node.ends == told


def test_it_is_expected_until_another_life_serves(node):
    node.end()
    # Still the one that is to end.
    node.see(pod())
    node.see(pod(restarts=1, code=137, ready=False))
    # Killed while it starts.
    node.see(pod(restarts=2, code=137, ready=False))
    assert node.ends == []
    node.see(pod(restarts=2, code=137))
    node.see(pod(restarts=3, code=137))
    assert node.ends == ["exit code 137, Error"]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_stream_of_documents(size):
    meant = [{"type": "ADDED", "object": {"a": "}{"}}, {"type": "MODIFIED", "object": {"b": [1, {"c": 2}]}}]
    text = "\n".join(json.dumps(each, indent=1) for each in meant) + "\n"
    found, rest = [], ""
    for at in range(0, len(text), size):
        new, rest = documents(rest + text[at:at + size])
        found += new
    assert (found, rest) == (meant, "")


def test_logs_of_pods_that_go(tmp_path):
    nodes, to = tmp_path / "nodes", tmp_path / "to"
    to.mkdir()

    def file(uid, name):
        directory = nodes / f"faults_raftmq-0_{uid}" / "broker"
        directory.mkdir(parents=True, exist_ok=True)
        return directory / name
    logs = Logs([str(nodes / "faults_*/*/*.log*")], to)
    file("u1", "0.log").write_text("one\n")
    logs.follow()
    with open(file("u1", "0.log"), "a", encoding="utf-8") as more:
        more.write("two\n")
    # It is rotated, goes on, and is deleted.
    file("u1", "0.log").rename(file("u1", "0.log.20261129"))
    file("u1", "0.log").write_text("three\n")
    logs.follow()
    with open(file("u1", "0.log"), "a", encoding="utf-8") as more:
        more.write("four\n")
        file("u1", "0.log").unlink()
        more.write("five\n")
    file("u2", "0.log").write_text("six\n")
    logs.follow()
    said = [line for line in (to / "raftmq-0.log").read_text().splitlines() if not line.startswith("---")]
    assert sorted(said) == sorted(["one", "two", "three", "four", "five", "six"])
    assert logs.tail("raftmq-0", 1) == "six" and logs.tail("raftmq-1") == ""
    logs.close()


def test_what_a_cut_drops():
    assert pod_faults.pods_of("node-3") == "198.18.131.0/24"

    class Breaker(pod_faults.Breaker):
        async def _run(self, *command, stdin=None, **_):
            commands.append((command, stdin))

    def node(number):
        made = Pod(f"raftmq-{number}", None)
        made.see(pod())
        made.host = f"node-{number + 1}"
        return made
    for kind, rules in (
        ("isolate", ["saddr 198.18.129.0/24 ip daddr { 198.18.130.0/24, 198.18.131.0/24 }", "saddr { 198.18.130.0/24, 198.18.131.0/24 } ip daddr 198.18.129.0/24"]),
        ("one_way", ["saddr 198.18.130.0/24 ip daddr 198.18.129.0/24"]),
    ):
        commands = []
        breaker = Breaker(None, None)
        asyncio.run(getattr(breaker, f"_{kind}")({"seconds": 0}, [node(0), node(1), node(2)]))
        (cut, made), (healed, nothing) = commands
        assert cut == healed == ("labctl", "on", "node-1", "nft", "-f", "-") and breaker.touched == {"node-1"}
        assert [line.strip() for line in made.splitlines() if " drop" in line] == [f"ip {rule} drop" for rule in rules]
        # What was there before goes in each case.
        assert "drop" not in nothing and all("delete table inet" in text for text in (made, nothing))
