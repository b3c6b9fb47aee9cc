"""Real clients against a broker: one test for each client and transport, and every scenario of it a line of output.

They know nothing of this broker: what they do together is what the specification has [MQTT311-7.0.0-2].
"""

import contextlib
import os
import re
import signal
import subprocess

import brokers
import clients
import pytest

CASES = [(client, transport) for client in clients.CLIENTS for transport in client.transports]
LINE = re.compile(r"(ok|FAIL) ([^\s:]+)(?:: (.*))?$")


@pytest.fixture(scope="session")
def broker(tmp_path_factory):
    kind = brokers.chosen()
    if kind is brokers.RaftMq and not os.path.exists(brokers.BINARY):
        pytest.exit(f"{brokers.BINARY} is missing: run `tests/run compat`, or build it and set RAFTMQ_BIN", 2)
    broker = kind(tmp_path_factory.mktemp("broker"))
    try:
        yield broker.start()
    finally:
        broker.stop()


def output_of(command, environment, directory):
    """Everything that the program prints, and its status; at the deadline it and what it started are ended."""
    process = subprocess.Popen(
        command, cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )
    try:
        return process.communicate(timeout=clients.RUN_DEADLINE)[0], process.returncode
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        return process.communicate()[0], f"none within {clients.RUN_DEADLINE} s"


@pytest.mark.parametrize("client, transport", CASES, ids=[f"{client.name}-{transport}" for client, transport in CASES])
def test_client(client, transport, broker, tmp_path, capsys):
    environment = {**os.environ, **broker.environment(), "PYTHONDONTWRITEBYTECODE": "1"}
    if f"RAFTMQ_COMPAT_{transport.upper()}" not in environment:
        pytest.skip(f"RAFTMQ_COMPAT_{transport.upper()} is not set: this broker has no such listener")
    output, status = output_of(client.command(transport), environment, tmp_path)
    with capsys.disabled():
        print(f"\n--- {client.name} over {transport}\n{output}", end="")

    results, failed = {}, []
    for kind, name, reason in filter(None, (LINE.match(line) and LINE.match(line).groups() for line in output.splitlines())):
        results[name] = kind
        if kind == "FAIL" and not (broker.name == "mosquitto" and name in clients.MOSQUITTO_IS_WRONG):
            failed.append(f"{name}: {reason}")
    expected = client.expected(transport)
    problems = [f"failed: {text}" for text in failed]
    problems += [f"no line for {name}" for name in sorted(expected - results.keys())]
    problems += [f"not in scenarios.txt: {name}" for name in sorted(results.keys() - expected)]
    # The status says the same as the lines.
    wanted = 1 if "FAIL" in results.values() else 0
    if status != wanted:
        problems.append(f"exit status: {status} instead of {wanted}")
    if problems:
        pytest.fail("\n".join([*problems, "--- end of the broker's log", broker.log()[-3000:]]), pytrace=False)


def test_every_scenario_is_run_by_a_client():
    """A scenario that no program has is a spelling mistake in scenarios.txt."""
    names = set().union(*(client.expected(transport) for client, transport in CASES))
    for name, where in clients.scenarios().items():
        wanted = {name} if name.startswith("tls-") else {f"{name}/{version}" for version in where}
        assert wanted <= names
