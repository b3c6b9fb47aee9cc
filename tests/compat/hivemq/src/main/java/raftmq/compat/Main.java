package raftmq.compat;

import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** HiveMQ's client through every scenario: {@code Main tcp|tls|ws|wss [SCENARIO…]}. */
public final class Main {
  static String transport = "tcp";

  private interface Versioned {
    void run(String version) throws Exception;
  }

  private interface Scenario {
    void run() throws Exception;
  }

  private final List<String> only;
  private boolean failed;

  private Main(List<String> only) {
    this.only = only;
  }

  /** Runs the scenarios and ends the process: threads of the client may still be there. */
  public static void main(String[] arguments) {
    if (arguments.length > 0) transport = arguments[0];
    Main main = new Main(Arrays.asList(arguments).subList(Math.min(1, arguments.length), arguments.length));
    main.all();
    System.exit(main.failed ? 1 : 0);
  }

  private void all() {
    Map<String, Versioned> both = new LinkedHashMap<>();
    both.put("connect", Scenarios::connect);
    both.put("qos", Scenarios::qos);
    both.put("several", Scenarios::several);
    both.put("unsubscribe", Scenarios::unsubscribe);
    both.put("retained", Scenarios::retained);
    both.put("will", Scenarios::will);
    both.put("will-not", Scenarios::willNot);
    both.put("session", Scenarios::session);
    both.put("shared", Scenarios::shared);
    both.put("large", Scenarios::large);
    for (String version : List.of("3.1.1", "5")) {
      both.forEach((name, scenario) -> run(name + "/" + version, () -> scenario.run(version)));
    }
    run("user-properties/5", ScenariosV5::userProperties);
    run("content/5", ScenariosV5::content);
    run("expiry/5", ScenariosV5::expiry);
    run("subscription-identifiers/5", ScenariosV5::subscriptionIdentifiers);
    run("topic-alias/5", ScenariosV5::topicAlias);
    run("session-expiry/5", ScenariosV5::sessionExpiry);
    run("receive-maximum/5", () -> ScenariosV5.receiveMaximum(1));
    run("receive-maximum-qos2/5", () -> ScenariosV5.receiveMaximum(2));
    run("reason-codes/5", ScenariosV5::reasonCodes);
    run("taken-over/5", ScenariosV5::takenOver);
    run("request-response/5", ScenariosV5::requestResponse);
    run("options/5", ScenariosV5::options);
    run("will-properties/5", ScenariosV5::willProperties);
    if (transport.equals("tls") || transport.equals("wss")) run("tls-ca", Scenarios::tlsCa);
    if (transport.equals("tls")) run("tls-client-certificate", Scenarios::tlsClientCertificate);
  }

  private void run(String name, Scenario scenario) {
    if (!only.isEmpty() && only.stream().noneMatch(name::startsWith)) return;
    try {
      scenario.run();
      System.out.println("ok " + name);
    } catch (Exception error) {
      failed = true;
      String reason = error instanceof Failure ? error.getMessage() : error.toString();
      System.out.println("FAIL " + name + ": " + reason.replace('\n', ' '));
    } finally {
      Peer.closeAll();
    }
  }
}
