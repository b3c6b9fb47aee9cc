"""The scenarios of MQTT 5's properties."""

import time

from compat import Peer, client_id, equal, properties, wait_until
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions
from scenarios import lasting, topic

V5 = ("5",)


def user_properties(version):
    base = topic("user")
    sent = [("a", "1"), ("b", "2"), ("a", "3"), ("größe", "5 µm")]
    with Peer(version) as publisher, Peer(version) as subscriber:
        subscriber.subscribe((base, 1))
        publisher.publish(base, "x", UserProperty=sent)
        equal("user properties", subscriber.wait(base)[0].properties.UserProperty, sent)


def content(version):
    base = topic("content")
    sent = {
        "ContentType": "text/plain", "ResponseTopic": f"{base}/answers", "CorrelationData": b"\x00\x01\xff",
        "PayloadFormatIndicator": 1,
    }
    with Peer(version) as publisher, Peer(version) as subscriber:
        subscriber.subscribe((base, 1))
        publisher.publish(base, "text", **sent)
        found = subscriber.wait(base)[0].properties
        for name, value in sent.items():
            equal(name, getattr(found, name, None), value)


def expiry(version):
    base, name = topic("expiry"), client_id()
    with Peer(version, name, clean=False, connect=lasting(300)) as subscriber:
        subscriber.subscribe((f"{base}/#", 1))
        subscriber.stop()
    with Peer(version) as publisher:
        publisher.publish(f"{base}/long", "x", MessageExpiryInterval=100)
        publisher.publish(f"{base}/short", "x", MessageExpiryInterval=1)
        # The interval itself is what is tried.
        time.sleep(2.1)
        with Peer(version, name, clean=False, connect=lasting(0)) as subscriber:
            publisher.publish(f"{base}/end", "x")
            left = subscriber.wait(f"{base}/long")[0].properties.MessageExpiryInterval
            if not 60 <= left <= 98:
                raise AssertionError(f"expiry of 100 s after 2.1 s: {left}")
            subscriber.wait(f"{base}/end")
            equal("expired messages", len(subscriber.on(f"{base}/short")), 0)


def subscription_identifiers(version):
    base = topic("identifiers")
    with Peer(version) as publisher, Peer(version) as subscriber:
        subscriber.subscribe((f"{base}/one/+", 1), identifier=1)
        subscriber.subscribe((f"{base}/two/#", 1), identifier=268435455)
        subscriber.subscribe((f"{base}/none", 1))
        for name, identifiers in (("one/a", [1]), ("two/b", [268435455]), ("none", [])):
            publisher.publish(f"{base}/{name}", "x")
            message = subscriber.wait(f"{base}/{name}")[0]
            equal(name, getattr(message.properties, "SubscriptionIdentifier", []), identifiers)


def topic_alias(version):
    base = topic("alias")
    with Peer(version) as publisher, Peer(version, connect=properties("CONNECT", TopicAliasMaximum=5)) as subscriber:
        if getattr(publisher.connack_properties, "TopicAliasMaximum", 0) < 2:
            raise AssertionError("the broker takes fewer than two topic aliases")
        subscriber.subscribe((f"{base}/#", 1))
        for name, alias, payload in (
            (f"{base}/a", 1, "1"), ("", 1, "2"), (f"{base}/b", 2, "3"), ("", 2, "4"), ("", 1, "5"),
            (f"{base}/c", 1, "6"), ("", 1, "7"),
        ):
            publisher.publish(name, payload, TopicAlias=alias)
        for name, payloads in (("a", "125"), ("b", "34"), ("c", "67")):
            found = subscriber.wait(f"{base}/{name}", len(payloads))
            equal(name, "".join(message.payload.decode() for message in found), payloads)


def session_expiry(version):
    last, name = topic("over"), client_id()
    with Peer(version) as observer:
        observer.subscribe((last, 1))
        # A will whose delay is longer than the session lives is published at the session's end: no clock of ours is needed.
        dying = Peer(version, name, clean=False, connect=lasting(1), will={
            "topic": last, "payload": "over", "qos": 1,
            "properties": properties("WILLMESSAGE", WillDelayInterval=300),
        }).start()
        dying.cut()
        observer.wait(last)
        with Peer(version, name, clean=False, connect=lasting(300)) as peer:
            equal("session present after its expiry", peer.flags.session_present, False)
            peer.stop()
        with Peer(version, name, clean=False, connect=lasting(300)) as peer:
            equal("session present before its expiry", peer.flags.session_present, True)
            peer.stop(properties=properties("DISCONNECT", SessionExpiryInterval=0))
        with Peer(version, name, clean=False) as peer:
            equal("session present after DISCONNECT with expiry 0", peer.flags.session_present, False)


def receive_maximum(version, level=1):
    base = topic("maximum")
    with Peer(version) as publisher, \
            Peer(version, connect=properties("CONNECT", ReceiveMaximum=2), manual=True) as subscriber:
        subscriber.subscribe((base, 2))
        for number in range(6):
            publisher.publish(base, f"{number}", level)
        wait_until("two messages", lambda: len(subscriber.on(base)) >= 2)
        # A further exchange with the broker, so that a third message would have come before its end.
        subscriber.subscribe((f"{base}/other", 1))
        for acknowledged in range(6):
            wait_until(f"message {acknowledged + 1}", lambda: len(subscriber.on(base)) > acknowledged)
            pending = len(subscriber.on(base)) - acknowledged
            if pending > 2:
                raise AssertionError(f"{pending} messages without acknowledgement, receive maximum 2")
            message = subscriber.on(base)[acknowledged]
            subscriber.paho.ack(message.mid, message.qos)
        equal("messages", [int(message.payload) for message in subscriber.wait(base, 6)], list(range(6)))


