"""The driver's own client: everything that a client may do, and exactly what it keeps of its session."""

import asyncio
import contextlib
import itertools
import struct
import time

from . import packets
from .packets import CONNACK, DISCONNECT, PINGRESP, PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL, SUBACK, UNSUBACK
from .recorder import Tap

KEEP_ALIVE = 10
EXPIRY = 3600
# Seconds that a client waits for an answer before it goes to another node.
PATIENCE = 6.0
# Seconds that a connection that was taken over is left open: less and more than it takes to take it over from a node that is cut off.
LEFT = 2.0, 14.0
# Messages of a client that are not acknowledged yet.
WINDOW = 8


class Wire:
    """One connection, and who reads it. `node`: a `place.Contact`."""

    def __init__(self, client, node):
        self.client, self.node = client, node
        self.tap = Tap(client.run.recorder, node.name, EXPIRY, client.sent_by)
        self.taken = asyncio.Event()
        self.over = asyncio.Event()
        self.present = False
        self.writer = self.task = None
        self.asked = self.heard = time.monotonic()

    async def open(self):
        reader, self.writer = await asyncio.wait_for(asyncio.open_connection(self.node.address, self.node.PORT), PATIENCE)
        self.task = self.client.run.spawn(self._read(reader))

    def send(self, data):
        if self.over.is_set():
            return
        self.tap.sent(data)
        self.asked = time.monotonic()
        # One that was lost a moment ago, of which nobody was told yet.
        if not self.writer.transport.is_closing():
            self.writer.write(data)

    async def _read(self, reader):
        by, why = "broker", ""
        try:
            while data := await reader.read(65536):
                self.heard = time.monotonic()
                for packet in self.tap.received(data):
                    self.client.on_packet(self, *packet)
        except OSError as error:
            why = str(error)
        except asyncio.CancelledError:
            by = "client"
        finally:
            self._end(by, why)

    def _end(self, by, why=""):
        if not self.over.is_set():
            self.tap.closed(by, why)
            self.over.set()
            self.writer.transport.abort()

    def close(self):
        """Without DISCONNECT."""
        if self.writer is not None:
            self._end("client")
            self.task.cancel()

    def silent(self):
        """Whether an answer is overdue."""
        return self.asked > self.heard and time.monotonic() - self.heard > PATIENCE


