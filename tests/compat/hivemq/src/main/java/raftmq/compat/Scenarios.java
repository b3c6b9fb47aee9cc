package raftmq.compat;

import static raftmq.compat.Failure.equal;
import static raftmq.compat.Settings.clientId;
import static raftmq.compat.Settings.topic;

import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import raftmq.compat.Peer.Message;
import raftmq.compat.Peer.Options;

/** The scenarios that both versions have. */
final class Scenarios {
  private Scenarios() {}

  static void connect(String version) throws Exception {
    Peer peer = Peer.start(version);
    equal("session present", peer.present, false);
    peer.stop();
    Peer nameless = Peer.start(version, new Options().id(""));
    if (nameless instanceof Peer5 five && five.connack.getAssignedClientIdentifier().isEmpty()) {
      throw new Failure("no assigned client identifier");
    }
  }

  static void qos(String version) throws Exception {
    Peer publisher = Peer.start(version);
    Peer subscriber = Peer.start(version);
    for (int level = 0; level <= 2; level++) {
      String name = topic("qos");
      equal("granted", subscriber.subscribe(Map.of(name, level)), List.of(level));
      for (int published = 0; published <= 2; published++) publisher.publish(name, "" + published, published);
      // Messages of different QoS may overtake one another.
      List<String> found = subscriber.await(name, 3).stream().map(m -> m.text() + ":" + m.qos()).sorted().toList();
      int limit = level;
      List<String> wanted = IntStream.rangeClosed(0, 2).mapToObj(p -> p + ":" + Math.min(p, limit)).toList();
      equal("QoS at a subscription of QoS " + level, found, wanted);
    }
  }

  static void several(String version) throws Exception {
    String base = topic("several");
    Peer publisher = Peer.start(version);
    Peer subscriber = Peer.start(version);
    Map<String, Integer> filters = new LinkedHashMap<>();
    filters.put(base + "/a", 0);
    filters.put(base + "/+/b", 1);
    filters.put(base + "/c/#", 2);
    equal("granted", subscriber.subscribe(filters), List.of(0, 1, 2));
    int level = 0;
    for (String name : List.of("a", "x/b", "c/d/e")) {
      publisher.publish(base + "/" + name, name, 2);
      Message message = subscriber.one(base + "/" + name);
      equal(name, List.of(message.text(), message.qos()), List.of(name, level++));
    }
  }

  static void unsubscribe(String version) throws Exception {
    String gone = topic("gone");
    String kept = topic("kept");
    Peer publisher = Peer.start(version);
    Peer subscriber = Peer.start(version);
    subscriber.subscribe(Map.of(gone, 1, kept, 1));
    publisher.publish(gone, "1", 1);
    subscriber.one(gone);
    subscriber.unsubscribe(gone);
    publisher.publish(gone, "2", 1);
    publisher.publish(kept, "end", 1);
    subscriber.one(kept);
    equal("messages on the filter given up", subscriber.on(gone).size(), 1);
  }

  static void retained(String version) throws Exception {
    String kept = topic("retained");
    String end = topic("end");
    Peer publisher = Peer.start(version);
    Peer early = Peer.start(version);
    early.subscribe(Map.of(kept, 1));
    publisher.retain(kept, "value");
    equal("RETAIN at an old subscription", early.one(kept).retain(), false);
    Peer late = Peer.start(version);
    late.subscribe(Map.of(kept, 1));
    Message message = late.one(kept);
    equal("RETAIN at a new subscription", List.of(message.retain(), message.text()), List.of(true, "value"));
    publisher.retain(kept, "");
    Peer last = Peer.start(version);
    last.subscribe(Map.of(kept, 1, end, 1));
    publisher.publish(end, "end", 1);
    last.one(end);
    equal("messages after it was cleared", last.on(kept).size(), 0);
  }

  static void will(String version) throws Exception {
    String last = topic("will");
    Peer observer = Peer.start(version);
    observer.subscribe(Map.of(last, 1));
    Peer.start(version, new Options().will(last).cuttable()).cut();
    Message message = observer.one(last);
    equal("will", List.of(message.text(), message.qos(), message.retain()), List.of("gone", 1, false));
  }