def receive_maximum_qos2(version):
    # paho holds PUBCOMP back: the exchange counts until then.
    receive_maximum(version, 2)


def reason_codes(version):
    base = topic("reasons")
    with Peer(version) as peer:
        peer.subscribe((base, 1))
        equal("codes of UNSUBACK", peer.unsubscribe(f"{base}/never", base), [0x11, 0x00])
    with Peer(version) as peer:
        largest = getattr(peer.connack_properties, "TopicAliasMaximum", 0)
        if largest < 65535:
            peer.paho.publish(base, "x", 0, properties=properties("PUBLISH", TopicAlias=largest + 1))
            equal("end after a wrong alias", ended(peer), (True, 0x94))


def protocol_error(version):
    with Peer(version) as peer:
        # [MQTT-3.8.3-4]: no local at a shared subscription.
        peer.paho.subscribe(f"$share/g/{topic('error')}", options=SubscribeOptions(qos=1, noLocal=True))
        equal("end of the connection", ended(peer), (True, 0x82))


def taken_over(version):
    name = client_id()
    with Peer(version, name) as first, Peer(version, name):
        equal("end of the first connection", ended(first), (True, 0x8E))


def ended(peer):
    """Whether the broker sent DISCONNECT, and its reason code."""
    wait_until("the end of the connection", lambda: peer.end is not None)
    from_server, code, _ = peer.end
    return from_server, code.value


def request_response(version):
    base = topic("request")
    with Peer(version) as requester, Peer(version) as responder:
        responder.subscribe((base, 1))
        requester.subscribe((f"{base}/answers", 1))
        requester.publish(base, "question", ResponseTopic=f"{base}/answers", CorrelationData=b"\x07\x00")
        question = responder.wait(base)[0].properties
        responder.publish(question.ResponseTopic, "answer", CorrelationData=question.CorrelationData)
        answer = requester.wait(f"{base}/answers")[0]
        equal("answer", (answer.payload, answer.properties.CorrelationData), (b"answer", b"\x07\x00"))


def options(version):
    base = topic("options")
    with Peer(version) as publisher, Peer(version) as peer:
        peer.subscribe(f"{base}/local", options=SubscribeOptions(qos=1, noLocal=True))
        peer.publish(f"{base}/local", "own")
        publisher.publish(f"{base}/local", "another's")
        equal("no local", peer.wait(f"{base}/local")[0].payload, b"another's")

        as_published = SubscribeOptions(qos=1, retainAsPublished=True)
        peer.subscribe(f"{base}/kept", options=as_published)
        publisher.publish(f"{base}/kept", "1", retain=True)
        equal("RETAIN as published", peer.wait(f"{base}/kept")[0].retain, True)

        publisher.publish(f"{base}/never", "1", retain=True)
        publisher.publish(f"{base}/once", "1", retain=True)
        peer.subscribe(f"{base}/never", options=SubscribeOptions(qos=1, retainHandling=2))
        for _ in range(2):
            peer.subscribe(f"{base}/once", options=SubscribeOptions(qos=1, retainHandling=1))
        peer.subscribe((f"{base}/end", 1))
        publisher.publish(f"{base}/end", "end")
        peer.wait(f"{base}/end")
        equal("retain handling 2", len(peer.on(f"{base}/never")), 0)
        peer.wait(f"{base}/once")
        for name in ("kept", "never", "once"):
            publisher.publish(f"{base}/{name}", "", retain=True)


def will_properties(version):
    last = topic("will")
    sent = {"ContentType": "text/plain", "UserProperty": [("k", "v")], "ResponseTopic": f"{last}/answers",
            "CorrelationData": b"c", "PayloadFormatIndicator": 1}
    with Peer(version) as observer:
        observer.subscribe((last, 1))
        dying = Peer(version, connect=lasting(300), will={
            "topic": last, "payload": "gone", "qos": 1,
            "properties": properties("WILLMESSAGE", WillDelayInterval=1, **sent),
        }).start()
        start = time.monotonic()
        dying.cut()
        found = observer.wait(last)[0].properties
        if time.monotonic() - start < 0.5:
            raise AssertionError("the will did not wait for its delay of 1 s")
        for name, value in sent.items():
            equal(name, getattr(found, name, None), value)
        leaving = Peer(version, will={"topic": last, "payload": "left", "qos": 1}).start()
        leaving.stop(reasoncode=ReasonCode(PacketTypes.DISCONNECT, "Disconnect with will message"))
        equal("will at DISCONNECT 0x04", observer.wait(last, 2)[1].payload, b"left")


SCENARIOS = [(V5, scenario) for scenario in (
    user_properties, content, expiry, subscription_identifiers, topic_alias, session_expiry, receive_maximum,
    receive_maximum_qos2, reason_codes, protocol_error, taken_over, request_response, options, will_properties,
)]
