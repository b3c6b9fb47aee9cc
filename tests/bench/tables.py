"""docs/benchmarks.md's tables, made of the raw results alone."""

import re
import statistics

import brokers
import cluster
import works

TITLES = {
    "mosquitto": "Mosquitto", "rumqttd": "rumqttd", "forwarder": "bare forwarder", "raftmq": "RaftMQ",
    "raftmq-2": "RaftMQ, 2 workers", works.ACROSS: "RaftMQ, across a link", works.ONE_NODE: "RaftMQ, one node of the cluster",
}
NOTHING = "–"
# Processors that others took meanwhile: with more, a figure is none.
DISTURBED = 0.2


def values(records, work, broker, value):
    found, _ = records.of(work.name, broker)
    return [number for record in found if (number := value(record)) is not None]


def digits(number):
    """Three digits that count, no exponent."""
    if number == 0:
        return "0"
    if abs(number) >= 100:
        return f"{number:,.0f}"
    return f"{number:.1f}" if abs(number) >= 10 else f"{number:.2f}"


def spread(numbers):
    """Median (lowest to highest)."""
    if not numbers:
        return NOTHING
    middle = digits(statistics.median(numbers))
    return middle if len(numbers) == 1 else f"{middle} ({digits(min(numbers))} to {digits(max(numbers))})"


def ratio(numbers, others):
    return f"{statistics.median(numbers) / statistics.median(others):.2f}" if numbers and others and statistics.median(others) else NOTHING


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def by_broker(records, name, value, columns, baseline="mosquitto", other="raftmq"):
    """A row a work, a column a broker, and how the last relates to the first."""
    rows = []
    for work in (work for work in works.ALL if work.table == name):
        numbers = {broker: values(records, work, broker, value) for broker in columns}
        if any(numbers.values()):
            rows.append([work.title, *(spread(numbers[b]) for b in columns), ratio(numbers[other], numbers[baseline])])
    head = ["Work", *(TITLES[b] for b in columns), f"{TITLES[other]} / {TITLES[baseline]}"]
    return table(head, rows) if rows else ""


def cpu(record):
    return record["reports"][0]["watched"][0]["cpu_seconds_per_million"]


def rate(record):
    return record["reports"][0]["measured"]["delivered_per_second"]


def generator(record):
    """Processors that the clients took."""
    report = record["reports"][0]
    return report["generator"]["cpu_seconds"] / report["seconds"]["measured"]


def slope(record, node=0):
    """KB a connection."""
    few, many = (report["watched"][node]["resident_bytes_connected"] for report in record["reports"])
    return (many - few) / (works.IDLE[1] - works.IDLE[0]) / 1024


def idle(records):
    """Beside the others, RaftMQ as one of three nodes: each subscription is a route on the other two."""
    made = by_broker(records, "idle", slope, works.BROKERS)
    work = works.BY_NAME["idle-cluster"]
    own, others = ([number for n in nodes for number in values(records, work, works.ONE_NODE, lambda r, n=n: slope(r, n))] for nodes in ((0,), (1, 2)))
    if not own:
        return made
    return f"{made}\n\nOn a node of a cluster of three: {spread(own)} KB; its route on each of the other two: {spread(others)} KB."


def connects(record):
    return record["reports"][0]["watched"][0]["cpu_seconds_connecting"]


def latency(records):
    rows = []
    for work in (work for work in works.ALL if work.table == "half"):
        for broker in work.brokers:
            def of(name):
                return values(records, work, broker, lambda r: r["reports"][0]["latency_us"]["end_to_end"][name] / 1000)
            if of("p50"):
                delivered = digits(statistics.median(values(records, work, broker, rate)))
                rows.append([work.title, delivered, TITLES[broker], *(spread(of(name)) for name in ("p50", "p99", "p999"))])
    return table(["Work", "Deliveries/s", "Broker", "p50", "p99", "p99.9"], rows) if rows else ""


def link(records):
    """What each node of a cluster takes, and how much more it is in all when messages cross from one to another."""
    def node(*which):
        def value(record):
            numbers = [record["reports"][0]["watched"][n]["cpu_seconds_per_million"] for n in which]
            # Without a delivery there is none.
            return None if None in numbers else sum(numbers)
        return value

    rows = []
    for work in linked():
        across, one = ([values(records, work, broker, node(n)) for n in range(cluster.NODES)] for broker in works.CLUSTER)
        if not across[0] and not one[0]:
            continue
        everything = [values(records, work, broker, node(*range(cluster.NODES))) for broker in works.CLUSTER]
        more = digits(statistics.median(everything[0]) - statistics.median(everything[1])) if all(everything) else NOTHING
        rows.append([work.title, *map(spread, across), *map(spread, one[:1]), spread(values(records, work, works.ONE_NODE, node(1, 2))), more])
    head = ["Work", "Across: publishers' node", "Across: subscribers' node", "Across: third node", "All on one node: that node",
            "All on one node: the others", "Crossing adds"]
    return table(head, rows) if rows else ""


def link_rates(records):
    def crossed(what):
        def value(record):
            report = record["reports"][0]
            return report["link"][what] / report["messages"]["sent"] if report["messages"]["sent"] else None
        return value

    rows = []
    for work in linked():
        numbers = [values(records, work, broker, rate) for broker in works.CLUSTER]
        numbers += [values(records, work, works.ACROSS, crossed(what)) for what in ("frames", "bytes")]
        numbers += [values(records, work, broker, generator) for broker in works.CLUSTER]
        if any(numbers):
            rows.append([work.title, *map(spread, numbers)])
    head = ["Work", "Deliveries/s, across", "Deliveries/s, one node", "Frames a message", "Bytes a message", "Clients' processors, across",
            "Clients' processors, one node"]
    return table(head, rows) if rows else ""


