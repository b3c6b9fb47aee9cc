"""One run: the cluster, the clients, the faults, the drain, the report."""

import asyncio
import collections
import contextlib
import json
import os
import random as randoms
import signal
import subprocess
import sys
import tempfile
import time

from . import faults as breaking
from . import workload
from .client import Client
from .cluster import BINARY, Cluster
from .disks import Disks
from .net import Network
from .recorder import Recorder

# Seconds within which a healed cluster does what is due, as the history declares to the checker.
SETTLE = 10
# The same while it is broken. Some readers stay longer than that.
PATIENCE = 40
# After the last message so many seconds are quiet. A drain takes at most LONGEST.
QUIET, LONGEST = 3, 90
# Exit code of a run that is no proof, whatever the checker says.
FAILED = 4
CHECK = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "check")


class Session:
    def __init__(self, options):
        self.options = options
        self.random = randoms.Random(f"workload/{options.seed}")
        self.over = False
        # Why the driver itself cannot go on.
        self.failure = None
        self.main = None
        self.faults = []
        # Names of nodes that ended without anybody's doing.
        self.ended = []
        self.phase = "start"
        self.recorder = self.cluster = self.network = self.disks = self.breaker = None
        self.clients, self.readers, self.tasks = [], [], set()
        self.directory = options.keep or tempfile.mkdtemp(prefix="raftmq-faults-")
        self.history = os.path.join(self.directory, "history.jsonl")

    # Called by clients.

    def choose(self, client):
        """The node for a client's next connection."""
        nodes = self.cluster.nodes
        home = client.about.home
        return client.random.choice(nodes) if home is None else nodes[home]

    # The run.

    async def run(self):
        """True if the run got to its end."""
        options = self.options
        names = [f"n{number + 1}" for number in range(options.nodes)]
        os.makedirs(self.directory, exist_ok=True)
        with open(os.path.join(self.directory, "run.json"), "w", encoding="utf-8") as file:
            json.dump(options.given, file)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, asyncio.current_task().cancel)
        self.main = asyncio.current_task()
        try:
            self.network = Network(names)
            self.disks = Disks(self.directory, names)
            self.cluster = Cluster(
                self.directory, self.network, self.disks, {}, shards=options.shards, snapshot_bytes=options.snapshot_bytes, plant=options.plant
            )
            say(f"{options.nodes} nodes of {BINARY}, seed {options.seed}, workload {options.workload}, in {self.directory}")
            await self.cluster.form()
            self.recorder = Recorder(
                self.history, seed=options.seed, workload=options.workload, settle=SETTLE, patience=PATIENCE,
                forwarded=options.workload == "live", **({} if options.strict else {"qos0": "connection"}),
            )
            self.breaker = breaking.Breaker(self.cluster, self.network, self.disks, self.recorder)
            self.spawn(self._display())
            self.spawn(self._watch())
            self._start_clients()
            self.phase = "faults"
            await self._break()
            await self._drain()
            return True
        except asyncio.CancelledError:
            if self.failure is not None:
                raise RuntimeError("the driver failed") from self.failure
            raise
        finally:
            await asyncio.shield(self._stop(names))

    def spawn(self, work):
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task):
        self.tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            # Of the driver itself: what clients see of a broken cluster they handle.
            task.print_stack()
            if self.failure is None and not self.over:
                self.failure = task.exception()
                self.main.cancel()

    def _start_clients(self):
        with_paho = self.options.paho and _has_paho()
        for about in workload.WORKLOADS[self.options.workload](self.options.nodes, self.random, with_paho):
            about.pace *= self.options.rate
            random = randoms.Random(f"{self.options.seed}/{about.id}")
            if about.paho:
                from .paho_client import PahoClient
                client = PahoClient(self, about, random)
            else:
                client = Client(self, about, random)
            self.clients.append(client)
            self.spawn(client.live())
        self.spawn(self._read_retained())

    async def _read_retained(self):
        """One fresh subscription after the other; some stay as long as it takes to know that there is nothing."""
        number = 0
        while self.phase in ("start", "faults"):
            number += 1
            self._reader(f"reader{number}", number % self.options.nodes, self.random.choice([0.5, 1, 2, 10, PATIENCE + 5]))
            await asyncio.sleep(self.random.uniform(0.3, 1.5))

    def _reader(self, name, number, stay):
        about = workload.reader(name, number, self.options.workload == "live")
        client = Client(self, about, randoms.Random(f"{self.options.seed}/{name}"))
        self.readers.append(client)

        async def read():
            life = asyncio.get_running_loop().create_task(client.live())
            await asyncio.sleep(stay)
            if self.phase == "faults":
                client.stopped = True
                if client.wire is not None:
                    client.wire.close()
                self.readers.remove(client)
            await life
        self.spawn(read())

    async def _break(self):
        options = self.options
        if options.script:
            self.faults = breaking.read(options.script)
        else:
            self.faults = breaking.schedule(
                options.seed, options.nodes, options.seconds, options.faults, options.pause, options.count
            )
        end = time.monotonic() + (options.seconds if options.count is None else 0)
        await self.breaker.follow(self.faults)
        await asyncio.sleep(max(0, end - time.monotonic()))

    async def _drain(self):
        """All is healed, nothing new is published, and all that is due comes."""
        self.phase = "drain"
        await self.breaker.heal()
        if not await self.cluster.wait_ready(60):
            say("the cluster did not heal within 60 s")
        for client in self.clients:
            client.stopped = True
        self.recorder.event("drain")
        for number in range(self.options.nodes):
            self._reader(f"last{number}", number, 1e9)
        begin = time.monotonic()
        # Wills that are late, and reads of nothing, are due only after this.
        least = 1.5 * 10 + workload.DELAY + SETTLE + 2
        quiet = False
        while time.monotonic() - begin < LONGEST:
            await asyncio.sleep(0.5)
            settled = all(client.settled() for client in self.clients if client.about.durable)
            silent = time.monotonic() - self.recorder.received > QUIET
            if time.monotonic() - begin > least and settled and silent:
                quiet = True
                break
        # A last operation of each, which shows that it served to the end.
        for client in [*self.clients, *self.readers]:
            if isinstance(client, Client) and client.wire is not None:
                client.wire.send(b"\xc0\x00")
        await asyncio.sleep(1)
        self.recorder.event("end", quiet=quiet)
        if not quiet:
            waiting = [client.id for client in self.clients if client.about.durable and not client.settled()]
            say(f"the drain did not end within {LONGEST} s; not settled: {', '.join(waiting) or 'nobody: messages still come'}")

    async def _stop(self, names):
        self.over = True
        self.phase = "end"
        for client in [*self.clients, *self.readers]:
            if isinstance(client, Client):
                for wire in [client.wire, *client.left]:
                    if wire is not None:
                        wire.close()
        for task in list(self.tasks):
            task.cancel()
        if self.tasks:
            await asyncio.wait(list(self.tasks), timeout=5)
        for client in self.clients:
            if not isinstance(client, Client):
                await asyncio.to_thread(client.thread.join, 5)
        if self.recorder is not None:
            self.recorder.close()
        if self.disks is not None:
            for name in list(self.disks.frozen):
                self.disks.thaw(name)
        if self.cluster is not None:
            self.cluster.stop()
        if self.disks is not None:
            self.disks.close(names)

    async def _watch(self):
        """A node that ends without anybody's doing is told of, and started again."""
        while True:
            await asyncio.sleep(0.5)
            for node, code in self.cluster.ended_alone():
                self.ended.append(node.name)
                self.recorder.event("fault", kind="ended", nodes=[node.name], code=code)
                say(f"{node.name} ended by itself, exit code {code}\n{node.log_tail()}")
                node.start()

    # The display.

    async def _display(self):
        begin = time.monotonic()
        while True:
            await asyncio.sleep(5)
            connected = sum(
                client.wire is not None if isinstance(client, Client) else client.connected for client in self.clients
            )
            counts = self.recorder.counts
            say(
                f"{time.monotonic() - begin:5.0f} s  {self.phase:<7} {connected}/{len(self.clients)} clients, {counts.get('pub', 0)} published, "
                f"{self.recorder.acknowledged} acknowledged, {counts.get('recv', 0)} received, {sum(self.breaker.done.values())} of {len(self.faults)} faults"
                f"{'  ' + self.breaker.now if self.breaker.now else ''}"
            )

    def report(self):
        """What was done, and the checker's verdict: its exit code."""
        done = collections.Counter(self.breaker.done if self.breaker else {})
        say(f"\n{sum(done.values())} faults:")
        for kind, count in sorted(done.items()):
            say(f"  {count:4} {kind:<13} {breaking.WORDS[kind]}")
        command = [sys.executable, CHECK, self.history, "--min-acked", str(self.options.min_acked)]
        for option in ("require", "without"):
            if getattr(self.options, option):
                command += [f"--{option}", getattr(self.options, option)]
        say(f"\n{' '.join(command)}", flush=True)
        code = subprocess.call(command)
        word = {0: "all promises hold", 1: "a promise is violated", 3: "nothing is violated, but too little is proved"}
        if code == 0 and self.ended:
            code, word = FAILED, {FAILED: f"nodes ended by themselves: {', '.join(self.ended)}"}
        say(f"\nverdict: {word.get(code, 'no verdict')} (seed {self.options.seed}, workload {self.options.workload})")
        return code


def _has_paho():
    with contextlib.suppress(ImportError):
        import paho.mqtt.client  # noqa: F401
        return True
    say("paho-mqtt is missing (tests/requirements.txt): all clients are the driver's own")
    return False


def say(text, flush=True):
    print(text, flush=flush)
