"""The brokers, each started on a free port in a directory of its own, with its log and its persistence off.

Queues are as large and windows as wide in all of them, so that nobody drops and nobody has an easier work.
"""

import contextlib
import json
import os
import pathlib
import random
import shutil
import socket
import subprocess
import tempfile
import time

REPO = pathlib.Path(__file__).resolve().parents[2]
CACHE = pathlib.Path(
    os.environ.get("RAFTMQ_TEST_CACHE")
    or pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "raftmq-tests"
)
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or REPO / "target")
RAFTMQ = os.environ.get("RAFTMQ_BIN") or str(TARGET / "release" / "raftmq")
FORWARDER = os.environ.get("RAFTMQ_FORWARDER_BIN") or str(TARGET / "release" / "raftmq-bench-forwarder")
RUMQTTD_VERSION = "0.20.0"
RUMQTTD = CACHE / "bench" / f"rumqttd-{RUMQTTD_VERSION}"
INFLIGHT = 128
QUEUED = 100_000


class Failed(Exception):
    """A broker that does not start, or a run that has no result."""


def on(cpus, command):
    """A command on these processors. It ends with this process, whatever ends that."""
    return ["setpriv", "--pdeathsig", "KILL", "taskset", "-c", cpus, *command]


def free_port():
    """Below the ports of outgoing connections: one that is free now stays free."""
    while True:
        port = random.randrange(15000, 32000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def mosquitto(port, files):
    tls = f"certfile {files}/server.pem\nkeyfile {files}/server.key\n" if files else ""
    user = "user root\n" if os.getuid() == 0 else ""
    return f"""\
per_listener_settings false
allow_anonymous true
persistence false
log_dest none
log_type none
connection_messages false
sys_interval 0
set_tcp_nodelay true
max_inflight_messages {INFLIGHT}
max_queued_messages {QUEUED}
{user}listener {port} 127.0.0.1
{tls}"""


def rumqttd(port, files):
    tls = f'[v4.1.tls]\ncertpath = "{files}/server.pem"\nkeypath = "{files}/server.key"\n' if files else ""
    return f"""\
id = 0
[router]
id = 0
max_connections = 50000
max_outgoing_packet_count = 200
max_segment_size = 104857600
max_segment_count = 10
[v4.1]
name = "v4"
listen = "127.0.0.1:{port}"
next_connection_delay_ms = 0
[v4.1.connections]
connection_timeout_ms = 60000
max_payload_size = 20480
max_inflight_count = {INFLIGHT}
dynamic_filters = true
{tls}"""


def raftmq(port, files, workers=1, http=0, metrics=0):
    listener = {"name": "mqtt", "type": "tls" if files else "tcp", "bind": f"127.0.0.1:{port}"}
    if files:
        listener["tls"] = {"certFile": f"{files}/server.pem", "keyFile": f"{files}/server.key"}
    settings = {
        "workers": workers,
        "listeners": [listener],
        "http": {"bind": f"127.0.0.1:{http}"},
        "metrics": {"bind": f"127.0.0.1:{metrics}"},
        "mqtt": {"maxInflight": INFLIGHT, "maxQueuedMessages": QUEUED},
        "log": {"level": "error"},
    }
    return json.dumps(settings, indent=2) + "\n"  # JSON is YAML


def command(broker, port, directory, files):
    """What starts a broker, and its configuration."""
    if broker == "mosquitto":
        binary = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin") or "mosquitto"
        return [binary, "-c", f"{directory}/conf"], mosquitto(port, files)
    if broker == "rumqttd":
        return [str(RUMQTTD / "bin" / "rumqttd"), "--quiet", "--config", f"{directory}/conf.toml"], rumqttd(port, files)
    if broker == "forwarder":
        return [FORWARDER, f"127.0.0.1:{port}"], ""
    workers = 2 if broker == "raftmq-2" else 1
    http = metrics = port
    while http == port:
        http = free_port()
    while metrics in (port, http):
        metrics = free_port()
    return [RAFTMQ, "node", "--config", f"{directory}/conf.yaml"], raftmq(port, files, workers, http, metrics)


def certificates():
    """A certificate for the listeners, made once."""
    directory = CACHE / "bench" / "certificates"
    if not (directory / "server.pem").exists():
        directory.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "3650",
             "-keyout", "server.key", "-out", "new.pem", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
            cwd=directory, check=True, capture_output=True, timeout=60,
        )
        (directory / "new.pem").rename(directory / "server.pem")
    return directory


