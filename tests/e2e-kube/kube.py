"""A cluster of brokers on a Kubernetes, as people work with it: by kubectl and Helm.

Which Kubernetes: that of $KUBECONFIG. In the lab (`tests/lab/lab exec`, with `lab env` in the environment) tests can also
break nodes and read the audit log; on any other cluster the tests that need this are skipped and named.
"""

import base64
import contextlib
import functools
import json
import os
import pathlib
import secrets
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time

import pytest

REPO = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "tests" / "e2e"))

from harness import Client as MqttClient  # noqa: E402
from harness import http, metric_sum, wait_until  # noqa: E402, F401

CHART = REPO / "charts" / "raftmq-operator"
SAMPLE = REPO / "deploy" / "samples" / "mqttcluster.yaml"
RELEASE = "raftmq-operator"
OPERATOR_NAMESPACE = "raftmq-system"
MQTT, CONTROL, METRICS = 1883, 18083, 9100
IN_LAB = "RAFTMQ_LAB_BIN" in os.environ
# Further values for Helm, such as where images are on a cluster that is not the lab: "image.repository=…,brokerImage=…".
VALUES = [f"--set={v}" for v in os.environ.get("RAFTMQ_E2E_VALUES", "").split(",") if v]


def program(name):
    found = pathlib.Path(os.environ.get("RAFTMQ_LAB_BIN", "/nonexistent")) / name
    found = str(found) if found.exists() else shutil.which(name)
    assert found, f"{name} is missing"
    return found


def run(*command, check=True, timeout=120, stdin=None):
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout)
    if check:
        assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.stderr or done.stdout}"
    return done


def kubectl(*arguments, **options):
    return run(program("kubectl"), *arguments, **options)


def helm(*arguments, **options):
    return run(program("helm"), *arguments, **options)


def get(kind, name=None, namespace=None, selector=None):
    """The object, or the list's items; None where there is no such object."""
    arguments = ["get", kind, *([name] if name else []), "-o", "json", "--ignore-not-found"]
    arguments += ["-n", namespace] if namespace else []
    arguments += ["-l", selector] if selector else []
    text = kubectl(*arguments).stdout
    if name:
        return json.loads(text) if text.strip() else None
    return json.loads(text)["items"] if text.strip() else []


def apply(*objects, check=True):
    text = "\n---\n".join(json.dumps(one) for one in objects)
    return kubectl("apply", "-f", "-", stdin=text, check=check)


def patch(kind, name, namespace, change):
    return kubectl("patch", kind, name, "-n", namespace, "--type=merge", "-p", json.dumps(change))


def needs_lab(what):
    """A test that only the lab can run, and for what."""
    return pytest.mark.skipif(not IN_LAB, reason=f"needs the lab (tests/lab): {what}")


@functools.cache
def pods_are_reachable(address):
    with contextlib.suppress(OSError), socket.create_connection((address, METRICS), timeout=2):
        return True
    return False


def lab(command, *arguments, timeout=120):
    return run(program("labctl"), command, *arguments, timeout=timeout)


@contextlib.contextmanager
def partitioned(node):
    """The node's cable is pulled."""
    lab("partition", node)
    try:
        yield
    finally:
        lab("heal", node)


class Forwards:
    """`kubectl port-forward` for pods that cannot be reached from here by their address."""

    def __init__(self):
        self.running = {}

    def port(self, namespace, pod, uid, port):
        key = (uid, port)
        process, local = self.running.get(key, (None, None))
        if process is None or process.poll() is not None:
            process = subprocess.Popen(
                [program("kubectl"), "port-forward", "-n", namespace, f"pod/{pod}", f":{port}"],
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            )
            line = process.stdout.readline()
            assert "127.0.0.1:" in line, f"port-forward to {pod}: {line!r}"
            local = int(line.partition("127.0.0.1:")[2].split()[0])
            self.running[key] = (process, local)
        return local

    def stop(self):
        for process, _ in self.running.values():
            process.terminate()
            process.wait(timeout=10)
        self.running.clear()


forwards = Forwards()


@contextlib.contextmanager
def namespace(prefix="e2e", **labels):
    """A namespace of a test's own, in which only restricted pods may run; everything in it goes with it."""
    name = f"{prefix}-{secrets.token_hex(3)}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted", "raftmq.io/e2e": "true", **labels}
    apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    try:
        yield name
    except BaseException:
        show(name)
        if os.environ.get("RAFTMQ_E2E_KEEP"):
            print(f"kept: namespace {name}")
        else:
            kubectl("delete", "namespace", name, "--wait=false", check=False)
        raise
    else:
        kubectl("delete", "namespace", name, "--wait=false", check=False)