def linked():
    return [work for work in works.ALL if work.table == "link" and work.arguments[0] != "conn"]


def link_idle(records):
    """Seconds a second: what a cluster takes that has nothing to do."""
    def node(which):
        def value(record):
            report = record["reports"][0]
            return 1000 * report["watched"][which]["cpu_seconds"] / report["seconds"]["measured"]
        return value

    numbers = [values(records, works.BY_NAME["link-idle"], works.ACROSS, node(n)) for n in range(cluster.NODES)]
    rows = [["a node that follows", spread(numbers[0] + numbers[1])], ["the node that leads", spread(numbers[2])]]
    return table(["Node", "ms a second"], rows) if numbers[0] else ""


def doubts(records):
    """What failed or lost something: a figure of it is none."""
    lines = []
    for work in works.ALL:
        for broker in work.brokers:
            found, failed = records.of(work.name, broker)
            lost = [record for record in found if not all(report["ok"] for report in record["reports"])]
            if lost:
                messages = lost[0]["reports"][-1]["messages"]
                what = {name: messages[name] for name in ("lost", "unacknowledged", "duplicates", "out_of_order") if messages[name]}
                errors = [error["reason"] for error in lost[0]["reports"][-1]["errors"]][:2]
                lines.append(f"- {work.name}, {TITLES[broker]}: {len(lost)} of {len(found)} runs were not clean (the first: {what or errors})")
            disturbed = [record["others"] for record in found if record["others"] > DISTURBED]
            if disturbed:
                lines.append(f"- {work.name}, {TITLES[broker]}: in {len(disturbed)} of {len(found)} runs others took up to {max(disturbed)} processors")
            lines += [f"- {work.name}, {TITLES[broker]}: {reason}" for reason in failed]
    return "\n".join(lines) or "Every run was clean: nothing lost, refused, repeated or out of order, and nobody else on the machine."


def environment(records):
    lines = []
    # Each run says those of the brokers that it measured.
    versions = {name: version for at in records.environments for name, version in at["versions"].items()}
    for at in records.environments[-1:]:
        dates = " and ".join(dict.fromkeys(each["date"] for each in records.environments if each["binary"] == at["binary"]))
        lines += [f"- begun {dates}, commit {at['commit']}", f"- {at['cpu']}, {at['cores']} processors, Linux {at['kernel']}",
                  f"- broker on processor {at['broker_cpus']}, clients on {at['client_cpus']} (the table of workers: all on {at['all_cpus']})",
                  f"- {at['repetitions']} repetitions of {at['duration']} s after {at['warmup']} s of warm-up (across a link: half of both), {works.PAYLOAD}-byte payload, MQTT 3.1.1",
                  f"- {', '.join(versions.values())}"]
    return "\n".join(lines)


def commands(records):
    """The command of each work, as it was given."""
    rows = []
    for work in works.ALL:
        found = [record for broker in work.brokers for record in records.of(work.name, broker)[0]]
        if found:
            rows.append([f"`{work.name}`", "<br>".join(f"`{command}`" for command in found[-1]["commands"])])
    return table(["Work", "Clients"], rows) if rows else ""


def configurations(_records):
    parts = []
    for name, kind, text in (
        ("Mosquitto", "ini", brokers.mosquitto(1883, None)), ("rumqttd", "toml", brokers.rumqttd(1883, None)),
        ("RaftMQ", "json", brokers.raftmq(1883, None, http=8080, metrics=9090)),
        ("RaftMQ, a cluster of three nodes, by `raftmq up`", "json", cluster.resource()),
    ):
        parts.append(f"{name}:\n\n```{kind}\n{text.strip()}\n```")
    return "\n\n".join(parts)


ALL = {
    "environment": environment,
    "fixed": lambda records: by_broker(records, "fixed", cpu, works.BROKERS),
    "saturated": lambda records: by_broker(records, "saturated", cpu, works.BROKERS),
    "rates": lambda records: by_broker(records, "saturated", rate, works.BROKERS),
    "generator": lambda records: by_broker(records, "saturated", generator, works.BROKERS),
    "half": latency,
    "idle": idle,
    "connects": lambda records: by_broker(records, "connects", connects, works.BROKERS),
    "workers": lambda records: by_broker(records, "workers", cpu, works.WORKERS, "raftmq", "raftmq-2"),
    "link": link,
    "link-rates": link_rates,
    "link-idle": link_idle,
    "doubts": doubts,
    "commands": commands,
    "configurations": configurations,
}


def write(records, path):
    """Puts the tables between their marks; the rest of the file is people's."""
    text = path.read_text()
    for name, make in ALL.items():
        begin, end = f"<!-- table: {name} -->", f"<!-- end: {name} -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise SystemExit(f"{path}: {begin} and {end} must be there once")
        made = make(records) if records.measurements or name == "configurations" else ""
        pattern = f"{re.escape(begin)}.*?{re.escape(end)}"
        new = f"{begin}\n{made or 'Not measured yet.'}\n{end}"
        text = re.sub(pattern, lambda _match, new=new: new, text, flags=re.DOTALL)
    path.write_text(text)


def show(records):
    for name in ("environment", "fixed", "saturated", "rates", "generator", "half", "idle", "connects", "workers", "link", "link-rates", "link-idle", "doubts"):
        print(f"\n## {name}\n\n{ALL[name](records) or 'Not measured.'}")
