"""What the scenarios share: where the broker is, a client that keeps what it was told, the lines of output."""

import contextlib
import os
import secrets
import ssl
import sys
import threading
import time
import traceback

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

DEADLINE = 15.0
VERSIONS = {"3.1": paho.MQTTv31, "3.1.1": paho.MQTTv311, "5": paho.MQTTv5}

TRANSPORT = sys.argv[1] if len(sys.argv) > 1 else "tcp"
ONLY = sys.argv[2:]
HOST = os.environ.get("RAFTMQ_COMPAT_HOST", "localhost")
CA = os.environ.get("RAFTMQ_COMPAT_CA")
OTHER_CA = os.environ.get("RAFTMQ_COMPAT_OTHER_CA")
CERTIFICATE = os.environ.get("RAFTMQ_COMPAT_CERT")
KEY = os.environ.get("RAFTMQ_COMPAT_KEY")
PATH = os.environ.get("RAFTMQ_COMPAT_WS_PATH", "/mqtt")


def port(transport):
    return int(os.environ[f"RAFTMQ_COMPAT_{transport.upper()}"])


def wait_until(what, condition, deadline=DEADLINE):
    end = time.monotonic() + deadline
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline:.0f} s: {what}")
        time.sleep(0.005)


def equal(what, found, wanted):
    if found != wanted:
        raise AssertionError(f"{what}: {found!r} instead of {wanted!r}")


def properties(packet, **values):
    """Properties of a packet, by paho's attribute names."""
    result = Properties(getattr(PacketTypes, packet))
    for name, value in values.items():
        setattr(result, name, value)
    return result


def client_id():
    """At most 23 characters, as 3.1 wants it."""
    return f"compat{secrets.token_hex(6)}"


