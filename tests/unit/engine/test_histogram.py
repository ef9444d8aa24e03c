"""Buckets of durations and sizes: bounds, twins, quantiles."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggaoe.engine import histogram
from ggaoe.engine.histogram import LATENCY_BUCKETS, SIZE_BUCKETS

DURATIONS_NS = st.one_of(
    st.integers(0, 1 << 40),
    st.builds(lambda shift, by: (1 << shift) + by, *[st.integers(2, 40)] * 2),
)


@given(DURATIONS_NS)
def test_duration_is_within_its_bounds(duration_ns: int) -> None:
    bucket = histogram.latency_bucket(duration_ns)
    if bucket < LATENCY_BUCKETS - 1:
        assert duration_ns < histogram.latency_bound_ns(bucket)
    if bucket:
        assert duration_ns >= histogram.latency_bound_ns(min(bucket, LATENCY_BUCKETS - 1) - 1)


def test_latency_bounds_rise_by_a_quarter_at_most() -> None:
    bounds = [histogram.latency_bound_ns(bucket) for bucket in range(LATENCY_BUCKETS - 1)]
    assert bounds[0] == 1280
    assert bounds[-1] == histogram.latency_bound_ns(LATENCY_BUCKETS - 1) == 1 << 34
    assert all(1 < after / before <= 1.25 for before, after in pairwise(bounds))


@pytest.mark.parametrize(
    ("sectors", "bucket"), [(0, 0), (1, 0), (2, 1), (3, 2), (4, 2), (17, 5), (127, 7), (65535, 7)]
)
def test_sizes(sectors: int, bucket: int) -> None:
    assert histogram.size_bucket(sectors) == bucket
    assert sectors <= histogram.size_bound_sectors(bucket) or bucket == SIZE_BUCKETS - 1


@given(DURATIONS_NS, st.integers(0, 1 << 16))
def test_twins(duration_ns: int, sectors: int) -> None:
    core = pytest.importorskip("ggaoe.engine.native.core", exc_type=ImportError)
    assert core.latency_bucket_of(duration_ns) == histogram.latency_bucket(duration_ns)
    assert core.size_bucket_of(sectors) == histogram.size_bucket(sectors)


def test_quantiles() -> None:
    counts = [0] * LATENCY_BUCKETS
    for duration_ns, n in ((2_000, 90), (50_000, 9), (1_000_000, 1)):
        counts[histogram.latency_bucket(duration_ns)] += n
    found = histogram.latencies(counts)
    assert sum(found.values()) == 100
    for share, duration_ns in ((0.5, 2_000), (0.9, 2_000), (0.99, 50_000), (0.999, 1_000_000)):
        bound_ns = histogram.quantile(found, share)
        assert bound_ns is not None
        assert duration_ns < bound_ns <= 1.25 * duration_ns
    assert histogram.quantile({}, 0.5) is None
