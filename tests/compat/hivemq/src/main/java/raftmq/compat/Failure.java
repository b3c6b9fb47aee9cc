package raftmq.compat;

/** What ends a scenario; the runner prints it. */
final class Failure extends RuntimeException {
  private static final long serialVersionUID = 1;

  Failure(String message) {
    super(message);
  }

  static void equal(String what, Object found, Object wanted) {
    if (!java.util.Objects.deepEquals(found, wanted)) throw new Failure(what + ": " + found + " instead of " + wanted);
  }
}
