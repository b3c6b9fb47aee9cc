"""The programs of paho-mqtt's own introduction (its README), whole, with both versions of the callback API.

Only the broker's address differs, and that what the introduction prints is checked.
"""

import ssl
import threading
import warnings

import paho.mqtt.client as mqtt
import paho.mqtt.publish as publish
import paho.mqtt.subscribe as subscribe
from compat import CA, DEADLINE, HOST, PATH, TRANSPORT, equal, port, wait_until
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from scenarios import topic

# Version 1 of the callback API says that it is deprecated; people use it.
warnings.filterwarnings("ignore", category=DeprecationWarning)


def client(api=CallbackAPIVersion.VERSION2, **arguments):
    made = mqtt.Client(api, transport="websockets" if TRANSPORT in ("ws", "wss") else "tcp", **arguments)
    if TRANSPORT in ("ws", "wss"):
        made.ws_set_options(path=PATH)
    if TRANSPORT in ("tls", "wss"):
        made.tls_set(ca_certs=CA)
    return made


def address():
    return {"host": HOST, "port": port(TRANSPORT), "keepalive": 60}


def helper_arguments():
    """What the helper modules take instead."""
    arguments = {"hostname": HOST, "port": port(TRANSPORT)}
    if TRANSPORT in ("ws", "wss"):
        # The helpers have no option for the path: they ask for paho's default.
        assert PATH == "/mqtt", "the helpers of paho-mqtt know the path /mqtt only"
        arguments["transport"] = "websockets"
    if TRANSPORT in ("tls", "wss"):
        arguments["tls"] = {"ca_certs": CA, "tls_version": ssl.PROTOCOL_TLS_CLIENT}
    return arguments


def within_deadline(call, *arguments, **named):
    """The result of a call that has no deadline of its own, such as `loop_forever()`, which must end by itself."""
    results = []
    thread = threading.Thread(target=lambda: results.append(call(*arguments, **named)), daemon=True)
    thread.start()
    thread.join(DEADLINE)
    if not results:
        raise AssertionError(f"{call.__name__}() did not end within {DEADLINE:.0f} s")
    return results[0]


def forever(mqttc):
    within_deadline(mqttc.loop_forever)


def getting_started():
    seen = []

    def on_connect(client, userdata, flags, reason_code, properties):
        seen.append(f"Connected with result code {reason_code}")
        client.subscribe("$SYS/#")

    def on_message(client, userdata, msg):
        seen.append(msg.topic + " " + str(msg.payload))
        if len(seen) >= 5:
            client.disconnect()

    mqttc = client()
    mqttc.on_connect = on_connect
    mqttc.on_message = on_message
    mqttc.connect(**address())
    forever(mqttc)
    equal("first line", seen[0], "Connected with result code Success")
    for line in seen[1:]:
        equal(f"{line} is below $SYS", line.startswith("$SYS/"), True)


def getting_started_v1():
    seen = []

    def on_connect(client, userdata, flags, rc):
        seen.append(f"Connected with result code {rc}")
        client.subscribe("$SYS/#")

    def on_message(client, userdata, msg):
        seen.append(msg.topic + " " + str(msg.payload))
        if len(seen) >= 5:
            client.disconnect()

    mqttc = client(CallbackAPIVersion.VERSION1)
    mqttc.on_connect = on_connect
    mqttc.on_message = on_message
    mqttc.connect(**address())
    forever(mqttc)
    equal("first line", seen[0], "Connected with result code 0")


def subscriber():
    seen = []

    def on_subscribe(client, userdata, mid, reason_code_list, properties):
        if reason_code_list[0].is_failure:
            seen.append(f"Broker rejected you subscription: {reason_code_list[0]}")
        else:
            seen.append(f"Broker granted the following QoS: {reason_code_list[0].value}")

    def on_unsubscribe(client, userdata, mid, reason_code_list, properties):
        if len(reason_code_list) == 0 or not reason_code_list[0].is_failure:
            seen.append("unsubscribe succeeded (if SUBACK is received in MQTTv3 it success)")
        else:
            seen.append(f"Broker replied with failure: {reason_code_list[0]}")
        client.disconnect()

    def on_message(client, userdata, message):
        userdata.append(message.payload)
        if len(userdata) == 10:
            client.unsubscribe("$SYS/#")

    def on_connect(client, userdata, flags, reason_code, properties):
        if reason_code.is_failure:
            seen.append(f"Failed to connect: {reason_code}. loop_forever() will retry connection")
        else:
            client.subscribe("$SYS/#")

    mqttc = client(CallbackAPIVersion.VERSION2)
    mqttc.on_connect = on_connect
    mqttc.on_message = on_message
    mqttc.on_subscribe = on_subscribe
    mqttc.on_unsubscribe = on_unsubscribe
    mqttc.user_data_set([])
    mqttc.connect(**address())
    forever(mqttc)
    equal("lines", seen, [
        "Broker granted the following QoS: 0",
        "unsubscribe succeeded (if SUBACK is received in MQTTv3 it success)",
    ])
    equal("ten messages", len(mqttc.user_data_get()) >= 10, True)


