"""Promise 4: one serving connection a client identifier.

**Rule.** A connection is *superseded* at the arrival of the CONNACK of a newer connection of the same client identifier. Newer is one whose CONNECT
was invoked after the CONNACK of the older one had arrived. Of a superseded connection
- an operation that was invoked after that is never answered: neither PUBLISH, PUBREL, SUBSCRIBE, UNSUBSCRIBE nor PINGREQ, nor a PUBREC by
  PUBREL;
- no message is delivered that was published after that.
Of two connections that were made at the same time, each CONNECT invoked before the CONNACK of the other arrived, either may be the newer one;
but only one of them answers operations invoked after both CONNACKs.

**Why this is exact.** The broker sent the newer CONNACK before it arrived, and by then the older connection had to be closed or fenced. What is
invoked on the older connection after the arrival can only be read by the broker after it, and answered after it. An answer that merely
arrives later proves nothing: it may have been on the way; and so may a message that was published before."""

from .report import Verdict

TITLE = "an older connection of a client is neither answered nor given anything new once a newer one has its CONNACK"


def check(history):
    verdict = Verdict("owner", TITLE)
    verdict.checked = {"takeovers": 0, "operations on superseded connections": 0, "deliveries to them": 0}
    fences = {}
    for connection in history.connections:
        if connection.fence_t is None:
            continue
        # An older one that was closed before is no takeover.
        if connection.closed_t is None or connection.closed_t > connection.fence_t:
            verdict.count("takeovers")
            fences[connection.number] = connection.fence_t
        verdict.count("operations on superseded connections", connection.tried_late)
        for kind, invoked, _, asked, answered in connection.late:
            if invoked > connection.fence_t:
                verdict.violation(
                    f"{connection} was superseded, and an operation invoked later was answered: {kind}",
                    connection.places["connack"], _newer(connection).places["connack"], asked, answered,
                )
    if fences:
        _deliveries(history, fences, verdict)
    for client in history.client_list:
        _pairs(client, verdict)
    return verdict


def _newer(connection):
    """The one whose CONNACK superseded it."""
    return next(each for each in connection.client.connections if each.connack_t == connection.fence_t)


def _deliveries(history, fences, verdict):
    deliveries, messages = history.deliveries, history.messages
    for at, (number, message) in enumerate(zip(deliveries.connection, deliveries.message)):
        fence = fences.get(number)
        if fence is None or deliveries.t[at] <= fence:
            continue
        verdict.count("deliveries to them")
        # A will is published after its connection's end, which is not known; its CONNECT was before.
        if message >= 0 and messages.pub_t[message] > fence:
            connection = history.connections[number]
            verdict.violation(
                f"{connection} was superseded, and received a message published later",
                connection.places["connack"], _newer(connection).places["connack"], messages.pub_place[message],
                deliveries.place[at],
            )


def _pairs(client, verdict):
    taken = sorted((each for each in client.connections if each.connack_t is not None), key=lambda each: each.connect_t)
    for at, one in enumerate(taken):
        for other in taken[at + 1:]:
            if other.connect_t > one.connack_t:
                break
            verdict.count("pairs made at the same time")
            both = max(one.connack_t, other.connack_t)
            if one.served_t > both and other.served_t > both:
                verdict.violation(
                    f"{one} and connection {other.name} both answered operations invoked after the CONNACK of both",
                    one.places["connack"], other.places["connack"],
                )
