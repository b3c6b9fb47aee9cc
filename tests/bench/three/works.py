"""What is measured on a cluster of three, a function a work: it gets the options, starts what it needs, and returns numbers.

Each `Work` names the brokers that can do it. Times are in seconds, sizes in bytes.
"""

import asyncio
import dataclasses
import json
import random
import statistics
import subprocess
import time
import typing

import brokers

from . import nodes
from .client import Client, Gone
from .watch import Publishers, gaps

PAYLOAD = 256
# RabbitMQ 3.10 takes no QoS 2.
ALL = ("raftmq", "rabbitmq", "hivemq", "mosquitto")
CLUSTERS = ("raftmq", "rabbitmq")
OURS = ("raftmq",)


@dataclasses.dataclass(frozen=True)
class Work:
    name: str
    # Its table in docs/benchmarks-cluster.md.
    table: str
    title: str
    brokers: tuple
    run: typing.Callable


def bench(cluster, *arguments, timeout=180, subscribe=None, publish=None):
    """The report of `raftmq bench` with what the nodes took meanwhile: publishers on the first node, subscribers on the last, unless said otherwise."""
    command = [
        brokers.RAFTMQ, "bench", *map(str, arguments), "--mqtt-version", "4", "--clean-start", "false", "--json", "--progress", "false",
        "--watch-pid", ",".join(map(str, cluster.pids)), *nodes.urls(publish or cluster.nodes[:1]),
    ]
    if arguments[0] == "pair":
        command += nodes.urls(subscribe or cluster.nodes[-1:], "--subscribe-url")
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)
    if done.returncode not in (0, 1):
        raise brokers.Failed(f"raftmq bench: {done.stderr.strip() or done.returncode}")
    return json.loads(done.stdout)


def shown(*arguments):
    return f"raftmq bench {' '.join(map(str, arguments))} --mqtt-version 4 --clean-start false"


# Rates and latencies

def load(options, broker, qos, window, rate=0):
    arguments = ["pair", "-c", 64, "--qos", qos, "--payload-size", PAYLOAD, "--warmup", f"{options.warmup}s", "--duration", f"{options.seconds}s"]
    arguments += ["--rate", rate, "--window", 1000] if rate else ["--window", window]
    with nodes.running(broker) as cluster:
        if broker == "hivemq":
            # What runs for the first time is not compiled yet.
            bench(cluster, *arguments)
        before = counters(cluster)
        report = bench(cluster, *arguments)
        after = counters(cluster)
    messages, measured = report["messages"], report["measured"]
    if not measured["acknowledged"] or report["latency_us"]["end_to_end"] is None:
        raise brokers.Failed(f"nothing was acknowledged or delivered: {report['errors'][:3]}")
    cpu = [watched["cpu_seconds"] for watched in report["watched"]]
    made = {
        "command": shown(*arguments), "ok": report["ok"], "acknowledged_per_second": measured["acknowledged_per_second"],
        "delivered_per_second": measured["delivered_per_second"], "lost": messages["lost"], "errors": report["errors"][:3],
        "cpu_per_million": [1e6 * used / max(1, measured["acknowledged"]) for used in cpu],
        "clients_cpu_per_million": 1e6 * report["generator"]["cpu_seconds"] / max(1, measured["acknowledged"]),
        "latency_us": {name: report["latency_us"][name] for name in ("acknowledge", "end_to_end")},
    }
    # Of the whole run, warm-up and drain included.
    acknowledged = max(1, messages["acknowledged"])
    if broker == "raftmq":
        made["fsyncs_per_thousand"] = [1000 * (a["fsyncs"] - b["fsyncs"]) / acknowledged for a, b in zip(after, before)]
        made["log_bytes_per_message"] = [(a["log"] - b["log"]) / acknowledged for a, b in zip(after, before)]
    threads = {}
    for a, b in zip(after, before):
        for name, used in a["threads"].items():
            threads[name] = threads.get(name, 0.0) + used - b["threads"].get(name, 0.0)
    made["threads_per_million"] = {name: 1e6 * used / acknowledged for name, used in threads.items() if used > 0}
    return made


def counters(cluster):
    found = []
    for node in cluster.nodes:
        one = {"threads": node.threads()}
        if cluster.kind == "raftmq":
            metrics = node.metrics()
            one |= {"fsyncs": metrics["raftmq_wal_fsync_seconds_count"], "log": metrics["raftmq_wal_written_bytes_total"]}
        found.append(one)
    return found


# Nothing to do

CLASSES = ("control", "log", "bulk", "data")