class Peer:
    """A paho client on the transport of this run."""

    def __init__(self, version, name=None, clean=True, will=None, connect=None, manual=False, transport=None,
                 ca=CA, certificate=None):
        self.version, self.clean = version, clean
        transport = transport or TRANSPORT
        options = {} if version == "5" else {"clean_session": clean}
        self.paho = paho.Client(
            paho.CallbackAPIVersion.VERSION2,
            client_id=client_id() if name is None else name,
            protocol=VERSIONS[version],
            transport="websockets" if transport in ("ws", "wss") else "tcp",
            reconnect_on_failure=False,
            manual_ack=manual,
            **options,
        )
        if transport in ("ws", "wss"):
            self.paho.ws_set_options(path=PATH)
        if transport in ("tls", "mtls", "wss"):
            self.paho.tls_set(ca_certs=ca, certfile=certificate and certificate[0], keyfile=certificate and certificate[1])
        if will:
            self.paho.will_set(**will)
        self.port, self.connect_properties = port(transport), connect
        self.lock = threading.Condition()
        self.messages, self.granted, self.unsubscribed, self.aliases = [], {}, {}, {}
        self.flags = self.connack = self.connack_properties = None
        self.end = None
        self.paho.on_connect = self._on_connect
        self.paho.on_disconnect = self._on_disconnect
        self.paho.on_message = self._on_message
        self.paho.on_subscribe = lambda _c, _u, mid, codes, _p: self.granted.__setitem__(mid, [c.value for c in codes])
        self.paho.on_unsubscribe = lambda _c, _u, mid, codes, _p: self.unsubscribed.__setitem__(mid, [c.value for c in codes])

    def _on_connect(self, _client, _userdata, flags, code, connack_properties):
        self.flags, self.connack, self.connack_properties = flags, code, connack_properties

    def _on_message(self, _client, _userdata, message):
        # What a topic alias stands for is left to the user of paho (MQTT 5, 3.3.2.3.4).
        alias = getattr(message.properties, "TopicAlias", None)
        if alias is not None and message.topic:
            self.aliases[alias] = message.topic
        elif alias is not None:
            message.topic = self.aliases[alias].encode()
        self.messages.append(message)

    def _on_disconnect(self, _client, _userdata, flags, code, disconnect_properties):
        self.end = self.end or (flags.is_disconnect_packet_from_server, code, disconnect_properties)

    def start(self):
        """Opens the connection; waits for a CONNACK that accepts."""
        options = {"clean_start": self.clean, "properties": self.connect_properties} if self.version == "5" else {}
        self.paho.connect(HOST, self.port, keepalive=30, **options)
        self.paho.loop_start()
        wait_until("CONNACK", lambda: self.connack is not None or self.end is not None)
        if self.connack is None or self.connack.is_failure:
            raise AssertionError(f"not connected: CONNACK {self.connack}, end {self.end}")
        return self

    def subscribe(self, *filters, options=None, identifier=None):
        """Filters with their QoS (or options) in one SUBSCRIBE; the codes of SUBACK."""
        arguments = {}
        if identifier is not None:
            arguments["properties"] = properties("SUBSCRIBE", SubscriptionIdentifier=identifier)
        wanted = [(topic_filter, options) for topic_filter in filters] if options else list(filters)
        code, mid = self.paho.subscribe(wanted, **arguments)
        equal("subscribe()", code, paho.MQTT_ERR_SUCCESS)
        wait_until("SUBACK", lambda: mid in self.granted)
        return self.granted[mid]

    def unsubscribe(self, *filters):
        code, mid = self.paho.unsubscribe(list(filters))
        equal("unsubscribe()", code, paho.MQTT_ERR_SUCCESS)
        wait_until("UNSUBACK", lambda: mid in self.unsubscribed)
        return self.unsubscribed[mid]

    def publish(self, topic, payload, qos=1, retain=False, **values):
        """Publishes and waits until the exchange of its QoS is complete."""
        extra = {"properties": properties("PUBLISH", **values)} if values else {}
        info = self.paho.publish(topic, payload, qos, retain, **extra)
        info.wait_for_publish(DEADLINE)
        if not info.is_published():
            raise AssertionError(f"not acknowledged within {DEADLINE:.0f} s: QoS {qos} to {topic}")

    def on(self, topic):
        return [message for message in self.messages if message.topic == topic]

    def wait(self, topic, count=1):
        """The messages of a topic, once there are so many; more than that is a failure."""
        wait_until(f"{count} messages on {topic}, {len(self.on(topic))} came", lambda: len(self.on(topic)) >= count)
        found = self.on(topic)
        equal(f"messages on {topic}", len(found), count)
        return found

    def cut(self):
        """Ends the connection without DISCONNECT."""
        raw = self.paho.socket()
        self.paho.loop_stop()
        raw.close()

    def stop(self, **disconnect):
        """DISCONNECT, and waits until it is sent."""
        self.paho.disconnect(**disconnect)
        wait_until("DISCONNECT", lambda: self.end is not None)
        self.paho.loop_stop()

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        with contextlib.suppress(Exception):
            self.paho.disconnect()
            self.paho.loop_stop()


def certificate_refused(peer):
    """What ssl says about the broker's certificate; None when it is accepted."""
    try:
        with peer:
            return None
    except ssl.SSLCertVerificationError as error:
        return error


class Runner:
    """Runs scenarios and prints a line for each."""

    def __init__(self):
        self.failed = 0

    def run(self, name, scenario, *arguments):
        if ONLY and not any(name.startswith(only) for only in ONLY):
            return
        try:
            scenario(*arguments)
        except Exception as error:  # noqa: BLE001: a scenario's failure is a line of output
            self.failed += 1
            where = traceback.extract_tb(error.__traceback__)
            line = next((frame.lineno for frame in reversed(where) if "scenario" in frame.filename), where[-1].lineno)
            print(f"FAIL {name}: {type(error).__name__}: {error} (line {line})".replace("\n", " "), flush=True)
        else:
            print(f"ok {name}", flush=True)
