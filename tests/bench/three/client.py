"""An MQTT client for recipes that kill brokers: small, and exact about what was acknowledged when."""

import asyncio
import itertools
import pathlib
import struct
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "faults"))

from driver import packets  # noqa: E402
from driver.packets import CONNACK, DISCONNECT, PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL, SUBACK, UNSUBACK  # noqa: E402

EXPIRY = 86_400


class Gone(Exception):
    """The connection ended, was refused, or an answer did not come in time. `code` is the reason code that the broker said, or None."""

    def __init__(self, why, code=None):
        super().__init__(why)
        self.code = code


class Client(asyncio.Protocol):
    """One connection. Messages that come are acknowledged at once and given to `on_message(topic, payload)`."""

    def __init__(self, client_id, clean=True, level=4, on_message=None, keep_alive=0):
        self.id, self.clean, self.level, self.keep_alive = client_id, clean, level, keep_alive
        self.on_message = on_message or (lambda _topic, _payload: None)
        self.waiting = {}
        self.pids = itertools.cycle(range(1, 65536))
        self.buffer = bytearray()
        self.transport = None
        self.present = False
        # The reason code of a DISCONNECT of the broker, and when the connection ended.
        self.code = self.ended = None
        self.over = asyncio.Event()

    async def connect(self, at, timeout=10):
        """`at`: host and port. Returns whether there was a session."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout):
                await loop.create_connection(lambda: self, *at)
                answer = self._expect(CONNACK, 0)
                self.transport.write(packets.connect(self.id, self.level, self.clean, self.keep_alive, 0 if self.clean else EXPIRY))
                flags, code = await answer
        except TimeoutError:
            self.close()
            raise Gone("no CONNACK") from None
        except OSError as error:
            raise Gone(f"no connection: {error}") from None
        if code:
            self.close()
            raise Gone(f"CONNACK {code:#x}", code)
        self.present = bool(flags & 1)
        return self.present

    async def subscribe(self, topic_filter, qos, timeout=20):
        pid = next(self.pids)
        codes = await self._ask(SUBACK, pid, packets.subscribe(pid, [(topic_filter, qos)], self.level), timeout)
        if codes[-1] >= 0x80:
            raise Gone(f"SUBACK {codes[-1]:#x}", codes[-1])

    async def publish(self, topic, payload, qos=1, timeout=20):
        """Returns when it was acknowledged (PUBACK, or PUBCOMP)."""
        if qos == 0:
            return self._send(packets.publish(topic, payload, self.level, 0, 0))
        pid = next(self.pids)
        sent = packets.publish(topic, payload, self.level, qos, pid)
        if qos == 1:
            return await self._ask(PUBACK, pid, sent, timeout)
        await self._ask(PUBREC, pid, sent, timeout)
        return await self._ask(PUBCOMP, pid, packets.acknowledge(PUBREL, pid), timeout)

    async def _ask(self, kind, pid, data, timeout):
        if self.over.is_set() or self.transport.is_closing():
            raise Gone("the connection has ended", self.code)
        answer = self._expect(kind, pid)
        self.transport.write(data)
        try:
            return await asyncio.wait_for(answer, timeout)
        except TimeoutError:
            self.waiting.pop((kind, pid), None)
            raise Gone("no answer in time") from None

    def _send(self, data):
        if not self.transport.is_closing():
            self.transport.write(data)

    def _expect(self, kind, pid):
        return self.waiting.setdefault((kind, pid), asyncio.get_running_loop().create_future())

    def close(self):
        """Without DISCONNECT."""
        if self.transport is not None:
            self.transport.abort()

    def disconnect(self):
        if self.transport is not None and not self.over.is_set():
            self.transport.write(packets.disconnect(self.level))
            self.transport.close()

    # asyncio.Protocol

    def connection_made(self, transport):
        self.transport = transport

    def connection_lost(self, _error):
        self.ended = time.monotonic()
        self.over.set()
        for answer in self.waiting.values():
            if not answer.done():
                answer.set_exception(Gone("the connection ended", self.code))
                # Whoever waited may have gone before.
                answer.exception()
        self.waiting.clear()

    def data_received(self, data):
        self.buffer += data
        for kind, flags, body in packets.split(self.buffer):
            if kind == PUBLISH:
                self._message(flags, body)
            elif kind == PUBREL:
                self._send(packets.acknowledge(PUBCOMP, struct.unpack_from(">H", body)[0]))
            elif kind == DISCONNECT:
                self.code = body[0] if body else 0
            else:
                self._answered(kind, body)

    def _message(self, flags, body):
        qos, read = flags >> 1 & 3, packets.Body(body)
        topic = read.text()
        pid = read.number(2) if qos else 0
        if self.level == 5:
            read.properties()
        self.on_message(topic, read.rest())
        if qos:
            self._send(packets.acknowledge(PUBACK if qos == 1 else PUBREC, pid))

    def _answered(self, kind, body):
        if kind == CONNACK:
            key, value = (CONNACK, 0), (body[0], body[1])
        elif kind in (PUBACK, PUBREC, PUBCOMP, SUBACK, UNSUBACK):
            # Reason codes are last, or not there for success.
            key, value = (kind, struct.unpack_from(">H", body)[0]), body[2:]
        else:
            return
        answer = self.waiting.pop(key, None)
        if answer is None or answer.done():
            return
        if kind in (PUBACK, PUBREC) and value and value[0] >= 0x80:
            answer.set_exception(Gone(f"refused with {value[0]:#x}", value[0]))
        else:
            answer.set_result(value)
