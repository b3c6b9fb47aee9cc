"""That others are served while somebody misbehaves."""

import contextlib
import json
import pathlib
import subprocess
import sys

# A message of the well-behaved pair that takes longer was not served, whatever else the machine has to do.
LONGEST = 5.0


@contextlib.contextmanager
def served(broker, what):
    """While this runs, a well-behaved pair publishes and receives: every message must come, in time."""
    pair = subprocess.Popen(
        [sys.executable, str(pathlib.Path(__file__).parent / "pair.py"), str(broker.ports["tcp"])],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )
    try:
        first = pair.stdout.readline()
        assert first == "ready\n", f"the pair was not served before anything was done: {first}"
        yield
        pair.stdin.close()
        figures = json.loads(pair.stdout.readline())
        pair.wait(timeout=10)
    finally:
        if pair.poll() is None:
            pair.kill()
            pair.wait()
        pair.stdout.close()
    assert figures["error"] is None, f"{what}: {figures['error']}"
    line = ", ".join(f"{name} {figures[name] * 1000:.1f} ms" for name in ("p50", "p99", "max"))
    print(f"  beside {what}: {figures['messages']} messages, {line}")
    assert figures["max"] < LONGEST, f"{what}: a message of the well-behaved pair took {figures['max']:.1f} s"
