"""Short histories by hand: each call is an event, or an operation with its answer, a second after the one before."""

import json
import tempfile

from checker.history import History
from checker.main import judge

SECOND = 1_000_000_000
EXPIRY = 100_000


class Story:
    def __init__(self, settle=10, **run):
        self.t = 0
        self.events = []
        self.connections = 0
        self.messages = 0
        self.topics = {}
        self.add("run", format=1, settle=settle, **run)

    def add(self, kind, **event):
        self.t += SECOND
        self.events.append({"t": self.t, "e": kind, **event})

    def wait(self, seconds):
        self.t += int(seconds * SECOND)

    def connect(self, client, node="n0", clean=False, expiry=EXPIRY, present=False, answered=True, version=5, **event):
        """`will`: (topic, QoS, delay); its message is `c.will`."""
        self.connections += 1
        connection = Connection(self, self.connections, client)
        if "will" in event:
            topic, qos, delay = event.pop("will")
            connection.will = self._message(topic)
            event["will"] = {"m": connection.will, "topic": topic, "q": qos, "delay": delay}
        self.add("connect", c=connection.c, id=client, node=node, v=version, clean=clean, expiry=expiry, ka=10, **event)
        if answered:
            connection.connack(present)
        return connection

    def again(self, client, **event):
        """A connection with its session present."""
        return self.connect(client, present=True, **event)

    def _message(self, topic):
        self.messages += 1
        self.topics[self.messages] = topic
        return self.messages

    def end(self, *connections, quiet=True):
        """The drain, in which these serve, and the end."""
        self.add("drain")
        for connection in connections:
            connection.ping()
        self.wait(60)
        for connection in connections:
            connection.ping()
        self.add("end", quiet=quiet)
        return self

    def history(self):
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
            file.writelines(json.dumps(event) + "\n" for event in self.events)
            file.flush()
            return History([file.name])

    def violated(self):
        """{promise: number of violations}."""
        return {verdict.promise: verdict.violated for verdict in self.verdicts() if verdict.violated}

    def verdicts(self):
        return judge(self.history())

    def verdict(self, promise):
        return next(verdict for verdict in self.verdicts() if verdict.promise == promise)


class Connection:
    def __init__(self, story, c, client):
        self.story, self.c, self.client = story, c, client
        self.will = None
        self.pid = 0

    def add(self, kind, **event):
        self.story.add(kind, c=self.c, **event)

    def connack(self, present=False, code=0):
        self.add("connack", code=code, present=present)

    def _next(self):
        self.pid += 1
        return self.pid

    def sub(self, topic_filter, qos=1, answered=True, code=None, handling=0):
        pid = self._next()
        self.add("sub", pid=pid, f=[[topic_filter, qos, handling]])
        if answered:
            self.suback(pid, qos if code is None else code)
        return pid

    def suback(self, pid, code=1):
        self.add("suback", pid=pid, codes=[code])

    def unsub(self, topic_filter, answered=True):
        pid = self._next()
        self.add("unsub", pid=pid, f=[topic_filter])
        if answered:
            self.add("unsuback", pid=pid, codes=[0])
        return pid

    def pub(self, topic, qos=1, answered=True, **event):
        """A new message; acknowledged to its end where `answered`."""
        message = self.story._message(topic)
        pid = self._next() if qos else 0
        self.add("pub", q=qos, pid=pid, topic=topic, m=message, **event)
        self.last = pid
        if answered and qos == 1:
            self.puback(pid)
        elif answered and qos == 2:
            self.add("pubrec", pid=pid, code=0)
            self.add("pubrel", pid=pid)
            self.add("pubcomp", pid=pid, code=0)
        return message

    def resend(self, message, qos=1, pid=50, answered=True):
        self.add("pub", q=qos, pid=pid, topic=self.story.topics[message], m=message, dup=True)
        if answered:
            self.add("puback" if qos == 1 else "pubrec", pid=pid, code=0)

    def puback(self, pid, code=0):
        self.add("puback", pid=pid, code=code)

    def recv(self, message, qos=1, pid=None, acked=True, **event):
        """A delivery, acknowledged to its end where `acked`."""
        pid = 0 if qos == 0 else 100 + message if pid is None else pid
        self.add("recv", q=qos, pid=pid, topic=self.story.topics[message], m=message, **event)
        if acked and qos == 1:
            self.add("ack", pid=pid, k="puback")
        elif acked and qos == 2:
            self.add("ack", pid=pid, k="pubrec")
            self.rel(pid)

    def rel(self, pid):
        self.add("rel", pid=pid)
        self.add("ack", pid=pid, k="pubcomp")

    def ping(self, answered=True):
        self.add("ping")
        if answered:
            self.add("pong")

    def disconnect(self, code=0, closed=True, **event):
        self.add("disconnect", code=code, **event)
        if closed:
            self.close("broker")

    def close(self, by="client"):
        self.add("closed", by=by)
