"""What goes with a cluster and what stays."""

import pytest

from kube import MqttCluster, get, install, kubectl, namespace, operator_pods, stopwatch, wait_until


def claims(where):
    return {claim["metadata"]["name"] for claim in get("persistentvolumeclaims", namespace=where)}


@pytest.mark.parametrize("retention", ["Retain", "Delete"])
def test_deleting_the_cluster_keeps_its_volumes_unless_told_otherwise(operator, retention):
    with namespace() as where:
        cluster = MqttCluster(where, replicas=2, storage={"size": "1Gi", "retention": retention}).apply().wait_settled(2)
        assert claims(where) == {"data-raftmq-0", "data-raftmq-1"}
        identity = cluster.control(0, "status")[1]["cluster"]
        kubectl("delete", "mqc", "raftmq", "-n", where, "--timeout=60s")
        wait_until("the pods are gone", lambda: not cluster.pods(), 90, 0.5)
        left = ("statefulsets", "services", "configmaps", "secrets", "poddisruptionbudgets", "roles", "serviceaccounts")
        mine = "app.kubernetes.io/instance=raftmq"
        wait_until("nothing else is left", lambda: not [o for k in left for o in get(k, namespace=where, selector=mine)], 60, 0.5)
        if retention == "Delete":
            wait_until("the volumes are gone", lambda: not claims(where), 60, 0.5)
            return
        assert claims(where) == {"data-raftmq-0", "data-raftmq-1"}
        # The same name again: the nodes find their data.
        cluster.apply().wait_settled(2)
        assert cluster.control(0, "status")[1]["cluster"] == identity


@pytest.mark.parametrize("running", [True, False], ids=["with the operator", "without the operator"])
def test_deleting_the_namespace_is_never_blocked(operator, running):
    with namespace() as where:
        MqttCluster(where, replicas=2, storage={"size": "1Gi"}).apply().wait_settled(2)
        if not running:
            install("replicas=0")
            wait_until("the operator is gone", lambda: not operator_pods(), 60, 0.5)
        try:
            seconds = stopwatch()
            kubectl("delete", "namespace", where, "--timeout=120s", timeout=150)
            print(f"namespace gone after {seconds():.1f} s")
        finally:
            if not running:
                install()


def test_deleting_in_the_foreground_ends_too(operator):
    with namespace() as where:
        MqttCluster(where, replicas=1, storage={"size": "1Gi"}).apply().wait_settled(1)
        kubectl("delete", "mqc", "raftmq", "-n", where, "--cascade=foreground", "--timeout=60s")
