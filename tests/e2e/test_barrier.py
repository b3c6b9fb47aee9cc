"""A SUBACK means that a publish on any serving node from then on is matched."""

import itertools
import random
import threading
import time

from harness import LONG, LocalCluster
from wire import Wire

ROUNDS = 100_000 if LONG else 10_000
PAIRS = 8
# However quick the rounds are: so many pauses, from a moment to longer than it takes to be declared down.
PAUSES = 8


def test_a_publish_right_after_the_suback_is_matched_while_a_node_is_paused_at_random():
    with LocalCluster() as cluster:
        cluster.start()
        one, two, third = cluster.nodes
        numbers = itertools.count()
        failures, done, paused = [], [], []
        stop = threading.Event()

        def pair(name):
            # Two connections that stay, a new filter each round; both directions.
            ends = [Wire(one.mqtt, f"{name}-a", timeout=30), Wire(two.mqtt, f"{name}-b", timeout=30)]
            try:
                while not failures and (next(numbers) < ROUNDS or len(paused) < PAUSES):
                    ends.reverse()
                    subscriber, publisher = ends
                    round_id = f"{name}-{len(done)}-{random.random()}"
                    topic = f"barrier/{round_id}"
                    wanted = topic if len(done) % 2 else f"barrier/{round_id}/#"
                    subscriber.subscribe(wanted)
                    publisher.publish(topic, b"x", qos=len(done) // 2 % 2)
                    got, _ = subscriber.message()
                    assert got == topic
                    subscriber.unsubscribe(wanted)
                    done.append(1)
            except Exception as error:  # noqa: BLE001: reported by the main thread
                failures.append(f"{name}: {error!r}")
            finally:
                for end in ends:
                    end.socket.close()

        def pauses():
            generator = random.Random(7)
            while not stop.wait(generator.uniform(0.2, 1.5)):
                third.pause()
                try:
                    stop.wait([0.05, 7, 0.3, 3, 1][len(paused) % 5])
                finally:
                    third.resume()
                paused.append(1)

        threads = [threading.Thread(target=pair, args=(f"p{n}",)) for n in range(PAIRS)]
        pauser = threading.Thread(target=pauses)
        started = time.monotonic()
        pauser.start()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stop.set()
        pauser.join()
        assert not failures, failures
        assert len(done) >= ROUNDS
        print(f"{len(done)} rounds and {len(paused)} pauses, none missed, {time.monotonic() - started:.0f} s")
        # The paused node serves again by itself.
        cluster.wait_ready(20)
