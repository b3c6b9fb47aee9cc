package raftmq.compat;

import com.hivemq.client.mqtt.MqttGlobalPublishFilter;
import com.hivemq.client.mqtt.datatypes.MqttQos;
import com.hivemq.client.mqtt.mqtt3.Mqtt3AsyncClient;
import com.hivemq.client.mqtt.mqtt3.message.publish.Mqtt3Publish;
import com.hivemq.client.mqtt.mqtt3.message.subscribe.Mqtt3Subscription;
import java.util.List;
import java.util.Map;

/** HiveMQ's client of 3.1.1. */
final class Peer3 extends Peer {
  private final Mqtt3AsyncClient client;

  Peer3(Options options) throws Exception {
    super(options);
    client =
        options
            .settings
            .builder(options.id, port(options))
            .useMqttVersion3()
            .addDisconnectedListener(context -> ended(context.getCause()))
            .buildAsync();
    client.publishes(
        MqttGlobalPublishFilter.ALL,
        publish ->
            messages.add(
                new Message(
                    publish.getTopic().toString(),
                    publish.getPayloadAsBytes(),
                    publish.getQos().getCode(),
                    publish.isRetain(),
                    null)));
    var connect = client.connectWith().cleanSession(options.clean).keepAlive(30);
    if (options.will != null) {
      connect = connect.willPublish(
          Mqtt3Publish.builder().topic(options.will).qos(MqttQos.AT_LEAST_ONCE).payload("gone".getBytes()).build());
    }
    present = done(connect.send()).isSessionPresent();
  }

  @Override
  List<Integer> subscribe(Map<String, Integer> filters) {
    List<Mqtt3Subscription> subscriptions =
        filters.entrySet().stream()
            .map(entry -> Mqtt3Subscription.builder().topicFilter(entry.getKey()).qos(MqttQos.fromCode(entry.getValue())).build())
            .toList();
    return done(client.subscribeWith().addSubscriptions(subscriptions).send()).getReturnCodes().stream()
        .map(code -> code.getCode())
        .toList();
  }

  @Override
  void unsubscribe(String filter) {
    done(client.unsubscribeWith().topicFilter(filter).send());
  }

  @Override
  void publish(String topic, byte[] payload, int qos, boolean retain) {
    done(client.publishWith().topic(topic).payload(payload).qos(MqttQos.fromCode(qos)).retain(retain).send());
  }

  @Override
  void stop() {
    done(client.disconnect());
  }
}
