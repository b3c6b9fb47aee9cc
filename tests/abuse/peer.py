"""A connection to the broker over any transport, opened in steps, so that thousands are on their way at a time, and
ended in any way, the rude ones too."""

import contextlib
import socket
import struct
from collections import deque

import packets

UPGRADE = (
    b"GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
)
# Further addresses of the loopback interface, so that ports in TIME_WAIT do not run out.
SOURCES = 16


def frame(data):
    """A binary frame of a client. Its mask is all zeros, which leaves the data as it is."""
    if len(data) < 126:
        length = bytes([0x80 | len(data)])
    elif len(data) < 65536:
        length = bytes([0x80 | 126]) + struct.pack(">H", len(data))
    else:
        length = bytes([0x80 | 127]) + struct.pack(">Q", len(data))
    return b"\x82" + length + b"\0\0\0\0" + data


def raw_socket(broker, transport, number=0, timeout=30, receive_buffer=None):
    """A TCP connection to the listener, nothing sent."""
    made = socket.socket()
    made.settimeout(timeout)
    if receive_buffer:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    made.bind((f"127.0.1.{1 + number % SOURCES}", 0))
    try:
        made.connect(("127.0.0.1", broker.ports[transport]))
    except BaseException:
        made.close()
        raise
    return made


class Peer:
    """`Peer(…)`, `upgraded()`, then `send` and `receive`."""

    def __init__(self, broker, transport="tcp", number=0, timeout=30, receive_buffer=None):
        self.socket = raw_socket(broker, transport, number, timeout, receive_buffer)
        self.websocket = transport in ("ws", "wss")
        self.buffer = bytearray()
        self.frames = bytearray()
        self.found = deque()
        self.closing = False
        if transport in ("tls", "wss"):
            self.socket = broker.tls.wrap_socket(self.socket, server_hostname="localhost")
        if self.websocket:
            self.socket.sendall(UPGRADE)

    def upgraded(self):
        """Waits for the answer to the upgrade, where there is one."""
        if self.websocket:
            answer = b""
            while b"\r\n\r\n" not in answer:
                data = self.socket.recv(4096)
                assert data, f"closed during the upgrade: {answer!r}"
                answer += data
            head, _, rest = answer.partition(b"\r\n\r\n")
            assert b" 101 " in head, head
            self.frames += rest
            self._unframe()
        return self

    def send(self, data):
        self.socket.sendall(frame(data) if self.websocket else data)

    def receive(self):
        """The next packet: (first byte, body)."""
        while not self.found:
            # What came before the frame that closes, in the same read, is still received.
            data = b"" if self.closing else self.socket.recv(65536)
            if not data:
                raise ConnectionError("closed by the broker")
            if self.websocket:
                self.frames += data
                self._unframe()
            else:
                self.buffer += data
            self.found.extend(packets.split(self.buffer))
        return self.found.popleft()

    def _unframe(self):
        while len(self.frames) >= 2:
            opcode, length, at = self.frames[0] & 0xF, self.frames[1] & 0x7F, 2
            if length >= 126:
                size = 2 if length == 126 else 8
                if len(self.frames) < 2 + size:
                    return
                length, at = int.from_bytes(self.frames[2:2 + size]), 2 + size
            if len(self.frames) < at + length:
                return
            if opcode == 8:
                self.closing = True
                return
            self.buffer += self.frames[at:at + length]
            del self.frames[:at + length]

    def connected(self, present=None):
        """Waits for CONNACK."""
        first, body = self.receive()
        assert first == 0x20 and body[1] == 0, f"CONNACK {first:#x} {body!r}"
        assert present is None or bool(body[0]) == present, f"session present: {bool(body[0])}"
        return self

    def connect(self, client_id, **options):
        """CONNECT and its answer."""
        self.upgraded().send(packets.connect(client_id, **options))
        return self.connected()

    def until_closed(self):
        """All that still comes: [(first byte, body)]. Fails when the broker does not close within the timeout."""
        rest = []
        with contextlib.suppress(ConnectionError):
            while True:
                rest.append(self.receive())
        self.socket.close()
        return rest

    def reset(self):
        """The connection ends by RST."""
        with contextlib.suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def close(self):
        """By FIN, without DISCONNECT."""
        self.socket.close()

    def disconnect(self, last=packets.DISCONNECT):
        with contextlib.suppress(OSError):
            self.send(last)
        self.socket.close()