def idle(options, shards):
    with nodes.running("raftmq", shards=shards) as cluster:
        # What forming the shards left to do.
        time.sleep(options.settle)
        before = [(node.metrics(), node.cpu()) for node in cluster.nodes]
        begun = time.monotonic()
        time.sleep(options.idle)
        after = [(node.metrics(), node.cpu()) for node in cluster.nodes]
        took = time.monotonic() - begun

        def rate(name):
            return [(a[0][name] - b[0][name]) / took for a, b in zip(after, before)]

        frames = [sum(each) for each in zip(*(rate(f'raftmq_link_frames_sent_total{{class="{c}"}}') for c in CLASSES))]
        sent = [sum(each) for each in zip(*(rate(f'raftmq_link_sent_bytes_total{{class="{c}"}}') for c in CLASSES))]
        return {
            "frames_per_second": frames, "bytes_per_second": sent, "fsyncs_per_second": rate("raftmq_wal_fsync_seconds_count"),
            "cpu_per_second": [(a[1] - b[1]) / took for a, b in zip(after, before)], "resident": [node.resident() for node in cluster.nodes],
        }


# Memory

def memory_sessions(options):
    """Sessions of clients that have gone, each with a subscription, made in waves: a client needs a socket only while it connects."""
    count, wave = options.sessions, min(options.sessions, options.wave)
    with nodes.running("raftmq") as cluster:
        begin = [(node.resident(), node.disk()) for node in cluster.nodes]
        connects, refused = waves(cluster, count, wave)
        time.sleep(options.settle)
        end = [(node.resident(), node.disk()) for node in cluster.nodes]
        connected, refused_again = waves(cluster, count, wave)
        storm = [node.resident() for node in cluster.nodes]
        sample = asyncio.run(resumed(cluster, count, wave))
    return {
        "sessions": count, "wave": wave, "bytes_per_session": [(a[0] - b[0]) / count for a, b in zip(end, begin)],
        "disk_per_session": [(a[1] - b[1]) / count for a, b in zip(end, begin)], "resident": [a for a, _ in end], "resident_after_storm": storm,
        "created_per_second": connects, "resumed_per_second": connected, "sampled": sample[0], "present": sample[1], "refused": refused, "refused_again": refused_again,
    }


def waves(cluster, count, wave):
    """Connects a second of all waves together, and how many were refused (some may be when all come at once: clients try again)."""
    took = made = refused = 0
    for number in range(0, count, wave):
        report = bench(
            cluster, "conn", "-c", min(wave, count - number), "--threads", 4, "--connecting", 1_000, "--subscriptions", 1, "--keep-alive", "300s", "--client-id", f"kept-{number}-",
            "--topic", f"kept/{number}/%i", "--hold", "0s", publish=cluster.nodes, timeout=600,
        )
        failed = report["connections"]["wanted"] - report["connections"]["connected"]
        refused += failed
        if failed > 0.05 * report["connections"]["wanted"]:
            raise brokers.Failed(f"too many clients did not come up: {report['connections']}, {report['errors']}")
        took += report["seconds"]["connect"]
        made += report["connections"]["connected"]
    return made / took, refused


async def resumed(cluster, count, wave):
    """How many of some sessions there are, asked on any node."""
    sampled = present = 0
    for _ in range(200):
        number = random.randrange(count)
        client = Client(f"kept-{number - number % wave}-s{number % wave}", clean=False)
        present += await client.connect(random.choice(cluster.nodes).at)
        sampled += 1
        client.disconnect()
    return sampled, present


def memory_queued(options):
    """Messages that wait for 64 sessions whose clients are away."""
    with nodes.running("raftmq") as cluster:
        async def subscribe():
            for number in range(64):
                client = Client(f"away-{number}", clean=False)
                await client.connect(cluster.nodes[number % 3].at)
                await client.subscribe(f"queued/{number}", 1)
                client.disconnect()

        asyncio.run(subscribe())
        begin = [(node.resident(), node.disk()) for node in cluster.nodes]
        arguments = ["pub", "-c", 64, "--qos", 1, "--payload-size", PAYLOAD, "--topic", "queued/%i", "--messages", options.messages, "--window", 64, "--duration", "0s"]
        report = bench(cluster, *arguments, publish=cluster.nodes, timeout=600)
        if not report["ok"]:
            raise brokers.Failed(f"not all were acknowledged: {report['messages']}, {report['errors']}")
        time.sleep(options.settle)
        end = [(node.resident(), node.disk()) for node in cluster.nodes]
        took, came = asyncio.run(drained(cluster, options.messages))
    return {
        "command": shown(*arguments), "messages": options.messages, "bytes_per_message": [(a[0] - b[0]) / options.messages for a, b in zip(end, begin)],
        "disk_per_message": [(a[1] - b[1]) / options.messages for a, b in zip(end, begin)], "resident": [a for a, _ in end],
        "published_per_second": report["messages"]["acknowledged"] / max(report["seconds"]["measured"], 0.001), "delivered": came, "delivered_per_second": came / took,
    }


