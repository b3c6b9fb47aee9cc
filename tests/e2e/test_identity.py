"""An empty disk is a new member, a disk that was copied back is refused."""

import re
import shutil
import time

from harness import Client, LocalCluster, wait_until

TRACE = {"RAFTMQ__LOG__MODULES": "raftmq::rpc=debug"}


def votes(node, member_id):
    """Lines of the node's RPC trace in which a vote comes from the member or goes to it."""
    marks = (f"from={member_id} ", f"from={member_id},", f"to={member_id} ", f"to={member_id},")
    return [line for line in node.log().splitlines() if "vote" in line and any(m in line + " " for m in marks)]


def test_a_deleted_data_directory_returns_as_a_new_member_and_the_old_id_never_votes_again():
    with LocalCluster() as cluster:
        cluster.environment.update(TRACE)
        cluster.start()
        before = cluster.members()
        wiped = next(node for node in cluster.nodes if node is not cluster.leader("meta"))
        old_id = before[wiped.name]["id"]
        wiped.kill()
        shutil.rmtree(wiped.directory / "data")
        wiped.start()
        cluster.wait_ready(40)

        def replaced():
            members = cluster.members()
            return members[wiped.name]["id"] != old_id and len(members) == 3 and members
        after = wait_until("the new member", replaced, 20)
        assert after[wiped.name]["id"] > max(member["id"] for member in before.values())
        wait_until(
            "the new member votes", lambda: cluster.members()[wiped.name]["role"] in ("voter", "leader"), 20
        )

        def forgotten():
            groups = cluster.ctl("groups")["groups"]
            return len(groups) == 18 and not any(old_id in group["voters"] + group["learners"] for group in groups)
        wait_until("no group has it any more", forgotten, 60)

        seen = {node.name: len(votes(node, old_id)) for node in cluster.nodes}
        # Elections happen from now on, and the new id takes part in them.
        for _ in range(2):
            leader = cluster.leader("meta")
            leader.kill()
            leader.start()
            cluster.wait_ready(30)
        new_id = after[wiped.name]["id"]
        assert any(votes(node, new_id) for node in cluster.nodes), "the trace shows votes at all"
        for node in cluster.nodes:
            assert len(votes(node, old_id)) == seen[node.name], f"{node.name}: {votes(node, old_id)[-3:]}"


def test_a_data_directory_copied_back_is_refused(cluster):
    node = next(node for node in cluster.nodes if node is not cluster.leader("meta"))
    node.kill()
    copy = cluster.root / "copy"
    shutil.copytree(node.directory / "data", copy)
    node.start()
    cluster.wait_ready(30)
    with Client(node.mqtt) as client:
        client.subscribe("something/new")
    node.kill()
    shutil.rmtree(node.directory / "data")
    shutil.copytree(copy, node.directory / "data")
    node.start()
    wait_until("the node gives up", lambda: node.process.poll() is not None, 30)
    assert node.process.returncode != 0
    assert re.search(r"copied back|rolled back|older than", node.log()), node.log()[-2000:]
    # Once: in the log, and not by three parts of the node and once more on stderr.
    assert node.log().count("the data directory is stale") == 1, node.log()[-2000:]
    # The others go on without it.
    others = [other for other in cluster.nodes if other is not node]
    with Client(others[0].mqtt) as subscriber, Client(others[1].mqtt) as publisher:
        subscriber.subscribe("goes/on")
        publisher.publish("goes/on", "x")
        wait_until("the others serve", lambda: subscriber.messages, 10)


def test_a_wiped_node_alone_never_makes_a_second_cluster(cluster):
    wiped = cluster.nodes[0]
    for node in cluster.nodes:
        node.kill()
    shutil.rmtree(wiped.directory / "data")
    wiped.start()
    wait_until("it runs", lambda: wiped.control("status")[0] == 200, 15)
    end = time.monotonic() + 5
    while time.monotonic() < end:
        _, status = wiped.control("status")
        assert status["cluster"] is None and not wiped.ready()
        time.sleep(0.5)
    for node in cluster.nodes[1:]:
        node.start()
    cluster.wait_ready(45)
    assert len(cluster.members()) == 3
