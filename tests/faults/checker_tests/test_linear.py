"""The search for an order of writes and reads."""

import itertools
import random

import pytest

from checker.linear import Operation, explained


def write(begin, end, value):
    return Operation(begin, end, True, value)


def read(begin, end, value):
    return Operation(begin, end, False, value)


CASES = [
    ("nothing", [], True),
    ("a read of nothing at first", [read(0, 1, None)], True),
    ("a read of what was written", [write(0, 1, 1), read(2, 3, 1)], True),
    ("a read of what was written before the last", [write(0, 1, 1), write(2, 3, 2), read(4, 5, 1)], False),
    ("a read of nothing after a write", [write(0, 1, 1), read(2, 3, None)], False),
    ("a read beside a write may be before", [write(0, 1, 1), write(2, 5, 2), read(3, 4, 1)], True),
    ("or after it", [write(0, 1, 1), write(2, 5, 2), read(3, 4, 2)], True),
    ("but not first after, then before", [write(0, 1, 1), write(2, 9, 2), read(3, 4, 2), read(5, 6, 1)], False),
    ("a read from the future", [read(0, 1, 1), write(2, 3, 1)], False),
    ("a write of unknown fate that was read", [write(0, None, 1), read(5, 6, 1)], True),
    ("and is then the value", [write(0, None, 1), read(5, 6, 1), read(7, 8, None)], False),
    ("one that was not read", [write(0, None, 1), read(5, 6, None)], True),
    ("one that took effect late", [write(0, None, 1), write(1, 2, 2), read(3, 4, 2), read(5, 6, 1)], True),
    ("but only once", [write(0, None, 1), read(2, 3, 1), write(4, 5, 2), read(6, 7, 1)], False),
    ("a deletion", [write(0, 1, 1), write(2, 3, None), read(4, 5, None)], True),
    ("a deletion of unknown fate", [write(0, 1, 1), write(2, None, None), read(4, 5, None), read(6, 7, None)], True),
    ("that was undone", [write(0, 1, 1), write(2, None, None), read(4, 5, None), read(6, 7, 1)], False),
    ("one that need not have been", [read(0, 10, None), write(1, 2, 1), write(3, None, None), read(11, 12, 1)], True),
    ("a write sent twice may take effect twice", [write(0, 1, 1), write(0, None, 1), write(2, 3, 2), read(4, 5, 2), read(6, 7, 1)], True),
    ("but not three times", [write(0, 1, 1), write(0, None, 1), write(2, 3, 2), read(4, 5, 1), write(6, 7, 3), read(8, 9, 1)], False),
    ("two writes at a time in the order that reads want", [write(0, 9, 1), write(0, 9, 2), read(1, 2, 2), read(3, 4, 1)], True),
    ("and not in both", [write(0, 9, 1), write(0, 9, 2), read(1, 2, 2), read(3, 4, 1), read(5, 6, 2)], False),
    ("a long read sees a value that passed", [write(0, 1, 1), read(2, 9, 2), write(3, 4, 2), write(5, 6, 3), read(7, 8, 3)], True),
]


@pytest.mark.parametrize(("name", "operations", "answer"), CASES, ids=[name for name, _, _ in CASES])
def test_a_case(name, operations, answer):
    assert explained(operations)[0] is answer


def by_trying(operations):
    """The same by trying all orders."""
    sure = [operation for operation in operations if operation.end is not None]
    maybe = [operation for operation in operations if operation.end is None]
    for count in range(len(maybe) + 1):
        for chosen in itertools.combinations(maybe, count):
            for order in itertools.permutations(sure + list(chosen)):
                if _fits(order):
                    return True
    return False


def _fits(order):
    at, value = 0, None
    for operation in order:
        at = max(at, operation.begin)
        if operation.end is not None and at > operation.end:
            return False
        if operation.write:
            value = operation.value
        elif operation.value != value:
            return False
    return True


def test_small_histories_at_random_as_by_trying_all_orders():
    chance = random.Random(1)
    answers = {True: 0, False: 0}
    for _ in range(2500):
        operations = []
        for number in range(chance.randint(2, 5)):
            begin = chance.randrange(12)
            end = begin + chance.randrange(6)
            if chance.random() < 0.5:
                value = chance.choice([None, number, number, 0])
                operations.append(write(begin, None if chance.random() < 0.3 else end, value))
            else:
                operations.append(read(begin, end, chance.choice([None, *range(number + 1)])))
        answer = explained(operations)[0]
        assert answer is by_trying(operations), [(o.begin, o.end, o.write, o.value) for o in operations]
        answers[answer] += 1
    assert min(answers.values()) > 200


def test_too_many_orders_are_not_decided():
    operations = [write(0, 100, number) for number in range(13)] + [read(0, 200, number) for number in range(13)]
    assert explained(operations) is None
