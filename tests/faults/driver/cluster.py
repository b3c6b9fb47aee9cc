"""The nodes of a run: each a process in a namespace of its own, with a disk of its own."""

import asyncio
import contextlib
import ctypes
import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

from . import place

REPO = pathlib.Path(__file__).resolve().parents[3]
# As tests/e2e.
BINARY = os.environ.get("RAFTMQ_BIN") or str(pathlib.Path(os.environ.get("CARGO_TARGET_DIR", REPO / "target")) / "release" / "raftmq")
PR_SET_PDEATHSIG = 1


def _with_parent():
    """In the child: it ends with the driver."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Node:
    PORT, HTTP, METRICS, LINKS = 1883, 18083, 9100, 9883

    def __init__(self, cluster, name, address, disk):
        self.cluster, self.name, self.address = cluster, name, address
        self.disk = pathlib.Path(disk)
        self.home = cluster.directory / name
        self.process = None
        self.paused = False
        # It was started, and nobody has ended it since.
        self.wanted = False

    def write(self, peers, shards, snapshot_bytes, settings):
        pki = self.cluster.pki
        tls = {"caFile": str(pki / "ca.pem"), "certFile": str(pki / f"{self.name}.pem"), "keyFile": str(pki / f"{self.name}.key")}
        links = f"{self.address}:{self.LINKS}"
        config = {
            "workers": 2,
            "node": {"name": self.name, "dataDir": str(self.disk / "data")},
            "cluster": {
                "name": "faults",
                "discovery": {"strategy": "static", "static": {"peers": peers}, "refreshInterval": "500ms"},
                "links": {"listen": links, "advertise": links, "tls": tls},
                **({"raft": {"snapshotBytes": snapshot_bytes}} if snapshot_bytes else {}),
                **({"shards": {"count": shards}} if shards else {}),
            },
            "listeners": [{"name": "mqtt", "bind": f"{self.address}:{self.PORT}"}],
            "http": {"bind": f"{self.address}:{self.HTTP}", "tls": tls},
            "metrics": {"bind": f"{self.address}:{self.METRICS}"},
            "mqtt": {"maxQueuedMessages": 1_000_000, "maxQueuedBytes": "256MiB"},
            **settings,
        }
        self.home.mkdir()
        (self.home / "config.yaml").write_text(json.dumps(config))

    def start(self):
        with open(self.home / "log", "ab") as log:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", self.name, BINARY, "node", "--config", str(self.home / "config.yaml")],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=_with_parent, cwd=self.home,
                env={**os.environ, "RAFTMQ_PLANT": self.cluster.plant},
            )
        self.paused = False
        self.wanted = True

    def running(self):
        return self.process is not None and self.process.poll() is None

    async def kill(self):
        """kill -9."""
        self.wanted = False
        if self.running():
            self.process.kill()
            await asyncio.to_thread(self.process.wait)

    async def terminate(self):
        """As an operating system asks a service to stop; killed when it takes longer than 20 s."""
        self.wanted = False
        if self.running():
            self.process.terminate()
            try:
                await asyncio.to_thread(self.process.wait, 20)
            except subprocess.TimeoutExpired:
                await self.kill()

    def pause(self):
        if self.running():
            self.process.send_signal(signal.SIGSTOP)
            self.paused = True

    def resume(self):
        if self.running() and self.paused:
            self.process.send_signal(signal.SIGCONT)
        self.paused = False

    def wipe(self):
        shutil.rmtree(self.disk / "data", ignore_errors=True)

    async def ready(self):
        """Whether it serves, by its own word."""
        return await place.serves(self.address, self.METRICS)

    def log_tail(self, lines=15):
        with contextlib.suppress(OSError):
            return "\n".join((self.home / "log").read_text(errors="replace").splitlines()[-lines:])
        return ""


class Cluster:
    def __init__(self, directory, network, disks, settings, *, shards, snapshot_bytes=None, plant=""):
        self.directory, self.network, self.disks = pathlib.Path(directory), network, disks
        # The bug that a build with planted bugs is to have.
        self.plant = plant
        self.pki = self.directory / "pki"
        names = network.names
        sans = [argument for name in names for argument in ("--san", network.address(name))]
        subprocess.run(
            [BINARY, "certs", "--cluster", "faults", "--out", str(self.pki), *sans, *names], check=True, capture_output=True, timeout=60
        )
        self.nodes = [Node(self, name, network.address(name), disks.path(name)) for name in names]
        peers = [f"{node.address}:{Node.LINKS}" for node in self.nodes]
        for node in self.nodes:
            node.write(peers, shards, snapshot_bytes, settings)

    def ended_alone(self):
        """The nodes that ended without anybody's doing since this was asked last, with their exit codes."""
        ended = [node for node in self.nodes if node.wanted and not node.running()]
        for node in ended:
            node.wanted = False
        return [(node, node.process.returncode) for node in ended]

    async def form(self):
        for node in self.nodes:
            node.start()
        done = await self.ctl("bootstrap", *self.network.names)
        if done.returncode:
            raise RuntimeError(f"no cluster: {done.stderr or done.stdout}\n{self.nodes[0].log_tail()}")
        await self.wait_ready(60)

    async def wait_ready(self, seconds, nodes=None):
        """Waits until the nodes serve; False if they do not in this time."""
        return await place.wait_ready(nodes or self.nodes, seconds)

    async def ctl(self, *arguments):
        endpoints = ",".join(f"https://{node.address}:{Node.HTTP}" for node in self.nodes)
        command = [
            BINARY, "ctl", "--endpoint", endpoints, "--ca", str(self.pki / "ca.pem"), "--cert", str(self.pki / "client.pem"),
            "--key", str(self.pki / "client.key"), *arguments,
        ]
        return await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=90)

    async def leaders(self):
        """Who leads which group, as far as a node knows: [(group, name of the node, or None)]."""
        groups, members = await asyncio.gather(*(self.ctl("--output", "json", what) for what in ("groups", "members")))
        with contextlib.suppress(ValueError, KeyError):
            names = {member["id"]: member["name"] for member in json.loads(members.stdout)["members"]}
            return [(group["name"], names.get(group["leader"])) for group in json.loads(groups.stdout)["groups"]]
        return []

    async def can_lose(self, node, seconds):
        """Waits until every group has its quorum and keeps it without the node, and all nodes serve; False if that is not so in this time."""
        end = time.monotonic() + seconds
        while await self.wait_ready(max(0, end - time.monotonic())):
            done = await self.ctl("--output", "json", "loss", node.name)
            with contextlib.suppress(ValueError, KeyError):
                groups = json.loads(done.stdout)["groups"]
                if groups and all(group["hasQuorum"] and not group["losesQuorum"] for group in groups):
                    return True
            if time.monotonic() > end:
                break
            await asyncio.sleep(0.5)
        return False

    def node(self, name):
        return next(node for node in self.nodes if node.name == name)

    def stop(self):
        """All of them, whatever they are doing."""
        for node in self.nodes:
            node.resume()
            if node.running():
                node.process.kill()
        for node in self.nodes:
            if node.process is not None:
                node.process.wait(timeout=30)
