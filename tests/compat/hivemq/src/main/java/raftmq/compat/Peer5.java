package raftmq.compat;

import com.hivemq.client.mqtt.MqttGlobalPublishFilter;
import com.hivemq.client.mqtt.datatypes.MqttQos;
import com.hivemq.client.mqtt.mqtt5.Mqtt5AsyncClient;
import com.hivemq.client.mqtt.mqtt5.exceptions.Mqtt5DisconnectException;
import com.hivemq.client.mqtt.mqtt5.message.connect.connack.Mqtt5ConnAck;
import com.hivemq.client.mqtt.mqtt5.message.disconnect.Mqtt5Disconnect;
import com.hivemq.client.mqtt.mqtt5.message.publish.Mqtt5Publish;
import com.hivemq.client.mqtt.mqtt5.message.publish.Mqtt5PublishBuilder;
import com.hivemq.client.mqtt.mqtt5.message.publish.Mqtt5WillPublish;
import com.hivemq.client.mqtt.mqtt5.message.subscribe.Mqtt5Subscription;
import java.util.List;
import java.util.Map;
import java.util.function.UnaryOperator;

/** HiveMQ's client of MQTT 5. */
final class Peer5 extends Peer {
  /** What only version 5 has. */
  static final class Options5 {
    final Options common;
    long sessionExpiry;
    Mqtt5WillPublish will;
    int receiveMaximum = 65535;
    int topicAliasMaximum;
    boolean manual;

    Options5(Options common) {
      this.common = common;
      if (!common.clean) sessionExpiry = 300;
      if (common.will != null) will = willTo(common.will, "gone").build();
    }
  }

  static com.hivemq.client.mqtt.mqtt5.message.publish.Mqtt5WillPublishBuilder.Complete willTo(String topic, String payload) {
    return Mqtt5WillPublish.builder().topic(topic).qos(MqttQos.AT_LEAST_ONCE).payload(payload.getBytes());
  }

  final Mqtt5AsyncClient client;
  final Mqtt5ConnAck connack;
  /** The broker's DISCONNECT. */
  volatile Mqtt5Disconnect end;

  Peer5(Options5 options) throws Exception {
    super(options.common);
    client =
        options
            .common
            .settings
            .builder(options.common.id, port(options.common))
            .useMqttVersion5()
            .addDisconnectedListener(
                context -> {
                  if (context.getCause() instanceof Mqtt5DisconnectException disconnected
                      && context.getSource() == com.hivemq.client.mqtt.lifecycle.MqttDisconnectSource.SERVER) {
                    end = disconnected.getMqttMessage();
                  }
                  ended(context.getCause());
                })
            .buildAsync();
    client.publishes(MqttGlobalPublishFilter.ALL, this::keep, options.manual);
    var connect =
        client
            .connectWith()
            .cleanStart(options.common.clean)
            .keepAlive(30)
            .sessionExpiryInterval(options.sessionExpiry)
            .restrictions()
            .receiveMaximum(options.receiveMaximum)
            .topicAliasMaximum(options.topicAliasMaximum)
            .applyRestrictions();
    if (options.will != null) connect = connect.willPublish(options.will);
    connack = done(connect.send());
    present = connack.isSessionPresent();
  }

  private void keep(Mqtt5Publish publish) {
    messages.add(
        new Message(
            publish.getTopic().toString(),
            publish.getPayloadAsBytes(),
            publish.getQos().getCode(),
            publish.isRetain(),
            publish));
  }

  @Override
  List<Integer> subscribe(Map<String, Integer> filters) {
    return subscribeWith(
        filters.entrySet().stream()
            .map(entry -> Mqtt5Subscription.builder().topicFilter(entry.getKey()).qos(MqttQos.fromCode(entry.getValue())).build())
            .toList());
  }

  List<Integer> subscribeWith(List<Mqtt5Subscription> subscriptions) {
    return done(client.subscribeWith().addSubscriptions(subscriptions).send()).getReasonCodes().stream()
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

  /** Publishes with properties at QoS 1. */
  void publishWith(String topic, String payload, UnaryOperator<Mqtt5PublishBuilder.Complete> properties) {
    var publish = Mqtt5Publish.builder().topic(topic).qos(MqttQos.AT_LEAST_ONCE).payload(payload.getBytes());
    done(client.publish(properties.apply(publish).build()));
  }

  @Override
  void stop() {
    done(client.disconnect());
  }
}
