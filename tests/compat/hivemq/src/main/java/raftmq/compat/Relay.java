package raftmq.compat;

import java.io.IOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.util.List;
import java.util.concurrent.CopyOnWriteArrayList;

/** A TCP connection through this process, which can be cut: the client has no way to leave without DISCONNECT. */
final class Relay {
  private final ServerSocket listener;
  private final List<Socket> sockets = new CopyOnWriteArrayList<>();

  Relay(String host, int port) throws IOException {
    listener = new ServerSocket(0, 1, InetAddress.getByName(host));
    daemon(
        () -> {
          Socket client = listener.accept();
          sockets.add(client);
          Socket broker = new Socket(host, port);
          sockets.add(broker);
          daemon(() -> pump(client, broker));
          pump(broker, client);
        });
  }

  int port() {
    return listener.getLocalPort();
  }

  void cut() throws IOException {
    listener.close();
    for (Socket socket : sockets) socket.close();
  }

  private static void pump(Socket from, Socket to) throws IOException {
    try (to) {
      from.getInputStream().transferTo(to.getOutputStream());
    }
  }

  private interface Work {
    void run() throws IOException;
  }

  private static void daemon(Work work) {
    Thread thread =
        new Thread(
            () -> {
              try {
                work.run();
              } catch (IOException cut) {
                // That is what this is for.
              }
            });
    thread.setDaemon(true);
    thread.start();
  }
}
