"""Lives of the target, each from one seed, on both engines.

`GGAOE_SIM_SEEDS=FIRST:END` plays others; `python -m sim.run` in `tests` plays many.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ggaoe.testing.engine import ENGINES_ON_MEMORY
from sim.world import live

SEEDS_PER_TEST = 50
EVENTS = (
    *("stall", "stale", "flap", "reopen", "retune", "limits", "heal"),
    *("clock-set", "change", "kill", "power-cut", "mtu"),
)
REGRESSIONS = Path(__file__).with_name("regressions.txt")
"""Seeds that have found something, one to a line, each with what it was. A seed means the same life
only as long as nobody changes what is drawn in it."""


def batches() -> list[range]:
    first, end = map(int, os.environ.get("GGAOE_SIM_SEEDS", "0:1500").split(":"))
    return [range(at, min(at + SEEDS_PER_TEST, end)) for at in range(first, end, SEEDS_PER_TEST)]


def play(seed: int, engine: str) -> None:
    try:
        live(seed, engine)
    except BaseException as error:
        error.add_note(f"seed {seed} on the {engine} engine")
        raise


@pytest.mark.parametrize("engine", ENGINES_ON_MEMORY)
@pytest.mark.parametrize("seeds", batches(), ids=lambda seeds: f"{seeds.start}-{seeds.stop - 1}")
def test_no_promise_is_broken(seeds: range, engine: str) -> None:
    for seed in seeds:
        play(seed, engine)


@pytest.mark.parametrize("engine", ENGINES_ON_MEMORY)
@pytest.mark.parametrize(
    "seed", [int(line.split()[0]) for line in REGRESSIONS.read_text().splitlines()]
)
def test_what_was_mended_stays_mended(seed: int, engine: str) -> None:
    play(seed, engine)


@pytest.mark.parametrize("engine", ENGINES_ON_MEMORY)
@pytest.mark.parametrize("seed", range(10))
def test_a_seed_decides_everything(seed: int, engine: str) -> None:
    assert live(seed, engine) == live(seed, engine)


def test_the_worlds_are_varied() -> None:
    """Nothing is proved by lives in which nothing happens."""
    reports = [live(seed, "portable") for seed in range(150)]
    events = sum((report.events for report in reports), reports[0].events.__class__())
    for event in EVENTS:
        assert events[event] >= 5, (event, events)
    assert sum(report.reads_checked for report in reports) > 1000
