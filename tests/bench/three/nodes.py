"""Clusters that can be broken node by node: RaftMQ, RabbitMQ with quorum queues; and single nodes with their persistence on: Mosquitto and HiveMQ CE, which have no cluster.

All keep what they acknowledge as well as they can be told to: RaftMQ always does, RabbitMQ by quorum queues, Mosquitto by its file of persistence, which
it writes at intervals (a second here, the shortest there is) and when it ends in order.
"""

import contextlib
import json
import os
import pathlib
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request

import brokers

QUEUED = 1_000_000
RABBITMQ = pathlib.Path("/usr/lib/rabbitmq/bin")
HIVEMQ = pathlib.Path(__file__).resolve().parents[1] / "hivemq"
CONCURRENT = 90


class Node:
    """`command` starts it; `port` is its MQTT listener."""

    def __init__(self, name, port, command, home, environment=None, user=None):
        self.name, self.port, self.command, self.home, self.environment = name, port, command, home, environment
        self.user, self.process = user, None

    @property
    def at(self):
        return "127.0.0.1", self.port

    @property
    def pid(self):
        return self.process.pid

    def start(self):
        with open(self.home / "log", "ab") as log:
            arguments = ["setpriv", "--pdeathsig", "KILL", *self.command]
            environment = {**os.environ, **(self.environment or {})}
            extra = {"user": self.user, "group": self.user, "extra_groups": []} if self.user else {}
            self.process = subprocess.Popen(
                arguments, cwd=self.home, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True, **extra
            )

    def signal(self, which):
        self.process.send_signal(which)

    def kill(self):
        """kill -9, with what it started, and waits until it is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def running(self):
        return self.process is not None and self.process.poll() is None

    def cpu(self):
        """Processor seconds so far, of all its threads."""
        return sum(self.threads().values())

    def threads(self):
        """Processor seconds by the names of threads, numbers left out."""
        used = {}
        for task in pathlib.Path(f"/proc/{self.pid}/task").iterdir():
            with contextlib.suppress(OSError):
                name = (task / "comm").read_text().strip().rstrip("0123456789").rstrip("-")
                words = (task / "stat").read_text().rpartition(")")[2].split()
                used[name] = used.get(name, 0.0) + (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
        return used

    def resident(self):
        """Bytes of memory."""
        for line in pathlib.Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        return 0

    def disk(self):
        """Bytes that its files take."""
        done = subprocess.run(["du", "-s", "--block-size=1", str(self.home)], capture_output=True, text=True, timeout=60)
        return int(done.stdout.split()[0])


class RaftmqNode(Node):
    def ask(self, path, timeout=3):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/{path}", timeout=timeout) as answer:
            return answer.status, answer.read().decode()

    def ready(self):
        try:
            return self.ask("readyz")[0] == 200
        except OSError:
            return False

    def metrics(self):
        """{'name{labels}': value}."""
        lines = (line.rpartition(" ") for line in self.ask("metrics", 10)[1].splitlines() if line and line[0] != "#")
        return {name: float(value) for name, _, value in lines}

    def fsyncs(self):
        return self.metrics()["raftmq_wal_fsync_seconds_count"]


class RabbitmqNode(Node):
    """What it starts is a script; the broker is a child of that."""

    @property
    def pid(self):
        for entry in pathlib.Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    text = (entry / "stat").read_text()
                    if int(text.rpartition(")")[2].split()[2]) == self.process.pid and "(beam.smp)" in text:
                        return int(entry.name)
        raise brokers.Failed(f"{self.name} has no broker: {brokers.tail(self.home / 'log')}")


class Cluster:
    def __init__(self, kind, nodes, directory, ready):
        self.kind, self.nodes, self.directory, self.ready = kind, nodes, directory, ready

    @property
    def pids(self):
        return [node.pid for node in self.nodes]

    def wait_ready(self, seconds=90, nodes=None):
        end = time.monotonic() + seconds
        for node in nodes or self.nodes:
            while not self.ready(node):
                if not node.running():
                    raise brokers.Failed(f"{node.name} ended: {brokers.tail(node.home / 'log')}")
                if time.monotonic() > end:
                    raise brokers.Failed(f"{node.name} does not serve within {seconds} s: {brokers.tail(node.home / 'log')}")
                time.sleep(0.1)

    def stop(self):
        for node in self.nodes:
            if node.running():
                with contextlib.suppress(ProcessLookupError):
                    node.signal(signal.SIGCONT)
                node.kill()


def ports(count):
    found = set()
    while len(found) < count:
        found.add(brokers.free_port())
    return list(found)


@contextlib.contextmanager
def running(kind, **options):
    """A cluster (`raftmq`, `rabbitmq`) or one node (`mosquitto`) that serves; all of it is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="raftmq-three-", ignore_cleanup_errors=True) as directory:
        directory = pathlib.Path(directory)
        cluster = {"raftmq": raftmq, "rabbitmq": rabbitmq, "mosquitto": mosquitto, "hivemq": hivemq}[kind](directory, **options)
        try:
            begin(cluster)
            yield cluster
        finally:
            cluster.stop()


