"""A node of Kubernetes is cut off for a minute, and heals."""

import time

from kube import get, is_ready, needs_lab, partitioned, stopwatch, wait_until


@needs_lab("cuts a node off")
def test_a_node_is_cut_off_for_a_minute(cluster):
    leader = cluster.leader()
    one, other = sorted(set(cluster.pods()) - {leader})
    ids = {name: member["id"] for name, member in cluster.members().items()}
    before = cluster.pods()
    node = before[leader]["spec"]["nodeName"]
    assert node not in (before[one]["spec"]["nodeName"], before[other]["spec"]["nodeName"])
    seconds = stopwatch()
    with partitioned(node):
        wait_until("the others serve", lambda: cluster.try_message(one, other), 20, 0)
        print(f"{node} cut off with the leader: the others serve after {seconds():.1f} s")
        wait_until("Kubernetes takes the pod for lost", lambda: not is_ready(cluster.pod(leader)), 60, 0.5)
        slices = get("endpointslices", namespace=cluster.namespace, selector=f"kubernetes.io/service-name={cluster.name}")
        ready = {e["targetRef"]["name"] for s in slices for e in s["endpoints"] if e["conditions"]["ready"]}
        assert ready == {one, other}
        while seconds() < 60:
            assert cluster.try_message(other, one)
            time.sleep(1)
    healed = stopwatch()
    cluster.wait_settled(deadline=120)
    print(f"healed: settled after {healed():.1f} s")
    # Nobody was restarted, nobody was replaced.
    after = cluster.pods()
    for name, pod in before.items():
        assert after[name]["metadata"]["uid"] == pod["metadata"]["uid"]
        counts = [p["status"]["containerStatuses"][0]["restartCount"] for p in (pod, after[name])]
        assert counts[0] == counts[1], name
    assert {name: member["id"] for name, member in cluster.members().items()} == ids
    for pair in ((leader, one), (other, leader), (one, other)):
        assert cluster.try_message(*pair), pair
