"""`onQuorumLoss: serveLocal`: a node that reaches no quorum goes on with what needs none, says so, and is one of all again without a restart."""

import time

import paho.mqtt.client as paho
import pytest
from harness import LocalCluster, http, metric_sum, wait_until
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from test_durable import Client

SHARDS = {"shards": {"count": 4}}


def connack_of(node, client_id, expiry=0, clean=True, version=paho.MQTTv5):
    """The reason and the user properties of the CONNACK of a client that is gone right after."""
    told = []
    arguments = {} if version == paho.MQTTv5 else {"clean_session": clean}
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=client_id, protocol=version, reconnect_on_failure=False, **arguments)
    client.on_connect = lambda _c, _u, _f, code, said: told.append((str(code), getattr(said, "UserProperty", [])))
    options = {}
    if version == paho.MQTTv5:
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = expiry
        options = {"clean_start": clean, "properties": properties}
    client.connect("127.0.0.1", node.mqtt, **options)
    client.loop_start()
    wait_until("CONNACK", lambda: told, 15)
    client.disconnect()
    client.loop_stop()
    return told[0]


def count(client, topic):
    return [message.payload.decode() for message in client.received if message.topic == topic]


def alone(cluster, node):
    """All others are killed, and the node's clients would be closed by now."""
    for other in cluster.nodes:
        if other is not node:
            other.kill()
    wait_until("it serves alone", lambda: metric_sum(node.metrics(), "raftmq_serving_local") == 1, 15)
    wait_until("longer than a fenced node keeps its clients", lambda: "no lease for long" in node.log(), 15)
    time.sleep(1)  # What it would close it has closed.


def together(cluster, node):
    for other in cluster.nodes:
        if other is not node:
            other.start()
    cluster.wait_ready()
    wait_until("it has a lease", lambda: metric_sum(node.metrics(), "raftmq_serving_local") == 0, 15)


@pytest.mark.parametrize("config", [SHARDS, {"shards": {"count": 0}}], ids=["shards", "memory"])
def test_clean_sessions_go_on_without_a_quorum(config):
    with LocalCluster(config={**config, "onQuorumLoss": "serveLocal"}) as cluster:
        cluster.start()
        node, second, _ = cluster.nodes
        assert connack_of(node, "before") == ("Success", [])
        reader, writer, events = (Client(node, name) for name in ("reader", "writer", "events"))
        for client in (reader, writer, events):
            client.connected()
        reader.subscribe("room/#", 1)
        events.subscribe(f"$SYS/brokers/{node.name}/#", 1)
        durable = Client(node, "durable", expiry=600)
        durable.connected()
        durable.subscribe("kept/#", 1)
        alone(cluster, node)

        # Among those who were connected, and with one who comes now.
        assert not reader.of("disconnect") and not writer.of("disconnect")
        writer.publish("room/1", ["one"], qos=1)
        writer.publish("room/1", ["two"], qos=0, acknowledged=False)
        reader.wait("both", lambda: count(reader, "room/1") == ["one", "two"])
        assert connack_of(node, "asks") == ("Success", [("raftmq-serving", "local")])
        assert connack_of(node, "old", version=paho.MQTTv311) == ("Success", [])
        late = Client(node, "late")
        late.connected()
        begun = time.monotonic()
        late.subscribe("room/#", 2)
        assert time.monotonic() - begun < 1.5, "SUBACK waits for nobody"
        writer.publish("room/2", ["three"], qos=2)
        for client in (reader, late):
            client.wait("three", lambda client=client: count(client, "room/2") == ["three"])

        # It says so.
        events.wait("the event", lambda: [m for m in events.received if m.topic.endswith("/serving_local")], 5)
        status, text = http(f"http://127.0.0.1:{node.metrics_port}/readyz")
        assert status == 503 and "serves on its side alone" in text, text
        assert "only what needs no quorum is served" in node.log()

        # What needs a quorum.
        if config is SHARDS:
            durable.wait("it is closed", lambda: durable.of("disconnect"), 10)
            assert durable.of("disconnect")[0][1] == "Use another server"
            assert connack_of(node, "new", expiry=60)[0] == "Server unavailable"
            assert connack_of(node, "durable", expiry=600, clean=False)[0] == "Server unavailable"
            assert connack_of(node, "older", clean=False, version=paho.MQTTv311)[0] == "Server unavailable"
            loud = Client(node, "loud")
            loud.connected()
            loud.publish("kept/lost", ["?"], acknowledged=False)
            loud.wait("it is not acknowledged", lambda: loud.of("disconnect"), 15)
            assert loud.of("disconnect")[0][1] == "Server busy"
            assert not loud.published
            loud.close()

        together(cluster, node)
        assert metric_sum(node.metrics(), "raftmq_serving_local_seconds_total") > 3
        events.wait("healed", lambda: [m for m in events.received if m.topic.endswith("/healed") and b'"served_local":true' in m.payload], 10)
        # Everything goes everywhere again, to those who stayed, once.
        assert not reader.of("disconnect") and not late.of("disconnect")
        far = Client(second, "far")
        far.connected()
        far.subscribe("room/#", 1)
        far.publish("room/3", ["four"])
        writer.publish("room/4", ["five"])
        for client in (reader, late, far):
            client.wait("four and five", lambda client=client: count(client, "room/3") == ["four"] and count(client, "room/4") == ["five"])
        assert count(reader, "room/1") == ["one", "two"] and count(late, "room/2") == ["three"]
        # A client that came in while nobody knew is known now.
        if config is SHARDS:
            elsewhere = Client(second, "late")
            elsewhere.connected()
            late.wait("taken over", lambda: late.of("disconnect"), 10)
            assert late.of("disconnect")[0][1] == "Session taken over"
            late.paho.disconnect()
            wait_until("the durable one is back", lambda: durable.of("connect")[-1][1] == "Success" and len(durable.of("connect")) > 1, 30)
            writer.publish("kept/1", ["six"])
            durable.wait("six", lambda: count(durable, "kept/1") == ["six"])
            elsewhere.close()
        for client in (reader, writer, events, far, late, durable):
            client.close()


