package raftmq.compat;

import com.hivemq.client.mqtt.mqtt5.message.publish.Mqtt5Publish;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.function.BooleanSupplier;

/** A HiveMQ client of either version that keeps what it was told: what the scenarios are written with. */
abstract class Peer {
  static final Duration DEADLINE = Duration.ofSeconds(15);

  /** A message that came; as itself in version 5. */
  record Message(String topic, byte[] payload, int qos, boolean retain, Mqtt5Publish v5) {
    String text() {
      return new String(payload, java.nio.charset.StandardCharsets.UTF_8);
    }
  }

  /** What a peer is made of; what is left out is as most clients have it. */
  static final class Options {
    String id = Settings.clientId();
    boolean clean = true;
    String will;
    boolean cuttable;
    Settings settings = new Settings(Main.transport, "CA", false);

    Options id(String value) {
      id = value;
      return this;
    }

    Options keep() {
      clean = false;
      return this;
    }

    /** With a will to this topic. */
    Options will(String topic) {
      will = topic;
      return this;
    }

    Options cuttable() {
      cuttable = true;
      return this;
    }

    Options settings(Settings value) {
      settings = value;
      return this;
    }
  }

  private static final List<Peer> OPEN = new ArrayList<>();

  final List<Message> messages = new CopyOnWriteArrayList<>();
  boolean present;
  volatile boolean over;
  /** Why the connection ended. */
  volatile Throwable cause;
  private final Relay relay;

  Peer(Options options) throws Exception {
    relay = options.cuttable ? new Relay(Settings.host(), options.settings.port()) : null;
    OPEN.add(this);
  }

  int port(Options options) {
    return relay == null ? options.settings.port() : relay.port();
  }

  static Peer start(String version, Options options) throws Exception {
    return version.equals("5") ? new Peer5(new Peer5.Options5(options)) : new Peer3(options);
  }

  static Peer start(String version) throws Exception {
    return start(version, new Options());
  }

  /** Filters with their QoS in one SUBSCRIBE; the codes of SUBACK. */
  abstract List<Integer> subscribe(Map<String, Integer> filters);

  abstract void unsubscribe(String filter);

  /** Publishes and waits until the exchange of the QoS is complete. */
  abstract void publish(String topic, byte[] payload, int qos, boolean retain);

  /** Sends DISCONNECT. */
  abstract void stop();

  void publish(String topic, String payload, int qos) {
    publish(topic, payload.getBytes(java.nio.charset.StandardCharsets.UTF_8), qos, false);
  }

  void retain(String topic, String payload) {
    publish(topic, payload.getBytes(java.nio.charset.StandardCharsets.UTF_8), 1, true);
  }

  void ended(Throwable reason) {
    cause = reason;
    over = true;
  }

  List<Message> on(String topic) {
    return messages.stream().filter(message -> message.topic().equals(topic)).toList();
  }

  /** The messages of a topic, once there are so many; more than that is a failure. */
  List<Message> await(String topic, int count) {
    until(count + " messages on " + topic, () -> on(topic).size() >= count);
    Failure.equal("messages on " + topic, on(topic).size(), count);
    return on(topic);
  }

  Message one(String topic) {
    return await(topic, 1).get(0);
  }

  /** Ends the connection without DISCONNECT. */
  void cut() throws Exception {
    relay.cut();
    until("the end of the connection", () -> over);
  }

  static void until(String what, BooleanSupplier condition) {
    long end = System.nanoTime() + DEADLINE.toNanos();
    while (!condition.getAsBoolean()) {
      if (System.nanoTime() > end) throw new Failure("not within " + DEADLINE.toSeconds() + " s: " + what);
      try {
        Thread.sleep(5);
      } catch (InterruptedException e) {
        throw new Failure("interrupted");
      }
    }
  }

  static <T> T done(CompletableFuture<T> future) {
    try {
      return future.get(DEADLINE.toSeconds(), TimeUnit.SECONDS);
    } catch (ExecutionException e) {
      Failure failure = new Failure(e.getCause().toString());
      failure.initCause(e.getCause());
      throw failure;
    } catch (InterruptedException | TimeoutException e) {
      throw new Failure(e.toString());
    }
  }

  /** Ends what a scenario left open. */
  static void closeAll() {
    for (Peer peer : OPEN) {
      try {
        if (!peer.over) peer.stop();
      } catch (RuntimeException ended) {
        // It had no connection any more.
      }
    }
    OPEN.clear();
  }
}
