"""The order of a batch: no layer is decoded by two plans at a time, and nobody waits for ever."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from ocifast.batch.schedule import Schedule


def test_plans_that_share_a_layer_wait_for_the_first_one() -> None:
    schedule = Schedule([("base", "a"), ("base", "b"), ("other", "c"), ()])
    # The one without layers stands first, then those of one base beside each other.
    assert [schedule.next(), schedule.next(), schedule.next(), schedule.next()] == [3, 0, 2, None]
    schedule.end(2, decoded=True)
    assert schedule.next() is None
    schedule.end(0, decoded=True)
    assert schedule.next() == 1
    assert len(schedule) == 0


def test_a_plan_that_failed_leaves_its_layers_to_the_next() -> None:
    schedule = Schedule([("base",), ("base",), ("base",)])
    assert (schedule.next(), schedule.next()) == (0, None)
    schedule.end(0, decoded=False)
    assert (schedule.next(), schedule.next()) == (1, None)
    schedule.end(1, decoded=True)
    assert schedule.next() == 2


def test_numbers_are_the_callers() -> None:
    schedule = Schedule([("b",), ("a",)], [7, 9])
    assert (schedule.next(), schedule.next(), schedule.next()) == (9, 7, None)


@pytest.mark.parametrize("seed", range(20))
def test_random_batches_against_a_model(seed: int) -> None:
    """Whatever ends when, and well or not: each plan once, and a layer by one plan at a time until it is decoded."""
    choose = random.Random(seed)
    names = [f"layer{number}" for number in range(12)]
    layers = [tuple(choose.sample(names, choose.randint(0, 5))) for _ in range(60)]
    schedule = Schedule(layers)
    running: list[int] = []
    decoded: set[str] = set()
    begun: Counter[int] = Counter()
    while len(schedule) or running:
        while len(running) < 4 and (index := schedule.next()) is not None:
            missing = set(layers[index]) - decoded
            assert all(missing.isdisjoint(set(layers[other]) - decoded) for other in running)
            running.append(index)
            begun[index] += 1
        assert running, "nothing runs, and something waits"
        index = running.pop(choose.randrange(len(running)))
        well = choose.random() < 0.8
        if well:
            decoded |= set(layers[index])
        schedule.end(index, decoded=well)
    assert begun == Counter(range(60))
