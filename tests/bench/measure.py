"""One measurement: a broker started anew, and `raftmq bench` against it."""

import contextlib
import json
import os
import resource
import statistics
import subprocess
import time

import brokers
import cluster
import works

# Of the report of `raftmq bench` (docs/bench.md), what tables are made of or a doubt could be about.
KEPT = ("ok", "ended", "seconds", "connections", "messages", "measured", "latency_us", "errors", "generator", "watched")


def measure(work, broker, options, records):
    """The record of one measurement, without its key; raises brokers.Failed."""
    counts = works.IDLE if work.table == "idle" else (None,)
    begin, busy, own = time.monotonic(), machine(), children()
    results = [one(work, broker, options, records, count) for count in counts]
    others = (machine() - busy - (children() - own)) / (time.monotonic() - begin)
    return {
        "commands": [command for command, _ in results],
        "reports": [report for _, report in results],
        "others": round(max(0.0, others), 2),
    }


def machine():
    """Processor seconds of everybody, interrupts apart: a broker's are in both counts or in none, by the kernel's settings."""
    with open("/proc/stat") as file:
        user, nice, system, _idle, _wait, _irq, _softirq, steal = (int(word) for word in file.readline().split()[1:9])
    return (user + nice + system + steal) / os.sysconf("SC_CLK_TCK")


def children():
    """Processor seconds of brokers and clients that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def one(work, broker, options, records, connections):
    broker_cpus, client_cpus = options.broker_cpus, options.client_cpus
    if work.shared:
        broker_cpus = client_cpus = options.all_cpus
    with started(broker, broker_cpus, work.tls) as (pids, at, subscribe_at, link):
        arguments = bench(work, options, records, connections)
        scheme = "mqtts" if work.tls else "mqtt"
        url = ["--url", f"{scheme}://127.0.0.1:{at}", "--watch-pid", ",".join(map(str, pids)), "--json", "--progress", "false"]
        if subscribe_at != at and arguments[0] != "conn":
            url += ["--subscribe-url", f"{scheme}://127.0.0.1:{subscribe_at}"]
        command = brokers.on(client_cpus, [brokers.RAFTMQ, "bench", *arguments, *url])
        before = link()
        # Connecting, draining and what the generator waits for at most are in the 90 s.
        limit = 90 + sum(times(work, options))
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit, stdin=subprocess.DEVNULL)
        except subprocess.TimeoutExpired:
            raise brokers.Failed(f"no result within {limit:.0f} s") from None
        after = link()
    if done.returncode not in (0, 1):
        raise brokers.Failed(f"raftmq bench: {done.stderr.strip() or done.returncode}")
    report = json.loads(done.stdout)
    if not report["watched"] or any(watched["resident_bytes_end"] is None for watched in report["watched"]):
        raise brokers.Failed(f"{broker} was gone at the end")
    if report["connections"]["connected"] < report["connections"]["wanted"]:
        raise brokers.Failed(f"not all clients came up: {report['connections']}, {report['errors']}")
    shown = f"taskset -c {client_cpus} raftmq bench {' '.join(arguments)}"
    kept = {name: report[name] for name in KEPT}
    if after:
        kept["link"] = {name: after[name] - before[name] for name in after}
    return shown, kept


@contextlib.contextmanager
def started(broker, cpus, tls):
    """A broker: its processes, the port of publishers and others, that of subscribers, and what counts its messages to other nodes."""
    if broker not in works.CLUSTER:
        with brokers.running(broker, cpus, tls) as (pid, port):
            yield [pid], port, port, dict
        return
    with cluster.running(cpus) as nodes:
        subscribers = nodes[1] if broker == works.ACROSS else nodes[0]
        yield [node.pid for node in nodes], nodes[0].mqtt, subscribers.mqtt, nodes[0].link


def times(work, options):
    """Seconds of warm-up, and those that are measured: the works of table `link` are many, and each is done twice."""
    share = 0.5 if work.table == "link" else 1
    return options.warmup * share, options.duration * share


def bench(work, options, records, connections):
    """Arguments of `raftmq bench`, without address and process."""
    arguments = [*work.arguments, "--mqtt-version", "4"]
    if connections is not None:
        arguments += ["-c", str(connections), "--hold", f"{options.hold:g}s"]
    if work.name == "link-idle":
        arguments += ["--hold", f"{options.duration:g}s"]
    if work.arguments[0] == "conn":
        return arguments
    if work.table == "half":
        arguments += ["--rate", str(half(work, records))]
    warmup, duration = (f"{seconds:g}s" if seconds == int(seconds) else f"{seconds * 1000:.0f}ms" for seconds in times(work, options))
    return [*arguments, "--payload-size", str(works.PAYLOAD), "--warmup", warmup, "--duration", duration]


def half(work, records):
    """Half of what Mosquitto takes: the same rate for all."""
    full, _ = records.of(work.full, "mosquitto")
    if not full:
        raise brokers.Failed(f"{work.name} needs the saturation of Mosquitto: measure {work.full} with --brokers mosquitto first")
    delivered = statistics.median(record["reports"][0]["measured"]["delivered_per_second"] for record in full)
    return max(1, round(delivered / work.copies / 2))


def estimate(work, options):
    """About the seconds that a measurement takes."""
    if work.table == "idle":
        return 2 * (options.hold + 5) + (30 if work.tls else 8)
    if work.table == "connects":
        return 6
    if work.name == "link-idle":
        return options.duration + 3
    return sum(times(work, options)) + 2


def now():
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
