"""Writes the history: a tap on each connection reads what the client sends and receives, whatever client it is.

What is sent is written down before it goes to the socket, what is received after it came from it. So an invocation is never
later, and an answer never earlier, than in the history: what the checker concludes from their order is so."""

import itertools
import json
import threading
import time

from . import packets
from .packets import (
    CONNACK, CONNECT, DISCONNECT, PINGREQ, PINGRESP, PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL, SUBACK, SUBSCRIBE, UNSUBACK, UNSUBSCRIBE, Body,
)

ACKS = {PUBACK: "puback", PUBREC: "pubrec", PUBCOMP: "pubcomp"}
FORMAT = 1


class Recorder:
    """The history of a run, from all threads."""

    def __init__(self, path, **run):
        self._file = open(path, "w", encoding="utf-8", buffering=1 << 16)
        self._lock = threading.Lock()
        self.connections, self.messages = itertools.count(1), itertools.count(1)
        # For the display.
        self.counts = {}
        # The last time that a message was received.
        self.received = time.monotonic()
        self.event("run", format=FORMAT, **run)

    def event(self, e, **event):
        with self._lock:
            if self._file.closed:
                return
            line = json.dumps({"t": time.monotonic_ns(), "e": e, **event}, separators=(",", ":"))
            self._file.write(line + "\n")
            self.counts[e] = self.counts.get(e, 0) + 1
            if e == "recv":
                self.received = time.monotonic()

    @property
    def acknowledged(self):
        return sum(self.counts.get(kind, 0) for kind in ("puback", "pubrec", "suback", "unsuback", "connack"))

    def close(self):
        with self._lock:
            self._file.close()


class Tap:
    """One connection. `expiry` and `sent_by` are the client's: what its sessions of MQTT 3.1.1 last, and its messages by packet identifier."""

    def __init__(self, recorder, node, expiry, sent_by):
        self.recorder, self.node, self.expiry, self.sent_by = recorder, node, expiry, sent_by
        self.number = next(recorder.connections)
        self.level = 5
        self.over = False
        self.client_id = None
        self._out, self._in = bytearray(), bytearray()

    def _event(self, e, **event):
        if not self.over and self.client_id is not None:
            self.recorder.event(e, c=self.number, **event)

    def sent(self, data):
        """To be called before the bytes go to the socket."""
        self._out += data
        for kind, flags, body in packets.split(self._out):
            self._sent(kind, flags, Body(body))

    def received(self, data):
        """The packets that these bytes complete: [(kind, flags, body)]."""
        self._in += data
        found = packets.split(self._in)
        for kind, flags, body in found:
            self._received(kind, flags, Body(body))
        return found

    def closed(self, by, why=""):
        """`by`: broker, client, or error where that is not known."""
        self._event("closed", by=by, **({"why": why} if why else {}))
        self.over = True

    def _sent(self, kind, flags, body):
        if kind == CONNECT:
            self._connect(body)
        elif kind == PUBLISH:
            self._publish(flags, body)
        elif kind in ACKS:
            self._event("ack", pid=body.number(2), k=ACKS[kind])
        elif kind == PUBREL:
            pid = body.number(2)
            self._event("pubrel", pid=pid, m=self.sent_by.get(pid))
        elif kind == SUBSCRIBE:
            pid = body.number(2)
            if self.level == 5:
                body.properties()
            filters = []
            while body:
                topic_filter, options = body.text(), body.number(1)
                filters.append([topic_filter, options & 3, options >> 4 & 3])
            self._event("sub", pid=pid, f=filters)
        elif kind == UNSUBSCRIBE:
            pid = body.number(2)
            if self.level == 5:
                body.properties()
            filters = []
            while body:
                filters.append(body.text())
            self._event("unsub", pid=pid, f=filters)
        elif kind == PINGREQ:
            self._event("ping")
        elif kind == DISCONNECT:
            code = body.number(1) if body else 0
            properties = body.properties() if body else {}
            more = {"expiry": properties[packets.SESSION_EXPIRY]} if packets.SESSION_EXPIRY in properties else {}
            self._event("disconnect", code=code, **more)

    def _connect(self, body):
        body.text()
        self.level, flags, keep_alive = body.number(1), body.number(1), body.number(2)
        properties = body.properties() if self.level == 5 else {}
        self.client_id = body.text()
        clean = bool(flags & 2)
        expiry = properties.get(packets.SESSION_EXPIRY, 0) if self.level == 5 else 0 if clean else self.expiry
        more = {}
        if flags & 4:
            will = body.properties() if self.level == 5 else {}
            topic, message = body.text(), packets.message_of(body.binary())
            more["will"] = {
                "m": message, "topic": topic, "q": flags >> 3 & 3, "retain": bool(flags & 0x20), "delay": will.get(packets.WILL_DELAY, 0),
            }
        self._event("connect", id=self.client_id, node=self.node, v=self.level, clean=clean, expiry=expiry, ka=keep_alive, **more)

    def _publish(self, flags, body):
        qos, topic = flags >> 1 & 3, body.text()
        pid = body.number(2) if qos else 0
        more = {}
        if self.level == 5:
            properties = body.properties()
            if packets.MESSAGE_EXPIRY in properties:
                more["expiry"] = properties[packets.MESSAGE_EXPIRY]
        data = body.rest()
        if flags & 1:
            more["retain"] = True
        if flags & 8:
            more["dup"] = True
        if data:
            message = packets.message_of(data)
        else:
            # A deletion has no payload to know it by: one that is sent again has its identifier.
            message = self.sent_by.get(pid) if flags & 8 else next(self.recorder.messages)
            more["empty"] = True
        if qos:
            self.sent_by[pid] = message
        self._event("pub", q=qos, pid=pid, topic=topic, m=message, **more)

    def _received(self, kind, flags, body):
        if kind == CONNACK:
            present, code = body.number(1) & 1, body.number(1)
            self._event("connack", code=code, present=bool(present))
        elif kind == PUBLISH:
            qos, topic = flags >> 1 & 3, body.text()
            pid = body.number(2) if qos else 0
            if self.level == 5:
                properties = body.properties()
                assert packets.TOPIC_ALIAS not in properties, "no topic alias was offered"
            data = body.rest()
            more = {name: True for name, bit in (("retain", 1), ("dup", 8)) if flags & bit}
            if data:
                more["m"] = packets.message_of(data)
            else:
                more["empty"] = True
            self._event("recv", q=qos, pid=pid, topic=topic, **more)
        elif kind in ACKS:
            pid = body.number(2)
            self._event(ACKS[kind], pid=pid, code=body.number(1) if body else 0)
        elif kind == PUBREL:
            self._event("rel", pid=body.number(2))
        elif kind == SUBACK:
            pid = body.number(2)
            if self.level == 5:
                body.properties()
            self._event("suback", pid=pid, codes=list(body.rest()))
        elif kind == UNSUBACK:
            pid = body.number(2)
            if self.level == 5:
                body.properties()
            self._event("unsuback", pid=pid, codes=list(body.rest()))
        elif kind == PINGRESP:
            self._event("pong")
        elif kind == DISCONNECT:
            self._event("disconnected", code=body.number(1) if body else 0)
