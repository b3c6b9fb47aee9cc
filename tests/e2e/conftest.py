"""Fixtures of the cluster tests."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import harness  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def binary():
    if not pathlib.Path(harness.BINARY).exists():
        pytest.exit(f"{harness.BINARY} is missing: run `tests/run cluster`, or build it and set RAFTMQ_BIN", 2)


@pytest.fixture
def cluster():
    """Three brokers of one test's own."""
    with harness.LocalCluster() as cluster:
        yield cluster.start()


@pytest.fixture
def cluster_without_shards():
    """Sessions are in the memory of their node."""
    with harness.LocalCluster(config={"shards": {"count": 0}}) as cluster:
        yield cluster.start()


@pytest.fixture(scope="module")
def shared_cluster():
    """Three brokers that the tests of a module share: for those that break nothing."""
    with harness.LocalCluster() as cluster:
        yield cluster.start()
