"""Whatever hosts send and the medium does, the queue's effects are those of order of arrival."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from unit.sched.world import Choose, World

STEPS = 300


def reading(tape: bytes) -> Choose:
    """Decisions from `tape`; where it has ended, the plainest one."""
    rest = iter(tape)
    return lambda count: next(rest, count - 1) % count


@settings(max_examples=250, derandomize=True)
@given(st.binary(min_size=20, max_size=700), st.integers(1, 60))
def test_short_lives(tape: bytes, steps: int) -> None:
    """Short ones, which Hypothesis can shrink."""
    world = World(reading(tape))
    try:
        for _ in range(steps):
            world.step()
        world.finish_all()
    finally:
        note("\n".join(world.log))


@pytest.mark.parametrize("seed", range(60))
def test_long_lives(seed: int) -> None:
    """Long ones, in which queues fill."""
    print("seed", seed)
    world = World(random.Random(seed).randrange)
    try:
        for _ in range(STEPS):
            world.step()
        world.finish_all()
    finally:
        print("\n".join(world.log[-60:]))
