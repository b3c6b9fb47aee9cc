package raftmq.compat;

import static raftmq.compat.Failure.equal;
import static raftmq.compat.Settings.clientId;
import static raftmq.compat.Settings.topic;

import com.hivemq.client.mqtt.datatypes.MqttQos;
import com.hivemq.client.mqtt.mqtt5.datatypes.Mqtt5UserProperties;
import com.hivemq.client.mqtt.mqtt5.datatypes.Mqtt5UserProperty;
import com.hivemq.client.mqtt.mqtt5.message.disconnect.Mqtt5DisconnectReasonCode;
import com.hivemq.client.mqtt.mqtt5.message.publish.Mqtt5PayloadFormatIndicator;
import com.hivemq.client.mqtt.mqtt5.message.publish.Mqtt5Publish;
import com.hivemq.client.mqtt.mqtt5.message.subscribe.Mqtt5RetainHandling;
import com.hivemq.client.mqtt.mqtt5.message.subscribe.Mqtt5Subscription;
import com.hivemq.client.mqtt.mqtt5.message.subscribe.Mqtt5SubscriptionBuilder;
import java.nio.ByteBuffer;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.function.UnaryOperator;
import java.util.stream.Collectors;
import raftmq.compat.Peer.Message;
import raftmq.compat.Peer.Options;
import raftmq.compat.Peer5.Options5;

/** The scenarios of MQTT 5's properties. */
final class ScenariosV5 {
  private ScenariosV5() {}

  private static Peer5 start() throws Exception {
    return new Peer5(new Options5(new Options()));
  }

  private static Options5 lasting(String id, long seconds) {
    Options5 options = new Options5(new Options().id(id).keep());
    options.sessionExpiry = seconds;
    return options;
  }

  static void userProperties() throws Exception {
    String base = topic("user");
    Mqtt5UserProperties sent =
        Mqtt5UserProperties.of(
            Mqtt5UserProperty.of("a", "1"),
            Mqtt5UserProperty.of("b", "2"),
            Mqtt5UserProperty.of("a", "3"),
            Mqtt5UserProperty.of("größe", "5 µm"));
    Peer5 publisher = start();
    Peer5 subscriber = start();
    subscriber.subscribe(Map.of(base, 1));
    publisher.publishWith(base, "x", publish -> publish.userProperties(sent));
    equal("user properties", subscriber.one(base).v5().getUserProperties(), sent);
  }

  static void content() throws Exception {
    String base = topic("content");
    byte[] correlation = {0, 1, (byte) 255};
    Peer5 publisher = start();
    Peer5 subscriber = start();
    subscriber.subscribe(Map.of(base, 1));
    publisher.publishWith(
        base,
        "text",
        publish ->
            publish
                .contentType("text/plain")
                .responseTopic(base + "/answers")
                .correlationData(correlation)
                .payloadFormatIndicator(Mqtt5PayloadFormatIndicator.UTF_8));
    Mqtt5Publish found = subscriber.one(base).v5();
    equal("content type", "" + found.getContentType().orElse(null), "text/plain");
    equal("response topic", "" + found.getResponseTopic().orElse(null), base + "/answers");
    equal("correlation data", found.getCorrelationData().orElse(null), ByteBuffer.wrap(correlation));
    equal("payload format", found.getPayloadFormatIndicator().orElse(null), Mqtt5PayloadFormatIndicator.UTF_8);
  }

  static void expiry() throws Exception {
    String base = topic("expiry");
    String id = clientId();
    Peer5 first = new Peer5(lasting(id, 300));
    first.subscribe(Map.of(base + "/#", 1));
    first.stop();
    Peer5 publisher = start();
    publisher.publishWith(base + "/long", "x", publish -> publish.messageExpiryInterval(100));
    publisher.publishWith(base + "/short", "x", publish -> publish.messageExpiryInterval(1));
    // The interval itself is what is tried.
    Thread.sleep(2_100);
    Peer5 second = new Peer5(lasting(id, 0));
    publisher.publish(base + "/end", "x", 1);
    long left = second.one(base + "/long").v5().getMessageExpiryInterval().orElse(-1);
    if (left < 60 || left > 98) throw new Failure("expiry of 100 s after 2.1 s: " + left);
    second.one(base + "/end");
    equal("expired messages", second.on(base + "/short").size(), 0);
  }

