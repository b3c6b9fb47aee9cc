#!/usr/bin/env python3
"""Plays conformance scripts against a broker: what they send, what they expect, byte by byte (see README.md)."""

import argparse
import contextlib
import itertools
import os
import pathlib
import random
import socket
import string
import struct
import sys
import time

import script

HERE = pathlib.Path(__file__).parent
DEADLINE = float(os.environ.get("RAFTMQ_CONFORMANCE_DEADLINE", "5"))
DIGITS = string.digits + string.ascii_lowercase
_fresh = itertools.count(random.randrange(36**4))


class Failure(Exception):
    """A step that did not go as the script says; the message says which, and what was received."""


def fresh():
    """Four characters that no other case of this run has, and hardly one of another run."""
    number, text = next(_fresh) % 36**4, ""
    for _ in range(4):
        number, digit = divmod(number, 36)
        text += DIGITS[digit]
    return text


class Peer:
    """One connection of a case."""

    def __init__(self, address):
        self.socket = socket.create_connection(address, timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        self.ended = False
        self.last_sent = time.monotonic()

    def send(self, data):
        self.last_sent = time.monotonic()
        # The broker may have closed after a first part; what it says then is for the next step to judge.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(data)

    def ready(self):
        """Whether there is something to receive: a packet, or the end."""
        return script.packet_size(self.buffer) is not None or self.ended

    def receive(self, until):
        """The next packet; b"" when the connection has ended; None when the time is over."""
        while not self.ready():
            if time.monotonic() >= until:
                return None
            self.fill(until - time.monotonic())
        size = script.packet_size(self.buffer)
        if size is None:
            return b""
        packet, self.buffer = self.buffer[:size], self.buffer[size:]
        return packet

    def fill(self, seconds):
        self.socket.settimeout(max(seconds, 0.001))
        try:
            data = self.socket.recv(65536)
            self.ended = not data
            self.buffer += data
        except TimeoutError:
            pass
        except ConnectionError:
            self.ended = True

    def close(self, reset=False):
        if reset:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


class Run:
    """A case as it is played."""

    def __init__(self, case, address, deadline):
        self.case, self.address, self.deadline = case, address, deadline
        self.peers, self.captures, self.fresh, self.log = {}, {}, fresh(), []

    def play(self):
        try:
            steps = self.case.steps
            at = 0
            while at < len(steps):
                count = 1
                if steps[at].verb == "<~":
                    following = itertools.takewhile(
                        lambda step: (step.verb, step.connection) == ("<~", steps[at].connection), steps[at:]
                    )
                    count = len(list(following))
                self.step(steps[at:at + count])
                at += count
            for name, peer in self.peers.items():
                peer.fill(0)
                if script.packet_size(peer.buffer) is not None:
                    self.fail(steps[-1], f"{name} has received what no step expects: {self.shown(peer.buffer)}")
        except script.Mismatch as error:
            raise Failure(f"{self.case.file}:{self.case.line}: {error}") from None
        finally:
            for peer in self.peers.values():
                peer.close()

    def step(self, steps):
        step = steps[0]
        if step.verb == "pause":
            time.sleep(step.after)
            return
        peer = self.first_ready(step)
        if step.verb == ">":
            if peer is not None and peer.ended:
                peer.close()
            if peer is None or peer.ended:
                peer = self.peers[step.connection] = Peer(self.address)
            try:
                data = script.assemble(step.tokens, self.captures, self.fresh)
            except ValueError as error:
                self.fail(step, str(error))
            self.note(step, data)
            peer.send(data)
            return
        if peer is None:
            self.fail(step, f"{step.connection} is not connected")
        if step.verb in ("close", "reset"):
            self.peers.pop(step.connection).close(step.verb == "reset")
        elif step.verb == "closed":
            self.expect_closed(step, peer)
        else:
            self.expect(steps, peer)

    def first_ready(self, step):
        """The peer of a step; of several, the first that receives something."""
        peers = [self.peers.get(name) for name in step.connection.split(",")]
        until = time.monotonic() + self.deadline
        while len(peers) > 1 and None not in peers and time.monotonic() < until:
            for peer in peers:
                if peer.ready():
                    return peer
                peer.fill(0.01)
        return peers[0]

    def expect(self, steps, peer):
        """The packets of `steps`, in any order if they are more than one."""
        left = list(steps)
        until = time.monotonic() + self.deadline
        while left:
            packet = peer.receive(until)
            if packet is None:
                if left[0].verb == "<?":
                    return
                self.fail(left[0], f"nothing came within {self.deadline} s; {self.partial(peer)}")
            if packet == b"":
                if left[0].verb == "<?":
                    return
                self.fail(left[0], "the connection was closed")
            problems = []
            for step in left:
                try:
                    script.match(step.tokens, packet, self.captures, self.fresh)
                except script.Mismatch as error:
                    problems.append(str(error))
                else:
                    self.note(step, packet)
                    left.remove(step)
                    break
            else:
                if left[0].verb == "<?":
                    # It may be left out: the packet is for the next step.
                    peer.buffer = packet + peer.buffer
                    return
                self.fail(left[0], f"{'; '.join(problems)}\n  received {self.shown(packet)}")

    def expect_closed(self, step, peer):
        until = time.monotonic() + (step.within or self.deadline)
        packet = peer.receive(until)
        if packet is None:
            self.fail(step, f"still open after {step.within or self.deadline} s; {self.partial(peer)}")
        if packet or peer.buffer:
            self.fail(step, f"received {self.shown(packet + peer.buffer)}")
        passed = time.monotonic() - peer.last_sent
        if step.after is not None and passed < step.after:
            self.fail(step, f"closed already after {passed:.2f} s")

    def note(self, step, data):
        self.log.append(f"{step.line:5} {step.connection} {step.verb:2} {self.shown(data)}")

    def shown(self, data):
        return f"{script.show(data)}   {script.readable(data[:100])}"

    def partial(self, peer):
        return f"received so far: {self.shown(peer.buffer)}" if peer.buffer else "received nothing"

    def fail(self, step, problem):
        log = "\n".join(self.log)
        raise Failure(
            f"{self.case.file}:{step.line}: {self.case.name}\n  expected {step.connection} {step.verb} {step.text}\n"
            f"  {problem}\n  {script.FRESH} is {self.fresh}; so far:\n{log}"
        )


def play(case, address, deadline=DEADLINE):
    """Plays a case; raises a Failure if the broker does something else than the script says."""
    Run(case, address, deadline).play()


def all_files():
    return sorted((HERE / "scripts").glob("*/*.mqtt"))


def parse_address(text):
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="run_scripts.py", description=__doc__)
    parser.add_argument("--address", type=parse_address, default=os.environ.get("RAFTMQ_CONFORMANCE_ADDRESS"),
                        help="host:port of the broker (default: $RAFTMQ_CONFORMANCE_ADDRESS)")
    parser.add_argument("--list", action="store_true", help="only names the cases, with the statements that they prove")
    parser.add_argument("-k", dest="words", default="", help="only cases whose name contains this")
    parser.add_argument("--with", dest="capabilities", default=os.environ.get("RAFTMQ_CONFORMANCE_WITH", ""),
                        help="what the broker offers, by comma: cases that need something else are left out")
    parser.add_argument("--deadline", type=float, default=DEADLINE, help="seconds for each expectation")
    parser.add_argument("files", nargs="*", type=pathlib.Path, help="scripts (default: all)")
    options = parser.parse_args(arguments)
    try:
        cases = [case for file in options.files or all_files() for case in script.parse(file)]
    except script.ScriptError as error:
        parser.error(str(error))
    cases = [case for case in cases if options.words in case.id]
    if options.list:
        for case in cases:
            print(case.id, *case.cites)
        print(f"{len(cases)} cases")
        return 0
    if options.address is None:
        parser.error("--address is needed")
    failed, skipped = 0, 0
    for case in cases:
        missing = set(case.needs) - set(options.capabilities.split(","))
        if missing:
            skipped += 1
            print(f"skipped (needs {', '.join(sorted(missing))}): {case.id}")
            continue
        try:
            play(case, options.address, options.deadline)
        except Failure as failure:
            failed += 1
            print(f"FAILED {failure}\n")
    print(f"{len(cases) - failed - skipped} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
