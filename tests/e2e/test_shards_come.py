"""A cluster that gets shards while it runs: its nodes learn of them one after the other, as in an upgrade, and it serves all the time."""

from harness import LocalCluster, metric_sum, wait_until
from test_durable import Client


def test_sessions_move_into_shards_when_all_nodes_know_them():
    with LocalCluster(config={"shards": {"count": 0}}) as cluster:
        cluster.start()
        first, second, last = cluster.nodes
        cluster.environment["RAFTMQ__CLUSTER__SHARDS__COUNT"] = "4"
        for node in (first, second):
            node.kill()
            node.start()
            cluster.wait_ready()
        # Not all know them: it serves as before, on new nodes and on the old one, and nothing is formed.
        clients = [Client(node, f"early-{node.name}", expiry=600) for node in (first, last)]
        for client in clients:
            client.connected()
            client.subscribe("before/#", 1)
        clients[0].publish("before/1", ["x"])
        assert [client.payloads(1) for client in clients] == [["x"], ["x"]]
        assert metric_sum(first.metrics(), "raftmq_shards") == 0
        last.kill()
        last.start()
        # Now all do: what was one node's alone ends, whoever had it is told, and comes back to a session in a shard.
        clients[0].wait("it is told", lambda: clients[0].of("disconnect"), 30)
        assert clients[0].of("disconnect")[0][1] == "Server shutting down"
        cluster.wait_ready()
        assert [metric_sum(node.metrics(), "raftmq_shards", state="formed") for node in cluster.nodes] == [4, 4, 4]
        wait_until("it is back", lambda: len(clients[0].of("connect")) > 1, 20)
        assert clients[0].of("connect")[-1][1] == "Success"
        assert "sessions are in shards from now on" in first.log()
        for client in clients:
            client.close()
        # One connection of a client in the cluster, and a session on every node.
        here = Client(first, "late", expiry=600)
        here.connected()
        here.subscribe("after/#", 1)
        there = Client(second, "late", expiry=600)
        assert there.connected(), "the session of the other node"
        here.wait("taken over", lambda: here.of("disconnect"))
        there.publish("after/1", ["y"])
        assert there.payloads(1) == ["y"]
        there.close()
        here.close()
