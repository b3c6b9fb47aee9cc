"""What is broken where brokers are pods, and how each fault is done: by what people do to a Kubernetes, and by what happens to its nodes."""

import asyncio
import contextlib

from . import schedule
from .schedule import Skipped

# Each kind, with how often it is chosen, and for how long (seconds).
KINDS = {
    "kill": (3, 0, 0),
    "kill-all": (1, 0, 0),
    "pod-kill": (3, 0, 0),
    "pod-kill-all": (1, 0, 0),
    "pod-delete": (2, 0, 0),
    "partition": (3, 1, 25),
    "isolate": (2, 1, 15),
    "one-way": (1, 1, 15),
    "power": (2, 1, 8),
    "drain": (2, 0, 8),
    "rolling": (1, 1, 15),
    "operator": (1, 0, 3),
    "empty": (1, 0, 0),
}
WORDS = {
    "kill": "the broker's process in its pod is killed (kill -9)",
    "kill-all": "the same, of all pods at once",
    "pod-kill": "a pod is deleted without grace (--grace-period=0 --force)",
    "pod-kill-all": "all pods are, at once",
    "pod-delete": "a pod is deleted, and has its time to stop",
    "partition": "a node of Kubernetes is cut off from everybody, clients included; its pods run on",
    "isolate": "the pods of a node are cut off from those of the others, in both directions; not from clients",
    "one-way": "the pods of a node do not hear those of another one, which hear them",
    "power": "the power of a node of Kubernetes goes off, and comes back",
    "drain": "a node of Kubernetes is drained (kubectl drain), and uncordoned",
    "rolling": "the operator replaces all pods, one after the other; half of the times it is killed meanwhile",
    "operator": "the operator is killed",
    "empty": "a pod is deleted with its volume, and comes back with an empty one",
}
# Seconds: until there is another life of a broker; until a container that was killed is started again, which takes longer each time: then
# its pod is deleted; of a drain; until a node is there again, and until a rolling restart or a new member is done.
COMES, STARTS, DRAINS, BOOTS, SETTLES = 60, 25, 90, 120, 300
TABLE = "raftmq_faults"