class Client:
    """`about`: what it does, as the workload says."""

    def __init__(self, run, about, random):
        self.run, self.about, self.random = run, about, random
        self.id = about.id
        self.wire = None
        self.left = []
        # Messages sent by packet identifier: of the tap. And what is not acknowledged: {identifier: [stage, bytes of a resend]}.
        self.sent_by, self.out = {}, {}
        self.pids = itertools.cycle(range(1, 65536))
        # Some take the lowest identifier that is free, so that most are used again at once.
        self.frugal = random.random() < 0.5
        self.filters = {}
        self.pending = {}
        self.stopped = False

    # Its life.

    async def live(self):
        """Connects, acts, and connects again, until the run is over."""
        while not self.run.over:
            try:
                await self.connection()
            except OSError:
                pass
            except TimeoutError:
                pass
            if self.stopped and not self.about.durable:
                break
            await asyncio.sleep(self.random.uniform(0.05, 0.5 if self.stopped else 1.5))
        for wire in [self.wire, *self.left]:
            if wire is not None:
                wire.close()

    async def connection(self):
        wire = await self.connect()
        if wire is None:
            return
        while wire is self.wire and not wire.over.is_set() and not self.run.over:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(wire.over.wait(), self.random.uniform(0.5, 1.5) / self.about.pace)
            if wire.over.is_set() or wire is not self.wire:
                continue
            if wire.silent():
                self.impatient(wire)
            else:
                await self.act(wire)
        if self.wire is wire and wire.over.is_set():
            self.wire = None

    async def connect(self):
        """A connection that was taken; None if there is none."""
        node = self.run.choose(self)
        wire = Wire(self, node)
        await wire.open()
        will = None
        if self.about.will is not None:
            topic, qos, delay = self.about.will
            will = topic, next(self.run.recorder.messages), qos, False, delay
        clean = not self.about.durable
        wire.send(packets.connect(self.id, self.about.level, clean, KEEP_ALIVE, 0 if clean else EXPIRY, will))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(wire.taken.wait(), PATIENCE)
        if not wire.taken.is_set() or wire.over.is_set():
            wire.close()
            return None
        self.wire = wire
        self._resume(wire)
        return wire

    def _resume(self, wire):
        self.pending.clear()
        if not wire.present:
            self.out.clear()
            self.filters.clear()
        for pid, (stage, again) in list(self.out.items()):
            wire.send(again if stage == PUBLISH else packets.acknowledge(PUBREL, pid))
        missing = [each for each in self.about.filters if each[0] not in self.filters]
        if missing and not self.about.churns:
            self.subscribe(missing)

    def impatient(self, wire):
        """No answer for too long: another connection, with or without an end of this one."""
        if self.random.random() < 0.5 and not self.stopped:
            self.leave(wire)
        else:
            wire.close()

    def leave(self, wire):
        """The connection stays as it is, and another one is made."""
        self.wire = None
        self.left.append(wire)
        asyncio.get_running_loop().call_later(self.random.uniform(*LEFT), wire.close)

    # What it does.

    async def act(self, wire):
        chance = self.random.random
        for other in list(self.left):
            if other.over.is_set():
                self.left.remove(other)
            else:
                other.send(packets.PING)
        if time.monotonic() - wire.asked > (1.0 if self.about.sentinel else KEEP_ALIVE / 3) or chance() < 0.02:
            wire.send(packets.PING)
        if self.stopped:
            return
        if chance() < 0.01 * self.about.restless:
            await self.random.choice([self.drop, self.say_goodbye, self.take_over])(wire)
        elif self.about.churns and chance() < 0.3:
            self.churn()
        elif self.about.topics and len(self.out) < WINDOW:
            for _ in range(self.random.choice([1, 1, 1, 3])):
                self.publish(*self.random.choice(self.about.topics))

    async def drop(self, wire):
        wire.close()

    async def say_goodbye(self, wire):
        wire.send(packets.disconnect(self.about.level))
        # Until the broker has closed: it has read it then.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(wire.over.wait(), PATIENCE)
        wire.close()

    async def take_over(self, wire):
        self.leave(wire)

    def _pid(self):
        pids = range(1, 65536) if self.frugal else self.pids
        return next(pid for pid in pids if pid not in self.out and pid not in self.pending)

    def publish(self, topic, qos, retain):
        pid, level = self._pid() if qos else 0, self.about.level
        data = packets.payload(next(self.run.recorder.messages))
        if retain and self.random.random() < 0.15:
            data = b""
        if qos:
            self.out[pid] = [PUBLISH, packets.publish(topic, data, level, qos, pid, retain, dup=True)]
        self.wire.send(packets.publish(topic, data, level, qos, pid, retain))

    def churn(self):
        topic_filter, qos = self.random.choice(self.about.filters)
        if any(topic_filter in busy for busy in self.pending.values()):
            return
        if topic_filter in self.filters:
            pid = self._pid()
            del self.filters[topic_filter]
            self.pending[pid] = {topic_filter}
            self.wire.send(packets.unsubscribe(pid, [topic_filter], self.about.level))
        else:
            self.subscribe([(topic_filter, qos)])

    def subscribe(self, filters):
        pid = self._pid()
        self.filters.update(filters)
        self.pending[pid] = {topic_filter for topic_filter, _ in filters}
        self.wire.send(packets.subscribe(pid, filters, self.about.level))

    # What it is told.

    def on_packet(self, wire, kind, flags, body):
        if kind == CONNACK:
            wire.present = bool(body[0] & 1)
            if body[1] == 0:
                wire.taken.set()
            else:
                wire.close()
        elif kind == PUBLISH:
            self._received(wire, flags, body)
        elif kind == PUBREL:
            wire.send(packets.acknowledge(PUBCOMP, _pid_of(body)))
        elif kind in (PUBACK, PUBREC, PUBCOMP):
            self._acknowledged(wire, kind, body)
        elif kind in (SUBACK, UNSUBACK) and wire is self.wire:
            self.pending.pop(_pid_of(body), None)
        elif kind not in (PINGRESP, DISCONNECT, SUBACK, UNSUBACK):
            raise AssertionError(f"a packet of type {kind} from the broker")

    def _received(self, wire, flags, body):
        qos = flags >> 1 & 3
        if not qos:
            return
        size = struct.unpack(">H", body[:2])[0]
        pid = _pid_of(body[2 + size:])
        kind = PUBACK if qos == 1 else PUBREC
        self._slowly([0, 0, 0, 0.05, 0.5], wire, packets.acknowledge(kind, pid))

    def _slowly(self, delays, wire, packet):
        """Some are slow, so that connections end, and nodes are cut off, with what is not acknowledged or released."""
        delay = self.random.choice(delays) if self.about.restless else 0
        if delay:
            asyncio.get_running_loop().call_later(delay, wire.send, packet)
        else:
            wire.send(packet)

    def _acknowledged(self, wire, kind, body):
        pid = _pid_of(body)
        failed = len(body) > 2 and body[2] >= 0x80
        if wire is not self.wire or pid not in self.out:
            return
        if kind == PUBREC and not failed:
            self.out[pid][0] = PUBREL
            self._slowly([0, 0, 0, 0.2, 1.0], wire, packets.acknowledge(PUBREL, pid))
        else:
            del self.out[pid]

    def settled(self):
        """Connected, and nothing is left to be answered."""
        wire = self.wire
        return wire is not None and not wire.over.is_set() and wire.taken.is_set() and not self.out and not self.pending


def _pid_of(body):
    return struct.unpack(">H", body[:2])[0]
