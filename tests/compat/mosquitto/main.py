"""mosquitto_pub, _sub and _rr through every scenario that they have options for: `python main.py tcp|tls [SCENARIO…]`."""

import subprocess
import sys
import time

from tools import (TRANSPORT, VERSIONS, Runner, Subscriber, address, client_id, equal, publish, setting, settings, topic,
                   wait_until)

ALL = ("3.1", "3.1.1", "5")
V5 = ("5",)


def connect(version):
    with Subscriber(version, topic("connect")) as peer:
        peer.wait_line("received CONNACK (0)")
    if version == "5":
        # Without an identifier of its own: the one assigned is in the debug output.
        done = subprocess.run(["mosquitto_pub", *address(), "-V", "mqttv5", "-d", "-t", topic("connect"), "-m", "x", "-q", "1"],
                              capture_output=True, text=True, timeout=15)
        line = next(line for line in done.stdout.splitlines() if "received CONNACK (0)" in line)
        equal("a client identifier was assigned", "(null)" in line, False)


def qos(version):
    for level in (0, 1, 2):
        name = topic("qos")
        with Subscriber(version, name, qos=level) as subscriber:
            equal("granted", subscriber.granted, [level])
            for published in (0, 1, 2):
                publish(version, name, f"{published}", published)
            found = sorted((m["payload"], int(m["qos"])) for m in subscriber.wait(name, 3))
            equal(f"QoS at a subscription of QoS {level}", found, [(f"{p}", min(p, level)) for p in (0, 1, 2)])


def several(version):
    base = topic("several")
    # One QoS for all filters is what mosquitto_sub has.
    with Subscriber(version, f"{base}/a", f"{base}/+/b", f"{base}/c/#", qos=2) as subscriber:
        equal("granted", subscriber.granted, [2, 2, 2])
        for level, name in enumerate(("a", "x/b", "c/d/e")):
            publish(version, f"{base}/{name}", name, level)
            message = subscriber.wait(f"{base}/{name}")[0]
            equal(name, (message["payload"], int(message["qos"])), (name, level))


def unsubscribe(version):
    gone, kept, name = topic("gone"), topic("kept"), client_id()
    with Subscriber(version, gone, name=name, arguments=["-c"]) as first:
        publish(version, gone, "1")
        first.wait(gone)
        first.stop()
    with Subscriber(version, kept, name=name, arguments=["-c", "-U", gone]) as second:
        second.wait_line("received UNSUBACK")
        publish(version, gone, "2")
        publish(version, kept, "end")
        second.wait(kept)
        equal("messages on the filter given up", len(second.on(gone)), 0)
        second.stop()
    forget(version, name)


def forget(version, name):
    """Ends a session that was kept."""
    with Subscriber(version, topic("forget"), name=name) as peer:
        peer.stop()


def retained(version):
    kept, end = topic("retained"), topic("end")
    with Subscriber(version, kept) as early:
        publish(version, kept, "value", retain=True)
        equal("RETAIN at an old subscription", early.wait(kept)[0]["retain"], "0")
    with Subscriber(version, kept) as late:
        message = late.wait(kept)[0]
        equal("RETAIN at a new subscription", (message["retain"], message["payload"]), ("1", "value"))
    publish(version, kept, "", retain=True)
    with Subscriber(version, kept, end) as last:
        publish(version, end, "end")
        last.wait(end)
        equal("messages after it was cleared", len(last.on(kept)), 0)


def with_will(name, payload="gone"):
    return ["--will-topic", name, "--will-payload", payload, "--will-qos", "1"]


def will(version):
    last = topic("will")
    with Subscriber(version, last) as observer:
        Subscriber(version, topic("dying"), arguments=with_will(last)).cut()
        message = observer.wait(last)[0]
        equal("will", (message["payload"], message["qos"], message["retain"]), ("gone", "1", "0"))


