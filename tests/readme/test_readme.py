"""The README's first command in a fresh clone of what is committed, with the default ports.

The second command is tests/run, which calls this.
"""

import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys

import pytest

REPO = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "tests" / "e2e"))

from harness import Client, http, wait_until  # noqa: E402


def commands():
    """What stands behind a prompt in the README, but for Kubernetes, which tests/e2e-kube has."""
    text = (REPO / "README.md").read_text()
    section = text[text.index("\n## On Kubernetes\n"):text.index("\n## Tests\n")]
    return re.findall(r"^\$ (.+)$", text.replace(section, ""), re.MULTILINE)


def test_the_commands_of_the_readme(tmp_path):
    listed = commands()
    assert listed[0] == "cargo run --release -- up", listed
    for port in (1883, 2883, 3883, 18083, 28083, 38083, 9100, 9200, 9300):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                pytest.fail(f"port {port} is in use on this machine: the README's command needs it")
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(REPO), str(clone)], check=True, timeout=60)
    environment = dict(os.environ)
    environment["CARGO_TARGET_DIR"] = os.environ.get("CARGO_TARGET_DIR", str(REPO / "target"))
    with open(tmp_path / "up.log", "wb") as log:
        up = subprocess.Popen(listed[0].split(), cwd=clone, env=environment, stdout=log, stderr=log)
    try:
        def ready():
            assert up.poll() is None, (tmp_path / "up.log").read_text()
            return all(http(f"http://127.0.0.1:{port}/readyz")[0] == 200 for port in (9100, 9200, 9300))
        wait_until("three brokers are ready", ready, 1500, 1)
        with Client(1883) as subscriber, Client(3883) as publisher:
            subscriber.subscribe("plant/+/temperature")
            publisher.publish("plant/7/temperature", "21.5")
            wait_until("the message", lambda: subscriber.received("plant/7/temperature", "21.5"), 10)
        # The other commands as they stand there; the subscriber waits for ever, so it gets one message and leaves.
        if shutil.which("mosquitto_sub"):
            sub = next(c for c in listed if c.startswith("mosquitto_sub"))
            pub = next(c for c in listed if c.startswith("mosquitto_pub"))
            import shlex
            import time
            listener = subprocess.Popen(
                [*shlex.split(sub), "-C", "1", "-W", "30"], stdout=subprocess.PIPE, text=True
            )
            wait_until("mosquitto_sub's subscription", lambda: subprocess.run(
                shlex.split(pub), timeout=20).returncode == 0 and (time.sleep(0.5) or listener.poll() is not None), 30)
            assert listener.communicate(timeout=10)[0].strip() == "plant/7/temperature 21.5"
        for command in listed:
            if command.startswith("cargo run --release -- ctl "):
                done = subprocess.run(
                    command.split(), cwd=clone, env=environment, capture_output=True, text=True, timeout=300
                )
                assert done.returncode == 0 and "raftmq" in done.stdout, done.stderr
    finally:
        up.send_signal(signal.SIGINT)
        try:
            up.wait(timeout=60)
        except subprocess.TimeoutExpired:
            up.kill()
            up.wait()
    assert up.returncode == 0
    assert (clone / ".raftmq").is_dir()
