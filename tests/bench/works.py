"""What is measured: each work is a load of `raftmq bench`, the same for every broker.

A work belongs to one table of docs/benchmarks.md. Window and rate are chosen so that a broker never has to drop: what was lost makes a run a failure.
"""

import dataclasses

BROKERS = ("mosquitto", "rumqttd", "forwarder", "raftmq")
PAYLOAD = 64
# What the forwarder cannot do is no work of it.
EXACT = ("mosquitto", "rumqttd", "forwarder", "raftmq")
REAL = ("mosquitto", "rumqttd", "raftmq")
# A cluster of three nodes: publishers on one and subscribers on another, or all on one.
ACROSS, ONE_NODE = CLUSTER = ("raftmq-across", "raftmq-one")

PAIRS = ["pair", "-c", "200"]
FANIN = ["fanin", "--publishers", "200", "--subscribers", "1"]
FANOUT = ["fanout", "--publishers", "1", "--subscribers", "500", "--topic", "raftmq-bench/%r"]


@dataclasses.dataclass(frozen=True)
class Work:
    name: str
    title: str
    # fixed, saturated, half, idle, connects, workers or link
    table: str
    arguments: tuple
    brokers: tuple = REAL
    # Deliveries of one message.
    copies: int = 1
    tls: bool = False
    # Of table `half`: the work whose figure of Mosquitto is the full load.
    full: str = ""
    # Broker and clients share all processors.
    shared: bool = False


def load(name, title, shape, qos, rate, window, brokers, copies=1):
    qos = [] if qos == 0 else ["--qos", str(qos)]
    saturated = tuple([*shape, *qos, "--window", str(window)])
    # The rate is of what is published.
    return [
        Work(name, f"{title}, {rate * copies:,}/s", "fixed", tuple([*shape, *qos, "--rate", str(rate)]), brokers, copies),
        Work(f"{name}-full", f"{title}, window {window}", "saturated", saturated, brokers, copies),
        Work(f"{name}-half", title, "half", tuple([*shape, *qos, "--window", "1000"]), brokers, copies, full=f"{name}-full"),
    ]


LOADS = [
    load("pairs-qos0", "200 pairs QoS 0", PAIRS, 0, 20_000, 50, EXACT),
    load("pairs-qos1", "200 pairs QoS 1", PAIRS, 1, 10_000, 50, EXACT),
    load("pairs-qos2", "200 pairs QoS 2", PAIRS, 2, 5_000, 20, REAL),
    load("fanin-qos1", "200 → 1 QoS 1", FANIN, 1, 10_000, 50, REAL),
    load("fanout-qos0", "1 → 500 QoS 0", FANOUT, 0, 100, 50, EXACT, copies=500),
]
HALF_WORK = [
    load("pairs-qos0-slow", "200 pairs QoS 0", PAIRS, 0, 10_000, 50, EXACT)[0],
    load("pairs-qos1-slow", "200 pairs QoS 1", PAIRS, 1, 5_000, 50, EXACT)[0],
]
LINKED = [work for number in (0, 1) for work in LOADS[number][:2]] + [LOADS[3][0], LOADS[4][0]] + [
    Work("one-qos0", "1 → 1 QoS 0, 10,000/s", "link", (*FANOUT[:3], "--subscribers", "1", *FANOUT[5:], "--rate", "10000")),
]
SUBSCRIBED = ["--subscriptions", "1", "--keep-alive", "300s"]
# Each address of the clients has some 28,000 ports.
MANY = [*SUBSCRIBED, "--bind", "127.0.0.2,127.0.0.3,127.0.0.4,127.0.0.5"]
WORKERS = ("raftmq", "raftmq-2")

ALL = [work for number in range(3) for work in (loads[number] for loads in LOADS)] + [
    Work("idle-tcp", "idle TCP connection, one subscription", "idle", ("conn", *MANY), EXACT),
    Work("idle-tls", "idle TLS connection, one subscription", "idle", ("conn", "--insecure", *MANY), REAL, tls=True),
    Work("idle-cluster", "idle TCP connection on one of three nodes, one subscription", "idle", ("conn", *MANY), (ONE_NODE,)),
    Work("connects", "10,000 connects with one subscription", "connects", ("conn", "-c", "10000", *MANY), EXACT),
    *(
        dataclasses.replace(work, name=f"workers-{work.name}", table="workers", brokers=WORKERS, shared=True)
        for loads in LOADS[:2]
        for work in loads[:2]
    ),
    # What each of two workers has to do: fewer messages come at once, so that each costs more.
    *(dataclasses.replace(work, name=f"workers-{work.name}", table="workers", brokers=WORKERS[:1], shared=True) for work in HALF_WORK),
    *(dataclasses.replace(work, name=f"link-{work.name}", table="link", brokers=CLUSTER) for work in LINKED),
    # One client, so that `raftmq bench` has something to do.
    Work("link-idle", "a cluster that does nothing", "link", ("conn", "-c", "1", "--keep-alive", "300s"), (ACROSS,)),
]
BY_NAME = {work.name: work for work in ALL}
TABLES = tuple(dict.fromkeys(work.table for work in ALL))
# Connections between which the slope of an idle connection is taken.
IDLE = (2_000, 18_000)


def chosen(words):
    """Works by their names or those of tables."""
    names = [work for word in words for work in ALL if word in (work.name, work.table)]
    unknown = [word for word in words if word not in BY_NAME and word not in TABLES]
    if unknown:
        raise SystemExit(f"no work or table {', '.join(unknown)}: `tests/bench/run --list` has them")
    return list(dict.fromkeys(names)) or ALL
