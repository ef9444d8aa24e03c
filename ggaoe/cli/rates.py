"""What happened per second between two results of `stats`: the numbers of `ggaoectl monitor` and
`ggaoectl top`.

Pure: numbers in, numbers out. Must not know how they were fetched or are shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Counters = Mapping[str, Any]


def rates(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """{"interval_s", "monotonic_s", "devices": {name: {…}}, "interfaces": {name: {…}},
    "initiators": {device: {MAC: {…}}}}.

    `_per_s` and `_iops` are rates, `_mean` and `_latency_us` averages over the interval, `_p50_us`
    and `_p99_us` quantiles, None where nothing happened; `in_flight` and `waiting` are as of now.
    A counter that was cleared, or whose owner is new, starts at zero.
    """
    interval_s = after["monotonic_s"] - before["monotonic_s"]
    return {
        "interval_s": interval_s,
        "monotonic_s": after["monotonic_s"],
        "devices": {
            name: _device(_Growth(before["devices"].get(name, {}), counters, interval_s))
            for name, counters in after["devices"].items()
        },
        "interfaces": {
            name: _interface(_Growth(before["interfaces"].get(name, {}), counters, interval_s))
            for name, counters in after["interfaces"].items()
        },
        "initiators": {
            name: {
                mac: _initiator(
                    _Growth(
                        before.get("initiators", {}).get(name, {}).get(mac, {}),
                        counters,
                        interval_s,
                    ),
                    after["monotonic_s"],
                )
                for mac, counters in hosts.items()
            }
            for name, hosts in after.get("initiators", {}).items()
        },
    }


class _Growth:
    """How far the counters of one owner grew within `interval_s`."""

    def __init__(self, before: Counters, after: Counters, interval_s: float) -> None:
        self._before = before
        self._after = after
        self._interval_s = interval_s

    def of(self, *keys: str) -> int:
        return sum(_growth(self._before.get(key, 0), self._after.get(key, 0)) for key in keys)

    def per_s(self, *keys: str) -> float:
        return self._rate(self.of(*keys))

    def drops_per_s(self) -> float:
        old, new = self._before.get("drops", {}), self._after.get("drops", {})
        return self._rate(sum(_growth(old.get(reason, 0), new[reason]) for reason in new))

    def mean(self, total: str, count_of: str, scale: float = 1.0) -> float | None:
        count = self.of(count_of)
        return self.of(total) / count * scale if count else None

    def quantile_us(self, histogram: str, share: float) -> float | None:
        """Of a histogram of latencies; right by a fifth."""
        from ggaoe.engine.histogram import quantile  # late: ggaoectl has to start fast

        old, new = self._before.get(histogram, {}), self._after.get(histogram, {})
        bound_ns = quantile({bound: _growth(old.get(bound, 0), new[bound]) for bound in new}, share)
        return None if bound_ns is None else bound_ns / 1000

    def now(self, key: str) -> Any:
        return self._after.get(key, 0)

    def _rate(self, growth: int) -> float:
        return growth / self._interval_s if self._interval_s > 0 else 0.0


def _growth(old: int, new: int) -> int:
    return new - old if new >= old else new


def _device(growth: _Growth) -> dict[str, float | None]:
    return {
        "read_iops": growth.per_s("read_requests"),
        "read_bytes_per_s": growth.per_s("read_bytes"),
        "read_latency_us": growth.mean("read_ns", "read_requests", 1e-3),
        "read_p50_us": growth.quantile_us("read_latency", 0.5),
        "read_p99_us": growth.quantile_us("read_latency", 0.99),
        "write_iops": growth.per_s("write_requests"),
        "write_bytes_per_s": growth.per_s("write_bytes"),
        "write_latency_us": growth.mean("write_ns", "write_requests", 1e-3),
        "write_p50_us": growth.quantile_us("write_latency", 0.5),
        "write_p99_us": growth.quantile_us("write_latency", 0.99),
        "other_iops": growth.per_s("verify_requests", "flush_requests", "other_requests"),
        "merged_per_s": growth.per_s("merged_requests"),
        "queue_depth_mean": growth.mean("in_flight_sum", "batches"),
        "in_flight": growth.now("in_flight"),
        "waiting": growth.now("waiting"),
        "waits_per_s": growth.per_s("waits"),
        "throttled_per_s": growth.per_s("throttled"),
        "overlaps_per_s": growth.per_s("overlaps"),
        "absorbed_per_s": growth.per_s("absorbed"),
        "commits_per_s": growth.per_s("commits"),
        "errors_per_s": growth.per_s("ata_errors", "aoe_errors"),
        "drops_per_s": growth.drops_per_s(),
    }


def _interface(growth: _Growth) -> dict[str, float | None]:
    return {
        "rx_frames_per_s": growth.per_s("rx_frames"),
        "rx_bytes_per_s": growth.per_s("rx_bytes"),
        "rx_batch_mean": growth.mean("rx_frames", "rx_batches"),
        "tx_frames_per_s": growth.per_s("tx_frames"),
        "tx_bytes_per_s": growth.per_s("tx_bytes"),
        "tx_batch_mean": growth.mean("tx_frames", "tx_batches"),
        "tx_held_per_s": growth.per_s("tx_held"),
        "dropped_by_kernel_per_s": growth.per_s("dropped_by_kernel"),
        "drops_per_s": growth.drops_per_s(),
    }


def _initiator(growth: _Growth, now_s: float) -> dict[str, Any]:
    return {
        "interface": growth.now("interface"),
        "silent_s": max(0.0, now_s - growth.now("last_seen_s")),
        "read_iops": growth.per_s("read_requests"),
        "read_bytes_per_s": growth.per_s("read_bytes"),
        "write_iops": growth.per_s("write_requests"),
        "write_bytes_per_s": growth.per_s("write_bytes"),
        "other_iops": growth.per_s("other_requests"),
        "in_flight": growth.now("in_flight"),
        "waits_per_s": growth.per_s("waits"),
        "throttled_per_s": growth.per_s("throttled"),
        "absorbed_per_s": growth.per_s("absorbed"),
        "errors_per_s": growth.per_s("errors"),
        "drops_per_s": growth.drops_per_s(),
    }
