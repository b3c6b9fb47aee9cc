"""Two of three nodes do not reach each other but by way of the third: who runs them is told, and is kept from stopping that one."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from harness import BINARY

PARTED = pathlib.Path(__file__).with_name("parted.py")
PEERS, CONNECTIONS = 'raftmq_link_peers{state="relayed"}', "raftmq_link_relayed_connections"


@pytest.fixture(scope="module")
def seen():
    if os.geteuid():
        pytest.skip("network namespaces need root")
    done = subprocess.run([sys.executable, str(PARTED)], capture_output=True, text=True, timeout=300, env={**os.environ, "RAFTMQ_BIN": BINARY})
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_who_connects_others_is_not_to_be_stopped(seen):
    one, other, third = seen["names"]
    parted = seen["parted"]
    assert not parted[third]["nothing"], parted[third]
    assert any("connected by it" in reason for reason in parted[third]["reasons"]), parted[third]
    assert "would be cut off from each other" in parted[third]["loss"], parted[third]
    # The others may.
    for name in (one, other):
        assert parted[name]["nothing"], parted[name]


def test_each_says_by_whom_it_reaches_the_other(seen):
    one, other, third = seen["names"]
    for name, peer in ((one, other), (other, one)):
        said = seen["parted"][name]
        assert said["relayed"] == [{"node": peer, "by": third}], said
        assert f"{peer}, but by way of {third}" in said["status"], said
        assert (said["gauges"][PEERS], said["gauges"][CONNECTIONS]) == (1, 0), said
    between = seen["parted"][third]
    assert between["relayed"] == [] and "by way of" not in between["status"], between
    assert between["gauges"][PEERS] == 0 < between["gauges"][CONNECTIONS], between


def test_before_and_after_there_is_nothing_to_say(seen):
    for when in ("before", "healed"):
        for name, said in seen[when].items():
            assert said["nothing"] and not said["relayed"], (when, name, said)
            assert set(said["gauges"].values()) == {0} and len(said["gauges"]) == 2, (when, name, said)
