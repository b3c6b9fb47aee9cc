"""mosquitto_pub, mosquitto_sub and mosquitto_rr as processes: what they print is what they were told."""

import os
import secrets
import signal
import subprocess
import sys
import threading
import time

DEADLINE = 15.0
VERSIONS = {"3.1": "mqttv31", "3.1.1": "mqttv311", "5": "mqttv5"}
TRANSPORT = sys.argv[1] if len(sys.argv) > 1 else "tcp"
ONLY = sys.argv[2:]

# What mosquitto_sub prints of a message, apart from its payload at the end.
FIELDS = {
    "topic": "%t", "qos": "%q", "retain": "%r", "content_type": "%C", "response_topic": "%R", "correlation_data": "%D",
    "payload_format": "%F", "expiry": "%E", "user_properties": "%P", "identifier": "%S", "payload": "%p",
}
FORMAT = "MESSAGE\x1f" + "\x1f".join(FIELDS.values())


def setting(name):
    return os.environ[f"RAFTMQ_COMPAT_{name}"]


def address(transport=TRANSPORT, ca=None, certificate=True):
    arguments = ["-h", os.environ.get("RAFTMQ_COMPAT_HOST", "localhost"), "-p", setting(transport.upper())]
    if transport != "tcp":
        arguments += ["--cafile", ca or setting("CA")]
    if transport == "mtls" and certificate:
        arguments += ["--cert", setting("CERT"), "--key", setting("KEY")]
    return arguments


def topic(name):
    """A topic that no other run uses."""
    return f"compat/{secrets.token_hex(4)}/{name}"


def client_id():
    return f"compat{secrets.token_hex(6)}"


def wait_until(what, condition, deadline=DEADLINE):
    end = time.monotonic() + deadline
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline:.0f} s: {what}")
        time.sleep(0.01)


def equal(what, found, wanted):
    if found != wanted:
        raise AssertionError(f"{what}: {found!r} instead of {wanted!r}")


def settings(packet, **values):
    """Arguments for properties of a packet; a list has several of a kind, a pair is a user property."""
    arguments = []
    for name, value in values.items():
        for one in value if isinstance(value, list) else [value]:
            pair = one if isinstance(one, tuple) else (one,)
            arguments += ["-D", packet, name.replace("_", "-"), *map(str, pair)]
    return arguments


def publish(version, name, payload, qos=1, retain=False, arguments=(), where=None):
    """mosquitto_pub: ends when the exchange of its QoS is complete. What it printed."""
    command = ["mosquitto_pub", *(where or address()), "-V", VERSIONS[version], "-i", client_id(), "-d", "-t", name,
               "-q", str(qos), *arguments]
    # An empty payload has an option of its own, a long one comes from the input.
    command += ["-n"] if payload == "" else ["-s"]
    if retain:
        command.append("-r")
    done = subprocess.run(command, input=payload, capture_output=True, text=True, timeout=DEADLINE)
    if done.returncode != 0:
        raise AssertionError(f"mosquitto_pub ended with {done.returncode}: {done.stderr.strip()} {done.stdout[-200:]!r}")
    return done.stdout


class Subscriber:
    """mosquitto_sub with its debug output, which names the packets."""

    def __init__(self, version, *filters, qos=1, name=None, arguments=(), where=None, wait=True):
        self.name = name or client_id()
        command = ["stdbuf", "-oL", "mosquitto_sub", *(where or address()), "-V", VERSIONS[version], "-d",
                   "-i", self.name, "-q", str(qos), "-F", FORMAT, *arguments]
        for topic_filter in filters:
            command += ["-t", topic_filter]
        self.lines, self.messages = [], []
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, text=True)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        if wait:
            self.wait_line("Subscribed (mid")

    def _read(self):
        for line in self.process.stdout:
            line = line.rstrip("\n")
            if line.startswith("MESSAGE\x1f"):
                self.messages.append(dict(zip(FIELDS, line.split("\x1f")[1:])))
            else:
                self.lines.append(line)

    def wait_line(self, text):
        def find():
            return next((line for line in self.lines if text in line), None)
        wait_until(f"{text!r}; last: {self.lines[-1:]}", find)
        return find()

    @property
    def granted(self):
        return [int(code) for code in self.wait_line("Subscribed (mid").partition("): ")[2].split(",")]

    def on(self, name):
        return [message for message in self.messages if message["topic"] == name]

    def wait(self, name, count=1):
        wait_until(f"{count} messages on {name}, {len(self.on(name))} came", lambda: len(self.on(name)) >= count)
        found = self.on(name)
        equal(f"messages on {name}", len(found), count)
        return found

    def end(self, number):
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.process.wait(DEADLINE)
        self.reader.join(DEADLINE)

    def cut(self):
        """The process dies: the connection ends without DISCONNECT."""
        self.end(signal.SIGKILL)

    def stop(self):
        """mosquitto_sub sends DISCONNECT at this signal."""
        self.end(signal.SIGTERM)
        self.wait_line("sending DISCONNECT")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.end(signal.SIGTERM)


class Runner:
    """Runs scenarios and prints a line for each."""

    def __init__(self):
        self.failed = 0

    def run(self, name, scenario, *arguments):
        if ONLY and not any(name.startswith(only) for only in ONLY):
            return
        try:
            scenario(*arguments)
        except Exception as error:  # noqa: BLE001: a scenario's failure is a line of output
            self.failed += 1
            print(f"FAIL {name}: {type(error).__name__}: {error}".replace("\n", " "), flush=True)
        else:
            print(f"ok {name}", flush=True)
