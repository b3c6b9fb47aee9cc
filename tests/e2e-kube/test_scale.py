"""More nodes and fewer, by `kubectl scale`."""

from kube import Steady, get, kubectl, needs_lab, stopwatch, wait_until


def active(cluster):
    return {name for name, member in cluster.members().items() if member["state"] == "active"}


def test_three_to_five_and_back(cluster):
    with Steady(cluster, 0, 1) as steady:
        seconds = stopwatch()
        cluster.scale(5)

        def five():
            steady.tick()
            return cluster.settled(5)
        wait_until("five nodes", five, 120, 0.3)
        print(f"3 to 5: {seconds():.1f} s")
        assert all(m["role"] in ("leader", "voter") for m in cluster.status()["members"])
        assert cluster.try_message(4, 0)
        scale = get("mqttclusters", cluster.name, cluster.namespace)["status"]
        assert scale["replicas"] == 5

        seconds = stopwatch()
        cluster.scale(3)

        def three():
            steady.tick()
            # First a member leaves, then its pod goes.
            pods = cluster.pods()
            going = {cluster.pod_name(i) for i in (3, 4)}
            gone = {name for name in going if name not in pods or "deletionTimestamp" in pods[name]["metadata"]}
            assert not gone & active(cluster), f"pods of members went: {gone}"
            return cluster.settled(3)
        wait_until("three nodes", three, 180, 0.3)
        print(f"5 to 3: {seconds():.1f} s")
        steady.check()
    assert set(cluster.members()) == {cluster.pod_name(i) for i in range(3)}
    # The volumes of those that left stay, and are marked.
    for ordinal in (3, 4):
        claim = get("persistentvolumeclaims", f"data-{cluster.name}-{ordinal}", cluster.namespace)
        assert claim["metadata"]["annotations"]["raftmq.io/left"] == "true"


@needs_lab("keeps a pod from being scheduled by closing all nodes")
def test_refused_while_it_would_lose_the_quorum_and_done_when_it_would_not(cluster):
    nodes = [node["metadata"]["name"] for node in get("nodes")]
    kubectl("cordon", *nodes)
    try:
        kubectl("delete", "pod", cluster.pod_name(1), "-n", cluster.namespace)
        wait_until("it is down", lambda: not cluster.members()[cluster.pod_name(1)]["up"], 60, 0.5)
        cluster.scale(2)

        def refused():
            status, reason, message = cluster.condition("Degraded")
            return status == "True" and f"{cluster.pod_name(2)} cannot leave now" in message and f"{cluster.pod_name(1)}" in message
        wait_until("the condition says why not", refused, 100, 0.5)
        print(cluster.condition("Degraded")[2])
        assert cluster.pod_name(2) in active(cluster) and cluster.pod(2)
        assert cluster.try_message(0, 2)
    finally:
        kubectl("uncordon", *nodes)
    cluster.wait_settled(2)
    assert cluster.condition("Warning")[1] == "TwoNodes"
    cluster.scale(3)
    cluster.wait_settled(3)


@needs_lab("its volumes can grow")
def test_volumes_grow_while_they_are_used(cluster):
    pods = {name: pod["metadata"]["uid"] for name, pod in cluster.pods().items()}
    cluster.apply(storage={"size": "2Gi"})

    def grown():
        claims = get("persistentvolumeclaims", namespace=cluster.namespace, selector=cluster.selector)
        used = [c for c in claims if "raftmq.io/left" not in c["metadata"].get("annotations", {})]
        return [c["status"]["capacity"]["storage"] for c in used] == ["2Gi"] * 3
    wait_until("three larger volumes", grown, 60, 0.5)
    cluster.wait_settled()
    assert {name: pod["metadata"]["uid"] for name, pod in cluster.pods().items()} == pods
