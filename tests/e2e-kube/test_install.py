"""From nothing to a cluster that serves, as the README says it."""

from kube import (
    OPERATOR_NAMESPACE, RELEASE, SAMPLE, MqttCluster, get, helm, is_ready, kubectl, namespace, operator_pods, stopwatch,
    wait_until,
)


def test_helm_installs_the_operator(operator):
    (pod,) = operator_pods()
    assert is_ready(pod)
    status = helm("status", RELEASE, "-n", OPERATOR_NAMESPACE).stdout
    assert "STATUS: deployed" in status and "kubectl apply" in status
    definition = get("customresourcedefinitions", "mqttclusters.raftmq.io")
    assert definition["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    # As admission would ask of any namespace that is careful.
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    assert pod["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True


def test_helm_test(operator):
    done = helm("test", RELEASE, "-n", OPERATOR_NAMESPACE, "--timeout", "60s")
    assert "Succeeded" in done.stdout


def test_the_sample_gives_three_ready_pods_on_three_nodes_within_a_minute(operator):
    nodes = [node for node in get("nodes") if is_ready(node)]
    with namespace() as where:
        seconds = stopwatch()
        kubectl("apply", "-f", str(SAMPLE), "-n", where)
        cluster = MqttCluster(where)
        wait_until("three ready pods", lambda: len(cluster.ready_pods()) == 3, 60, 0.2)
        print(f"three Ready pods after {seconds():.1f} s")
        assert seconds() < 60
        used = {pod["spec"]["nodeName"] for pod in cluster.pods().values()}
        assert len(used) == min(3, len(nodes)), used
        cluster.wait_settled()

        status = cluster.status()
        assert status["readyReplicas"] == 3 and status["replicas"] == 3
        assert {m["name"]: m["role"] for m in status["members"]} == {
            name: "leader" if name == status["leader"] else "voter" for name in ("raftmq-0", "raftmq-1", "raftmq-2")
        }
        assert all(m["version"] and m["raftId"] for m in status["members"])
        assert status["endpoints"] == [f"tcp://raftmq.{where}.svc:1883"]
        assert cluster.condition("Available")[0] == "True"
        assert cluster.condition("Bootstrapped")[0] == "True"
        kubectl("wait", "mqttcluster/raftmq", "--for=condition=Available", "--timeout=10s", "-n", where)
        table = kubectl("get", "mqc", "-n", where).stdout.splitlines()
        assert "READY" in table[0] and "LEADER" in table[0] and status["leader"] in table[1], table
        reasons = kubectl("events", "-n", where, "--for", "mqttcluster/raftmq", "-o", "jsonpath={.items[*].reason}").stdout
        assert "ClusterFormed" in reasons.split(), reasons

        # What the cluster is made of belongs to it.
        for kind, name in (
            ("statefulsets", "raftmq"), ("services", "raftmq"), ("poddisruptionbudgets", "raftmq"),
            ("serviceaccounts", "raftmq"), ("secrets", "raftmq-nodes"), ("secrets", "raftmq-control"),
        ):
            (owner,) = get(kind, name, where)["metadata"]["ownerReferences"]
            assert owner["kind"] == "MqttCluster" and owner["controller"] is True, (kind, name)
        pod = cluster.pod(0)
        (container,) = pod["spec"]["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys()
        assert {c["topologyKey"] for c in pod["spec"]["topologySpreadConstraints"]} == {
            "topology.kubernetes.io/zone", "kubernetes.io/hostname",
        }