class Breaker(schedule.Breaker):
    """The faults of brokers that are pods."""

    KINDS, WORDS = KINDS, WORDS
    PATIENT = True

    def __init__(self, cluster, recorder):
        super().__init__(cluster, recorder)
        self.rollings = 0
        # Names of nodes of Kubernetes that are off, and of those on which something else has to be healed.
        self.off, self.touched = set(), set()

    @staticmethod
    def _touched(kind, count):
        if kind.endswith("-all") or kind == "rolling":
            return count
        return {"one-way": 2, "operator": 0}.get(kind, 1)

    # Brokers.

    async def _kill(self, _fault, nodes):
        await self._killed(nodes[:1])

    async def _kill_all(self, _fault, nodes):
        await self._killed(nodes)

    async def _killed(self, nodes):
        lives = [node.life for node in nodes]
        await asyncio.gather(*(self._kill_process(node) for node in nodes))
        if await self._other_lives(nodes, lives, STARTS):
            return
        # A container that ends again and again is started later each time. Another pod is started at once.
        for node, life in zip(nodes, lives):
            if node.life == life:
                await self._kubectl("delete", "pod", node.name, "-n", self.cluster.namespace, "--wait=false", "--ignore-not-found")
        await self._other_lives(nodes, lives, COMES)

    async def _kill_process(self, node):
        if node.host is None:
            raise Skipped(f"{node.name} is on no node")
        node.end()
        # A node has one broker.
        await self._on(node.host, "sh", "-c", "pids=$(pgrep -x raftmq) && kill -9 $pids || true")

    async def _pod_kill(self, _fault, nodes):
        await self._deleted(nodes[:1], "--grace-period=0", "--force")

    async def _pod_kill_all(self, _fault, nodes):
        await self._deleted(nodes, "--grace-period=0", "--force")

    async def _pod_delete(self, _fault, nodes):
        await self._deleted(nodes[:1])

    async def _deleted(self, nodes, *options):
        lives = [node.life for node in nodes]
        for node in nodes:
            node.end()
        names = [node.name for node in nodes]
        await self._kubectl("delete", "pods", *names, "-n", self.cluster.namespace, "--wait=false", "--ignore-not-found", *options)
        await self._other_lives(nodes, lives, COMES)

    async def _empty(self, _fault, nodes):
        # What a quorum's disks have is promised: one disk at a time, when all others have what is on it.
        node = nodes[0]
        if not await self.cluster.can_lose(node, COMES):
            raise Skipped(f"{node.name} is needed")
        life = node.life
        node.end()
        await self._kubectl("delete", "persistentvolumeclaim", f"data-{node.name}", "-n", self.cluster.namespace, "--wait=false")
        await self._kubectl("delete", "pod", node.name, "-n", self.cluster.namespace, "--wait=false")
        await self._other_lives([node], [life], COMES)
        if not await self.cluster.settled(SETTLES):
            print(f"{node.name} is no member within {SETTLES} s", flush=True)

    async def _rolling(self, fault, nodes):
        lives = [node.life for node in nodes]
        for node in nodes:
            node.end()
        self.rollings += 1
        await asyncio.to_thread(self.cluster.cluster.apply, podTemplate={"labels": {"faults": str(self.rollings)}})
        if fault["both"]:
            await asyncio.sleep(fault["seconds"])
            await self._kill_operator()
        if not await self._other_lives(nodes, lives, SETTLES) or not await self.cluster.settled(SETTLES):
            print(f"not all pods are replaced within {SETTLES} s", flush=True)

    async def _operator(self, fault, _nodes):
        await self._kill_operator()
        await asyncio.sleep(fault["seconds"])

    async def _kill_operator(self):
        """Its process, without a word to it; and its pod, so that another one comes at once."""
        for host in sorted({node.host for node in self.cluster.nodes if node.host} - self.off):
            await self._on(host, "sh", "-c", "pids=$(pgrep -x raftmq-operator) && kill -9 $pids || true")
        await self._kubectl(
            "delete", "pods", "-n", self.cluster.OPERATOR, "-l", "app.kubernetes.io/component=operator", "--grace-period=0", "--force", "--ignore-not-found"
        )

    async def _other_lives(self, nodes, lives, seconds):
        """Waits until each of the nodes has another life than that; False if not in this time."""
        end = asyncio.get_running_loop().time() + seconds
        while any(node.life == life or node.address is None for node, life in zip(nodes, lives)):
            if asyncio.get_running_loop().time() > end:
                return False
            await asyncio.sleep(0.1)
        return True

    # Nodes of Kubernetes.

    def _host(self, node):
        if node.host is None:
            raise Skipped(f"{node.name} is on no node")
        return node.host

    async def _partition(self, fault, nodes):
        host = self._host(nodes[0])
        self.touched.add(host)
        await self._lab("partition", host)
        await asyncio.sleep(fault["seconds"])
        await self._lab("heal", host)

    async def _power(self, fault, nodes):
        node, host = nodes[0], self._host(nodes[0])
        node.end()
        self.off.add(host)
        await self._lab("kill-node", host)
        await asyncio.sleep(fault["seconds"])
        await self._boot(host)

    async def _boot(self, host):
        await self._lab("start-node", host, timeout=BOOTS)
        self.off.discard(host)

    async def _drain(self, fault, nodes):
        node, host = nodes[0], self._host(nodes[0])
        life = node.life
        node.end()
        self.touched.add(host)
        try:
            # Not before the disruption budget allows it.
            done = await self._kubectl(
                "drain", host, "--ignore-daemonsets", "--delete-emptydir-data", "--force", f"--timeout={DRAINS}s", check=False, timeout=DRAINS + 30
            )
            await asyncio.sleep(fault["seconds"])
        finally:
            await self._kubectl("uncordon", host)
        if done.returncode and node.life == life and node.is_ready:
            node.ending = None
            raise Skipped(f"{host} was not drained within {DRAINS} s: {done.stderr.strip()[-300:]}")
        await self._other_lives([node], [life], COMES)

    async def _isolate(self, fault, nodes):
        own, *others = (pods_of(self._host(node)) for node in nodes)
        others = ", ".join(others)
        await self._cut(nodes[0].host, fault["seconds"], [
            f"ip saddr {own} ip daddr {{ {others} }} drop", f"ip saddr {{ {others} }} ip daddr {own} drop",
        ])

    async def _one_way(self, fault, nodes):
        deaf, other = (pods_of(self._host(node)) for node in nodes[:2])
        await self._cut(nodes[0].host, fault["seconds"], [f"ip saddr {other} ip daddr {deaf} drop"])

    async def _cut(self, host, seconds, rules):
        self.touched.add(host)
        await self._on(host, "nft", "-f", "-", stdin=table(rules))
        await asyncio.sleep(seconds)
        await self._on(host, "nft", "-f", "-", stdin=table([]))

    async def heal(self):
        """Everything that can be healed at once; nodes that are off are started."""
        for host in sorted(self.off):
            await self._boot(host)
        for host in sorted(self.touched):
            await self._lab("heal", host)
            await self._on(host, "nft", "-f", "-", stdin=table([]))
            await self._kubectl("uncordon", host)

    # How.

    async def _lab(self, *command, **options):
        return await self._run("labctl", *command, **options)

    async def _on(self, host, *command, **options):
        return await self._run("labctl", "on", host, *command, **options)

    async def _kubectl(self, *arguments, **options):
        return await self._run("kubectl", *arguments, **options)

    async def _run(self, name, *arguments, stdin=None, check=True, timeout=60):
        """One that is not awaited any more is ended."""
        return await run(self.cluster.program(name), *arguments, stdin=stdin, check=check, timeout=timeout)


class Done:
    """A command's end."""

    def __init__(self, returncode, stdout, stderr):
        self.returncode, self.stdout, self.stderr = returncode, stdout, stderr


async def run(*command, stdin=None, check=True, timeout=60):
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        stdout, stderr = await asyncio.wait_for(process.communicate((stdin or "").encode()), timeout)
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    done = Done(process.returncode, stdout.decode(errors="replace"), stderr.decode(errors="replace"))
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done


def pods_of(host):
    """The addresses of a node's pods (tests/lab/README.md)."""
    return f"198.18.{128 + int(host.removeprefix('node-'))}.0/24"


def table(rules):
    """The input of nft that makes these rules all that is dropped of what a node forwards: what its pods say and hear."""
    inside = "\n  ".join(rules)
    return (
        f"table inet {TABLE} {{}}\ndelete table inet {TABLE}\n"
        f"table inet {TABLE} {{\n chain forward {{ type filter hook forward priority -10;\n  {inside}\n }}\n}}\n"
    )
