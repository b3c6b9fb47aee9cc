"""Logs stay short: snapshots are made, logs purged, and a node without the log gets the snapshot."""

import shutil

from harness import LocalCluster, metric_sum, wait_until
from wire import Wire

FILTERS = 6_000


def test_snapshots_purge_the_logs_and_bring_an_empty_node_up_to_date():
    with LocalCluster(config={"raft": {"snapshotBytes": "64KiB"}}) as cluster:
        cluster.start()
        first = cluster.nodes[0]
        subscriber = Wire(first.mqtt, "many-filters", timeout=60)
        # Wildcards: their text is in the log.
        for number in range(FILTERS):
            subscriber.subscribe_later(f"a/rather/long/filter/of/number/{number}/+/#")
        subscriber.subscribed(FILTERS)

        def compacted(node):
            samples = node.metrics()
            return metric_sum(samples, "raftmq_raft_snapshot_index", group="routes") > 0 and metric_sum(
                samples, "raftmq_raft_purged_index", group="routes"
            ) > 0
        for node in cluster.nodes:
            wait_until(f"snapshot and purge on {node.name}", lambda node=node: compacted(node), 30)

        wiped = next(n for n in cluster.nodes if n is not first and n is not cluster.leader("routes"))
        wiped.kill()
        shutil.rmtree(wiped.directory / "data")
        wiped.start()
        cluster.wait_ready(40)

        def routes():
            return [metric_sum(n.metrics(), "raftmq_routes", filter="wildcard") for n in cluster.nodes]
        wait_until("all nodes know all filters", lambda: routes() == [FILTERS] * 3, 20)
        with_publisher = Wire(wiped.mqtt, "publisher")
        with_publisher.publish("a/rather/long/filter/of/number/77/x/y", b"found")
        assert subscriber.message() == ("a/rather/long/filter/of/number/77/x/y", b"found")
        with_publisher.close()
        subscriber.close()
