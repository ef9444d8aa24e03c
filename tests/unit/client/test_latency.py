"""The histogram of latencies against the plain list of what went into it."""

from __future__ import annotations

import math

from hypothesis import example, given
from hypothesis import strategies as st

from ggaoe.client import Latencies
from ggaoe.client.latency import STEPS

MICROSECONDS = st.lists(st.integers(0, 10**9), min_size=1, max_size=200)


def _of(values_us: list[int]) -> Latencies:
    latencies = Latencies()
    for value_us in values_us:
        # The middle of a microsecond, so that no rounding moves it.
        latencies.add((value_us + 0.5) / 1e6)
    return latencies


@given(MICROSECONDS, st.sampled_from([1.0, 50.0, 90.0, 99.0, 99.9, 100.0]))
@example([STEPS - 1, STEPS, 2 * STEPS - 1, 2 * STEPS], 50.0)
def test_percentiles_are_at_most_one_step_too_high(values_us: list[int], percent: float) -> None:
    exact_us = sorted(values_us)[math.ceil(percent / 100 * len(values_us) - 1e-9) - 1]
    found_us = _of(values_us).percentile_s(percent) * 1e6
    assert exact_us < found_us <= max(exact_us + 1, exact_us * (1 + 1 / STEPS) + 1)


@given(MICROSECONDS)
def test_rows_divide_all_of_them(values_us: list[int]) -> None:
    rows = list(_of(values_us).rows())
    assert [(low, high) for low, high, _ in rows[1:]] == [
        (before[1], 2 * before[1]) for before in rows[:-1]
    ]
    for low_us, high_us, count in rows:
        assert count == sum(low_us <= value_us < high_us for value_us in values_us)
    assert sum(count for _, _, count in rows) == len(values_us)


@given(MICROSECONDS)
def test_what_is_exact(values_us: list[int]) -> None:
    latencies = _of(values_us)
    assert latencies.count == len(values_us)
    assert math.isclose(latencies.min_s, (min(values_us) + 0.5) / 1e6)
    assert math.isclose(latencies.max_s, (max(values_us) + 0.5) / 1e6)
    assert math.isclose(latencies.mean_s, (sum(values_us) / len(values_us) + 0.5) / 1e6)


def test_of_nothing() -> None:
    latencies = Latencies()
    assert (latencies.mean_s, latencies.percentile_s(99), list(latencies.rows())) == (0.0, 0.0, [])
