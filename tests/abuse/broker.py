"""One `raftmq node` with a listener of every transport over TCP, seen from outside: its files, threads, memory, metrics."""

import json
import os
import pathlib
import ssl
import subprocess

import harness

CONNECT_TIMEOUT = 3.0
TRANSPORTS = ("tcp", "tls", "ws", "wss")


def certificate(directory):
    """A certificate for one run, and its key."""
    made = directory / "tls.crt", directory / "tls.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-out", made[0], "-keyout", made[1]],
        check=True, capture_output=True,
    )
    return made


def _target(link):
    """What a link leads to; None if it is gone."""
    try:
        return os.readlink(link)
    except FileNotFoundError:
        return None


class Broker:
    def __init__(self, directory, mqtt, others=None):
        """`others`: settings that are not below `mqtt`."""
        self.directory = directory
        cert, key = certificate(directory)
        *ports, http, self.metrics_port = harness.free_ports(len(TRANSPORTS) + 2)
        self.ports = dict(zip(TRANSPORTS, ports))
        tls = {"certFile": str(cert), "keyFile": str(key)}
        listeners = [
            {"name": name, "type": name, "bind": f"127.0.0.1:{port}", **({"tls": tls} if name in ("tls", "wss") else {})}
            for name, port in self.ports.items()
        ]
        config = {
            "workers": 2,
            "listeners": listeners,
            "http": {"bind": f"127.0.0.1:{http}"},
            "metrics": {"bind": f"127.0.0.1:{self.metrics_port}"},
            "mqtt": {"connectTimeout": f"{CONNECT_TIMEOUT:.0f}s", **mqtt},
            **(others or {}),
        }
        (directory / "config.yaml").write_text(json.dumps(config))
        self.tls = ssl.create_default_context(cafile=str(cert))
        self.process = None

    def __enter__(self):
        with open(self.directory / "log", "wb") as log:
            self.process = subprocess.Popen(
                [harness.BINARY, "node", "--config", str(self.directory / "config.yaml")],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.directory,
            )
        ready = f"http://127.0.0.1:{self.metrics_port}/readyz"
        try:
            harness.wait_until("the broker is ready", lambda: self.ended() or harness.http(ready)[0] == 200, 30)
            assert not self.ended(), self.log()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, kind, _error, _traceback):
        ended = self.ended()
        self._stop()
        if kind is not None or ended:
            print(f"--- the broker's log\n{self.log()[-4000:]}")
        assert not ended, f"the broker ended by itself, code {self.process.returncode}"

    def _stop(self):
        if self.ended():
            return
        self.process.terminate()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def ended(self):
        return self.process.poll() is not None

    def log(self):
        return (self.directory / "log").read_text(errors="replace")

    # What the kernel says of the process.

    def files(self):
        """How many it has open. Not counted: the source of random numbers, which is opened when it is needed first, and stays."""
        directory = f"/proc/{self.process.pid}/fd"
        return sum(_target(f"{directory}/{number}") not in (None, "/dev/urandom") for number in os.listdir(directory))

    def status(self, field):
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1])
        raise AssertionError(f"no {field} of the broker")

    def threads(self):
        return self.status("Threads")

    def rss(self):
        """Resident memory, MiB."""
        return self.status("VmRSS") / 1024

    def rss_below(self, most, deadline=20.0):
        """Waits until resident memory is below `most` MiB, and says what it is then."""
        last = None

        def reached():
            nonlocal last
            last = self.rss()
            return last < most

        try:
            harness.wait_until("memory", reached, deadline)
        except AssertionError as error:
            raise AssertionError(f"{last:.0f} MiB are resident, not below {most:.0f}, after {deadline:.0f} s") from error
        return last

    # What the process says of itself.

    def metrics(self):
        return harness.metrics(self.metrics_port)

    def metric(self, name, **labels):
        return harness.metric_sum(self.metrics(), f"raftmq_{name}", **labels)

    def tasks(self):
        return self.metric("tasks", runtime="workers")

    def wait_metric(self, wanted, name, deadline=20.0, **labels):
        """Waits until a metric has this value."""
        last = None

        def reached():
            nonlocal last
            last = self.metric(name, **labels)
            return last == wanted

        try:
            harness.wait_until(name, reached, deadline)
        except AssertionError as error:
            raise AssertionError(f"{name} {labels or ''} is {last}, not {wanted}, after {deadline:.0f} s") from error


class Counted:
    """How much counters have grown since this was made."""

    def __init__(self, broker):
        self.broker, self.before = broker, broker.metrics()

    def __call__(self, name, **labels):
        name = f"raftmq_{name}"
        return harness.metric_sum(self.broker.metrics(), name, **labels) - harness.metric_sum(self.before, name, **labels)

    def wait(self, wanted, name, deadline=20.0, **labels):
        last = None

        def reached():
            nonlocal last
            last = self(name, **labels)
            return last == wanted

        try:
            harness.wait_until(name, reached, deadline)
        except AssertionError as error:
            raise AssertionError(f"{name} {labels or ''} grew by {last}, not by {wanted}") from error
