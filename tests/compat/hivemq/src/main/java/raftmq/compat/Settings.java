package raftmq.compat;

import com.hivemq.client.mqtt.MqttClientBuilder;
import com.hivemq.client.mqtt.MqttClientSslConfig;
import com.hivemq.client.mqtt.MqttWebSocketConfig;
import java.io.ByteArrayInputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyFactory;
import java.security.KeyStore;
import java.security.SecureRandom;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.Base64;
import java.util.HexFormat;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.TrustManagerFactory;

/** Where the broker is, by the environment, and how a connection to it is made. */
record Settings(String transport, String ca, boolean certificate) {
  static String get(String name, String fallback) {
    String value = System.getenv("RAFTMQ_COMPAT_" + name);
    if (value == null && fallback == null) throw new Failure("RAFTMQ_COMPAT_" + name + " is not set");
    return value == null ? fallback : value;
  }

  static String host() {
    return get("HOST", "localhost");
  }

  int port() {
    return Integer.parseInt(get(transport.toUpperCase(), null));
  }

  /** A client that connects to this port: the broker's, or that of a relay to it. */
  MqttClientBuilder builder(String identifier, int port) throws Exception {
    MqttClientBuilder builder =
        com.hivemq.client.mqtt.MqttClient.builder().identifier(identifier).serverHost(host()).serverPort(port);
    if (transport.equals("tls") || transport.equals("mtls") || transport.equals("wss")) builder = builder.sslConfig(ssl());
    if (transport.equals("ws") || transport.equals("wss")) {
      String path = get("WS_PATH", "/mqtt").replaceFirst("^/", "");
      builder = builder.webSocketConfig(MqttWebSocketConfig.builder().serverPath(path).build());
    }
    return builder;
  }

  private MqttClientSslConfig ssl() throws Exception {
    KeyStore trusted = empty();
    trusted.setCertificateEntry("ca", certificate(get(ca, null)));
    TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
    trust.init(trusted);
    var config = MqttClientSslConfig.builder().trustManagerFactory(trust);
    if (certificate) {
      byte[] key = Base64.getMimeDecoder().decode(Files.readString(Path.of(get("KEY", null))).replaceAll("-----[A-Z ]+-----", ""));
      KeyStore own = empty();
      own.setKeyEntry(
          "client",
          KeyFactory.getInstance("EC").generatePrivate(new PKCS8EncodedKeySpec(key)),
          new char[0],
          new Certificate[] {certificate(get("CERT", null))});
      KeyManagerFactory keys = KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
      keys.init(own, new char[0]);
      config = config.keyManagerFactory(keys);
    }
    return config.build();
  }

  private static KeyStore empty() throws Exception {
    KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
    store.load(null, null);
    return store;
  }

  private static Certificate certificate(String file) throws Exception {
    byte[] pem = Files.readAllBytes(Path.of(file));
    return CertificateFactory.getInstance("X.509").generateCertificate(new ByteArrayInputStream(pem));
  }

  private static String unique() {
    byte[] bytes = new byte[6];
    new SecureRandom().nextBytes(bytes);
    return HexFormat.of().formatHex(bytes);
  }

  /** A topic that no other run uses. */
  static String topic(String name) {
    return "compat/" + unique() + "/" + name;
  }

  static String clientId() {
    return "compat" + unique();
  }
}
