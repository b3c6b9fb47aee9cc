"""MQTT packets as bytes, of 3.1.1 (level 4) and 5.0: what the driver's client sends, and what a tap reads off any client's connection."""

import struct
import zlib

CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK, PINGREQ, PINGRESP, DISCONNECT = range(1, 15)

SESSION_EXPIRY, WILL_DELAY, RECEIVE_MAXIMUM, MESSAGE_EXPIRY, TOPIC_ALIAS = 0x11, 0x18, 0x21, 0x02, 0x23
# How a property's value is encoded (MQTT 5, section 2.2.2.2): its length in bytes, or text, binary, two texts, a variable length.
_VALUES = {
    0x01: 1, 0x02: 4, 0x03: "t", 0x08: "t", 0x09: "b", 0x0B: "v", 0x11: 4, 0x12: "t", 0x13: 2, 0x15: "t", 0x16: "b", 0x17: 1, 0x18: 4, 0x19: 1,
    0x1A: "t", 0x1C: "t", 0x1F: "t", 0x21: 2, 0x22: 2, 0x23: 2, 0x24: 1, 0x25: 1, 0x26: "tt", 0x27: 4, 0x28: 1, 0x29: 1, 0x2A: 1,
}


# Payloads.

def payload(message):
    """Bytes by which a message is known again, and whether they are whole."""
    text = b"%d" % message
    return b"%s %08x" % (text, zlib.crc32(text))


def message_of(data):
    """The message of a payload; None if it is none."""
    text, _, check = bytes(data).partition(b" ")
    if text.isdigit() and check == b"%08x" % zlib.crc32(text):
        return int(text)
    return None


# Writing.

def text(value):
    data = value.encode()
    return struct.pack(">H", len(data)) + data


def _variable(value):
    out = bytearray()
    while True:
        digit, value = value & 0x7F, value >> 7
        out.append(digit | (0x80 if value else 0))
        if not value:
            return bytes(out)


def packet(first, body):
    return bytes([first]) + _variable(len(body)) + body


def connect(client_id, level, clean, keep_alive, expiry, will=None):
    """`will`: (topic, message, QoS, retain, delay)."""
    flags = 2 if clean else 0
    properties = b""
    if level == 5:
        properties = _properties(struct.pack(">BI", SESSION_EXPIRY, expiry) if expiry else b"")
    body = text(client_id)
    if will:
        topic, message, qos, retain, delay = will
        flags |= 4 | qos << 3 | (0x20 if retain else 0)
        data = payload(message)
        if level == 5:
            body += _properties(struct.pack(">BI", WILL_DELAY, delay) if delay else b"")
        body += text(topic) + struct.pack(">H", len(data)) + data
    return packet(CONNECT << 4, text("MQTT") + bytes([level, flags]) + struct.pack(">H", keep_alive) + properties + body)


def _properties(data):
    return _variable(len(data)) + data


def publish(topic, data, level, qos, pid, retain=False, dup=False):
    body = text(topic) + (struct.pack(">H", pid) if qos else b"") + (b"\0" if level == 5 else b"") + data
    return packet(PUBLISH << 4 | (8 if dup else 0) | qos << 1 | (1 if retain else 0), body)


def acknowledge(kind, pid):
    """PUBACK, PUBREC, PUBREL or PUBCOMP of success."""
    return packet(kind << 4 | (2 if kind == PUBREL else 0), struct.pack(">H", pid))


def subscribe(pid, filters, level):
    body = struct.pack(">H", pid) + (b"\0" if level == 5 else b"")
    return packet(0x82, body + b"".join(text(topic_filter) + bytes([qos]) for topic_filter, qos in filters))


def unsubscribe(pid, filters, level):
    body = struct.pack(">H", pid) + (b"\0" if level == 5 else b"")
    return packet(0xA2, body + b"".join(text(topic_filter) for topic_filter in filters))


def disconnect(level, code=0):
    return packet(0xE0, bytes([code, 0]) if level == 5 and code else b"")


PING = packet(PINGREQ << 4, b"")


# Reading.

def split(buffer):
    """Takes the whole packets off the front of a bytearray: [(kind, flags, body)]."""
    found, start = [], 0
    while True:
        value = shift = 0
        at = start + 1
        while at < len(buffer):
            value |= (buffer[at] & 0x7F) << shift
            shift += 7
            at += 1
            if not buffer[at - 1] & 0x80:
                break
        else:
            break
        if len(buffer) < at + value:
            break
        found.append((buffer[start] >> 4, buffer[start] & 0xF, bytes(buffer[at:at + value])))
        start = at + value
    del buffer[:start]
    return found


class Body:
    """Reads a packet's body from the front."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def number(self, size):
        self.at += size
        return int.from_bytes(self.data[self.at - size:self.at])

    def binary(self):
        size = self.number(2)
        self.at += size
        return self.data[self.at - size:self.at]

    def text(self):
        return self.binary().decode()

    def variable(self):
        value = shift = 0
        while True:
            digit = self.number(1)
            value |= (digit & 0x7F) << shift
            shift += 7
            if not digit & 0x80:
                return value

    def properties(self):
        """{identifier: value}; of what may occur several times the last one."""
        end = self.variable()
        end += self.at
        found = {}
        while self.at < end:
            identifier = self.number(1)
            form = _VALUES[identifier]
            if isinstance(form, int):
                found[identifier] = self.number(form)
            elif form == "v":
                found[identifier] = self.variable()
            else:
                found[identifier] = [self.binary() for _ in form][-1]
        return found

    def rest(self):
        return self.data[self.at:]

    def __bool__(self):
        return self.at < len(self.data)