def show(name):
    """What people look at when something is wrong."""
    for arguments in (
        ["get", "mqttclusters,pods,persistentvolumeclaims", "-o", "wide"],
        ["get", "mqttclusters", "-o", "jsonpath={range .items[*].status.conditions[*]}{.type}={.status} {.reason}: {.message}{'\\n'}{end}"],
        ["events", "--types=Warning,Normal"],
    ):
        print(f"\n--- kubectl {' '.join(arguments)} -n {name}")
        print(kubectl(*arguments, "-n", name, check=False, timeout=30).stdout[-5000:])
    for pod in get("pods", namespace=name):
        pod = pod["metadata"]["name"]
        for previous in ([], ["--previous"]):
            log = kubectl("logs", pod, "-n", name, "--tail=25", *previous, check=False, timeout=30).stdout
            if log:
                print(f"\n--- log of {pod} {' '.join(previous)}\n{log}")
    log = kubectl("logs", "-n", OPERATOR_NAMESPACE, f"deploy/{RELEASE}", "--tail=60", check=False, timeout=30).stdout
    print(f"\n--- log of the operator\n{log}")


class MqttCluster:
    """An MqttCluster and its pods."""

    def __init__(self, namespace, name="raftmq", **spec):
        self.namespace, self.name, self.spec = namespace, name, spec

    def resource(self):
        return {
            "apiVersion": "raftmq.io/v1alpha1", "kind": "MqttCluster",
            "metadata": {"name": self.name, "namespace": self.namespace}, "spec": self.spec,
        }

    def apply(self, **spec):
        """Applies the resource, with a changed spec where one is given."""
        self.spec = {**self.spec, **spec}
        apply(self.resource())
        return self

    def get(self):
        return get("mqttclusters", self.name, self.namespace)

    def status(self):
        return (self.get() or {}).get("status", {})

    def condition(self, kind):
        """(status, reason, message) of a condition of the present generation."""
        cluster = self.get()
        for condition in cluster.get("status", {}).get("conditions", []):
            if condition["type"] == kind and condition.get("observedGeneration") == cluster["metadata"]["generation"]:
                return condition["status"], condition["reason"], condition["message"]
        return None, None, None

    @property
    def selector(self):
        return f"app.kubernetes.io/name=raftmq,app.kubernetes.io/instance={self.name}"

    def pods(self):
        """The pods by name."""
        return {pod["metadata"]["name"]: pod for pod in get("pods", namespace=self.namespace, selector=self.selector)}

    def pod_name(self, pod):
        return f"{self.name}-{pod}" if isinstance(pod, int) else pod

    def pod(self, pod):
        return get("pods", self.pod_name(pod), self.namespace)

    def ready_pods(self):
        return sorted(name for name, pod in self.pods().items() if is_ready(pod))

    def settled(self, replicas):
        """Whether so many pods are ready and the operator has nothing left to do."""
        status = self.status()
        members = {m["name"]: m["role"] for m in status.get("members", [])}
        return (
            len(self.ready_pods()) == replicas
            and len(self.pods()) == replicas
            and self.condition("Progressing")[0] == "False"
            and self.condition("Degraded")[0] == "False"
            and sorted(members) == [self.pod_name(i) for i in range(replicas)]
            and "down" not in members.values()
            and status.get("leader") in members
        )

    def wait_settled(self, replicas=3, deadline=120):
        wait_until(
            f"{self.namespace}/{self.name} settles with {replicas} nodes; last seen: see below",
            lambda: self.settled(replicas), deadline, 0.5,
        )
        return self

    def reach(self, pod, port=MQTT):
        """(host, port) of a pod's port, from here."""
        found = self.pod(pod)
        address = found["status"].get("podIP")
        assert address, f"{pod} has no address yet"
        if IN_LAB or pods_are_reachable(address):
            return address, port
        name = found["metadata"]["name"]
        return "127.0.0.1", forwards.port(self.namespace, name, found["metadata"]["uid"], port)

    def client(self, pod, **options):
        host, port = self.reach(pod)
        return MqttClient(port, host=host, **options)

    def try_message(self, subscriber, publisher, topic="e2e/probe"):
        """Subscribes on one pod, publishes on the other; whether the message arrives within 2 s."""
        payload = secrets.token_hex(4)
        with contextlib.suppress(OSError, AssertionError, ValueError):
            with self.client(subscriber) as receiver, self.client(publisher) as sender:
                receiver.subscribe(topic)
                sender.publish(topic, payload, deadline=2)
                wait_until("the message", lambda: receiver.received(topic, payload), 2)
                return True
        return False

    def leader(self):
        return wait_until("a leader in the status", lambda: self.status().get("leader"), 60, 0.5)

    def secret(self, suffix):
        data = get("secrets", f"{self.name}-{suffix}", self.namespace)["data"]
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    def control(self, pod, path, method="GET", body=None):
        """(status, answer) of a broker's control API, with the certificate that the operator made for people and itself."""
        host, port = self.reach(pod, CONTROL)
        secret = self.secret("control")
        with tempfile.TemporaryDirectory() as directory:
            files = {key: pathlib.Path(directory) / key for key in ("ca.crt", "tls.crt", "tls.key")}
            for key, file in files.items():
                file.write_text(secret[key])
            context = ssl.create_default_context(cafile=str(files["ca.crt"]))
            context.check_hostname = False
            context.load_cert_chain(files["tls.crt"], files["tls.key"])
            status, text = http(f"https://{host}:{port}/control/v1/{path}", context, method, body, timeout=20)
        return status, json.loads(text) if text else None

    def members(self):
        """The members in the eyes of the first pod that says, by name."""
        for name in self.ready_pods():
            with contextlib.suppress(OSError):
                status, answer = self.control(name, "members")
                if status == 200:
                    return {member["name"]: member for member in answer["members"] if member["state"] != "replaced"}
        raise AssertionError("no broker says who the members are")

    def metrics(self, pod):
        host, port = self.reach(pod, METRICS)
        samples = {}
        for line in http(f"http://{host}:{port}/metrics")[1].splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                samples[name] = float(value)
        return samples

    def scale(self, replicas):
        self.spec["replicas"] = replicas
        kubectl("scale", f"mqc/{self.name}", f"--replicas={replicas}", "-n", self.namespace)

    def delete_pod(self, pod, *options):
        kubectl("delete", "pod", self.pod_name(pod), "-n", self.namespace, "--wait=false", *options)

    def wait_replaced(self, pod, uid, deadline=90):
        """Until another pod of this name is ready."""
        def other():
            found = self.pod(pod)
            return found and found["metadata"]["uid"] != uid and is_ready(found)
        wait_until(f"another {self.pod_name(pod)} is ready", other, deadline, 0.3)


