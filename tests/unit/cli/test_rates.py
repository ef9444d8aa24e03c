"""What counters become between two looks at them."""

from __future__ import annotations

from typing import Any

from ggaoe.cli.rates import rates


def snapshot(monotonic_s: float, **devices: dict[str, Any]) -> dict[str, Any]:
    return {"monotonic_s": monotonic_s, "devices": devices, "interfaces": {}}


def test_rates_and_means() -> None:
    before = snapshot(10.0, disk={"write_requests": 10, "write_ns": 0, "drops": {"mask": 1}})
    after = snapshot(
        14.0,
        disk={
            "write_requests": 30,
            "write_ns": 20 * 70_000,
            "batches": 5,
            "in_flight_sum": 20,
            "ata_errors": 1,
            "aoe_errors": 3,
            "throttled": 8,
            "drops": {"mask": 3, "length": 2},
        },
    )
    found = rates(before, after)
    disk = found["devices"]["disk"]
    assert (found["interval_s"], found["monotonic_s"]) == (4.0, 14.0)
    assert (disk["write_iops"], disk["errors_per_s"], disk["drops_per_s"]) == (5.0, 1.0, 1.0)
    assert disk["throttled_per_s"] == 2
    assert round(disk["write_latency_us"], 6) == 70
    assert disk["queue_depth_mean"] == 4
    assert (disk["read_iops"], disk["read_latency_us"]) == (0, None)


def test_quantiles_are_of_the_interval() -> None:
    before = snapshot(1.0, disk={"read_latency": {"1000": 50, "8000": 1}})
    after = snapshot(2.0, disk={"read_latency": {"1000": 50, "4000": 90, "8000": 11}})
    disk = rates(before, after)["devices"]["disk"]
    assert (disk["read_p50_us"], disk["read_p99_us"]) == (4.0, 8.0)
    assert (disk["write_p50_us"], disk["write_p99_us"]) == (None, None)


def test_cleared_counters_and_new_devices_start_at_zero() -> None:
    before = snapshot(1.0, disk={"read_requests": 100}, gone={"read_requests": 1})
    after = snapshot(2.0, disk={"read_requests": 40}, new={"read_requests": 7})
    found = rates(before, after)["devices"]
    assert {name: rate["read_iops"] for name, rate in found.items()} == {"disk": 40, "new": 7}


def test_no_time_between_is_no_rate() -> None:
    found = rates(snapshot(1.0, disk={}), snapshot(1.0, disk={"read_requests": 5}))
    assert found["devices"]["disk"]["read_iops"] == 0