async def drained(cluster, count):
    """Time until all came, to clients that are back on other nodes than before."""
    came, last = 0, time.monotonic()
    done = asyncio.Event()

    def on_message(_topic, _payload):
        nonlocal came, last
        came, last = came + 1, time.monotonic()
        if came >= count:
            done.set()

    begun = time.monotonic()
    clients = [Client(f"away-{number}", clean=False, on_message=on_message) for number in range(64)]
    for number, client in enumerate(clients):
        await client.connect(cluster.nodes[(number + 1) % 3].at, 30)
    while not done.is_set() and time.monotonic() - last < 15:
        await asyncio.sleep(0.1)
    for client in clients:
        client.disconnect()
    return max(last - begun, 0.001), came


# Kills

def failover(options, broker):
    """One node after the other is killed with SIGKILL and started again, under publishers on the other two: how long none of their messages was acknowledged."""
    with nodes.running(broker) as cluster:
        return asyncio.run(failovers(cluster, options))


async def failovers(cluster, options):
    longest, claims, subscribes, returns = [], [], [], []
    for turn in range(options.kills):
        victim = cluster.nodes[turn % len(cluster.nodes)]
        others = [node for node in cluster.nodes if node is not victim]
        publishers = await Publishers.start(others, 48, f"failover-{turn}", everywhere=cluster.nodes)
        # Somebody who is on the node that dies, to be taken over elsewhere.
        moving = Client(f"moving-{turn}", clean=False)
        await moving.connect(victim.at)
        await asyncio.sleep(options.before)
        killed = time.monotonic()
        victim.kill()
        claim, subscribe = await asyncio.gather(timed(moved(others[0], f"moving-{turn}")), timed(subscribed(others[1], f"new-{turn}")))
        claims.append(claim)
        subscribes.append(subscribe)
        await asyncio.sleep(max(0.0, killed + options.after - time.monotonic()))
        longest.append(max(gaps(publishers, killed - 0.2, killed + options.after)))
        publishers.stop()
        started = time.monotonic()
        victim.start()
        await asyncio.to_thread(cluster.wait_ready, 120, [victim])
        returns.append(time.monotonic() - started)
        await asyncio.sleep(options.between)
    return {"kills": options.kills, "without_acknowledgement": longest, "takeover": claims, "suback": subscribes, "back": returns}


async def timed(doing):
    """Seconds until it was done; None if it never was."""
    begun = time.monotonic()
    try:
        await doing
    except Gone:
        return None
    return time.monotonic() - begun


async def again(what, seconds=30):
    """Tried until it is done, as clients do."""
    end = time.monotonic() + seconds
    while True:
        try:
            return await what()
        except Gone:
            if time.monotonic() > end:
                raise
            await asyncio.sleep(0.1)


async def moved(node, client_id):
    async def connect():
        client = Client(client_id, clean=False)
        await client.connect(node.at, 20)
        return client

    (await again(connect)).disconnect()


async def subscribed(node, name):
    async def subscribe():
        client = Client(name, clean=True)
        await client.connect(node.at, 20)
        await client.subscribe(f"{name}/#", 1)
        return client

    (await again(subscribe)).disconnect()


# Loss

def loss(options, broker, everything):
    """Acknowledged messages that never come after kill -9 at random moments: of one node of three (`everything` false), or of all nodes at once."""
    with nodes.running(broker) as cluster:
        return asyncio.run(losses(cluster, options, everything))


async def losses(cluster, options, everything):
    chance = random.Random(options.seed)
    received, runs = set(), []
    accepted = set()
    # Clean Session 0, and away: what is published waits for them.
    for number in range(8):
        await again(lambda number=number: subscribe_away(cluster.nodes[number % len(cluster.nodes)], number), 60)
    for turn in range(options.loss_kills):
        victims = cluster.nodes if everything else [chance.choice(cluster.nodes)]
        # Publishers are on all nodes: those of the node that dies are the ones whose messages could be lost.
        publishers = await Publishers.start(cluster.nodes, 16, f"loss-{turn}", topics=[f"away/{n}" for n in range(8)], window=16, pause=0, reconnect=False)
        await asyncio.sleep(chance.uniform(0.5, options.loss_seconds))
        for node in victims:
            node.kill()
        await asyncio.sleep(0.3)
        publishers.stop()
        accepted |= publishers.accepted
        for node in victims:
            node.start()
        await asyncio.to_thread(revived, cluster, 300)
        runs.append(len(publishers.accepted))
        await collect(cluster, received, accepted, options.drain)
    missing = accepted - received
    return {"kills": options.loss_kills, "all_nodes": everything, "accepted": len(accepted), "missing": len(missing), "accepted_by_turn": runs}


