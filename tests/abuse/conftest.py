"""Fixtures of the tests with clients that mean no good."""

import pathlib
import resource
import sys

import pytest

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "e2e")]

import harness  # noqa: E402
from broker import Broker  # noqa: E402

# The broker and the clients of the largest test have a socket each for every connection.
NEEDED_FILES = 12_000


@pytest.fixture(scope="session", autouse=True)
def ground():
    if not pathlib.Path(harness.BINARY).exists():
        pytest.exit(f"{harness.BINARY} is missing: run `tests/run abuse`, or build it and set RAFTMQ_BIN", 2)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < NEEDED_FILES:
        pytest.exit(f"{NEEDED_FILES} open files are needed, the hard limit is {most}: raise it (ulimit -Hn)", 2)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@pytest.fixture
def broker(request, tmp_path):
    """A broker of one test's own; its settings beside the usual ones by `@pytest.mark.parametrize(…, indirect=True)`."""
    mqtt = dict(getattr(request, "param", {}))
    # Those that have a place of their own in the file.
    others = {name: mqtt.pop(name) for name in ("flapping",) if name in mqtt}
    with Broker(tmp_path, mqtt, others) as broker:
        yield broker
