"""A well-behaved publisher and subscriber beside the abuse, in a process of their own: each message at QoS 1, one after the
other. `pair.py PORT` says `ready`, goes on until standard input ends, and prints what it saw as JSON."""

import json
import pathlib
import select
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "e2e"))

from wire import Wire  # noqa: E402

PAUSE = 0.01


def run(port):
    publisher, subscriber = Wire(port, "good-publisher", timeout=60), Wire(port, "good-subscriber", timeout=60)
    subscriber.subscribe("good/messages")
    latencies, error = [], None
    try:
        while True:
            begin = time.perf_counter()
            payload = str(len(latencies)).encode()
            publisher.publish("good/messages", payload)
            got = subscriber.message()
            assert got == ("good/messages", payload), f"{got!r} came for {payload!r}"
            latencies.append(time.perf_counter() - begin)
            if len(latencies) == 1:
                print("ready", flush=True)
            if select.select([sys.stdin], [], [], PAUSE)[0]:
                break
    except (OSError, AssertionError) as problem:
        error = f"message {len(latencies)}: {problem!r}"
    latencies.sort()
    at = lambda share: latencies[min(int(len(latencies) * share), len(latencies) - 1)]  # noqa: E731
    figures = {"messages": len(latencies), "error": error}
    if latencies:
        figures |= {"p50": at(0.5), "p99": at(0.99), "max": latencies[-1]}
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    run(int(sys.argv[1]))