def will_not(version):
    last, end, name = topic("will"), topic("end"), client_id()
    with Subscriber(version, last, end) as observer:
        # -E: DISCONNECT after SUBACK. (At a signal mosquitto_sub asks for its will in version 5.)
        leaving = Subscriber(version, topic("leaving"), name=name, arguments=["-E", *with_will(last)])
        leaving.wait_line("sending DISCONNECT")
        leaving.process.wait(15)
        # The same identifier is served anew only when the broker is done with the first connection.
        with Subscriber(version, topic("again"), name=name):
            publish(version, end, "end")
        observer.wait(end)
        equal("wills after DISCONNECT", len(observer.on(last)), 0)


def session(version):
    base, name = topic("session"), client_id()
    with Subscriber(version, f"{base}/#", qos=2, name=name, arguments=["-c"]) as first:
        first.stop()
    for level in (1, 2):
        publish(version, f"{base}/{level}", f"offline {level}", level)
    # Another filter: what arrives comes from the session.
    with Subscriber(version, topic("other"), name=name, arguments=["-c"]) as second:
        for level in (1, 2):
            message = second.wait(f"{base}/{level}")[0]
            equal("message", (message["payload"], int(message["qos"])), (f"offline {level}", level))
        second.stop()
    forget(version, name)
    end = topic("end")
    with Subscriber(version, end, name=name) as third:
        publish(version, f"{base}/1", "late")
        publish(version, end, "end")
        third.wait(end)
        equal("messages after a clean start", len(third.on(f"{base}/1")), 0)


def shared(version):
    name, end = topic("shared"), topic("end")
    with Subscriber(version, f"$share/group/{name}", end) as one, Subscriber(version, f"$share/group/{name}", end) as two:
        equal("granted", (one.granted, two.granted), ([1, 1], [1, 1]))
        lines(version, name, 40)
        publish(version, end, "end")
        one.wait(end)
        two.wait(end)
        wait_until("40 messages", lambda: len(one.on(name)) + len(two.on(name)) >= 40)
        found = sorted(int(message["payload"]) for member in (one, two) for message in member.on(name))
        equal("messages of both members", found, list(range(40)))
        if not one.on(name) or not two.on(name):
            raise AssertionError("one member got all messages")


def lines(version, name, count, qos=1, arguments=()):
    """One mosquitto_pub that publishes the numbers, a message each."""
    done = subprocess.run(
        ["mosquitto_pub", *address(), "-V", VERSIONS[version], "-t", name, "-q", str(qos), "-l", *arguments],
        input="".join(f"{number}\n" for number in range(count)), capture_output=True, text=True, timeout=15,
    )
    equal(f"mosquitto_pub -l: {done.stderr.strip()}", done.returncode, 0)


def large(version):
    name = topic("large")
    payload = "".join(chr(33 + number % 90) for number in range(200_000))
    with Subscriber(version, name, qos=2) as subscriber:
        for level in (0, 1, 2):
            publish(version, name, payload, level)
        for message in subscriber.wait(name, 3):
            equal("payload is whole", message["payload"] == payload, True)


def user_properties(version):
    name = topic("user")
    with Subscriber(version, name) as subscriber:
        sent = [("a", "1"), ("b", "2"), ("a", "3"), ("größe", "5µm")]
        publish(version, name, "x", arguments=settings("publish", user_property=sent))
        equal("user properties", subscriber.wait(name)[0]["user_properties"], "a:1 b:2 a:3 größe:5µm")


def content(version):
    name = topic("content")
    sent = {"content_type": "text/plain", "response_topic": f"{name}/answers", "correlation_data": "c-1"}
    with Subscriber(version, name) as subscriber:
        publish(version, name, "text", arguments=settings("publish", payload_format_indicator=1, **sent))
        message = subscriber.wait(name)[0]
        equal("content", {key: message[key] for key in sent}, sent)
        equal("payload format", message["payload_format"], "1")