@contextlib.contextmanager
def running(broker, cpus, tls):
    """A broker that serves: its process id and port. It is gone afterwards."""
    files = certificates() if tls else None
    with tempfile.TemporaryDirectory(prefix="raftmq-bench-") as directory:
        port = free_port()
        arguments, configuration = command(broker, port, directory, files)
        if configuration:
            pathlib.Path(arguments[-1]).write_text(configuration)
        log = pathlib.Path(directory, "log")
        with open(log, "wb") as output:
            process = subprocess.Popen(
                on(cpus, arguments), cwd=directory, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        try:
            wait_for(process, port, broker, log)
            yield process.pid, port
            if process.poll() is not None:
                raise Failed(f"{broker} ended with status {process.returncode}: {tail(log)}")
        finally:
            stop(process)


def wait_for(process, port, broker, log):
    deadline = time.monotonic() + 20
    while True:
        if process.poll() is not None:
            raise Failed(f"{broker} does not start (status {process.returncode}): {tail(log)}")
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        if time.monotonic() > deadline:
            raise Failed(f"{broker} does not listen within 20 s: {tail(log)}")
        time.sleep(0.02)


def stop(process):
    if process.poll() is None:
        process.terminate()
        try:
            # Nothing is to be saved.
            process.wait(timeout=3)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def tail(log):
    return " / ".join(log.read_text(errors="replace").strip().splitlines()[-3:]) or "nothing in its log"


def prepare(brokers):
    """Sees that the programs are there; builds what can be built."""
    if not pathlib.Path(RAFTMQ).exists():
        raise SystemExit(f"{RAFTMQ} is missing: `cargo build --release`, or RAFTMQ_BIN")
    if "mosquitto" in brokers and not pathlib.Path(command("mosquitto", 0, "", None)[0][0]).exists():
        raise SystemExit("mosquitto is missing: install Debian's package mosquitto, or choose others with --brokers")
    if "forwarder" in brokers and not pathlib.Path(FORWARDER).exists():
        cargo("build", "--release", "--locked", "-p", "raftmq-bench-forwarder")
    if "rumqttd" in brokers and not (RUMQTTD / "bin" / "rumqttd").exists():
        print(f"building rumqttd {RUMQTTD_VERSION} (once, some minutes)", flush=True)
        # Without --locked: what it was released with does not compile any more (metrics 0.22.1, rust-lang/rust#141402).
        cargo("install", "rumqttd", "--version", f"={RUMQTTD_VERSION}", "--root", str(RUMQTTD), target=CACHE / "bench" / "build")
        shutil.rmtree(CACHE / "bench" / "build", ignore_errors=True)


def cargo(*arguments, target=TARGET):
    done = subprocess.run(["cargo", *arguments], cwd=REPO, env={**os.environ, "CARGO_TARGET_DIR": str(target)}, timeout=3600)
    if done.returncode != 0:
        raise SystemExit(f"cargo {' '.join(arguments)} failed")


def versions(brokers):
    """What each says of itself."""
    def first_line(*arguments):
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=20)
        return (done.stdout or done.stderr).strip().splitlines()[0]

    known = {}
    if "mosquitto" in brokers:
        known["mosquitto"] = first_line(command("mosquitto", 0, "", None)[0][0], "-h")
    if "rumqttd" in brokers:
        known["rumqttd"] = f"rumqttd {RUMQTTD_VERSION}"
    known["raftmq"] = first_line(RAFTMQ, "--version")
    return known
