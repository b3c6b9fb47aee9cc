"""The scenarios that every protocol version has."""

import secrets

from compat import CA, CERTIFICATE, KEY, OTHER_CA, Peer, certificate_refused, client_id, equal, properties, wait_until

ALL = ("3.1", "3.1.1", "5")


def topic(name):
    """A topic that no other run uses."""
    return f"compat/{secrets.token_hex(4)}/{name}"


def connect(version):
    with Peer(version) as peer:
        equal("session present", peer.flags.session_present, False)
    if version == "5":
        with Peer(version, name="") as peer:
            if not peer.connack_properties.AssignedClientIdentifier:
                raise AssertionError("no assigned client identifier")
    elif version == "3.1.1":
        with Peer(version, name=""):
            pass


def qos(version):
    base = topic("qos")
    with Peer(version) as publisher, Peer(version) as subscriber:
        for level in (0, 1, 2):
            equal("granted", subscriber.subscribe((f"{base}/{level}", level)), [level])
            for published in (0, 1, 2):
                publisher.publish(f"{base}/{level}", f"{published}", published)
            # Messages of different QoS may overtake one another.
            found = sorted((m.payload.decode(), m.qos) for m in subscriber.wait(f"{base}/{level}", 3))
            equal(f"QoS at a subscription of QoS {level}", found, [(f"{p}", min(p, level)) for p in (0, 1, 2)])


def several(version):
    base = topic("several")
    with Peer(version) as publisher, Peer(version) as subscriber:
        granted = subscriber.subscribe((f"{base}/a", 0), (f"{base}/+/b", 1), (f"{base}/c/#", 2))
        equal("granted", granted, [0, 1, 2])
        for level, name in enumerate(("a", "x/b", "c/d/e")):
            publisher.publish(f"{base}/{name}", name, 2)
            message = subscriber.wait(f"{base}/{name}")[0]
            equal(name, (message.payload.decode(), message.qos), (name, level))


def unsubscribe(version):
    gone, kept = topic("gone"), topic("kept")
    with Peer(version) as publisher, Peer(version) as subscriber:
        subscriber.subscribe((gone, 1), (kept, 1))
        publisher.publish(gone, "1")
        subscriber.wait(gone)
        subscriber.unsubscribe(gone)
        publisher.publish(gone, "2")
        publisher.publish(kept, "end")
        subscriber.wait(kept)
        equal("messages on the filter given up", len(subscriber.on(gone)), 1)


def retained(version):
    kept, end = topic("retained"), topic("end")
    with Peer(version) as publisher:
        with Peer(version) as early:
            early.subscribe((kept, 1))
            publisher.publish(kept, "value", retain=True)
            equal("RETAIN at an old subscription", early.wait(kept)[0].retain, False)
        with Peer(version) as late:
            late.subscribe((kept, 1))
            message = late.wait(kept)[0]
            equal("RETAIN at a new subscription", (message.retain, message.payload), (True, b"value"))
        publisher.publish(kept, "", retain=True)
        with Peer(version) as last:
            last.subscribe((kept, 1), (end, 1))
            publisher.publish(end, "end")
            last.wait(end)
            equal("messages after it was cleared", len(last.on(kept)), 0)


def will(version):
    last = topic("will")
    with Peer(version) as observer:
        observer.subscribe((last, 1))
        dying = Peer(version, will={"topic": last, "payload": "gone", "qos": 1}).start()
        dying.cut()
        message = observer.wait(last)[0]
        equal("will", (message.payload, message.qos, message.retain), (b"gone", 1, False))


def will_not(version):
    last, end, name = topic("will"), topic("end"), client_id()
    with Peer(version) as observer:
        observer.subscribe((last, 1), (end, 1))
        Peer(version, name, will={"topic": last, "payload": "gone", "qos": 1}).start().stop()
        # The same identifier is served anew only when the broker is done with the first connection.
        with Peer(version, name) as again:
            again.publish(end, "end")
        observer.wait(end)
        equal("wills after DISCONNECT", len(observer.on(last)), 0)


def session(version):
    base, name = topic("session"), client_id()
    kept = {"connect": lasting(300)} if version == "5" else {}
    with Peer(version, name, clean=False, **kept) as first:
        first.subscribe((f"{base}/#", 2))
        first.stop()
    with Peer(version) as publisher:
        for level in (1, 2):
            publisher.publish(f"{base}/{level}", f"offline {level}", level)
    with Peer(version, name, clean=False, **kept) as second:
        if version != "3.1":  # its CONNACK has no such flag
            equal("session present", second.flags.session_present, True)
        for level in (1, 2):
            message = second.wait(f"{base}/{level}")[0]
            equal("message", (message.payload.decode(), message.qos), (f"offline {level}", level))
        second.stop()
    with Peer(version, name) as third:
        equal("session present after a clean start", third.flags.session_present, False)


def lasting(seconds):
    return properties("CONNECT", SessionExpiryInterval=seconds)


def shared(version):
    base, end = topic("shared"), topic("end")
    with Peer(version) as publisher, Peer(version) as one, Peer(version) as two:
        for member in (one, two):
            equal("granted", member.subscribe((f"$share/group/{base}", 1), (end, 1)), [1, 1])
        for number in range(40):
            publisher.publish(base, f"{number}")
        publisher.publish(end, "end")
        one.wait(end)
        two.wait(end)
        wait_until("40 messages", lambda: len(one.on(base)) + len(two.on(base)) >= 40)
        found = sorted(int(message.payload) for member in (one, two) for message in member.on(base))
        equal("messages of both members", found, list(range(40)))
        if not one.on(base) or not two.on(base):
            raise AssertionError("one member got all messages")


def large(version):
    base = topic("large")
    payload = bytes(i % 251 for i in range(200_000))
    with Peer(version) as publisher, Peer(version) as subscriber:
        subscriber.subscribe((base, 2))
        for level in (0, 1, 2):
            publisher.publish(base, payload, level)
        for message in subscriber.wait(base, 3):
            equal("payload is whole", message.payload == payload, True)


def tls_ca():
    if CA == OTHER_CA:
        raise AssertionError("RAFTMQ_COMPAT_OTHER_CA is missing")
    if certificate_refused(Peer("3.1.1", ca=OTHER_CA)) is None:
        raise AssertionError("the broker's certificate was accepted with another authority")


def tls_client_certificate():
    base = topic("certificate")
    with Peer("3.1.1", transport="mtls", certificate=(CERTIFICATE, KEY)) as peer:
        peer.subscribe((base, 1))
        peer.publish(base, "mine")
        peer.wait(base)
    try:
        with Peer("3.1.1", transport="mtls"):
            pass
    except (OSError, AssertionError):
        return
    raise AssertionError("served without a client certificate")


SCENARIOS = [
    (ALL, connect), (ALL, qos), (ALL, several), (ALL, unsubscribe), (ALL, retained), (ALL, will), (ALL, will_not),
    (ALL, session), (("3.1.1", "5"), shared), (ALL, large),
]