  /** HiveMQ's client sets identifiers by itself, to know which of its callbacks a message is for. */
  static void subscriptionIdentifiers() throws Exception {
    String base = topic("identifiers");
    Peer5 publisher = start();
    Peer5 subscriber = start();
    List<String> one = new CopyOnWriteArrayList<>();
    List<String> all = new CopyOnWriteArrayList<>();
    for (var subscription : Map.of(base + "/one", one, base + "/#", all).entrySet()) {
      Peer.done(
          subscriber
              .client
              .subscribeWith()
              .topicFilter(subscription.getKey())
              .qos(MqttQos.AT_LEAST_ONCE)
              .callback(publish -> subscription.getValue().add(new String(publish.getPayloadAsBytes())))
              .send());
    }
    publisher.publish(base + "/one", "1", 1);
    publisher.publish(base + "/two", "2", 1);
    Peer.until("all messages", () -> all.contains("2") && all.contains("1") && one.contains("1"));
    equal("messages of the callback for one topic", one.contains("2"), false);
  }

  static void topicAlias() throws Exception {
    String base = topic("alias");
    Options5 options = new Options5(new Options());
    options.topicAliasMaximum = 5;
    Peer5 subscriber = new Peer5(options);
    Peer5 publisher = start();
    if (publisher.connack.getRestrictions().getTopicAliasMaximum() < 2) {
      throw new Failure("the broker takes fewer than two topic aliases");
    }
    subscriber.subscribe(Map.of(base + "/#", 1));
    // HiveMQ's client assigns aliases by itself to topics that come again.
    for (int round = 0; round < 4; round++) {
      for (String name : List.of("/a", "/b", "/c")) publisher.publish(base + name, "" + round, 1);
    }
    for (String name : List.of("/a", "/b", "/c")) {
      String found = subscriber.await(base + name, 4).stream().map(Message::text).collect(Collectors.joining());
      equal(name, found, "0123");
    }
  }

  static void sessionExpiry() throws Exception {
    String last = topic("over");
    String id = clientId();
    Peer5 observer = start();
    observer.subscribe(Map.of(last, 1));
    // A will whose delay is longer than the session lives is published at the session's end: no clock of ours is needed.
    Options5 options = lasting(id, 1);
    options.common.cuttable();
    options.will = Peer5.willTo(last, "over").delayInterval(300).build();
    new Peer5(options).cut();
    observer.one(last);
    Peer5 after = new Peer5(lasting(id, 300));
    equal("session present after its expiry", after.present, false);
    after.stop();
    Peer5 before = new Peer5(lasting(id, 300));
    equal("session present before its expiry", before.present, true);
    Peer.done(before.client.disconnectWith().sessionExpiryInterval(0).send());
    Peer5 ended = new Peer5(lasting(id, 0));
    equal("session present after DISCONNECT with expiry 0", ended.present, false);
  }

  static void receiveMaximum(int level) throws Exception {
    String base = topic("maximum");
    Peer5 publisher = start();
    Options5 options = new Options5(new Options());
    options.receiveMaximum = 2;
    options.manual = true;
    Peer5 subscriber = new Peer5(options);
    subscriber.subscribe(Map.of(base, 2));
    for (int number = 0; number < 6; number++) publisher.publish(base, "" + number, level);
    Peer.until("two messages", () -> subscriber.on(base).size() >= 2);
    // A further exchange with the broker, so that a third message would have come before its end.
    subscriber.subscribe(Map.of(base + "/other", 1));
    for (int acknowledged = 0; acknowledged < 6; acknowledged++) {
      int before = acknowledged;
      // HiveMQ's client ends the connection itself when the broker sends too many.
      Peer.until("message " + (acknowledged + 1), () -> subscriber.on(base).size() > before || subscriber.over);
      if (subscriber.over) throw new Failure("connection ended: " + subscriber.cause);
      List<Message> messages = subscriber.on(base);
      int pending = messages.size() - acknowledged;
      if (pending > 2) throw new Failure(pending + " messages without acknowledgement, receive maximum 2");
      messages.get(acknowledged).v5().acknowledge();
    }
    String found = subscriber.await(base, 6).stream().map(Message::text).collect(Collectors.joining());
    equal("messages", found, "012345");
  }

  static void reasonCodes() throws Exception {
    String base = topic("reasons");
    Peer5 peer = start();
    peer.subscribe(Map.of(base, 1));
    var unsuback = Peer.done(peer.client.unsubscribeWith().topicFilter(base + "/never").addTopicFilter(base).send());
    List<Integer> found = unsuback.getReasonCodes().stream().map(code -> code.getCode()).toList();
    equal("codes of UNSUBACK", found, List.of(0x11, 0x00));
  }

  static void takenOver() throws Exception {
    String id = clientId();
    Peer5 first = new Peer5(new Options5(new Options().id(id)));
    new Peer5(new Options5(new Options().id(id)));
    Peer.until("the end of the first connection", () -> first.over);
    if (first.end == null) throw new Failure("closed without DISCONNECT 0x8E");
    equal("reason code of DISCONNECT", first.end.getReasonCode(), Mqtt5DisconnectReasonCode.SESSION_TAKEN_OVER);
  }

