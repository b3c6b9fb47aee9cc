"""docs/benchmarks-cluster.md's tables, made of the raw results alone."""

import re
import statistics

from tables import NOTHING, digits, spread, table

from . import works

TITLES = {"raftmq": "RaftMQ, 3 nodes", "rabbitmq": "RabbitMQ, 3 nodes", "hivemq": "HiveMQ CE, 1 node", "mosquitto": "Mosquitto, 1 node"}


def of(records, name, broker):
    return [found["result"] for found in records.of(name, broker)[0]]


def rows(records, name):
    """(work, broker, results) of a table, where there are any."""
    for work in works.WORKS:
        if work.table == name:
            for broker in work.brokers:
                if results := of(records, work.name, broker):
                    yield work, broker, results


def each(results, value):
    return spread([value(result) for result in results])


def bounds(numbers):
    """Lowest to highest of what all nodes and runs have."""
    numbers = list(numbers)
    low, high = digits(min(numbers)), digits(max(numbers))
    return low if low == high else f"{low} to {high}"


def flat(results, name, factor=1):
    return [number * factor for result in results for number in result[name]]


def rates(records):
    made = []
    for work, broker, results in rows(records, "rates"):
        made.append([
            work.title, TITLES[broker], each(results, lambda r: r["acknowledged_per_second"]), each(results, lambda r: sum(r["cpu_per_million"])),
            bounds(flat(results, "fsyncs_per_thousand")) if broker == "raftmq" else NOTHING,
            bounds(flat(results, "log_bytes_per_message")) if broker == "raftmq" else NOTHING,
            each(results, lambda r: r["latency_us"]["acknowledge"]["p50"] / 1000), str(sum(r["lost"] for r in results)),
        ])
    return table(["Work", "Broker", "Acknowledged/s", "CPU s per million, all nodes", "fsyncs a node per 1,000", "Log bytes a message, a node", "p50 until acknowledged, ms", "Lost"], made)


def threads(records):
    """By the names of threads: workers (parse, session, deliver), control (propose, replicate, apply), the log's own."""
    made = []
    for work, broker, results in rows(records, "rates"):
        names = sorted({name for result in results for name in result["threads_per_million"]})
        parts = [(name, statistics.median(result["threads_per_million"].get(name, 0.0) for result in results)) for name in names]
        largest = sorted(parts, key=lambda part: -part[1])[:5]
        made.append([work.title, TITLES[broker], ", ".join(f"`{name}` {digits(used)}" for name, used in largest if used > 0), each(results, lambda r: r["clients_cpu_per_million"])])
    return table(["Work", "Broker", "Threads of all nodes, CPU s per million", "Clients"], made)


def latency(records):
    made = []
    for work, broker, results in rows(records, "latency"):
        def of_kind(kind, name, results=results):
            return each(results, lambda r: r["latency_us"][kind][name] / 1000)
        made.append([work.title, TITLES[broker], *(of_kind("acknowledge", name) for name in ("p50", "p99", "p999")), *(of_kind("end_to_end", name) for name in ("p50", "p99", "p999"))])
    return table(["Work", "Broker", "PUBACK p50", "p99", "p99.9", "End to end p50", "p99", "p99.9"], made)


def idle(records):
    made = []
    for work, _broker, results in rows(records, "idle"):
        made.append([
            work.title, bounds(flat(results, "frames_per_second")), bounds(flat(results, "bytes_per_second", 1 / 1000)), bounds(flat(results, "fsyncs_per_second")),
            bounds(flat(results, "cpu_per_second", 1000)), bounds(flat(results, "resident", 1 / 2**20)),
        ])
    return table(["A cluster that does nothing", "Frames a second, a node", "KB a second", "fsyncs a second", "CPU ms a second", "Memory MiB"], made)


def memory(records):
    made = []
    for _work, _broker, results in rows(records, "sessions"):
        for r in results:
            made += [
                ["memory of a durable session with a subscription, a node", f"{bounds(r['bytes_per_session'])} bytes", f"{r['sessions']:,} sessions"],
                ["disk of it, a node", f"{bounds(r['disk_per_session'])} bytes", ""],
                ["such sessions made", f"{digits(r['created_per_second'])}/s", f"{r['wave']:,} connections at a time, {r['refused']} refused"],
                ["such sessions resumed, all of them at once", f"{digits(r['resumed_per_second'])}/s", f"{r['present']} of {r['sampled']} asked were there, on any node; {r['refused_again']} refused"],
                ["memory of a node afterwards", f"{bounds(n / 2**20 for n in r['resident'])} MiB, after the storm {bounds(n / 2**20 for n in r['resident_after_storm'])}", ""],
            ]
    for _work, _broker, results in rows(records, "queued"):
        for r in results:
            made += [
                ["memory of a queued message, a node", f"{bounds(r['bytes_per_message'])} bytes", f"{r['messages']:,} messages of {works.PAYLOAD} bytes"],
                ["disk of it, a node", f"{bounds(r['disk_per_message'])} bytes", ""],
                ["queueing", f"{digits(r['published_per_second'])}/s", ""],
                ["delivered when the clients came back, on other nodes", f"{r['delivered']:,}, {digits(r['delivered_per_second'])}/s", "read by one Python process"],
            ]
    return table(["What", "Figure", ""], made)


