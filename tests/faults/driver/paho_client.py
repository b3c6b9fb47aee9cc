"""Clients of paho, a library that many use, with a tap on their sockets. Each has a thread."""

import random as randoms
import threading
import time

import paho.mqtt.client as paho
from paho.mqtt.enums import MessageState
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from . import packets
from .client import EXPIRY, KEEP_ALIVE, PATIENCE, WINDOW
from .recorder import Tap


RELEASED = MessageState.MQTT_MS_WAIT_FOR_PUBCOMP, MessageState.MQTT_MS_RESEND_PUBREL


class TappedSocket:
    """A socket that a tap sees."""

    def __init__(self, sock, tap):
        self._sock, self._tap = sock, tap
        # Bytes that the tap has seen and the socket has not taken yet.
        self._ahead = 0

    def __getattr__(self, name):
        return getattr(self._sock, name)

    def send(self, data):
        new = bytes(data[self._ahead:])
        if new:
            self._tap.sent(new)
            self._ahead = len(data)
        taken = self._sock.send(data)
        self._ahead -= taken
        return taken

    def recv(self, size):
        try:
            data = self._sock.recv(size)
        except BlockingIOError:
            raise
        except OSError as error:
            self._tap.closed("broker", str(error))
            raise
        if data:
            self._tap.received(data)
        else:
            self._tap.closed("broker")
        return data

    def close(self):
        self._tap.closed("client")
        self._sock.close()


class Tapped(paho.Client):
    """paho, with a tap on each connection that it makes."""

    tapping = None

    def _create_socket(self):
        return TappedSocket(super()._create_socket(), self.tapping())

    def _messages_reconnect_reset_out(self):
        # paho forgets with the second connection that is not answered that PUBREL was sent, and sends PUBLISH once more, which [MQTT-4.3.3-6] forbids.
        released = [message for message in self._out_messages.values() if message.state in RELEASED]
        super()._messages_reconnect_reset_out()
        for message in released:
            message.state = MessageState.MQTT_MS_RESEND_PUBREL


class PahoClient:
    def __init__(self, run, about, random):
        self.run, self.about = run, about
        self.random = randoms.Random(random.random())
        self.id = about.id
        self.sent_by = {}
        self.node = None
        self.stopped = False
        self.connected = False
        self.subscribed = self.unanswered = False
        self.heard = time.monotonic()
        options = {} if about.level == 5 else {"clean_session": not about.durable}
        protocol = paho.MQTTv5 if about.level == 5 else paho.MQTTv311
        self.paho = Tapped(
            paho.CallbackAPIVersion.VERSION2, client_id=about.id, protocol=protocol, reconnect_on_failure=False, **options
        )
        self.paho.tapping = lambda: Tap(run.recorder, self.node.name, EXPIRY, self.sent_by)
        self.paho.connect_timeout = PATIENCE
        self.paho.max_inflight_messages_set(WINDOW)
        self.paho.on_connect = self._on_connect
        self.paho.on_disconnect = self._on_disconnect
        self.paho.on_subscribe = lambda *_: self._answered()
        self.paho.on_publish = lambda *_: self._answered()
        self.paho.on_message = lambda *_: self._answered()
        self.thread = threading.Thread(target=self._live, name=about.id, daemon=True)

    def _answered(self):
        self.heard = time.monotonic()
        self.unanswered = False

    def _on_connect(self, _client, _userdata, flags, code, _properties):
        self._answered()
        if code.is_failure:
            return
        self.connected = True
        self.subscribed = flags.session_present and self.subscribed

    def _on_disconnect(self, *_):
        self.connected = False

    def _live(self):
        while not self.run.over:
            try:
                self._connection()
            except OSError:
                pass
            self.connected = False
            if self.stopped and not self.about.durable:
                return
            time.sleep(self.random.uniform(0.05, 0.5 if self.stopped else 1.5))
        self.paho._sock_close()

    def _connection(self):
        self.node = self.run.choose(self)
        options = {}
        if self.about.level == 5:
            options["clean_start"] = not self.about.durable
            options["properties"] = Properties(PacketTypes.CONNECT)
            options["properties"].SessionExpiryInterval = EXPIRY if self.about.durable else 0
        self.paho.connect(self.node.address, self.node.PORT, keepalive=KEEP_ALIVE, **options)
        self._answered()
        self.unanswered = True
        while not self.run.over:
            if self.paho.loop(timeout=0.1) != paho.MQTT_ERR_SUCCESS:
                return
            if self.connected and not self.stopped:
                self._act()
            elif not self.connected and time.monotonic() - self.heard > PATIENCE:
                break
            if self.unanswered and time.monotonic() - self.heard > PATIENCE:
                break
        self.paho._sock_close()

    def _act(self):
        if self.about.filters and not self.subscribed:
            self.subscribed = self.unanswered = True
            self.paho.subscribe(list(self.about.filters))
        elif self.random.random() < 0.003 * self.about.restless:
            if self.random.random() < 0.5:
                self.paho.disconnect()
            else:
                self.paho._sock_close()
        elif self.about.topics and len(self.paho._out_messages) < WINDOW and self.random.random() < 0.1 * self.about.pace:
            topic, qos, retain = self.random.choice(self.about.topics)
            self.unanswered = self.unanswered or qos > 0
            self.paho.publish(topic, packets.payload(next(self.run.recorder.messages)), qos=qos, retain=retain)

    async def live(self):
        self.thread.start()

    def settled(self):
        return self.connected and not self.paho._out_messages
