"""A bare MQTT 3.1.1 client on a socket: nothing between a test and the bytes, and quick enough for ten thousand rounds."""

import socket
import struct


def text(value):
    """A UTF-8 string of MQTT."""
    data = value.encode()
    return struct.pack(">H", len(data)) + data


def packet(first, body):
    """A control packet: first byte, remaining length, body."""
    length, remaining = b"", len(body)
    while True:
        digit, remaining = remaining % 128, remaining // 128
        length += bytes([digit | (0x80 if remaining else 0)])
        if not remaining:
            return bytes([first]) + length + body


class Wire:
    """One connection. Every call waits for its answer, at most `timeout` seconds."""

    def __init__(self, port, client_id, timeout=15, clean=True, keep_alive=60, will=None):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        self.next_id = 0
        self.waiting = []
        flags = 2 if clean else 0
        last = b""
        if will:
            # With QoS 1.
            flags |= 0x0C
            last = text(will[0]) + text(will[1])
        self._send(0x10, text("MQTT") + bytes([4, flags]) + struct.pack(">H", keep_alive) + text(client_id) + last)
        first, body = self._read()
        assert first == 0x20 and body[1] == 0, f"CONNACK {first:#x} {body!r}"
        self.session_present = bool(body[0])

    def _send(self, first, body):
        self.socket.sendall(packet(first, body))

    def _read(self):
        while True:
            found = self._parse()
            if found is not None:
                return found
            data = self.socket.recv(65536)
            if not data:
                raise ConnectionError("closed by the broker")
            self.buffer += data

    def _parse(self):
        value, shift = 0, 0
        for at in range(1, min(len(self.buffer), 5)):
            value |= (self.buffer[at] & 0x7F) << shift
            shift += 7
            if not self.buffer[at] & 0x80:
                end = at + 1 + value
                if len(self.buffer) < end:
                    return None
                found = self.buffer[0], self.buffer[at + 1:end]
                self.buffer = self.buffer[end:]
                return found
        return None

    def _identifier(self):
        self.next_id = self.next_id % 65535 + 1
        return struct.pack(">H", self.next_id)

    def _answer(self, kind):
        """The next packet of a kind; messages that come before it are kept for `message`."""
        while True:
            first, body = self._read()
            if first >> 4 == kind:
                return body
            self._note(first, body)

    def _note(self, first, body):
        assert first >> 4 == 3, f"unexpected packet {first:#x}"
        size = struct.unpack(">H", body[:2])[0]
        topic, rest = body[2:2 + size].decode(), body[2 + size:]
        if first & 6:
            self._send(0x40, rest[:2])
            rest = rest[2:]
        self.waiting.append((topic, rest))

    def subscribe(self, topic_filter, qos=1):
        identifier = self._identifier()
        self._send(0x82, identifier + text(topic_filter) + bytes([qos]))
        body = self._answer(9)
        assert body[:2] == identifier and body[2] == qos, f"SUBACK {body!r}"

    def subscribe_later(self, topic_filter, qos=1):
        """Sends SUBSCRIBE without waiting for its SUBACK."""
        self._send(0x82, self._identifier() + text(topic_filter) + bytes([qos]))

    def subscribed(self, count):
        """Waits for so many SUBACKs."""
        for _ in range(count):
            body = self._answer(9)
            assert body[2] <= 1, f"SUBACK {body!r}"

    def unsubscribe(self, topic_filter):
        identifier = self._identifier()
        self._send(0xA2, identifier + text(topic_filter))
        assert self._answer(11)[:2] == identifier

    def publish(self, topic, payload, qos=1):
        if qos == 0:
            self._send(0x30, text(topic) + payload)
            return
        identifier = self._identifier()
        self._send(0x32, text(topic) + identifier + payload)
        body = self._answer(4)
        assert body[:2] == identifier

    def message(self):
        """The next message: (topic, payload)."""
        while not self.waiting:
            self._note(*self._read())
        return self.waiting.pop(0)

    def close(self):
        try:
            self._send(0xE0, b"")
        finally:
            self.socket.close()
