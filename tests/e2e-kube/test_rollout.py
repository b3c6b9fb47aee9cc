"""A change of the template: one pod at a time, and back from one that cannot work."""

import copy

import pytest

from kube import IN_LAB, Steady, get, is_ready, stopwatch, wait_until


def unready(cluster):
    pods = cluster.pods()
    return [name for name in (cluster.pod_name(i) for i in range(3)) if name not in pods or not is_ready(pods[name])]


def test_one_pod_at_a_time_waiting_for_ready(cluster):
    before, leader = cluster.pods(), cluster.leader()
    configs = {c["metadata"]["name"] for c in get("configmaps", namespace=cluster.namespace, selector="app.kubernetes.io/instance=raftmq")}
    order, worst = [], 0
    cluster.apply(config={"log": {"level": "debug"}}, podTemplate={"annotations": {"e2e/round": "1"}})
    seconds = stopwatch()

    def done():
        nonlocal worst
        down = unready(cluster)
        worst = max(worst, len(down))
        assert len(down) <= 1, f"more than one pod is not ready: {down}"
        for name, pod in cluster.pods().items():
            if pod["metadata"]["uid"] != before[name]["metadata"]["uid"] and name not in order:
                order.append(name)
        return len(order) == 3 and cluster.settled(3)
    wait_until("all pods are replaced", done, 180, 0.2)
    print(f"rolled {', '.join(order)} in {seconds():.1f} s")
    assert worst == 1 and order[-1] == leader, (order, leader)
    assert all(pod["metadata"]["annotations"]["e2e/round"] == "1" for pod in cluster.pods().values())
    # The former settings are deleted when nobody uses them any more.
    wait_until("one ConfigMap", lambda: len(get(
        "configmaps", namespace=cluster.namespace, selector="app.kubernetes.io/instance=raftmq")) == 1, 60, 0.5)
    (now,) = get("configmaps", namespace=cluster.namespace, selector="app.kubernetes.io/instance=raftmq")
    assert now["metadata"]["name"] not in configs and "level: debug" in now["data"]["raftmq.yaml"]
    assert cluster.try_message(0, 2)


BROKEN = {
    "an image that is not there": ("ghcr.io/raftmq/raftmq:no-such-tag", ("ErrImagePull", "ImagePullBackOff")),
    "an image of another program": ("ghcr.io/raftmq/raftmq-operator:0.1.0", ("CrashLoopBackOff",)),
}


@pytest.mark.parametrize("what", BROKEN)
def test_an_image_that_cannot_start_and_the_old_spec_again(cluster, what):
    image, reasons = BROKEN[what]
    if what == "an image of another program" and not IN_LAB:
        pytest.skip("needs the lab (tests/lab): an image with this name on all nodes")
    before, spec = cluster.pods(), copy.deepcopy(cluster.spec)
    leader = cluster.leader()
    kept = [name for name in before if name == leader]
    with Steady(cluster, leader, leader) as steady:
        cluster.apply(image=image)

        def said():
            steady.tick()
            status, reason, message = cluster.condition("Degraded")
            return status == "True" and reason in reasons and message
        message = wait_until("the condition says so", said, 120, 0.3)
        print(message)
        assert "cannot start" in message
        changed = [n for n, pod in cluster.pods().items() if pod["metadata"]["uid"] != before[n]["metadata"]["uid"]]
        assert len(changed) == 1 and changed[0] not in kept, changed
        assert cluster.condition("Available")[0] == "True" and cluster.condition("Progressing")[0] == "True"

        cluster.spec = spec
        cluster.apply()
        seconds = stopwatch()

        def well():
            steady.tick()
            return cluster.settled(3)
        wait_until("it recovers without hand work", well, 120, 0.3)
        print(f"recovered in {seconds():.1f} s")
        steady.check()
    after = cluster.pods()
    # Those that were not touched by the bad spec are not touched by the good one.
    assert [n for n in after if after[n]["metadata"]["uid"] != before[n]["metadata"]["uid"]] == changed