  static void willNot(String version) throws Exception {
    String last = topic("will");
    String end = topic("end");
    String id = clientId();
    Peer observer = Peer.start(version);
    observer.subscribe(Map.of(last, 1, end, 1));
    Peer.start(version, new Options().id(id).will(last)).stop();
    // The same identifier is served anew only when the broker is done with the first connection.
    Peer.start(version, new Options().id(id)).publish(end, "end", 1);
    observer.one(end);
    equal("wills after DISCONNECT", observer.on(last).size(), 0);
  }

  static void session(String version) throws Exception {
    String base = topic("session");
    String id = clientId();
    Peer first = Peer.start(version, new Options().id(id).keep());
    first.subscribe(Map.of(base + "/#", 2));
    first.stop();
    Peer publisher = Peer.start(version);
    for (int level = 1; level <= 2; level++) publisher.publish(base + "/" + level, "offline " + level, level);
    Peer second = Peer.start(version, new Options().id(id).keep());
    equal("session present", second.present, true);
    for (int level = 1; level <= 2; level++) {
      Message message = second.one(base + "/" + level);
      equal("message", List.of(message.text(), message.qos()), List.of("offline " + level, level));
    }
    second.stop();
    equal("session present after a clean start", Peer.start(version, new Options().id(id)).present, false);
  }

  static void shared(String version) throws Exception {
    String base = topic("shared");
    String end = topic("end");
    Peer publisher = Peer.start(version);
    List<Peer> members = List.of(Peer.start(version), Peer.start(version));
    for (Peer member : members) {
      equal("granted", member.subscribe(Map.of("$share/group/" + base, 1, end, 1)), List.of(1, 1));
    }
    for (int number = 0; number < 40; number++) publisher.publish(base, "" + number, 1);
    publisher.publish(end, "end", 1);
    for (Peer member : members) member.one(end);
    Peer.until("40 messages", () -> members.stream().mapToInt(member -> member.on(base).size()).sum() >= 40);
    Stream<Message> all = members.stream().flatMap(member -> member.on(base).stream());
    List<Integer> found = all.map(message -> Integer.valueOf(message.text())).sorted().toList();
    equal("messages of both members", found, IntStream.range(0, 40).boxed().toList());
    if (members.stream().anyMatch(member -> member.on(base).isEmpty())) throw new Failure("one member got all messages");
  }

  static void large(String version) throws Exception {
    String base = topic("large");
    byte[] payload = new byte[200_000];
    for (int i = 0; i < payload.length; i++) payload[i] = (byte) (i % 251);
    Peer publisher = Peer.start(version);
    Peer subscriber = Peer.start(version);
    subscriber.subscribe(Map.of(base, 2));
    for (int level = 0; level <= 2; level++) publisher.publish(base, payload, level, false);
    for (Message message : subscriber.await(base, 3)) {
      equal("payload is whole", Arrays.equals(message.payload(), payload), true);
    }
  }

  static void tlsCa() throws Exception {
    try {
      Peer.start("3.1.1", new Options().settings(new Settings(Main.transport, "OTHER_CA", false)));
    } catch (Failure failure) {
      for (Throwable cause = failure; cause != null; cause = cause.getCause()) {
        if (("" + cause).contains("CertPath") || ("" + cause).contains("certification path")) return;
      }
      throw failure;
    }
    throw new Failure("the broker's certificate was accepted with another authority");
  }

  static void tlsClientCertificate() throws Exception {
    String base = topic("certificate");
    Peer peer = Peer.start("3.1.1", new Options().settings(new Settings("mtls", "CA", true)));
    peer.subscribe(Map.of(base, 1));
    peer.publish(base, "mine", 1);
    peer.one(base);
    try {
      Peer.start("3.1.1", new Options().settings(new Settings("mtls", "CA", false)));
    } catch (Failure refused) {
      return;
    }
    throw new Failure("served without a client certificate");
  }
}