def begin(cluster):
    for node in cluster.nodes:
        node.start()
    if cluster.kind == "raftmq":
        done = ctl(cluster, "bootstrap", *(node.name for node in cluster.nodes))
        if done.returncode:
            raise brokers.Failed(f"no cluster: {done.stderr or done.stdout} {brokers.tail(cluster.nodes[0].home / 'log')}")
        cluster.wait_ready()
        formed(cluster)
    elif cluster.kind == "rabbitmq":
        join(cluster)
    else:
        cluster.wait_ready(180)


# RaftMQ

def raftmq(directory, count=3, shards=16):
    names = [f"node-{number}" for number in range(count)]
    pki = directory / "pki"
    subprocess.run(
        [brokers.RAFTMQ, "certs", "--cluster", "three", "--out", str(pki), "--san", "127.0.0.1", *names], check=True, capture_output=True, timeout=60
    )
    free = iter(ports(4 * count))
    placed = [(name, next(free), next(free), next(free), next(free)) for name in names]
    peers = [f"127.0.0.1:{links}" for *_, links in placed]
    nodes = []
    for name, mqtt, http, metrics, links in placed:
        home = directory / name
        home.mkdir()
        tls = {"caFile": str(pki / "ca.pem"), "certFile": str(pki / f"{name}.pem"), "keyFile": str(pki / f"{name}.key")}
        settings = raftmq_settings(name, home, peers, mqtt, http, metrics, links, tls)
        environment = {}
        settings["cluster"]["shards"] = {"count": shards}
        (home / "conf.yaml").write_text(json.dumps(settings))
        node = RaftmqNode(name, mqtt, [brokers.RAFTMQ, "node", "--config", str(home / "conf.yaml")], home, environment)
        node.http_port, node.metrics_port, node.links_port = http, metrics, links
        nodes.append(node)
    cluster = Cluster("raftmq", nodes, directory, RaftmqNode.ready)
    cluster.pki = pki
    return cluster


def raftmq_settings(name, home, peers, mqtt, http, metrics, links, tls):
    return {
        "workers": 1,
        "node": {"name": name, "dataDir": str(home / "data")},
        "cluster": {
            "name": "three",
            "discovery": {"strategy": "static", "static": {"peers": peers}, "refreshInterval": "500ms"},
            "links": {"listen": f"127.0.0.1:{links}", "advertise": f"127.0.0.1:{links}", "tls": tls},
        },
        "listeners": [{"name": "mqtt", "bind": f"127.0.0.1:{mqtt}"}],
        "http": {"bind": f"127.0.0.1:{http}", "tls": tls},
        "metrics": {"bind": f"127.0.0.1:{metrics}"},
        "mqtt": {"maxInflight": brokers.INFLIGHT, "maxQueuedMessages": QUEUED, "maxQueuedBytes": "2GiB"},
        "log": {"level": "info"},
    }



def ctl(cluster, *arguments):
    endpoints = ",".join(f"https://127.0.0.1:{node.http_port}" for node in cluster.nodes)
    pki = cluster.pki
    command = [brokers.RAFTMQ, "ctl", "--endpoint", endpoints, "--ca", str(pki / "ca.pem"), "--cert", str(pki / "client.pem"), "--key", str(pki / "client.key")]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=90)


