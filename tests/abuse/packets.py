"""MQTT packets as bytes, of 3.1.1 (level 4) and 5.0."""

import struct

from wire import packet, text

PINGREQ = packet(0xC0, b"")
PINGRESP = packet(0xD0, b"")
DISCONNECT = packet(0xE0, b"")
# MQTT 5: normal, and the session ends with it.
DISCONNECT_AND_FORGET = packet(0xE0, bytes([0, 5, 0x11, 0, 0, 0, 0]))


def connect(client_id, level=4, clean=True, keep_alive=60, expiry=0, will=None):
    """`will`: (topic, payload), QoS 1. `expiry`: of the session, MQTT 5."""
    flags = (2 if clean else 0) | (0x0C if will else 0)
    properties = b""
    if level == 5:
        properties = bytes([5, 0x11]) + struct.pack(">I", expiry) if expiry else b"\0"
    body = text("MQTT") + bytes([level, flags]) + struct.pack(">H", keep_alive) + properties + text(client_id)
    if will:
        topic, payload = will
        body += (b"\0" if level == 5 else b"") + text(topic) + struct.pack(">H", len(payload)) + payload
    return packet(0x10, body)


def subscribe(*filters, level=4, qos=1, identifier=1):
    body = struct.pack(">H", identifier) + (b"\0" if level == 5 else b"")
    return packet(0x82, body + b"".join(text(topic_filter) + bytes([qos]) for topic_filter in filters))


def publish(topic, payload=b"", level=4, qos=0, identifier=1, retain=False):
    body = text(topic) + (struct.pack(">H", identifier) if qos else b"") + (b"\0" if level == 5 else b"") + payload
    return packet(0x30 | qos << 1 | (1 if retain else 0), body)


def split(buffer):
    """Takes the whole packets off the front of a bytearray: [(first byte, body)]."""
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
        found.append((buffer[start], bytes(buffer[at:at + value])))
        start = at + value
    del buffer[:start]
    return found