def publisher():
    def on_publish(client, userdata, mid, reason_code, properties):
        # The race that the introduction describes: the identifier may not be there yet.
        with lock:
            early.add(mid) if mid not in userdata else userdata.remove(mid)

    lock, early, unacked_publish = threading.Lock(), set(), set()
    name = topic("paho/test/topic")
    mqttc = client(CallbackAPIVersion.VERSION2)
    mqttc.on_publish = on_publish
    mqttc.user_data_set(unacked_publish)
    mqttc.connect(**address())
    mqttc.loop_start()
    infos = []
    for text in ("my message", "my message2"):
        infos.append(mqttc.publish(name, text, qos=1))
        with lock:
            early.discard(infos[-1].mid) if infos[-1].mid in early else unacked_publish.add(infos[-1].mid)
    wait_until("both are acknowledged", lambda: not unacked_publish)
    for info in infos:
        info.wait_for_publish(DEADLINE)
        equal("published", info.is_published(), True)
    mqttc.disconnect()
    mqttc.loop_stop()


def whole(api):
    """Connect, subscribe to several topics, publish, unsubscribe, disconnect: a user's first program, in one."""
    base = topic("tutorial")
    names = [f"{base}/{name}" for name in ("temperature", "humidity", "pressure")]
    steps, state = [], {"mid": None, "left": 0}

    def on_connect(client, *_):
        steps.append("connected")
        client.subscribe([(name, 1) for name in names] + [("$SYS/#", 0)])

    def on_subscribe(client, userdata, mid, codes, *_):
        steps.append(f"granted {[getattr(code, 'value', code) for code in codes]}")
        for name in names:
            client.publish(name, "21.5", qos=1)

    def on_message(client, userdata, message):
        if message.topic in names:
            steps.append(message.topic)
            if sum(step in names for step in steps) == len(names):
                client.unsubscribe(names)

    def on_unsubscribe(client, *_):
        steps.append("unsubscribed")
        client.disconnect()

    def on_disconnect(*_):
        steps.append("disconnected")

    mqttc = client(api)
    mqttc.on_connect, mqttc.on_subscribe, mqttc.on_message = on_connect, on_subscribe, on_message
    mqttc.on_unsubscribe, mqttc.on_disconnect = on_unsubscribe, on_disconnect
    mqttc.connect(**address())
    forever(mqttc)
    equal("steps", steps[:2] + sorted(steps[2:5]) + steps[5:], [
        "connected", "granted [1, 1, 1, 0]", *sorted(names), "unsubscribed", "disconnected",
    ])


def helpers():
    """`publish.single()`, `publish.multiple()`, `subscribe.simple()` and `subscribe.callback()`."""
    name, arguments = topic("paho/helpers"), helper_arguments()
    within_deadline(publish.single, name, "payload", qos=1, retain=True, **arguments)
    equal("subscribe.simple", within_deadline(subscribe.simple, name, qos=1, **arguments).payload, b"payload")
    within_deadline(publish.single, name, None, qos=1, retain=True, **arguments)

    def on_message_print(client, userdata, message):
        userdata.append(message.payload)
        if len(userdata) >= 2:
            client.disconnect()

    seen = []
    within_deadline(publish.single, f"{name}/start", "start", qos=1, retain=True, **arguments)
    thread = threading.Thread(
        target=lambda: subscribe.callback(on_message_print, f"{name}/#", qos=1, userdata=seen, **arguments), daemon=True
    )
    thread.start()
    wait_until("the retained message, so the subscription is there", lambda: seen == [b"start"])
    msgs = [{"topic": f"{name}/a", "payload": "multiple 1"}, (f"{name}/a", "multiple 2", 0, False)]
    within_deadline(publish.multiple, msgs, protocol=MQTTProtocolVersion.MQTTv5, **arguments)
    thread.join(DEADLINE)
    equal("subscribe.callback", (thread.is_alive(), seen[:2]), (False, [b"start", b"multiple 1"]))
    within_deadline(publish.single, f"{name}/start", None, qos=1, retain=True, **arguments)


PROGRAMS = [
    ("tutorial-getting-started", getting_started),
    ("tutorial-getting-started-callbacks-1", getting_started_v1),
    ("tutorial-subscriber", subscriber),
    ("tutorial-publisher", publisher),
    ("tutorial-whole", lambda: whole(CallbackAPIVersion.VERSION2)),
    ("tutorial-whole-callbacks-1", lambda: whole(CallbackAPIVersion.VERSION1)),
    ("tutorial-helpers", helpers),
]
