"""Fixtures of the tests on Kubernetes."""

import pathlib
import sys
import time

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import kube  # noqa: E402

# Modules in this order: the operator's installation first, its removal last; what restarts the operator or cuts nodes off after
# what must be quiet.
ORDER = [
    "test_chart", "test_install", "test_messages", "test_images", "test_invalid", "test_discovery", "test_prometheus",
    "test_scale", "test_rollout", "test_certificates", "test_deaths", "test_quiet", "test_deletion", "test_operator",
    "test_partition", "test_release", "test_readme",
]


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: ORDER.index(item.module.__name__))


@pytest.fixture(scope="session", autouse=True)
def kubernetes():
    """A cluster that answers; port-forwards end with the session."""
    done = kube.kubectl("version", check=False, timeout=30)
    if done.returncode != 0:
        pytest.exit(f"KUBECONFIG leads to no cluster: {done.stderr.strip()}", 2)
    # The tests install, change and remove this release: one that is there already is somebody's.
    if not kube.IN_LAB and kube.helm("status", kube.RELEASE, "-n", kube.OPERATOR_NAMESPACE, check=False).returncode == 0:
        pytest.exit(
            f"the release {kube.RELEASE} is in the namespace {kube.OPERATOR_NAMESPACE} of this cluster already: the tests would change and "
            "remove it; use a cluster of their own, or uninstall it first", 2)
    yield
    kube.forwards.stop()


@pytest.fixture(scope="session")
def operator(kubernetes):
    """The operator, by Helm, for all namespaces."""
    kube.install()


@pytest.fixture(scope="session")
def quiet_cluster(operator):
    """A cluster that nobody touches, and since when it has been as it should be (Unix time)."""
    with kube.namespace("quiet") as namespace:
        cluster = kube.MqttCluster(namespace, replicas=3, storage={"size": "1Gi"}).apply().wait_settled()
        # What settles later: the status of pods, events.
        time.sleep(5)
        yield cluster, time.time()


@pytest.fixture(scope="session", autouse=True)
def quiet_from_the_start(request):
    """Where its test is part of the session the quiet cluster begins to be quiet now."""
    if any(item.module.__name__ == "test_quiet" for item in request.session.items):
        request.getfixturevalue("quiet_cluster")


@pytest.fixture(scope="module")
def cluster(operator):
    """Three brokers that the tests of a module share; each leaves them settled."""
    with kube.namespace() as namespace:
        yield kube.MqttCluster(namespace, replicas=3, storage={"size": "1Gi"}).apply().wait_settled()
