"""Which clients there are, and what they do."""

from dataclasses import dataclass, field


@dataclass
class About:
    """One client."""

    id: str
    # A session that outlives its connections, for an hour.
    durable: bool = True
    level: int = 5
    # (topic, QoS, retained) to publish to; (filter, QoS) that it subscribes to: all of them, or, if it churns, some at a time.
    topics: list = field(default_factory=list)
    filters: list = field(default_factory=list)
    churns: bool = False
    # (topic, QoS, delay in seconds).
    will: tuple = None
    # How often it leaves, how often it does something, each as a factor.
    restless: float = 1.0
    pace: float = 5.0
    # The node that it stays with, by number; None: any.
    home: int = None
    # It is there to show that a node serves: pings often.
    sentinel: bool = False
    paho: bool = False


TOPICS = [f"t/{number}" for number in range(6)]
DELAY = 3


def durable(nodes, random, paho):
    """Sessions on all nodes, retained messages, wills: what a cluster promises."""
    return _clients(nodes, random, paho, pinned=False)


def live(nodes, random, paho):
    """The same, but each client stays with one node, and each retained topic is read where it is written: what nodes without replicated
    sessions offer, as long as none of them dies."""
    return _clients(nodes, random, paho, pinned=True)


def _clients(nodes, random, paho, pinned):
    found = []

    def add(name, **about):
        number = len(found)
        home = about.pop("home", number % nodes if pinned else None)
        level = about.pop("level", 4 if number % 4 == 3 else 5)
        found.append(About(name, level=level, home=home, paho=about.pop("paho", False) and paho, **about))

    for number in range(6):
        topics = random.sample(TOPICS, 2)
        will = (f"w/pub{number}", 1, DELAY if number % 3 == 1 else 0)
        mixed = [(topic, (1, 2, 1)[at], False) for topic in topics for at in (0, 1)]
        add(f"pub{number}", topics=mixed, will=will, paho=number % 3 == 2)
    for number in range(2):
        add(f"clean-pub{number}", durable=False, topics=[(topic, qos, False) for topic in TOPICS[:3] for qos in (0, 1, 2)], will=(f"w/clean{number}", 1, 0))
    add("sub-all", filters=[("t/+", 2)])
    add("sub-qos1", filters=[("t/+", 1)], restless=3)
    add("sub-paho", filters=[("t/+", 2)], paho=True)
    for number in range(3):
        add(f"sub{number}", filters=[(topic, number) for topic in random.sample(TOPICS, 3)], restless=2, will=(f"w/sub{number}", 2, DELAY))
    for number in range(2):
        add(f"churn{number}", filters=[(topic, 1 + number) for topic in TOPICS], churns=True, pace=8)
        add(f"clean-churn{number}", durable=False, filters=[(topic, 1) for topic in TOPICS], churns=True, restless=0.3, pace=8)
    for number in range(nodes):
        add(f"clean-sub{number}", durable=False, filters=[("t/+", 2)], restless=0, home=number if pinned else None)
    for number in range(2):
        add(f"watcher{number}", filters=[("w/+", 1 + number)], restless=0.5)
    for number in range(nodes):
        add(f"sentinel{number}", durable=False, home=number, restless=0, sentinel=True)
        # Retained topics, by the node that their writers stay with where they stay.
        add(f"writer{number}", topics=[(topic, 1, True) for topic in retained(number)], home=number if pinned else None, pace=1.5, restless=0.3)
    for number in range(2):
        home = number % nodes if pinned else None
        add(f"writer-too{number}", topics=[(topic, 1, True) for topic in retained(number)], home=home, pace=1, restless=0.3)
        # Exactly once, to a session that gets what is retained as it is published.
        add(f"writer-twice{number}", topics=[(topic, 2, True) for topic in retained(number)], home=home, pace=1.5, restless=2)
    add("sub-retained", filters=[("r/+/+", 2)], home=0 if pinned else None, restless=0.3)
    return found


def retained(number):
    return [f"r/{number}/{topic}" for topic in range(2)]


def reader(name, number, pinned):
    """A fresh subscription to what one writer retains: to a topic, or to all of them."""
    return About(name, durable=False, filters=[(f"r/{number}/+", 1)], restless=0, home=number if pinned else None)


WORKLOADS = {"durable": durable, "live": live}
