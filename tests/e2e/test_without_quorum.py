"""One of three nodes is left: what it says of itself."""

import pytest
from harness import LocalCluster, metric_sum, wait_until


@pytest.fixture
def cluster():
    with LocalCluster(config={"shards": {"count": 4}}) as cluster:
        yield cluster.start()


def test_the_last_node_says_that_nothing_is_safe_and_that_nobody_leads(cluster):
    last = cluster.leader()
    assert metric_sum(last.metrics(), "raftmq_raft_leader", group="meta") > 0
    for node in cluster.nodes:
        if node is not last:
            node.kill()
    wait_until("it has no lease", lambda: metric_sum(last.metrics(), "raftmq_lease_held") == 0, 15)
    samples = last.metrics()
    # It may go on to lead by its own lights: nobody follows.
    for name in ("raftmq_raft_leader", "raftmq_raft_is_leader"):
        assert any(sample.startswith(name) for sample in samples) and metric_sum(samples, name) == 0, samples
    done = cluster.ctl("loss", last.name, check=False, as_json=False)
    assert done.returncode != 0 and "nothing would be lost" not in done.stdout, done.stdout
    assert "quorum" in done.stderr, done.stderr
    for node in cluster.nodes:
        if node is not last:
            node.start()
    cluster.wait_ready()
    assert "nothing would be lost" in cluster.ctl("loss", last.name, as_json=False)