def test_who_connected_elsewhere_meanwhile_stays_there():
    with LocalCluster(config={**SHARDS, "onQuorumLoss": "serveLocal"}) as cluster:
        cluster.start()
        node, second, third = cluster.nodes
        moves, keeps, stays = Client(node, "moves"), Client(node, "keeps"), Client(node, "stays")
        for client in (moves, keeps, stays):
            client.connected()
            client.subscribe("all/#", 1)
            # It does not come back by itself: who is connected at the end is what the cluster made of it.
            client.paho.on_disconnect = lambda c, _u, _f, code, _p, client=client: (client.note("disconnect", str(code)), c.disconnect())
        node.pause()
        wait_until("the others know", lambda: not is_up(second, node), 30)
        # A clean session, and one that is kept from now on, of clients whose former connections are still open.
        new = Client(second, "moves")
        new.connected()
        new.subscribe("all/#", 1)
        kept = Client(third, "keeps", expiry=600)
        kept.connected()
        kept.subscribe("all/#", 1)
        kept.publish("all/kept", ["kept"])
        node.resume()
        cluster.wait_ready()
        for client in (moves, keeps):
            client.wait("the former connection is closed", lambda client=client: client.of("disconnect"), 20)
            assert client.of("disconnect")[0][1] == "Session taken over"
        last = Client(third, "last")
        last.connected()
        last.publish("all/1", ["x"])
        for client in (new, kept, stays):
            client.wait("x", lambda client=client: count(client, "all/1") == ["x"])
            assert not client.of("disconnect")
        time.sleep(0.5)
        assert count(moves, "all/1") == [] and count(keeps, "all/1") == []
        assert count(kept, "all/kept") == ["kept"]
        for client in (moves, keeps, stays, new, kept, last):
            client.close()


def is_up(by, of):
    status, answer = by.control("members")
    return status != 200 or next(member["up"] for member in answer["members"] if member["name"] == of.name)


def test_nodes_that_reach_each_other_serve_each_others_clients():
    with LocalCluster(replicas=4, config={**SHARDS, "onQuorumLoss": "serveLocal"}) as cluster:
        cluster.start()
        wait_until("three vote", lambda: sum(m["role"] in ("leader", "voter") for m in cluster.members().values()) == 3)
        voters = [name for name, member in cluster.members().items() if member["role"] in ("leader", "voter")]
        killed = [cluster.node(name) for name in voters[:2]]
        one, other = (node for node in cluster.nodes if node not in killed)
        reader, writer = Client(one, "reader"), Client(other, "writer")
        for client in (reader, writer):
            client.connected()
        reader.subscribe("room/#", 1)
        for node in killed:
            node.kill()
        for node in (one, other):
            wait_until("longer than a fenced node keeps its clients", lambda node=node: "no lease for long" in node.log(), 15)
        time.sleep(3)  # Streams of routes are asked for again, in vain.
        writer.publish("room/1", ["across"])
        reader.wait("it comes", lambda: count(reader, "room/1") == ["across"], 10)
        for node in killed:
            node.start()
        cluster.wait_ready()
        writer.publish("room/2", ["again"])
        reader.wait("and afterwards", lambda: count(reader, "room/2") == ["again"])
        assert count(reader, "room/1") == ["across"] and not reader.of("disconnect") and not writer.of("disconnect")
        reader.close()
        writer.close()