def formed(cluster):
    """Waits until the shards take a durable session each: they are formed after the nodes are ready."""
    end = time.monotonic() + 60
    while True:
        command = [brokers.RAFTMQ, "bench", "conn", "-c", str(CONCURRENT), "--clean-start", "false", "--mqtt-version", "4", "--client-id", "formed-",
                   "--hold", "0s", "--json", "--progress", "false", *urls(cluster.nodes)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        if done.returncode == 0:
            return
        if time.monotonic() > end:
            raise brokers.Failed(f"the shards are not formed within 60 s: {done.stderr or done.stdout[-500:]}")
        time.sleep(0.2)


def urls(nodes, flag="--url"):
    return [word for node in nodes for word in (flag, f"mqtt://127.0.0.1:{node.port}")]


# Mosquitto

def mosquitto(directory):
    home = directory / "mosquitto"
    home.mkdir()
    port = brokers.free_port()
    binary = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin") or "mosquitto"
    text = mosquitto_settings(port, f"{home}/")
    (home / "conf").write_text(text)
    node = Node("mosquitto", port, [binary, "-c", f"{home}/conf"], home)
    return Cluster("mosquitto", [node], directory, listens)


def mosquitto_settings(port, location):
    return brokers.mosquitto(port, None).replace("persistence false", f"persistence true\npersistence_location {location}\nautosave_interval 1").replace(
        f"max_queued_messages {brokers.QUEUED}", f"max_queued_messages {QUEUED}"
    )


def listens(node):
    with contextlib.suppress(OSError):
        socket.create_connection(node.at, 1).close()
        return True
    return False


# HiveMQ CE

def hivemq_files():
    """Its jars, fetched once by Maven."""
    at = brokers.CACHE / "bench" / "hivemq"
    if not at.exists():
        made = at.with_name("hivemq.new")
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(parents=True)
        shutil.copy(HIVEMQ / "pom.xml", made)
        command = ["mvn", "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={made}/lib"]
        done = subprocess.run(command, cwd=made, capture_output=True, text=True, timeout=600)
        if done.returncode:
            raise brokers.Failed(f"mvn: {done.stdout[-500:]}")
        made.rename(at)
    return at / "lib"


def hivemq(directory):
    home = directory / "hivemq"
    for part in ("conf", "data", "extensions"):
        (home / part).mkdir(parents=True)
    port = brokers.free_port()
    (home / "conf" / "config.xml").write_text(hivemq_settings(port))
    command = ["java", "-Xmx2g", "-cp", f"{hivemq_files()}/*", str(HIVEMQ / "Broker.java"), str(home)]
    return Cluster("hivemq", [Node("hivemq", port, command, home)], directory, listens)


def hivemq_settings(port):
    return f"""\
<hivemq>
  <listeners><tcp-listener><port>{port}</port><bind-address>127.0.0.1</bind-address></tcp-listener></listeners>
  <mqtt><queued-messages><max-queue-size>{QUEUED}</max-queue-size></queued-messages></mqtt>
  <anonymous-usage-statistics><enabled>false</enabled></anonymous-usage-statistics>
</hivemq>
"""


# RabbitMQ

def rabbitmq(directory, count=3):
    """Three nodes of one machine, as user rabbitmq where this is root."""
    user = "rabbitmq" if os.getuid() == 0 else None
    owner = pwd.getpwnam(user) if user else None
    free = iter(ports(3 * count + 1))
    epmd = next(free)
    cookie = directory / ".erlang.cookie"
    cookie.write_text("RAFTMQBENCH")
    cookie.chmod(0o400)
    nodes = []
    for number in range(count):
        name = f"node-{number}"
        home = directory / name
        home.mkdir()
        mqtt, amqp, dist = next(free), next(free), next(free)
        (home / "rabbitmq.conf").write_text(rabbitmq_settings(mqtt, amqp))
        (home / "advanced.config").write_text("[{rabbitmq_mqtt, [{durable_queue_type, quorum}]}].\n")
        (home / "enabled_plugins").write_text("[rabbitmq_mqtt].\n")
        environment = {
            "HOME": str(directory), "ERL_EPMD_PORT": str(epmd), "ERL_EPMD_ADDRESS": "127.0.0.1", "RABBITMQ_NODENAME": f"{name}@localhost",
            "RABBITMQ_NODE_PORT": str(amqp), "RABBITMQ_DIST_PORT": str(dist), "RABBITMQ_MNESIA_BASE": str(home / "data"),
            "RABBITMQ_LOG_BASE": str(home / "logs"), "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(home / "advanced.config"), "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
            "RABBITMQ_PID_FILE": str(home / "pid"),
        }
        nodes.append(RabbitmqNode(name, mqtt, [str(RABBITMQ / "rabbitmq-server")], home, environment, user=user))
    if owner:
        for path in [directory, *directory.rglob("*")]:
            os.chown(path, owner.pw_uid, owner.pw_gid)
    cluster = Cluster("rabbitmq", nodes, directory, listens)
    # Their port mapper, which a node would start else, and nobody would end.
    cluster.epmd = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "epmd", "-port", str(epmd), "-address", "127.0.0.1"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    cluster.stop = lambda: stop_rabbitmq(cluster)
    return cluster


def rabbitmq_settings(mqtt, amqp):
    return (
        f"mqtt.listeners.tcp.default = 127.0.0.1:{mqtt}\nlisteners.tcp.default = 127.0.0.1:{amqp}\nmqtt.allow_anonymous = true\n"
        f"mqtt.prefetch = {brokers.INFLIGHT}\nlog.console = false\nlog.file.level = error\n"
    )


def rabbitmqctl(node, *arguments, timeout=90):
    extra = {"user": node.user, "group": node.user, "extra_groups": []} if node.user else {}
    return subprocess.run(
        [str(RABBITMQ / "rabbitmqctl"), *arguments], cwd=node.home, env={**os.environ, **node.environment}, capture_output=True, text=True, timeout=timeout, **extra
    )


def join(cluster):
    cluster.wait_ready(120)
    first, *others = cluster.nodes
    for node in others:
        for words in (["stop_app"], ["reset"], ["join_cluster", f"{first.name}@localhost"], ["start_app"]):
            done = rabbitmqctl(node, *words)
            if done.returncode:
                raise brokers.Failed(f"rabbitmqctl {words[0]} on {node.name}: {done.stdout[-300:]} {done.stderr[-500:]}")
    cluster.wait_ready(60)


def stop_rabbitmq(cluster):
    Cluster.stop(cluster)
    cluster.epmd.kill()
    cluster.epmd.wait()