  static void requestResponse() throws Exception {
    String base = topic("request");
    Peer5 requester = start();
    Peer5 responder = start();
    responder.subscribe(Map.of(base, 1));
    requester.subscribe(Map.of(base + "/answers", 1));
    byte[] correlation = {7, 0};
    requester.publishWith(
        base, "question", publish -> publish.responseTopic(base + "/answers").correlationData(correlation));
    Mqtt5Publish question = responder.one(base).v5();
    String to = question.getResponseTopic().map(Object::toString).orElseThrow(() -> new Failure("no response topic"));
    responder.publishWith(to, "answer", publish -> publish.correlationData(question.getCorrelationData().orElse(null)));
    Message answer = requester.one(base + "/answers");
    equal("answer", answer.text(), "answer");
    equal("correlation data", answer.v5().getCorrelationData().orElse(null), ByteBuffer.wrap(correlation));
  }

  private static void subscribe(Peer5 peer, String filter, UnaryOperator<Mqtt5SubscriptionBuilder.Complete> options) {
    var subscription = Mqtt5Subscription.builder().topicFilter(filter).qos(MqttQos.AT_LEAST_ONCE);
    peer.subscribeWith(List.of(options.apply(subscription).build()));
  }

  static void options() throws Exception {
    String base = topic("options");
    Peer5 publisher = start();
    Peer5 peer = start();
    subscribe(peer, base + "/local", subscription -> subscription.noLocal(true));
    peer.publish(base + "/local", "own", 1);
    publisher.publish(base + "/local", "another's", 1);
    equal("no local", peer.one(base + "/local").text(), "another's");

    subscribe(peer, base + "/kept", subscription -> subscription.retainAsPublished(true));
    publisher.retain(base + "/kept", "1");
    equal("RETAIN as published", peer.one(base + "/kept").retain(), true);

    publisher.retain(base + "/never", "1");
    publisher.retain(base + "/once", "1");
    subscribe(peer, base + "/never", subscription -> subscription.retainHandling(Mqtt5RetainHandling.DO_NOT_SEND));
    for (int times = 0; times < 2; times++) {
      subscribe(
          peer,
          base + "/once",
          subscription -> subscription.retainHandling(Mqtt5RetainHandling.SEND_IF_SUBSCRIPTION_DOES_NOT_EXIST));
    }
    peer.subscribe(Map.of(base + "/end", 1));
    publisher.publish(base + "/end", "end", 1);
    peer.one(base + "/end");
    equal("retain handling 2", peer.on(base + "/never").size(), 0);
    peer.one(base + "/once");
    for (String name : List.of("/kept", "/never", "/once")) publisher.retain(base + name, "");
  }

  static void willProperties() throws Exception {
    String last = topic("will");
    Peer5 observer = start();
    observer.subscribe(Map.of(last, 1));
    Options5 options = new Options5(new Options().cuttable());
    options.sessionExpiry = 300;
    options.will =
        Peer5.willTo(last, "gone")
            .delayInterval(1)
            .contentType("text/plain")
            .responseTopic(last + "/answers")
            .correlationData("c".getBytes())
            .payloadFormatIndicator(Mqtt5PayloadFormatIndicator.UTF_8)
            .userProperties(Mqtt5UserProperties.of(Mqtt5UserProperty.of("k", "v")))
            .build();
    Peer5 dying = new Peer5(options);
    long cut = System.nanoTime();
    dying.cut();
    Mqtt5Publish found = observer.one(last).v5();
    if (System.nanoTime() - cut < 500_000_000) throw new Failure("the will did not wait for its delay of 1 s");
    equal("content type", found.getContentType(), options.will.getContentType());
    equal("response topic", found.getResponseTopic(), options.will.getResponseTopic());
    equal("correlation data", found.getCorrelationData(), options.will.getCorrelationData());
    equal("payload format", found.getPayloadFormatIndicator(), options.will.getPayloadFormatIndicator());
    equal("user properties", found.getUserProperties(), options.will.getUserProperties());
    Options5 leaving = new Options5(new Options());
    leaving.will = Peer5.willTo(last, "left").build();
    Peer.done(
        new Peer5(leaving)
            .client
            .disconnectWith()
            .reasonCode(Mqtt5DisconnectReasonCode.DISCONNECT_WITH_WILL_MESSAGE)
            .send());
    equal("will at DISCONNECT 0x04", observer.await(last, 2).get(1).text(), "left");
  }
}