def revived(cluster, seconds):
    """Waits until all serve. One that ends meanwhile is started again, as whatever runs a broker does: RabbitMQ's nodes do where too few of them are there."""
    end = time.monotonic() + seconds
    while not all(cluster.ready(node) for node in cluster.nodes):
        for node in cluster.nodes:
            if not node.running():
                node.start()
        if time.monotonic() > end:
            raise brokers.Failed(f"not all serve within {seconds} s after a kill: {brokers.tail(cluster.nodes[0].home / 'log')}")
        time.sleep(0.5)


async def subscribe_away(node, number):
    client = Client(f"away-{number}", clean=False)
    await client.connect(node.at, 20)
    await client.subscribe(f"away/{number}", 1)
    client.disconnect()


async def collect(cluster, received, accepted, seconds):
    """Reads all queues until everything acknowledged is there, or nothing came for some time."""
    last = time.monotonic()

    def on_message(_topic, payload):
        nonlocal last
        last = time.monotonic()
        received.add(payload[:24])

    clients = []
    for number in range(8):
        async def connect(number=number):
            client = Client(f"away-{number}", clean=False, on_message=on_message)
            await client.connect(cluster.nodes[number % len(cluster.nodes)].at, 20)
            # Whoever lost its subscription would get nothing any more: what is missing is counted by messages.
            await client.subscribe(f"away/{number}", 1)
            return client

        clients.append(await again(connect, 60))
    while not accepted <= received and time.monotonic() - last < seconds:
        await asyncio.sleep(0.1)
    for client in clients:
        client.disconnect()


# SUBACK on one node, then a PUBLISH on another

def barrier(options):
    with nodes.running("raftmq") as cluster:
        return asyncio.run(barriers(cluster, options))


async def barriers(cluster, options):
    came = {}
    subscribers, publishers = [], []
    # More of them than subscriptions of a client are allowed, by default.
    for number in range(3 * (1 + options.barriers // 20_000)):
        subscriber = Client(f"subscriber-{number}", on_message=lambda topic, _p: came.__setitem__(topic, True))
        await subscriber.connect(cluster.nodes[number % 3].at)
        subscribers.append(subscriber)
    for number, node in enumerate(cluster.nodes):
        publisher = Client(f"publisher-{number}")
        await publisher.connect(node.at)
        publishers.append(publisher)
    waits = []

    async def one(number):
        topic = f"barrier/{number}"
        begun = time.monotonic()
        await subscribers[number % len(subscribers)].subscribe(topic, 1)
        waits.append(time.monotonic() - begun)
        await publishers[(number + 1 + number // 3 % 2) % 3].publish(topic, b"x")
        return topic

    topics = []
    for number in range(0, options.barriers, 100):
        topics += await asyncio.gather(*(one(each) for each in range(number, min(number + 100, options.barriers))))
    end = time.monotonic() + 10
    while len(came) < len(topics) and time.monotonic() < end:
        await asyncio.sleep(0.05)
    return {"subscriptions": len(topics), "delivered": len(came), "suback_median": statistics.median(waits), "suback_longest": max(waits)}


WORKS = [
    Work("durable-qos1", "rates", "64 pairs QoS 1, window 64", ALL, lambda options, broker: load(options, broker, 1, 64)),
    Work("durable-qos2", "rates", "64 pairs QoS 2, window 20", ("raftmq", "hivemq", "mosquitto"), lambda options, broker: load(options, broker, 2, 20)),
    Work("latency-1000", "latency", "64 pairs QoS 1, 1,000/s", ALL, lambda options, broker: load(options, broker, 1, 0, 1000)),
    Work("latency-10000", "latency", "64 pairs QoS 1, 10,000/s", ("raftmq", "hivemq", "mosquitto"), lambda options, broker: load(options, broker, 1, 0, 10_000)),
    Work("idle-16", "idle", "16 shards", OURS, lambda options, _broker: idle(options, 16)),
    Work("idle-128", "idle", "128 shards", OURS, lambda options, _broker: idle(options, 128)),
    Work("sessions", "sessions", "durable sessions", OURS, lambda options, _broker: memory_sessions(options)),
    Work("queued", "queued", "queued messages", OURS, lambda options, _broker: memory_queued(options)),
    Work("failover", "failover", "kill -9 of one node of three", CLUSTERS, failover),
    Work("loss-one", "loss", "kill -9 of one node of three", CLUSTERS, lambda options, broker: loss(options, broker, False)),
    Work("loss-all", "loss", "kill -9 of all nodes at once", ALL, lambda options, broker: loss(options, broker, True)),
    Work("barrier", "barrier", "SUBACK, then a PUBLISH on another node", OURS, lambda options, _broker: barrier(options)),
]
BY_NAME = {work.name: work for work in WORKS}
TABLES = tuple(dict.fromkeys(work.table for work in WORKS))
