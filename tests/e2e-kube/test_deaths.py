"""Pods and volumes that go away."""

import time

from kube import get, is_ready, kubectl, stopwatch, wait_until


def identities(cluster):
    return {name: member["id"] for name, member in cluster.members().items()}


def uids(cluster):
    return {name: pod["metadata"]["uid"] for name, pod in cluster.pods().items()}


def longest_gap(cluster, one, other, until, deadline=90):
    """Clients connect, subscribe on one pod and publish on the other, again and again; the longest time between two that came through."""
    last, longest, end = time.monotonic(), 0.0, time.monotonic() + deadline
    while True:
        came = cluster.try_message(one, other)
        now = time.monotonic()
        longest = max(longest, now - last)
        if came:
            last = now
            if until():
                return longest
        assert now < end, f"not within {deadline} s: {until}; longest gap {longest:.1f} s"


def test_the_leaders_pod_is_deleted(cluster):
    leader = cluster.leader()
    one, other = sorted(set(cluster.pods()) - {leader})
    uid, ids = cluster.pod(leader)["metadata"]["uid"], identities(cluster)
    claim = get("persistentvolumeclaims", f"data-{leader}", cluster.namespace)["metadata"]["uid"]

    def back():
        pod = cluster.pod(leader)
        return pod and pod["metadata"]["uid"] != uid and is_ready(pod)
    cluster.delete_pod(leader)
    gap = longest_gap(cluster, one, other, back)
    print(f"leader {leader} deleted: served again after at most {gap:.1f} s")
    assert gap < 5
    cluster.wait_settled()
    # It is the same node, with its data.
    assert identities(cluster) == ids
    assert get("persistentvolumeclaims", f"data-{leader}", cluster.namespace)["metadata"]["uid"] == claim
    assert cluster.try_message(leader, one)


def test_the_leaders_pod_is_killed(cluster):
    leader = cluster.leader()
    one, other = sorted(set(cluster.pods()) - {leader})
    uid, ids = cluster.pod(leader)["metadata"]["uid"], identities(cluster)

    def back():
        pod = cluster.pod(leader)
        return pod and pod["metadata"]["uid"] != uid and is_ready(pod)
    cluster.delete_pod(leader, "--grace-period=0", "--force")
    gap = longest_gap(cluster, one, other, back)
    print(f"leader {leader} killed: served again after at most {gap:.1f} s")
    assert gap < 5
    cluster.wait_settled()
    assert identities(cluster) == ids


def test_all_pods_deleted_at_once_are_the_same_cluster(cluster):
    ids, before = identities(cluster), uids(cluster)
    addresses = {name: pod["status"]["podIP"] for name, pod in cluster.pods().items()}
    identity = cluster.control(0, "status")[1]["cluster"]
    seconds = stopwatch()
    kubectl("delete", "pods", "-l", cluster.selector, "-n", cluster.namespace, "--wait=false")
    wait_until("other pods", lambda: len(cluster.ready_pods()) == 3 and not set(uids(cluster).values()) & set(before.values()), 120, 0.3)
    cluster.wait_settled()
    print(f"all pods deleted: settled after {seconds():.1f} s")
    assert identities(cluster) == ids
    assert cluster.control(0, "status")[1]["cluster"] == identity
    now = {name: pod["status"]["podIP"] for name, pod in cluster.pods().items()}
    assert now != addresses
    assert cluster.try_message(0, 2) and cluster.try_message(2, 1)


def test_a_pod_deleted_with_its_volume_returns_as_another_member(cluster):
    ids = identities(cluster)
    name = next(n for n in sorted(ids) if n != cluster.leader())
    uid = cluster.pod(name)["metadata"]["uid"]
    claim = f"data-{name}"
    old = get("persistentvolumeclaims", claim, cluster.namespace)["metadata"]["uid"]
    kubectl("delete", "persistentvolumeclaim", claim, "-n", cluster.namespace, "--wait=false")
    cluster.delete_pod(name)
    cluster.wait_replaced(name, uid, 120)
    cluster.wait_settled()
    assert get("persistentvolumeclaims", claim, cluster.namespace)["metadata"]["uid"] != old
    after = identities(cluster)
    assert after[name] > max(ids.values())
    assert {n: i for n, i in after.items() if n != name} == {n: i for n, i in ids.items() if n != name}
    assert ids[name] not in [m["raftId"] for m in cluster.status()["members"]]
    assert {m["name"]: m["raftId"] for m in cluster.status()["members"]} == after
    assert cluster.try_message(name, cluster.leader())
