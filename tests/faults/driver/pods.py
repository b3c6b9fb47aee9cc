"""Brokers that are pods of an MqttCluster, which an operator keeps on a Kubernetes: a lab, inside whose network the driver runs (`lab`)."""

import asyncio
import contextlib
import json
import os
import pathlib
import secrets
import subprocess
import sys
import time

from . import place
from .pod_faults import Breaker
from .pod_logs import Logs

REPO = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(REPO / "tests" / "e2e-kube"))

import kube  # noqa: E402: as the tests on Kubernetes have it

# How a container ends that is killed, or whose node is.
KILLED = 137, 143, 255
# Seconds in which a cluster of new pods serves.
FORMS = 180


class Pod:
    """A broker, over all pods of its name."""

    METRICS = 9100

    def __init__(self, name, logs):
        self.name, self.logs = name, logs
        # Of the pod that there is now: None for what is not known.
        self.uid = self.address = self.host = None
        self.restarts = 0
        self.is_ready = False
        # Which life of it somebody ends, until the next one serves.
        self.ending = None
        # How it ended without anybody's doing.
        self.ends = []

    @property
    def life(self):
        return self.uid, self.restarts

    def end(self):
        """Somebody ends what runs now: that it ends is expected until another life of it serves."""
        self.ending = self.life

    def see(self, pod, deleted=False):
        """Takes what Kubernetes says of a pod of this name."""
        uid, status = pod["metadata"]["uid"], pod.get("status", {})
        if deleted:
            if uid == self.uid:
                self.address, self.is_ready = None, False
            return
        if uid != self.uid:
            if self.uid is not None and self.ending is None:
                self.ends.append("another pod came for it")
            self.uid, self.restarts = uid, 0
        container = next(iter(status.get("containerStatuses", [])), {})
        count = container.get("restartCount", 0)
        if count > self.restarts:
            last = container.get("lastState", {}).get("terminated", {})
            code = last.get("exitCode")
            if self.ending is None or code not in KILLED or last.get("reason") == "OOMKilled":
                self.ends.append(f"exit code {code}, {last.get('reason')}")
            self.restarts = count
        self.address = status.get("podIP")
        self.host = pod["spec"].get("nodeName")
        self.is_ready = kube.is_ready(pod)
        if self.is_ready and self.ending is not None and self.ending != self.life:
            self.ending = None

    async def ready(self):
        """Whether it serves, by its own word and by that of Kubernetes."""
        return self.is_ready and self.address is not None and await place.serves(self.address, self.METRICS)

    def log_tail(self):
        return self.logs.tail(self.name)


