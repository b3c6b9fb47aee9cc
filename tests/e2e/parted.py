"""A program for a test: two of three nodes do not reach each other, in network namespaces of their own. Prints what is said of it before, while and after that,
as JSON."""

import asyncio
import json
import pathlib
import sys
import tempfile
import time
import urllib.request

sys.dont_write_bytecode = True
TESTS = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "bench"), str(TESTS / "faults")]

from driver import net  # noqa: E402
from three import broken  # noqa: E402

SOON = 30
PEERS = 'raftmq_link_peers{state="relayed"}'


def gauges(node):
    """The metrics of ways: name with labels to value."""
    with urllib.request.urlopen(f"http://{node.address}:{node.METRICS}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line.startswith("raftmq_link_")) if "relayed" in name}


async def answer(run, *arguments):
    """What `ctl` answers as JSON; None where it does not, as in the moment in which a way changes."""
    done = await run.cluster.ctl("--output", "json", *arguments)
    return json.loads(done.stdout) if done.returncode == 0 else None


async def said(run):
    """By each node, by its name; None if one has no answer."""
    found = {}
    for node in run.cluster.nodes:
        status, loss = await answer(run, "status", "--node", node.name), await answer(run, "loss", node.name)
        if status is None or loss is None:
            return None
        found[node.name] = {
            "status": (await run.cluster.ctl("status", "--node", node.name)).stdout, "relayed": status.get("relayed", []), "nothing": loss["nothing"],
            "reasons": loss["reasons"], "loss": (await run.cluster.ctl("loss", node.name)).stdout, "gauges": await asyncio.to_thread(gauges, node),
        }
    return found


async def until(run, condition):
    """What is said a moment after the condition holds, or at last."""
    end = time.monotonic() + SOON
    while time.monotonic() < end:
        found = await said(run)
        if found and condition(found):
            break
        await asyncio.sleep(0.2)
    return await said(run)


def of_two(found, one, other, third):
    """Each of two nodes reaches the other one by way of the third, and all has settled."""
    relayed = all(len(found[name]["relayed"]) == 1 and found[name]["gauges"][PEERS] == 1 and found[name]["nothing"] for name in (one, other))
    return relayed and not found[third]["nothing"]


async def main():
    with tempfile.TemporaryDirectory(prefix="raftmq-parted-") as directory:
        run = broken.Run(pathlib.Path(directory))
        try:
            await run.cluster.form()
            await run.formed()
            await run.choose("leader")
            one, other, third = run.victims[0].name, run.others[0].name, run.others[1].name
            seen = {"names": [one, other, third], "before": await until(run, lambda found: all(each["nothing"] for each in found.values()))}
            await broken.part(run)
            seen["parted"] = await until(run, lambda found: of_two(found, one, other, third))
            run.network.heal()
            seen["healed"] = await until(run, lambda found: all(each["nothing"] and not each["relayed"] for each in found.values()))
            print(json.dumps(seen))
        finally:
            run.close()


if __name__ == "__main__":
    net.enter()
    asyncio.run(main())
