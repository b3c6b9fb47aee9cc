"""The operator itself: one of several acts, it may die at any moment, and its rights end where they are told to."""

import json
import os
import time

import pytest

from kube import (
    IN_LAB, OPERATOR_NAMESPACE, RELEASE, MqttCluster, forwards, get, http, install, is_ready, kubectl, lab, namespace,
    operator_pods, stopwatch, wait_until,
)

SMALL = {"size": "1Gi"}


def holder():
    return get("leases", RELEASE, OPERATOR_NAMESPACE)["spec"].get("holderIdentity")


def page(pod, path):
    port = pod["spec"]["containers"][0]["ports"][0]["containerPort"]
    if IN_LAB:
        return http(f"http://{pod['status']['podIP']}:{port}{path}")
    local = forwards.port(OPERATOR_NAMESPACE, pod["metadata"]["name"], pod["metadata"]["uid"], port)
    return http(f"http://127.0.0.1:{local}{path}")


def kill_operator():
    """At once, without a word to it where that can be had: a pod that is deleted is told first, also by force. Then another pod
    comes: one container that is killed again and again is started later each time."""
    pods = operator_pods()
    if IN_LAB:
        # One that is being deleted may have ended already.
        nodes = {pod["spec"]["nodeName"] for pod in pods if "nodeName" in pod["spec"]}
        command = "pids=$(pgrep -x raftmq-operator) && kill -9 $pids && echo $pids || true"
        killed = [lab("on", node, "sh", "-c", command).stdout.strip() for node in nodes]
        assert any(killed), "no operator ran"
    for pod in pods:
        kubectl("delete", "pod", pod["metadata"]["name"], "-n", OPERATOR_NAMESPACE, "--grace-period=0", "--force", "--ignore-not-found")


def test_metrics_health_and_logs(cluster):
    (pod,) = [p for p in operator_pods() if is_ready(p)]
    assert page(pod, "/healthz")[0] == 200 and page(pod, "/readyz")[0] == 200
    status, text = page(pod, "/metrics")
    assert status == 200
    samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    assert samples["raftmq_operator_leader"] == "1"
    assert sum(float(v) for k, v in samples.items() if k.startswith("raftmq_operator_reconciliations_total")) >= 1, samples
    lines = kubectl("logs", "-n", OPERATOR_NAMESPACE, f"deploy/{RELEASE}", "--tail=200").stdout.splitlines()
    events = [json.loads(line) for line in lines]
    assert any(e["message"] == "applied" for e in events)
    # Keys of the cluster are in no log.
    key = cluster.secret("nodes")["tls.key"].splitlines()[1]
    assert key not in "\n".join(lines)


def test_one_of_two_acts_and_the_other_takes_over(cluster):
    install("replicas=2")
    try:
        wait_until("two operators", lambda: len([p for p in operator_pods() if is_ready(p)]) == 2, 60, 0.5)
        leader = wait_until("a holder of the Lease", lambda: holder() in {p["metadata"]["name"] for p in operator_pods()} and holder(), 60, 0.5)
        for pod in operator_pods():
            # Not the line of its help.
            leads = "\nraftmq_operator_leader 1\n" in page(pod, "/metrics")[1]
            assert leads == (pod["metadata"]["name"] == leader), leader
        for gently in (True, False):
            leader = holder()
            kubectl("delete", "pod", leader, "-n", OPERATOR_NAMESPACE, "--wait=false", *([] if gently else ["--grace-period=0", "--force"]))
            seconds = stopwatch()
            wait_until("another holder", lambda: holder() not in (leader, None, ""), 60, 0.2)
            print(f"taken over after {seconds():.1f} s ({'stopped' if gently else 'killed'})")
            # The other one, or the one that came for the deleted one: it may be quicker.
            assert holder() in {p["metadata"]["name"] for p in operator_pods()} - {leader}
            # And it acts.
            value = "gently" if gently else "killed"
            cluster.apply(podTemplate={"labels": {"e2e": value}})
            wait_until("the change is applied", lambda: get("statefulsets", cluster.name, cluster.namespace)[
                "spec"]["template"]["metadata"]["labels"].get("e2e") == value, 30, 0.2)
            cluster.wait_settled()
    finally:
        install()


# One of them takes most of a minute: where there is time.
LONG = pytest.mark.skipif(not os.environ.get("RAFTMQ_E2E_LONG"), reason="a minute more: RAFTMQ_E2E_LONG=1")


@pytest.mark.parametrize("moments", [(0.0, 1.5), pytest.param((0.4, 3.0), marks=LONG), (0.8, 5.0)], ids=str)
def test_killed_at_any_moment_of_a_scale_it_finishes_it(cluster, moments):
    for replicas, moment in zip((5, 3), moments):
        # The one of the last round: else nothing would be killed in the middle of anything.
        wait_until("the operator runs", lambda: any(is_ready(pod) for pod in operator_pods()), 60, 0.1)
        cluster.scale(replicas)
        time.sleep(moment)
        kill_operator()
        cluster.wait_settled(replicas, 120)
        assert set(cluster.members()) == {cluster.pod_name(i) for i in range(replicas)}
        assert all(m["state"] == "active" and m["up"] for m in cluster.members().values())
        assert cluster.try_message(0, replicas - 1)


def test_listed_namespaces(operator):
    with namespace("listed") as listed, namespace("other") as other:
        install(f"namespaces={{{listed}}}")
        try:
            assert get("clusterroles", RELEASE) is None and get("clusterrolebindings", RELEASE) is None
            assert get("roles", RELEASE, listed)
            who = f"--as=system:serviceaccount:{OPERATOR_NAMESPACE}:{RELEASE}"
            for allowed, where in (("yes", listed), ("no", other)):
                for verb, resource in (("list", "secrets"), ("delete", "pods"), ("patch", "statefulsets")):
                    said = kubectl("auth", "can-i", verb, resource, who, "-n", where, check=False).stdout.strip()
                    assert said == allowed, (verb, resource, where)
            ours, theirs = (MqttCluster(where, replicas=1, storage=SMALL).apply() for where in (listed, other))
            ours.wait_settled(1)
            ours.scale(3)
            ours.wait_settled(3)
            assert theirs.status() == {} and get("statefulsets", namespace=other) == []
        finally:
            install()
        theirs.wait_settled(1)
        assert get("roles", RELEASE, listed) is None
        ours.wait_settled(3)
