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

from . import schedule, workload
from .client import Client
from .recorder import Recorder

# Seconds within which a healed cluster does what is due, as the history declares to the checker.
SETTLE = 10
# After the last message so many seconds are quiet. A drain takes at most LONGEST.
QUIET, LONGEST = 3, 90
# Exit code of a run that is no proof, whatever the checker says.
FAILED = 4
CHECK = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "check")


class Session:
    def __init__(self, options):
        self.options = options
        self.random = randoms.Random(f"workload/{options.seed}")
        self.over = self.interrupted = False
        # Why the driver itself cannot go on.
        self.failure = None
        self.main = None
        self.faults = []
        # Names of nodes that ended without anybody's doing.
        self.ended = []
        self.phase = "start"
        self.recorder = self.breaker = None
        self.clients, self.readers, self.tasks = [], [], set()
        self.directory = options.keep or tempfile.mkdtemp(prefix="raftmq-faults-")
        self.cluster = _place(options)(options, self.directory)
        self.history = os.path.join(self.directory, "history.jsonl")

    # Called by clients.

    def choose(self, client):
        """Where a client makes its next connection."""
        home = client.about.home
        return self.cluster.contact(client.random.randrange(len(self.cluster.nodes)) if home is None else home)

    # The run.

    async def run(self):
        """True if the run got to its end."""
        options = self.options
        os.makedirs(self.directory, exist_ok=True)
        with open(os.path.join(self.directory, "run.json"), "w", encoding="utf-8") as file:
            json.dump(options.given, file)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._interrupted)
        self.main = asyncio.current_task()
        try:
            say(f"{options.nodes} {self.cluster.what}, seed {options.seed}, workload {options.workload}, in {self.directory}")
            await self.cluster.form()
            self.recorder = Recorder(
                self.history, seed=options.seed, workload=options.workload, settle=SETTLE, patience=self.cluster.patience,
                forwarded=options.workload == "live", **({} if options.strict else {"qos0": "connection"}),
            )
            self.breaker = self.cluster.breaker(self.recorder)
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
            await asyncio.shield(self._stop())

    def _interrupted(self):
        # Once: what comes then is the end, which a second signal must not end.
        if not self.interrupted:
            self.interrupted = True
            self.main.cancel()

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
            self._reader(f"reader{number}", number % self.options.nodes, self.random.choice([0.5, 1, 2, 10, self.cluster.patience + 5]))
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
            self.faults = schedule.read(self.breaker.KINDS, options.script)
        else:
            self.faults = schedule.make(
                self.breaker.KINDS, options.seed, options.nodes, options.seconds, options.faults, options.pause, options.count
            )
        end = time.monotonic() + (options.seconds if options.count is None else 0)
        await self.breaker.follow(self.faults)
        await asyncio.sleep(max(0, end - time.monotonic()))

    async def _drain(self):
        """All is healed, nothing new is published, and all that is due comes."""
        self.phase = "drain"
        await self.breaker.heal()
        if not await self.cluster.wait_ready(self.cluster.heals):
            say(f"the cluster did not heal within {self.cluster.heals} s")
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

    async def _stop(self):
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
        await self.cluster.stop()

    async def _watch(self):
        """A node that ends without anybody's doing is told of, and started again."""
        while True:
            await asyncio.sleep(0.5)
            for name, how in self.cluster.ended_alone():
                self.ended.append(name)
                self.recorder.event("fault", kind="ended", nodes=[name], how=how.partition("\n")[0])
                say(f"{name} ended by itself: {how}")

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
            say(f"  {count:4} {kind:<13} {self.breaker.WORDS[kind]}")
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


def _place(options):
    """Where the brokers are. Imported here, since each wants things of its own of the machine."""
    if options.pods:
        from .pods import Pods
        return Pods
    from .processes import Processes
    return Processes


def _has_paho():
    with contextlib.suppress(ImportError):
        import paho.mqtt.client  # noqa: F401
        return True
    say("paho-mqtt is missing (tests/requirements.txt): all clients are the driver's own")
    return False


def say(text, flush=True):
    print(text, flush=flush)
