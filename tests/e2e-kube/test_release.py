"""Upgrades and the removal of the operator's release leave clusters alone."""

import shutil

from kube import (
    CHART, OPERATOR_NAMESPACE, RELEASE, Steady, get, helm, install, operator_pods, stopwatch, wait_until,
)

DEFINITION = "mqttclusters.raftmq.io"


def uids(cluster):
    return {name: pod["metadata"]["uid"] for name, pod in cluster.pods().items()}


def columns():
    (version,) = get("customresourcedefinitions", DEFINITION)["spec"]["versions"]
    return [column["name"] for column in version["additionalPrinterColumns"]]


def test_upgrade_uninstall_and_installation_again(cluster, tmp_path):
    before, ids = uids(cluster), {name: m["id"] for name, m in cluster.members().items()}
    generation = get("statefulsets", cluster.name, cluster.namespace)["metadata"]["generation"]
    expected = columns()
    with Steady(cluster, 0, 2) as steady:
        # An older chart: a definition with a column less.
        older = tmp_path / "chart"
        shutil.copytree(CHART, older)
        definition = older / "files" / f"{DEFINITION}.yaml"
        lines = definition.read_text().splitlines(keepends=True)
        at = next(i for i, line in enumerate(lines) if "additionalPrinterColumns:" in line)
        ends = [i for i in range(at + 2, len(lines)) if lines[i].lstrip().startswith("- ")]
        definition.write_text("".join(lines[:at + 1] + lines[ends[0]:]))
        helm("upgrade", RELEASE, str(older), "-n", OPERATOR_NAMESPACE, "--wait", "--timeout", "120s")
        assert columns() == expected[1:]
        install("log.filter=debug")
        assert columns() == expected, "helm upgrade upgrades the definition"
        cluster.wait_settled()
        steady.tick()

        helm("uninstall", RELEASE, "-n", OPERATOR_NAMESPACE, "--wait", "--timeout", "120s")
        try:
            wait_until("the operator is gone", lambda: not operator_pods(), 60, 0.5)
            assert get("customresourcedefinitions", DEFINITION) is not None
            assert cluster.get() is not None
            assert uids(cluster) == before
            steady.tick()
            steady.check()
            # What needs no operator goes on without one: a pod that dies comes back as the node that it was.
            victim = cluster.pod_name(1)
            uid = before[victim]
            seconds = stopwatch()
            cluster.delete_pod(victim)
            cluster.wait_replaced(victim, uid)
            print(f"without an operator: {victim} is back after {seconds():.1f} s")
            assert {name: m["id"] for name, m in cluster.members().items()} == ids
            steady.tick()
        finally:
            install()
        cluster.wait_settled()
        steady.tick()
        steady.check()
    after = uids(cluster)
    assert {n: u for n, u in after.items() if n != victim} == {n: u for n, u in before.items() if n != victim}
    assert get("statefulsets", cluster.name, cluster.namespace)["metadata"]["generation"] == generation


def test_the_definition_stays_and_the_cluster_serves(cluster):
    wait_until("it serves", lambda: cluster.try_message(2, 1), 20)
