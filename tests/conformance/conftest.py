"""The broker that the conformance scripts are played against: one at a given address, or one started here."""

import contextlib
import os
import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "e2e")]

import run_scripts  # noqa: E402

# What a broker that is started here is set to, and what cases may say that they need.
SETTINGS = {"RAFTMQ__MQTT__RECEIVE_MAXIMUM": "8", "RAFTMQ__MQTT__AUTHENTICATION__TEST_METHOD": "true"}
CAPABILITIES = {"receive-maximum-8", "client-identifier-1024", "authentication-method-test"}


@contextlib.contextmanager
def standalone(directory):
    """`raftmq node` on free ports; gives its MQTT address."""
    import harness

    if not pathlib.Path(harness.BINARY).exists():
        pytest.exit(f"{harness.BINARY} is missing: build it and set RAFTMQ_BIN, or set RAFTMQ_CONFORMANCE_ADDRESS", 2)
    mqtt, http, metrics = harness.free_ports(3)
    environment = {
        **os.environ, **SETTINGS,
        "RAFTMQ__LISTENERS__0__BIND": f"127.0.0.1:{mqtt}",
        "RAFTMQ__HTTP__BIND": f"127.0.0.1:{http}",
        "RAFTMQ__METRICS__BIND": f"127.0.0.1:{metrics}",
    }
    with open(directory / "log", "wb") as log:
        process = subprocess.Popen([harness.BINARY, "node"], cwd=directory, env=environment, stdout=log, stderr=log)
    try:
        ready = f"http://127.0.0.1:{metrics}/readyz"
        harness.wait_until(
            "the broker is ready", lambda: process.poll() is not None or harness.http(ready)[0] == 200, 30
        )
        assert process.poll() is None, (directory / "log").read_text(errors="replace")
        yield "127.0.0.1", mqtt
        assert process.poll() is None, f"the broker ended:\n{(directory / 'log').read_text(errors='replace')[-4000:]}"
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture(scope="session")
def broker(tmp_path_factory):
    """(address, what the broker offers beyond the usual)."""
    given = os.environ.get("RAFTMQ_CONFORMANCE_ADDRESS")
    if given:
        offers = os.environ.get("RAFTMQ_CONFORMANCE_WITH", "")
        yield run_scripts.parse_address(given), set(filter(None, offers.split(",")))
    else:
        with standalone(tmp_path_factory.mktemp("broker")) as address:
            yield address, CAPABILITIES
