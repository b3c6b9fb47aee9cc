"""Where and with what it was measured."""

import hashlib
import os
import pathlib
import platform
import re
import subprocess

import brokers
import measure

from . import nodes


def environment(chosen):
    git = lambda *a: subprocess.run(["git", *a], cwd=brokers.REPO, capture_output=True, text=True, timeout=20).stdout.strip()  # noqa: E731
    cpu = [line.partition(":")[2].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "date": measure.now(),
        "commit": git("rev-parse", "--short=12", "HEAD") + (" and changes" if git("status", "--porcelain", "--", "broker", "Cargo.lock") else ""),
        "binary": hashlib.sha256(pathlib.Path(brokers.RAFTMQ).read_bytes()).hexdigest()[:16],
        "kernel": platform.release(), "cpu": cpu[0] if cpu else platform.machine(), "cores": os.cpu_count(),
        "file_system": subprocess.run(["stat", "-f", "-c", "%T", "/tmp"], capture_output=True, text=True, timeout=20).stdout.strip(),
        "versions": versions(chosen.brokers), "seconds": chosen.seconds, "warmup": chosen.warmup, "repetitions": chosen.repetitions, "quick": chosen.quick,
    }


def versions(chosen):
    known = brokers.versions([name for name in chosen if name == "mosquitto"])
    if "rabbitmq" in chosen:
        done = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", "rabbitmq-server"], capture_output=True, text=True, timeout=20)
        known["rabbitmq"] = f"RabbitMQ {done.stdout.strip() or nodes.RABBITMQ}"
    if "hivemq" in chosen:
        known["hivemq"] = "HiveMQ CE " + re.search(r"embedded</artifactId>\s*<version>([^<]+)", (nodes.HIVEMQ / "pom.xml").read_text())[1]
    return known
