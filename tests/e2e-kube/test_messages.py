"""Clients on pods and through the Service."""

import paho.mqtt.client as paho
import pytest

from kube import IN_LAB, MQTT, MqttClient, get, metric_sum, pods_are_reachable, run, wait_until


@pytest.mark.parametrize("version", [paho.MQTTv311, paho.MQTTv5], ids=["3.1.1", "5"])
def test_a_message_from_pod_2_reaches_a_subscriber_on_pod_0_until_it_unsubscribes(cluster, version):
    with cluster.client(0, version=version) as subscriber, cluster.client(2, version=version) as publisher:
        subscriber.subscribe("plant/+/temperature")
        publisher.publish("plant/7/temperature", "21.5")
        wait_until("the message", lambda: subscriber.received("plant/7/temperature", "21.5"), 10)
        subscriber.unsubscribe("plant/+/temperature")
        subscriber.subscribe("end")
        publisher.publish("plant/7/temperature", "22.0")
        publisher.publish("end", "x")
        wait_until("the message after it", lambda: subscriber.received("end"), 10)
        assert not subscriber.received("plant/7/temperature", "22.0")


def test_the_service_reaches_every_pod(cluster):
    service = get("services", cluster.name, cluster.namespace)
    address = service["spec"]["clusterIP"]
    if not IN_LAB and not pods_are_reachable(cluster.pod(0)["status"]["podIP"]):
        pytest.skip("needs a network from which services are reached: run it inside the cluster's network")

    def connections():
        return [metric_sum(cluster.metrics(pod), "raftmq_connections") for pod in range(3)]
    clients = []
    try:
        def everywhere():
            clients.append(MqttClient(MQTT, host=address))
            return min(connections()) >= 1
        wait_until("a client on every pod", everywhere, 60, 0)
        assert sum(connections()) == len(clients)
        # And by its name, which pods use.
        if IN_LAB:
            found = run("getent", "hosts", f"{cluster.name}.{cluster.namespace}.svc.cluster.local").stdout
            assert address in found
    finally:
        for client in clients:
            client.close()
