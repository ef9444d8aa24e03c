"""How long requests took: a histogram of constant size and relative precision.

Owns buckets and percentiles. Sans-I/O. Each power of two of microseconds is divided into
`STEPS` buckets, so that a percentile is at most 1/STEPS too high: what a benchmark compares, which
the engines' own buckets, a quarter of an octave wide, would be too coarse for.
"""

from __future__ import annotations

from collections.abc import Iterator

STEPS = 32
_STEP_BITS = STEPS.bit_length() - 1


class Latencies:
    """Counts durations in seconds; exact are their number, sum, smallest and largest."""

    def __init__(self) -> None:
        self._buckets: dict[int, int] = {}
        self.count = 0
        self.sum_s = 0.0
        self.min_s = 0.0
        self.max_s = 0.0

    def add(self, seconds: float) -> None:
        index = _index(int(seconds * 1e6))
        self._buckets[index] = self._buckets.get(index, 0) + 1
        self.min_s = min(self.min_s, seconds) if self.count else seconds
        self.max_s = max(self.max_s, seconds)
        self.sum_s += seconds
        self.count += 1

    @property
    def mean_s(self) -> float:
        return self.sum_s / self.count if self.count else 0.0

    def percentile_s(self, percent: float) -> float:
        """The duration that so many percent do not exceed; 0 where there are none."""
        left = percent / 100 * self.count
        for index in sorted(self._buckets):
            left -= self._buckets[index]
            if left <= 0:
                return min(_end_us(index) / 1e6, self.max_s)
        return self.max_s

    def rows(self) -> Iterator[tuple[int, int, int]]:
        """(from, up to, count) for each power of two between the smallest and the largest, in
        microseconds; the first begins at 0."""
        counts: dict[int, int] = {}
        for index, count in self._buckets.items():
            octave = (_end_us(index) - 1).bit_length()
            counts[octave] = counts.get(octave, 0) + count
        for octave in range(min(counts, default=0), max(counts, default=-1) + 1):
            low_us = 1 << octave - 1 if octave else 0
            yield low_us, 1 << octave, counts.get(octave, 0)


def _index(value_us: int) -> int:
    """Buckets of 1 us up to STEPS, then STEPS for each power of two."""
    if value_us < STEPS:
        return value_us
    shift = value_us.bit_length() - 1 - _STEP_BITS
    return (shift << _STEP_BITS) + (value_us >> shift)


def _end_us(index: int) -> int:
    """The first value beyond the bucket."""
    if index < STEPS:
        return index + 1
    shift = (index >> _STEP_BITS) - 1
    return ((index & STEPS - 1 | STEPS) + 1) << shift
