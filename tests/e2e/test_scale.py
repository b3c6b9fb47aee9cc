"""Five nodes, then three."""

from harness import Client, LocalCluster, wait_until


def roles(cluster):
    return sorted(member["role"] for member in cluster.members().values())


def replicas(cluster, node):
    return cluster.ctl("groups", "--node", node.name)["groups"]


def test_three_nodes_become_five_and_three_again():
    with LocalCluster(3) as cluster:
        cluster.start()
        assert cluster.interrupt() == 0
        cluster.write(5)
        cluster.start()
        assert len(cluster.nodes) == 5
        wait_until("five voters", lambda: roles(cluster) == ["leader"] + ["voter"] * 4, 30)

        first, last = cluster.nodes[0], cluster.nodes[4]
        with Client(first.mqtt) as subscriber, Client(last.mqtt) as publisher:
            subscriber.subscribe("five")
            publisher.publish("five", "x")
            wait_until("across five", lambda: subscriber.messages, 10)
        # In all shards, on whatever nodes those are.
        kept = [f"kept-{number}" for number in range(60)]
        for client_id in kept:
            with Client(first.mqtt, client_id=client_id, clean=False) as client:
                client.subscribe(f"{client_id}/#")
        with Client(last.mqtt) as publisher:
            for client_id in kept:
                publisher.publish(f"{client_id}/1", "x")
        # Those that leave have replicas.
        wait_until("shards are on all nodes", lambda: len(replicas(cluster, last)) > 2, 60)

        assert cluster.interrupt() == 0
        cluster.write(3)
        # The two that are too many start once more, leave, and are put aside.
        cluster.start(ready=False)
        wait_until("three nodes are left", lambda: cluster._read_nodes() and len(cluster.nodes) == 3, 90)
        cluster.wait_ready()
        assert len(list((cluster.data / "nodes").glob("*.left-1"))) == 2
        wait_until("three voters", lambda: roles(cluster) == ["leader", "voter", "voter"], 40)
        assert [node.name for node in cluster.nodes] == ["test-0", "test-1", "test-2"]
        ids = sorted(member["id"] for member in cluster.members().values())
        for node in cluster.nodes:
            groups = replicas(cluster, node)
            assert len(groups) == 18 and all(group["voters"] == ids and not group["learners"] for group in groups), groups
        for number, client_id in enumerate(kept):
            with Client(cluster.nodes[number % 3].mqtt, client_id=client_id, clean=False) as client:
                wait_until("what was kept", lambda client=client, topic=f"{client_id}/1": client.received(topic, "x"), 15)
        with Client(cluster.nodes[0].mqtt) as subscriber, Client(cluster.nodes[2].mqtt) as publisher:
            subscriber.subscribe("three")
            publisher.publish("three", "x")
            wait_until("across three", lambda: subscriber.messages, 10)


def test_the_sixth_node_follows_without_a_vote_and_serves():
    with LocalCluster(6) as cluster:
        cluster.start()
        wait_until("five voters and a learner", lambda: roles(cluster) == ["leader", "learner"] + ["voter"] * 4, 30)
        learner = next(name for name, member in cluster.members().items() if member["role"] == "learner")
        other = next(node for node in cluster.nodes if node.name != learner)
        with Client(cluster.node(learner).mqtt) as subscriber, Client(other.mqtt) as publisher:
            subscriber.subscribe("sixth")
            publisher.publish("sixth", "x")
            wait_until("across six", lambda: subscriber.messages, 10)


def something_is_kept(node):
    """A durable session, a retained and a delayed message."""
    with Client(node.mqtt, client_id="stays", clean=False) as client:
        client.subscribe("stays/#")
        client.paho.publish("kept", "x", qos=1, retain=True).wait_for_publish(10)
        assert node.control("status")[1]["clients"] == 1
    with Client(node.mqtt) as publisher:
        publisher.publish("$delayed/3600/later", "x")
    wait_until("nobody is connected", lambda: node.control("status")[1]["clients"] == 0, 10)