def is_ready(pod):
    conditions = pod.get("status", {}).get("conditions", [])
    deleted = "deletionTimestamp" in pod["metadata"]
    return not deleted and any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def install(*values, wait=True):
    """`helm upgrade --install` of the operator, with the given values."""
    arguments = ["--wait", "--timeout", "120s"] if wait else []
    return helm(
        "upgrade", "--install", RELEASE, str(CHART), "-n", OPERATOR_NAMESPACE, "--create-namespace", "--reset-values", *arguments, *VALUES,
        *[f"--set={value}" for value in values], timeout=180,
    )


def operator_pods():
    selector = f"app.kubernetes.io/instance={RELEASE},app.kubernetes.io/component=operator"
    return get("pods", namespace=OPERATOR_NAMESPACE, selector=selector)


class Steady:
    """A subscriber on one pod and a publisher on another that go on while something happens: counts what is lost."""

    def __init__(self, cluster, subscriber, publisher):
        self.receiver, self.sender = cluster.client(subscriber), cluster.client(publisher)
        self.receiver.subscribe("steady")
        self.sent = 0

    def tick(self):
        self.sent += 1
        self.sender.publish("steady", str(self.sent))

    def check(self):
        """Nothing was lost, and nobody was disconnected."""
        wait_until("all messages", lambda: len(self.receiver.received("steady")) >= self.sent, 10)
        assert [int(m[1]) for m in self.receiver.received("steady")] == list(range(1, self.sent + 1))
        assert self.receiver.disconnected is None and self.sender.disconnected is None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for client in (self.receiver, self.sender):
            with contextlib.suppress(Exception):
                client.close()


def stopwatch():
    start = time.monotonic()
    return lambda: time.monotonic() - start
