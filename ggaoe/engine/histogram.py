"""How durations and sizes of requests are spread: counts by bucket, which engines keep as plain
integers.

Owns the bounds of the buckets and what is read out of them. A latency bucket is a quarter of an
octave wide, so that whatever is read from one is right by a fifth; a size bucket is an octave.
Compiled twins are in engine/native/histogram.pxi.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

LATENCY_SHIFT_MIN = 10
"""The first bucket has all that took less than 1.25 times 2 ** 10 ns."""
LATENCY_SHIFT_MAX = 34
"""The last one has all that took 2 ** 34 ns, 17 s, or longer."""
LATENCY_BUCKETS = (LATENCY_SHIFT_MAX - LATENCY_SHIFT_MIN) * 4 + 1
SIZE_BUCKETS = 8
"""1, 2, 4, up to 128 sectors: no frame holds more."""


def latency_bucket(duration_ns: int) -> int:
    """The bucket of a duration."""
    if duration_ns < 1 << LATENCY_SHIFT_MIN:
        return 0
    shift = duration_ns.bit_length() - 3
    if shift + 2 >= LATENCY_SHIFT_MAX:
        return LATENCY_BUCKETS - 1
    return (shift + 2 - LATENCY_SHIFT_MIN) * 4 + (duration_ns >> shift & 3)


def latency_bound_ns(bucket: int) -> int:
    """What is in `bucket` took less than this; of the last bucket: at least."""
    if bucket == LATENCY_BUCKETS - 1:
        return 1 << LATENCY_SHIFT_MAX
    octave, quarter = divmod(bucket, 4)
    return (5 + quarter) << LATENCY_SHIFT_MIN - 2 + octave


def size_bucket(sectors: int) -> int:
    """The bucket of a request's size."""
    return min((max(sectors, 1) - 1).bit_length(), SIZE_BUCKETS - 1)


def size_bound_sectors(bucket: int) -> int:
    """What is in `bucket` has as many sectors or fewer."""
    return 1 << bucket


def latencies(counts: Sequence[int]) -> dict[str, int]:
    """{bound in ns: count} of the buckets that have something, for JSON."""
    return {str(latency_bound_ns(bucket)): n for bucket, n in enumerate(counts) if n}


def sizes(counts: Sequence[int]) -> dict[str, int]:
    """{bound in sectors: count} of the buckets that have something, for JSON."""
    return {str(size_bound_sectors(bucket)): n for bucket, n in enumerate(counts) if n}


def quantile(counts: Mapping[str, int], share: float) -> int | None:
    """The bound below which `share` of what was counted lies; None where nothing was."""
    wanted = share * sum(counts.values())
    below = 0
    for bound, n in sorted((int(bound), n) for bound, n in counts.items() if n):
        below += n
        if below >= wanted:
            return bound
    return None