class Pods(place.Place):
    what = "pods of an MqttCluster"
    OPERATOR = kube.OPERATOR_NAMESPACE
    program = staticmethod(kube.program)
    # A pod, or a node of Kubernetes, takes longer to come back than a process.
    patience, heals = 60, 180

    def __init__(self, options, directory):
        super().__init__(options, directory)
        self.namespace = f"faults-{secrets.token_hex(3)}"
        state = pathlib.Path(os.environ["RAFTMQ_LAB_STATE"])
        self.logs = Logs(
            [str(state / "nodes/*/var-log/pods" / f"{namespace}_*/*/*.log*") for namespace in (self.namespace, kube.OPERATOR_NAMESPACE)], directory
        )
        raft = {"raft": {"snapshotBytes": options.snapshot_bytes}} if options.snapshot_bytes else {}
        shards = {"shards": {"count": options.shards}} if options.shards else {}
        self.cluster = kube.MqttCluster(
            self.namespace, replicas=options.nodes, storage={"size": "1Gi"},
            config={"workers": 2, "mqtt": {"maxQueuedMessages": 1_000_000, "maxQueuedBytes": "256MiB"}, **raft, **shards},
        )
        self.nodes = [Pod(self.cluster.pod_name(number), self.logs) for number in range(options.nodes)]
        self._tasks, self._breaker = [], None
        self._installed = False

    async def form(self):
        if not await asyncio.to_thread(_operator_is_there):
            self._installed = True
            await asyncio.to_thread(kube.install)
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        await asyncio.to_thread(kube.apply, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace, "labels": labels}})
        await asyncio.to_thread(self.cluster.apply)
        self._tasks = [asyncio.create_task(work) for work in (self._watch(), self._follow_logs())]
        if not await self.settled(FORMS) or not await self.wait_ready(FORMS):
            raise RuntimeError(f"no cluster within {FORMS} s: {self.cluster.status()}")
        hosts = [node.host for node in self.nodes]
        if len(set(hosts)) < len(hosts):
            raise RuntimeError(f"several brokers on one node: {', '.join(hosts)}")

    def contact(self, number):
        node = self.nodes[number]
        if node.address is None:
            raise ConnectionRefusedError(f"{node.name} has no address")
        # Another pod of the name has another address; in one pod one process follows the other.
        return place.Contact(f"{node.name}@{node.address}", node.address)

    def breaker(self, recorder):
        self._breaker = Breaker(self, recorder)
        return self._breaker

    def ended_alone(self):
        found = [(node.name, f"{how}\n{node.log_tail()}") for node in self.nodes for how in node.ends]
        for node in self.nodes:
            node.ends.clear()
        return found

    async def wait_ready(self, seconds, nodes=None):
        return await place.wait_ready(nodes or self.nodes, seconds)

    async def settled(self, seconds):
        """Waits until the operator has nothing left to do; False if it has in this time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            # What cannot be asked now, or has no status yet, is not settled.
            with contextlib.suppress(AssertionError, KeyError, TypeError):
                if await asyncio.to_thread(self.cluster.settled, len(self.nodes)):
                    return True
            await asyncio.sleep(0.5)
        return False

    async def can_lose(self, node, seconds):
        """As that of `cluster.Cluster`: waits until every group has its quorum and keeps it without the node, and all nodes serve."""
        end = time.monotonic() + seconds
        while await self.wait_ready(max(0, end - time.monotonic())):
            with contextlib.suppress(AssertionError, OSError, ValueError, KeyError, TypeError):
                _, answer = await asyncio.to_thread(self.cluster.control, self.nodes[0].name, f"loss?node={node.name}")
                if answer["groups"] and all(group["hasQuorum"] and not group["losesQuorum"] for group in answer["groups"]):
                    return True
            if time.monotonic() > end:
                break
            await asyncio.sleep(0.5)
        return False

    async def stop(self):
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.logs.close()
        await asyncio.to_thread(self._describe)
        if self.options.lab:
            # That lab stays.
            if self._breaker is not None:
                await self._breaker.heal()
            await asyncio.to_thread(kube.kubectl, "delete", "namespace", self.namespace, check=False)
            if self._installed:
                await asyncio.to_thread(kube.helm, "uninstall", kube.RELEASE, "-n", kube.OPERATOR_NAMESPACE, check=False)

    def _describe(self):
        """What people look at when something is wrong."""
        with open(pathlib.Path(self.directory) / "kubernetes.txt", "w", encoding="utf-8") as file:
            for what in (
                ["get", "nodes,pods", "-A", "-o", "wide"], ["get", "mqttclusters", "-o", "yaml", "-n", self.namespace], ["events", "-n", self.namespace],
                ["describe", "pods", "-n", self.namespace],
            ):
                with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                    done = kube.kubectl(*what, check=False, timeout=20)
                    file.write(f"--- kubectl {' '.join(what)}\n{done.stdout}{done.stderr}\n")

    async def _watch(self):
        """What Kubernetes says of the pods, as it happens."""
        by_name = {node.name: node for node in self.nodes}
        command = ["get", "pods", "-n", self.namespace, "-l", self.cluster.selector, "-o", "json", "--watch", "--output-watch-events"]
        while True:
            async with _kubectl(*command) as process:
                text = ""
                while data := await process.stdout.read(1 << 16):
                    text += data.decode()
                    found, text = documents(text)
                    for event in found:
                        pod = event["object"]
                        if pod["metadata"]["name"] in by_name:
                            by_name[pod["metadata"]["name"]].see(pod, event["type"] == "DELETED")
            await asyncio.sleep(0.5)

    async def _follow_logs(self):
        while True:
            await asyncio.to_thread(self.logs.follow)
            await asyncio.sleep(0.5)


def documents(text):
    """The whole JSON documents at the front of a text, and what is left of it."""
    decoder, found, at = json.JSONDecoder(), [], 0
    while True:
        rest = text[at:].lstrip()
        at = len(text) - len(rest)
        try:
            document, length = decoder.raw_decode(rest)
        except ValueError:
            return found, rest
        found.append(document)
        at += length


@contextlib.asynccontextmanager
async def _kubectl(*arguments):
    process = await asyncio.create_subprocess_exec(
        kube.program("kubectl"), *arguments, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _operator_is_there():
    return kube.helm("status", kube.RELEASE, "-n", kube.OPERATOR_NAMESPACE, check=False).returncode == 0
