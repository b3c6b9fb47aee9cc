#!/usr/bin/env python3
"""How long the checker takes, and how much memory, for a history of a million operations:

    tests/faults/checker_tests/big.py [OPERATIONS]

An operation is a publish, with its acknowledgement, or a delivery, with its own."""

import json
import pathlib
import resource
import subprocess
import sys
import tempfile

CLIENTS = 50


def write(operations, path):
    """A history in which everything is as it should be: each message goes to one of 50 subscribers with durable sessions."""
    t, message = 0, 0
    with open(path, "w", encoding="utf-8") as file:
        def event(kind, **more):
            nonlocal t
            t += 1000
            file.write(json.dumps({"t": t, "e": kind, **more}, separators=(",", ":")) + "\n")

        event("run", format=1, seed=0, settle=1)
        for client in range(2 * CLIENTS):
            event("connect", c=client, id=f"c{client}", node=f"n{client % 3}", v=5, clean=False, expiry=3600, ka=30)
            event("connack", c=client, code=0, present=False)
            if client >= CLIENTS:
                event("sub", c=client, pid=1, f=[[f"t/{client}/+", 2]])
                event("suback", c=client, pid=1, codes=[2])
        pids = [0] * (2 * CLIENTS)
        while message < operations // 2:
            message += 1
            sender, receiver = message % CLIENTS, CLIENTS + message * 7 % CLIENTS
            qos, topic = 1 + message % 2, f"t/{receiver}/{message % 3}"
            for client in (sender, receiver):
                pids[client] = pids[client] % 65535 + 1
            event("pub", c=sender, q=qos, pid=pids[sender], topic=topic, m=message)
            event("puback" if qos == 1 else "pubrec", c=sender, pid=pids[sender], code=0)
            event("recv", c=receiver, q=qos, pid=pids[receiver], topic=topic, m=message)
            event("ack", c=receiver, pid=pids[receiver], k="puback" if qos == 1 else "pubrec")
            if qos == 2:
                event("pubrel", c=sender, pid=pids[sender], m=message)
                event("pubcomp", c=sender, pid=pids[sender], code=0)
                event("rel", c=receiver, pid=pids[receiver])
                event("ack", c=receiver, pid=pids[receiver], k="pubcomp")
        event("drain")
        for client in range(2 * CLIENTS):
            event("ping", c=client)
            event("pong", c=client)
        event("end", quiet=True)


def main():
    operations = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    check = pathlib.Path(__file__).resolve().parents[1] / "check"
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory) / "history.jsonl"
        write(operations, path)
        size = path.stat().st_size / 1e6
        code = subprocess.call([sys.executable, check, path, "--min-acked", str(operations // 2)])
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{operations} operations, {size:.0f} MB: {used.ru_utime + used.ru_stime:.1f} s of processor time, {used.ru_maxrss / 1024:.0f} MiB")
    return code


if __name__ == "__main__":
    sys.exit(main())