def test_what_a_node_has_in_its_memory_alone_is_named(cluster_without_shards):
    """It is lost with the node, whatever the quorums; the control API's answer is about quorums alone."""
    cluster, node = cluster_without_shards, cluster_without_shards.nodes[1]
    assert "nothing would be lost" in cluster.ctl("loss", node.name, as_json=False)
    something_is_kept(node)
    loss = cluster.ctl("loss", node.name)
    assert not loss["nothing"] and not any(group["losesQuorum"] for group in loss["groups"]), loss
    memory = {"sessions": 1, "queuedMessages": None, "retainedMessages": 1, "delayedMessages": 1, "waitingWills": 0}
    assert loss["memory"] == memory, loss
    assert node.control(f"loss?node={node.name}")[1]["nothing"]
    text = cluster.ctl("loss", str(loss["node"]), as_json=False)
    assert "every group keeps its quorum" in text and "1 session with queued messages" in text, text
    node.pause()
    try:
        unknown = cluster.ctl("loss", node.name, as_json=False)
    finally:
        node.resume()
    assert f"what {node.name} keeps in its memory is not known" in unknown, unknown
    assert "nothing would be lost" not in unknown, unknown
    wait_until("it is ready again", node.ready, 20)


def test_leave_by_hand_and_the_loss_check(cluster):
    leaving = next(node for node in cluster.nodes if node is not cluster.leader("meta"))
    status, loss = cluster.nodes[0].control(f"loss?node={leaving.name}")
    assert status == 200 and loss["nothing"], loss
    assert not any(group["losesQuorum"] for group in loss["groups"]), loss
    # In shards it is on all nodes.
    something_is_kept(leaving)
    loss = cluster.ctl("loss", leaving.name)
    assert loss["nothing"] and not any(loss["memory"].values()), loss
    cluster.ctl("leave", leaving.name, as_json=False)
    wait_until("two members", lambda: len(cluster.members()) == 2, 20)
    # Two members: one votes, the other would be a second half.
    remaining = [node for node in cluster.nodes if node is not leaving]
    wait_until("the rest is ready", lambda: all(node.ready() for node in remaining), 15)
    voter = next(name for name, member in cluster.members().items() if member["role"] == "leader")
    _, loss = next(node for node in remaining if node.name == voter).control(f"loss?node={voter}")
    assert not loss["nothing"] and all(group["losesQuorum"] for group in loss["groups"]), loss
    refused = cluster.ctl("leave", voter, check=False)
    assert refused.returncode == 1 and "quorum" in refused.stderr, refused.stderr
    assert len(cluster.members()) == 2


def test_leadership_of_a_shard_is_transferred(cluster):
    shards = lambda: {g["name"]: g for g in cluster.ctl("groups")["groups"] if g["name"].startswith("shard ")}  # noqa: E731
    wait_until("all have leaders", lambda: len(shards()) == 16 and all(shard["leader"] for shard in shards().values()), 30)
    before = shards()["shard 5"]
    target = next(name for name, member in cluster.members().items() if member["id"] not in (before["leader"], None))
    cluster.ctl("transfer", "shard 5", target, as_json=False)
    wait_until("another term", lambda: shards()["shard 5"]["term"] > before["term"], 10)
    for wrong in ("shard 16", "shard x", "elsewhere"):
        bad = cluster.ctl("transfer", wrong, target, check=False)
        assert bad.returncode == 1 and "`shard 0` to `shard 15`" in bad.stderr, bad.stderr


def test_leadership_is_transferred(cluster):
    leader = cluster.leader("meta")
    target = next(node for node in cluster.nodes if node is not leader)
    cluster.ctl("transfer", "meta", target.name, as_json=False)
    wait_until("the new leader", lambda: cluster.leader("meta") is target, 10)
    bad = cluster.ctl("transfer", "meta", "nobody", check=False)
    assert bad.returncode != 0 and "nobody" in bad.stderr


def test_two_nodes_have_the_same_voter_in_every_group(cluster):
    """Whoever led what when the third one left."""
    meta = cluster.leader("meta")
    other, leaving = [node for node in cluster.nodes if node is not meta]
    cluster.ctl("transfer", "routes", other.name, as_json=False)
    wait_until("different leaders", lambda: cluster.leader("routes") is other, 10)
    cluster.ctl("leave", leaving.name, as_json=False)

    def same():
        voters = {tuple(group["voters"]) for group in cluster.ctl("groups")["groups"] if group["name"] in ("meta", "routes")}
        return len(cluster.members()) == 2 and len(voters) == 1 and len(voters.pop()) == 1
    wait_until("one voter for all groups", same, 30, 0.5)
    wait_until("both serve", lambda: meta.ready() and other.ready(), 20)
