"""Ten thousand connections that come and go, in every way there is, leave nothing behind: no file, no task, no thread, no session,
no subscription, no memory."""

import time

import packets
from broker import Counted
from good import served
from harness import wait_until
from peer import Peer

CONNECTIONS = 10_000
# In one cycle all connect, a third goes and comes back in each round, all leave.
CYCLES, ROUNDS = 2, 3
# So many are on their way at a time.
BATCH = 500
# MiB that the second cycle may have above the first: of what is allocated once, in pieces of the allocator.
GROWTH = 8
# What may be left of the growth when all have left, as a share. The allocator gives back over five seconds.
LEFT = 0.35
ENDS = (Peer.reset, Peer.close, Peer.disconnect)


class Member:
    """One client identifier over its connections. What it is follows from its number, so that all mix with all."""

    def __init__(self, number):
        self.number = number
        self.id = f"churn-{number}"
        at = number % 40
        self.transport = "wss" if at == 0 else "tls" if at in (1, 2) else "ws" if at in range(3, 9) else "tcp"
        self.level = 5 if number // 40 % 2 else 4
        self.persistent = number % 3 == 0
        self.filters = [f"churn/{number}"] + (["$share/group/churn/work"] if number % 10 == 0 else [])
        self.peer = None
        self.has_session = False

    def begin(self, broker):
        self.peer = Peer(broker, self.transport, self.number)

    def ask(self):
        self.peer.upgraded().send(
            packets.connect(self.id, self.level, clean=not self.persistent, expiry=600 if self.persistent else 0)
            + packets.subscribe(*self.filters, level=self.level)
        )

    def answered(self):
        """CONNACK, SUBACK, and the message that waited for a session that was kept."""
        self.peer.connected(present=self.has_session)
        kinds = {self.peer.receive()[0] & 0xF0 for _ in range(2 if self.has_session else 1)}
        assert kinds == ({0x90, 0x30} if self.has_session else {0x90}), f"{self.id}: {kinds}"

    def forget(self):
        """Leaves, and its session ends."""
        if self.level == 5:
            self.peer.disconnect(packets.DISCONNECT_AND_FORGET)
        else:
            self.peer.disconnect()


def connect(broker, members):
    for start in range(0, len(members), BATCH):
        batch = members[start:start + BATCH]
        for member in batch:
            member.begin(broker)
        for member in batch:
            member.ask()
        for member in batch:
            member.answered()


def churn(broker, members, turn, publisher):
    """A third leaves and comes back; every tenth of these takes its own connection over instead."""
    third = [member for member in members if member.number // 3 % 3 == turn % 3]
    taken_over = []
    before = Counted(broker)
    for member in third:
        if member.number % 10 == turn:
            taken_over.append(member.peer)
            # The session lives on in the new connection, with nothing in it.
            continue
        ENDS[(member.number // 9 + turn) % 3](member.peer)
    gone = len(third) - len(taken_over)
    before.wait(gone, "clients_disconnected_total")
    kept = [member for member in third if member.persistent]
    for at, member in enumerate(kept):
        # Acknowledged when it waits in the session, or was sent to the connection that is about to be taken over.
        publisher.send(packets.publish(f"churn/{member.number}", b"while you were away", qos=1, identifier=at + 1))
    for _ in kept:
        assert publisher.receive()[0] == 0x40
    for member in third:
        member.has_session = member.persistent
    connect(broker, third)
    for peer in taken_over:
        peer.until_closed()
    before.wait(len(taken_over), "clients_disconnected_total", reason="taken_over")
    return gone, len(taken_over)


def leave(broker, members):
    """In any way; what is kept of sessions is ended."""
    kept = []
    for member in members:
        if not member.persistent:
            ENDS[member.number % 3](member.peer)
        elif member.level == 5:
            member.forget()
        else:
            member.peer.reset()
            kept.append(member)
        member.has_session = False
    for start in range(0, len(kept), BATCH):
        batch = kept[start:start + BATCH]
        for member in batch:
            member.peer = Peer(broker, "tcp", member.number)
            member.peer.send(packets.connect(member.id, clean=True))
        for member in batch:
            member.peer.connected(present=False).disconnect()


def settled(number):
    """A number once it has been the same for three seconds: a question of the metrics before may not be closed yet, and
    the thread that looks at the certificates comes with its first look, two seconds after the start."""
    last, since = number(), time.monotonic()

    def same():
        nonlocal last, since
        now = number()
        if now != last:
            last, since = now, time.monotonic()
        return time.monotonic() > since + 3

    wait_until("a number stays the same", same, 15)
    return last


def test_ten_thousand_connections_come_and_go_and_nothing_stays(broker):
    # What is made at the first use is there before anything is counted.
    for transport in broker.ports:
        Peer(broker, transport).connect("warm-up").disconnect()
    broker.wait_metric(0, "connections")
    files, threads = settled(lambda: (broker.files(), broker.threads()))
    start = {"files": files, "threads": threads, "tasks": broker.tasks()}
    begin = broker.rss()
    members = [Member(number) for number in range(CONNECTIONS)]
    peaks, left = [], []
    for cycle in range(CYCLES):
        since = time.monotonic()
        with served(broker, f"cycle {cycle + 1} of {CONNECTIONS} connections"):
            publisher = Peer(broker).connect("churn-publisher", keep_alive=0)
            connect(broker, members)
            # The publisher and the well-behaved pair are there as well.
            broker.wait_metric(CONNECTIONS + 3, "clients")
            for name, now in (("files", broker.files), ("tasks", broker.tasks)):
                wait_until(f"{name} for all", lambda: now() == start[name] + CONNECTIONS + 3, 15)
            for turn in range(ROUNDS):
                churn(broker, members, turn, publisher)
            broker.wait_metric(CONNECTIONS + 3, "connections")
            assert broker.metric("sessions") == CONNECTIONS + 3
            peaks.append(broker.rss())
            leave(broker, members)
            publisher.disconnect()
            broker.wait_metric(2, "connections")
        for name in ("connections", "clients", "sessions", "subscriptions", "shared_groups", "shared_members"):
            broker.wait_metric(0, name)
        for name, now in (("files", broker.files), ("tasks", broker.tasks), ("threads", broker.threads)):
            wait_until(f"{name} {start[name]} as at the start", lambda: now() == start[name], 15)
        left.append(broker.rss_below(begin + LEFT * (peaks[-1] - begin)))
        print(
            f"  cycle {cycle + 1}: {time.monotonic() - since:.1f} s, memory {begin:.1f} MiB, with all {peaks[-1]:.1f} MiB, "
            f"when all had left {left[-1]:.1f} MiB"
        )
    assert peaks[1] < peaks[0] + GROWTH, f"memory grows from cycle to cycle: {peaks} MiB"
    assert left[1] < left[0] + GROWTH, f"memory grows from cycle to cycle: {left} MiB when all had left"
