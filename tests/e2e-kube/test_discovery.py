"""Pods find each other by the Kubernetes API, or by DNS."""

import pytest

from kube import MqttCluster, get, kubectl, namespace, wait_until

STORAGE = {"size": "1Gi"}


@pytest.mark.parametrize("strategy", ["k8s", "dns"])
def test_forms_a_cluster(operator, strategy):
    with namespace() as where:
        cluster = MqttCluster(where, replicas=3, storage=STORAGE, discovery={"strategy": strategy}).apply()
        cluster.wait_settled()
        assert cluster.try_message(0, 2)
        pod = cluster.pod(0)
        token = [v for v in pod["spec"]["volumes"] if "projected" in v]
        access = get("roles", "raftmq-discovery", where)
        if strategy == "dns":
            assert pod["spec"]["automountServiceAccountToken"] is False and not token and access is None
        else:
            # Its token opens nothing but what discovery reads.
            assert token and access["rules"] == [
                {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["get", "list", "watch"]}
            ]
            who = f"system:serviceaccount:{where}:raftmq"
            for allowed, verb, resource in (
                ("yes", "list", "endpointslices.discovery.k8s.io"), ("no", "get", "secrets"), ("no", "delete", "pods"),
            ):
                done = kubectl("auth", "can-i", verb, resource, f"--as={who}", "-n", where, check=False)
                assert done.stdout.strip() == allowed, (verb, resource)

        # From one to the other while it runs: the pods are replaced and the Role comes or goes.
        other = "k8s" if strategy == "dns" else "dns"
        ids = {name: member["id"] for name, member in cluster.members().items()}
        cluster.apply(discovery={"strategy": other})
        wait_until("the change is seen", lambda: not cluster.settled(3), 30, 0.2)
        cluster.wait_settled(deadline=240)
        assert {name: member["id"] for name, member in cluster.members().items()} == ids
        assert (get("roles", "raftmq-discovery", where) is None) == (other == "dns")