def expiry(version):
    base, name = topic("expiry"), client_id()
    with Subscriber(version, f"{base}/#", name=name, arguments=["-c"]) as first:
        first.stop()
    publish(version, f"{base}/long", "x", arguments=settings("publish", message_expiry_interval=100))
    publish(version, f"{base}/short", "x", arguments=settings("publish", message_expiry_interval=1))
    # The interval itself is what is tried.
    time.sleep(2.1)
    with Subscriber(version, f"{base}/#", name=name, arguments=["-c"]) as second:
        publish(version, f"{base}/end", "x")
        left = int(second.wait(f"{base}/long")[0]["expiry"])
        if not 60 <= left <= 98:
            raise AssertionError(f"expiry of 100 s after 2.1 s: {left}")
        second.wait(f"{base}/end")
        equal("expired messages", len(second.on(f"{base}/short")), 0)
        second.stop()
    forget(version, name)


def subscription_identifiers(version):
    for identifier in (1, 268435455):
        name = topic("identifiers")
        arguments = settings("subscribe", subscription_identifier=identifier)
        with Subscriber(version, name, arguments=arguments) as subscriber:
            publish(version, name, "x")
            equal("identifier", subscriber.wait(name)[0]["identifier"], f"{identifier}")


def topic_alias(version):
    name = topic("alias")
    with Subscriber(version, name) as subscriber:
        lines(version, name, 5, arguments=settings("publish", topic_alias=1))
        equal("payloads", [message["payload"] for message in subscriber.wait(name, 5)], ["0", "1", "2", "3", "4"])


def session_expiry(version):
    last, name, kept = topic("over"), client_id(), topic("kept")

    def peer(expiry, *arguments):
        return Subscriber(version, kept, name=name, arguments=["-c", "-x", str(expiry), *arguments])

    def waiting(offline, text):
        """Whether a message to the offline session arrives: mosquitto_sub does not say if a session is present."""
        publish(version, kept, offline)
        with Subscriber(version, topic("other"), end, name=name, arguments=["-c", "-x", "300"]) as again:
            publish(version, end, "end")
            again.wait(end)
            found = [message["payload"] for message in again.on(kept)]
            again.stop()
        equal(text, found, wanted)

    with Subscriber(version, last) as observer:
        # A will whose delay is longer than the session lives is published at the session's end: no clock of ours is needed.
        peer(1, *with_will(last), *settings("will", will_delay_interval=300)).cut()
        observer.wait(last)
    end, wanted = topic("end"), []
    waiting("1", "messages of a session after its expiry")
    peer(300).stop()
    end, wanted = topic("end"), ["2"]
    waiting("2", "messages of a session before its expiry")
    peer(300, *settings("disconnect", session_expiry_interval=0)).stop()
    end, wanted = topic("end"), []
    waiting("3", "messages of a session after DISCONNECT with expiry 0")
    forget(version, name)


def receive_maximum(version, level=1):
    # mosquitto_sub acknowledges at once: with a window of one all messages must come, one after the other.
    name = topic("maximum")
    with Subscriber(version, name, qos=2, arguments=settings("connect", receive_maximum=1)) as subscriber:
        lines(version, name, 20, level)
        equal("payloads", [int(message["payload"]) for message in subscriber.wait(name, 20)], list(range(20)))


def receive_maximum_qos2(version):
    receive_maximum(version, 2)


def reason_codes(version):
    done = subprocess.run(
        ["mosquitto_pub", *address(), "-V", "mqttv5", "-d", "-t", topic("reasons"), "-q", "1", "-m", "x",
         *settings("publish", topic_alias=65535)], capture_output=True, text=True, timeout=15,
    )
    if "RC:" not in done.stdout:  # a broker may take as many aliases
        equal(f"end after a wrong alias: {done.stdout!r}", "Received DISCONNECT (148)" in done.stdout, True)