def quantiles(numbers):
    numbers = sorted(numbers)
    if not numbers:
        return [NOTHING] * 3
    return [digits(statistics.median(numbers)), digits(numbers[min(len(numbers) - 1, int(len(numbers) * 0.9))]), digits(numbers[-1])]


def failover(records):
    made = []
    for _work, broker, results in rows(records, "failover"):
        for name, title in (
            ("without_acknowledgement", "longest time that a publisher on another node had no PUBACK"), ("takeover", "CONNACK of the dead node's client elsewhere"),
            ("suback", "SUBACK of a new subscription"), ("back", "the node serves again, from its start"),
        ):
            numbers = [number for result in results for number in result[name]]
            done = [number for number in numbers if number is not None]
            made.append([TITLES[broker], title, str(len(numbers)), *quantiles(done), str(len(numbers) - len(done))])
    return table(["Broker", "What", "Kills", "Median, s", "90 %, s", "Longest, s", "Never"], made)


def loss(records):
    made = []
    for work, broker, results in rows(records, "loss"):
        for r in results:
            share = 100 * r["missing"] / max(1, r["accepted"])
            made.append([work.title, TITLES[broker], str(r["kills"]), f"{r['accepted']:,}", f"{r['missing']:,}", f"{share:.2f} %"])
    return table(["Kills", "Broker", "How often", "Acknowledged", "Missing afterwards", "Share"], made)


def barrier(records):
    made = []
    for _work, _broker, results in rows(records, "barrier"):
        for r in results:
            made.append([f"{r['delivered']:,} of {r['subscriptions']:,}", f"{1000 * r['suback_median']:.1f} ms", f"{1000 * r['suback_longest']:.0f} ms"])
    return table(["Delivered", "SUBACK, median with 100 at a time", "Longest"], made)


def environment(records):
    lines = []
    for at in records.environments[-1:]:
        lines += [
            f"- begun {at['date']}, commit {at['commit']}", f"- {at['cpu']}, {at['cores']} processors for all nodes and clients, Linux {at['kernel']}, files on {at['file_system']}",
            f"- rates and latencies: {at['repetitions']} times {at['seconds']} s after {at['warmup']} s of warm-up; {works.PAYLOAD}-byte payload, MQTT 3.1.1, Clean Session 0",
            f"- {', '.join(dict.fromkeys(v for each in records.environments for v in each['versions'].values()))}",
        ]
        if at["quick"]:
            lines.append("- **--quick: these are no figures**")
    return "\n".join(lines)


def doubts(records):
    lines = []
    for work in works.WORKS:
        for broker in work.brokers:
            found, failed = records.of(work.name, broker)
            lines += [f"- {work.name}, {TITLES[broker]}: {reason}" for reason in failed]
            unclean = [entry for entry in found if entry["result"].get("ok") is False]
            if unclean:
                errors = [error["reason"] for error in unclean[0]["result"]["errors"]][:2]
                lines.append(f"- {work.name}, {TITLES[broker]}: {len(unclean)} of {len(found)} runs were not clean ({unclean[0]['result']['lost']} lost; {errors or 'see the raw results'})")
    return "\n".join(lines) or "Every run was clean."


ALL = {
    "environment": environment, "rates": rates, "threads": threads, "latency": latency, "idle": idle, "memory": memory, "failover": failover, "loss": loss,
    "barrier": barrier, "doubts": doubts,
}


def summary(work, result):
    if work.table in ("rates", "latency"):
        return f"{result['acknowledged_per_second']:,.0f}/s, {sum(result['cpu_per_million']):.1f} s/M, PUBACK p99 {result['latency_us']['acknowledge']['p99'] / 1000:.1f} ms, lost {result['lost']}"
    if work.table == "failover":
        return f"longest without acknowledgement {max(result['without_acknowledgement']):.2f} s of {result['kills']} kills"
    if work.table == "loss":
        return f"{result['missing']} of {result['accepted']} missing"
    return ", ".join(f"{name} {value}" for name, value in list(result.items())[:3])


def write(records, path):
    """Puts the tables between their marks; the rest of the file is people's."""
    text = path.read_text()
    for name, make in ALL.items():
        begin, end = f"<!-- table: {name} -->", f"<!-- end: {name} -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise SystemExit(f"{path}: {begin} and {end} must be there once")
        made = make(records) if records.measurements else ""
        if made.count("\n") == 1 and made.startswith("|"):
            made = ""
        new = f"{begin}\n{made or 'Not measured yet.'}\n{end}"
        text = re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _match, new=new: new, text, flags=re.DOTALL)
    path.write_text(text)


def show(records):
    for name, make in ALL.items():
        print(f"\n## {name}\n\n{make(records)}")
