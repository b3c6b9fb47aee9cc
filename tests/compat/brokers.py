"""The broker that the clients talk to: a RaftMQ node of the test's own, a Mosquitto, or one that runs elsewhere.

Each gives the clients the same environment:

    RAFTMQ_COMPAT_HOST                    host of every listener; the certificate must be for it
    RAFTMQ_COMPAT_TCP, _TLS, _WS, _WSS    ports
    RAFTMQ_COMPAT_MTLS                    port of a TLS listener that requires a client certificate
    RAFTMQ_COMPAT_WS_PATH                 path of the WebSocket listeners
    RAFTMQ_COMPAT_CA                      authority of the listeners' certificates (PEM)
    RAFTMQ_COMPAT_OTHER_CA                an authority that signed none of them
    RAFTMQ_COMPAT_CERT, _KEY              a client certificate for the MTLS listener
"""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))

from harness import BINARY, free_ports, http, wait_until  # noqa: E402

LISTENERS = ("tcp", "tls", "mtls", "ws", "wss")
HOST = "localhost"
WS_PATH = "/mqtt"


def openssl(directory, *arguments):
    done = subprocess.run(["openssl", *arguments], cwd=directory, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"openssl {arguments[0]}: {done.stderr}"


def make_certificates(directory):
    """An authority with a server's and a client's certificate, and another authority."""
    def authority(name):
        openssl(directory, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                "-keyout", f"{name}.key", "-out", f"{name}.pem", "-days", "2", "-subj", f"/CN={name} of the tests",
                "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign")

    def leaf(name, usage, names):
        (directory / f"{name}.ext").write_text(
            f"basicConstraints=CA:FALSE\nkeyUsage=digitalSignature\nextendedKeyUsage={usage}\nsubjectAltName={names}\n"
        )
        openssl(directory, "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        openssl(directory, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
                "-CAcreateserial", "-out", f"{name}.pem", "-days", "2", "-extfile", f"{name}.ext")

    authority("ca")
    authority("other")
    leaf("server", "serverAuth", f"DNS:{HOST},IP:127.0.0.1")
    leaf("client", "clientAuth", "DNS:compat-client")
    # PKCS#8 for Java: openssl writes it already.
    return {name: directory / f"{name}.pem" for name in ("ca", "other", "server", "client")}


class Broker:
    """A broker process with one listener of each kind, in a directory of its own."""

    def __init__(self, directory):
        self.directory = directory
        self.certificates = make_certificates(directory)
        self.ports = dict(zip(LISTENERS, free_ports(len(LISTENERS))))
        self.process = None

    def environment(self):
        files = self.certificates
        return {
            "RAFTMQ_COMPAT_HOST": HOST,
            **{f"RAFTMQ_COMPAT_{name.upper()}": str(port) for name, port in self.ports.items()},
            "RAFTMQ_COMPAT_WS_PATH": WS_PATH,
            "RAFTMQ_COMPAT_CA": str(files["ca"]),
            "RAFTMQ_COMPAT_OTHER_CA": str(files["other"]),
            "RAFTMQ_COMPAT_CERT": str(files["client"]),
            "RAFTMQ_COMPAT_KEY": str(files["client"].with_suffix(".key")),
        }

    def start(self):
        with open(self.directory / "log", "wb") as log:
            self.process = subprocess.Popen(
                self.command(), cwd=self.directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        wait_until("the broker serves", self._serves, 30)
        return self

    def _serves(self):
        if self.process.poll() is not None:
            raise SystemExit(f"the broker ended with status {self.process.returncode}:\n{self.log()}")
        return self.ready()

    def ready(self):
        for port in self.ports.values():
            socket.create_connection(("127.0.0.1", port), 1).close()
        return True

    def log(self):
        return (self.directory / "log").read_text(errors="replace")

    def stop(self):
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class RaftMq(Broker):
    """A standalone node."""

    name = "raftmq"

    def command(self):
        self.http, self.metrics = free_ports(2)
        return [BINARY, "node", "--config", str(self.write())]

    def write(self):
        tls = {"certFile": str(self.certificates["server"]), "keyFile": str(self.certificates["server"].with_suffix(".key"))}
        required = {**tls, "caFile": str(self.certificates["ca"]), "clientAuth": "required"}
        websocket = {"path": WS_PATH}

        def listener(name, kind, **settings):
            return {"name": name, "type": kind, "bind": f"127.0.0.1:{self.ports[name]}", **settings}

        settings = {
            "listeners": [
                listener("tcp", "tcp"),
                listener("tls", "tls", tls=tls),
                listener("mtls", "tls", tls=required),
                listener("ws", "ws", websocket=websocket),
                listener("wss", "wss", tls=tls, websocket=websocket),
            ],
            "http": {"bind": f"127.0.0.1:{self.http}"},
            "metrics": {"bind": f"127.0.0.1:{self.metrics}"},
        }
        path = self.directory / "node.yaml"
        path.write_text(json.dumps(settings, indent=2))  # JSON is YAML
        return path

    def ready(self):
        return http(f"http://127.0.0.1:{self.metrics}/readyz", timeout=2)[0] == 200 and super().ready()


class Mosquitto(Broker):
    """Debian's Mosquitto: shows that the programs are right, whatever RaftMQ does."""

    name = "mosquitto"

    def command(self):
        files = self.certificates
        tls = f"certfile {files['server']}\nkeyfile {files['server'].with_suffix('.key')}\n"
        lines = [
            "per_listener_settings false", "allow_anonymous true", "persistence false", "log_dest stderr", "log_type all",
            # So that $SYS has messages for a subscriber that waits for ten.
            "sys_interval 1",
            f"listener {self.ports['tcp']} 127.0.0.1",
            f"listener {self.ports['tls']} 127.0.0.1\n{tls}",
            f"listener {self.ports['mtls']} 127.0.0.1\n{tls}cafile {files['ca']}\nrequire_certificate true",
            f"listener {self.ports['ws']} 127.0.0.1\nprotocol websockets",
            f"listener {self.ports['wss']} 127.0.0.1\nprotocol websockets\n{tls}",
        ]
        if os.getuid() == 0:
            # Else it becomes the user mosquitto, who may not read the files here.
            lines.insert(0, "user root")
        (self.directory / "mosquitto.conf").write_text("\n".join(lines) + "\n")
        binary = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
        return [binary, "-c", str(self.directory / "mosquitto.conf")]


class Elsewhere:
    """A broker that runs already; its addresses are in the environment."""

    name = "elsewhere"

    def __init__(self, _directory):
        pass

    def start(self):
        return self

    def environment(self):
        return {}

    def log(self):
        return ""

    def stop(self):
        pass


def chosen():
    """The kind of broker by the environment: RAFTMQ_COMPAT_BROKER=mosquitto, or addresses, or a node of RAFTMQ_BIN."""
    if os.environ.get("RAFTMQ_COMPAT_BROKER") == "mosquitto":
        return Mosquitto
    if os.environ.get("RAFTMQ_COMPAT_TCP"):
        return Elsewhere
    return RaftMq


if __name__ == "__main__":
    # `python brokers.py DIRECTORY`: runs the chosen broker until its input ends and prints the environment for the programs.
    directory = pathlib.Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    broker = chosen()(directory)
    try:
        broker.start()
        print("\n".join(f"export {name}='{value}'" for name, value in broker.environment().items()), flush=True)
        while sys.stdin.read(1):
            time.sleep(0)
    finally:
        broker.stop()