def taken_over(version):
    name = client_id()
    with Subscriber(version, topic("first"), name=name) as first, Subscriber(version, topic("second"), name=name) as second:
        # mosquitto_sub connects again and takes over in its turn, until one is ended.
        wait_until("DISCONNECT 0x8E", lambda: any("Received DISCONNECT (142)" in line for line in first.lines))
        second.cut()


def request_response(version):
    name = topic("request")
    with Subscriber(version, name) as responder:
        requester = subprocess.Popen(
            ["mosquitto_rr", *address(), "-V", "mqttv5", "-t", name, "-e", f"{name}/answers", "-m", "question", "-q", "1",
             "-W", "15", *settings("publish", correlation_data="c-7")],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        try:
            question = responder.wait(name)[0]
            equal("correlation data", question["correlation_data"], "c-7")
            publish(version, question["response_topic"], "answer",
                    arguments=settings("publish", correlation_data=question["correlation_data"]))
            equal("answer", (requester.communicate(timeout=15)[0].strip(), requester.returncode), ("answer", 0))
        finally:
            if requester.poll() is None:
                requester.kill()
            requester.wait()


def will_properties(version):
    last = topic("will")
    sent = {"content_type": "text/plain", "response_topic": f"{last}/answers", "correlation_data": "c"}
    with Subscriber(version, last) as observer:
        arguments = settings("will", will_delay_interval=1, payload_format_indicator=1, user_property=("k", "v"), **sent)
        dying = Subscriber(version, topic("dying"), arguments=["-x", "300", *with_will(last), *arguments])
        start = time.monotonic()
        dying.cut()
        message = observer.wait(last)[0]
        if time.monotonic() - start < 0.5:
            raise AssertionError("the will did not wait for its delay of 1 s")
        equal("content", {key: message[key] for key in sent}, sent)
        equal("format and user properties", (message["payload_format"], message["user_properties"]), ("1", "k:v"))
        # mosquitto_sub ends with reason code 0x04 at a signal.
        Subscriber(version, topic("leaving"), arguments=with_will(last, "left")).stop()
        equal("will at DISCONNECT 0x04", observer.wait(last, 2)[1]["payload"], "left")


def tls_ca():
    where = address(ca=setting("OTHER_CA"))
    done = subprocess.run(["mosquitto_pub", *where, "-t", "x", "-m", "x", "-q", "1"], capture_output=True, text=True, timeout=15)
    if done.returncode == 0 or "TLS error" not in done.stderr:
        raise AssertionError(f"the broker's certificate with another authority: {done.returncode} {done.stderr!r}")


def tls_client_certificate():
    name = topic("certificate")
    with Subscriber("3.1.1", name, where=address("mtls")) as subscriber:
        publish("3.1.1", name, "mine", where=address("mtls"))
        subscriber.wait(name)
    try:
        publish("3.1.1", name, "x", where=address("mtls", certificate=False))
    except (AssertionError, subprocess.TimeoutExpired):
        return
    raise AssertionError("served without a client certificate")


SCENARIOS = [
    (ALL, connect), (ALL, qos), (ALL, several), (ALL, unsubscribe), (ALL, retained), (ALL, will), (ALL, will_not),
    (ALL, session), (("3.1.1", "5"), shared), (ALL, large), (V5, user_properties), (V5, content), (V5, expiry),
    (V5, subscription_identifiers), (V5, topic_alias), (V5, session_expiry), (V5, receive_maximum),
    (V5, receive_maximum_qos2), (V5, reason_codes), (V5, taken_over), (V5, request_response), (V5, will_properties),
]

runner = Runner()
for versions, scenario in SCENARIOS:
    for version in versions:
        runner.run(f"{scenario.__name__.replace('_', '-')}/{version}", scenario, version)
if TRANSPORT == "tls":
    runner.run("tls-ca", tls_ca)
    runner.run("tls-client-certificate", tls_client_certificate)
sys.exit(1 if runner.failed else 0)
