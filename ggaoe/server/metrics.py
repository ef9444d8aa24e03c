"""The daemon's counters as Prometheus reads them, by prometheus-client.

Owns the names, units and labels of all metrics, which are an interface: dashboards and alerts of
others refer to them. Nothing is counted here: a look at the engine's counters is taken whenever
somebody asks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from prometheus_client import generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from ggaoe import __version__
from ggaoe.engine.histogram import (
    LATENCY_BUCKETS,
    SIZE_BUCKETS,
    latency_bound_ns,
    size_bound_sectors,
)
from ggaoe.proto.frame import SECTOR_BYTES
from ggaoe.server.export import State
from ggaoe.units import format_mac, printable

if TYPE_CHECKING:
    from ggaoe.server.app import Daemon

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_BUCKETS_AN_OCTAVE = 4
_NS = 1e-9

_LATENCY_BUCKETS = range(_BUCKETS_AN_OCTAVE - 1, LATENCY_BUCKETS - 1, _BUCKETS_AN_OCTAVE)
"""The last bucket of each octave; the very last one of all has no end."""

_DEVICE = (
    ("merged_requests", "merged_requests", "Requests that shared a transfer with a neighbour."),
    ("vectors", "vectors", "Transfers that were handed to the store."),
    ("batches", "batches", "Submissions of one or more transfers."),
    (
        "in_flight_sum",
        "submit_depth",
        "Requests in flight, summed over submissions; over batches, the mean depth.",
    ),
    ("waits", "waits", "Requests that found the queue full."),
    ("throttled", "throttled", "Requests that could have started earlier but for a limit."),
    ("overlaps", "overlaps", "Requests that waited for an older one on the same sectors."),
    ("absorbed", "absorbed", "Repetitions of requests that were still being served."),
    ("commits", "commits", "Flushes that made writes durable."),
    ("retries", "retries", "Transfers that failed or fell short and were continued in parts."),
)
_DEVICE_OPERATIONS = ("read", "write", "verify", "flush", "other")
_INTERFACE = (
    ("rx_frames", "received_frames", "Frames received."),
    ("rx_bytes", "received_bytes", "Bytes received, with Ethernet headers."),
    ("rx_batches", "received_batches", "Times that one or more frames were collected."),
    ("tx_frames", "sent_frames", "Frames sent."),
    ("tx_bytes", "sent_bytes", "Bytes sent, with Ethernet headers."),
    ("tx_batches", "sent_batches", "Times that one or more frames were sent."),
    ("tx_held", "send_queue_full", "Times that the transmit queue was full."),
    ("dropped_by_kernel", "lost_frames", "Frames for which the receive buffer had no room."),
)
_INITIATOR = (
    ("errors", "Requests of the host that were answered with an error."),
    ("absorbed", "Repetitions of requests that were still being served."),
    ("waits", "Requests that found the host's part of the queue full."),
    ("throttled", "Requests that could have started earlier but for a limit."),
)
_INITIATOR_OPERATIONS = ("read", "write", "other")


async def text(daemon: Daemon) -> bytes:
    """All metrics in the text format 0.0.4. The look is taken at once; to write it down takes
    longer, and is done in a thread, so that nothing waits for it."""
    taken = _Taken(list(families(daemon)))
    if daemon.confinement is None:  # a thread that exists already would not be confined
        return generate_latest(taken)
    return await asyncio.to_thread(generate_latest, taken)


class _Taken(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def families(daemon: Daemon) -> Iterator[Metric]:
    """Every metric, with what it is now."""
    yield from _of_daemon(daemon)
    yield from _states(daemon)
    yield from _operations(daemon)
    yield from _device_counters(daemon)
    yield from _histograms(daemon)
    yield from _interfaces(daemon)
    yield from _initiators(daemon)


def _of_daemon(daemon: Daemon) -> Iterator[Metric]:
    build = GaugeMetricFamily(
        "ggaoe_build_info", "What runs; always 1.", labels=["version", "engine"]
    )
    build.add_metric([__version__, daemon.engine.name], 1)
    yield build
    started_s = time.time() - (time.monotonic() - daemon.started_s)
    yield GaugeMetricFamily(
        "ggaoe_start_time_seconds", "When the daemon was started, since 1970.", round(started_s, 3)
    )


def _states(daemon: Daemon) -> Iterator[Metric]:
    info = GaugeMetricFamily(
        "ggaoe_device_info",
        "What a device is; always 1.",
        labels=["device", "address", "path", "read_only"],
    )
    state = GaugeMetricFamily(
        "ggaoe_device_state", "1 for the state that a device is in.", labels=["device", "state"]
    )
    gauges = {
        name: GaugeMetricFamily(f"ggaoe_device_{name}", doc, labels=["device"])
        for name, doc in (
            ("size_bytes", "What hosts see of it; absent until it has been opened."),
            ("interfaces", "Interfaces that serve it."),
            ("queue_length", "Most requests in flight."),
            ("in_flight", "Requests in flight."),
            ("waiting", "Requests that wait behind a full queue."),
        )
    }
    for name, export in daemon.exports.items():
        config, device = export.config, export.device
        path = printable(str(config.path)) if config.path else f"UUID={config.uuid}"
        info.add_metric([name, config.address, path, str(config.read_only).lower()], 1)
        for one in State:
            state.add_metric([name, one.value], export.state is one)
        size_sectors = device.target.size_sectors
        values: dict[str, int | None] = {
            "size_bytes": None if size_sectors is None else size_sectors * SECTOR_BYTES,
            "interfaces": len(device.ports),
            "queue_length": config.queue_length,
            "in_flight": device.in_flight,
            "waiting": device.waiting,
        }
        for key, value in values.items():
            if value is not None:
                gauges[key].add_metric([name], value)
    yield info
    yield state
    yield from gauges.values()


def _operations(daemon: Daemon) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "ggaoe_device_requests", "Requests that were served.", labels=["device", "operation"]
    )
    moved = CounterMetricFamily(
        "ggaoe_device_bytes", "Data that was read or written.", labels=["device", "operation"]
    )
    errors = CounterMetricFamily(
        "ggaoe_device_errors",
        "Requests that were answered with an error of ATA (the store's, mostly) or of AoE.",
        labels=["device", "kind"],
    )
    drops = CounterMetricFamily(
        "ggaoe_device_drops", "Requests without an answer, by reason.", labels=["device", "reason"]
    )
    for name, export in daemon.exports.items():
        counters = export.device.counters
        for operation in _DEVICE_OPERATIONS:
            requests.add_metric([name, operation], getattr(counters, f"{operation}_requests"))
        moved.add_metric([name, "read"], counters.read_bytes)
        moved.add_metric([name, "write"], counters.write_bytes)
        errors.add_metric([name, "ata"], counters.ata_errors)
        errors.add_metric([name, "aoe"], counters.aoe_errors)
        _add_reasons(drops, [name], counters.drops)
    yield from (requests, moved, errors, drops)


def _device_counters(daemon: Daemon) -> Iterator[Metric]:
    for key, called, doc in _DEVICE:
        family = CounterMetricFamily(f"ggaoe_device_{called}", doc, labels=["device"])
        for name, export in daemon.exports.items():
            family.add_metric([name], getattr(export.device.counters, key))
        yield family


def _histograms(daemon: Daemon) -> Iterator[Metric]:
    latency = HistogramMetricFamily(
        "ggaoe_device_latency_seconds",
        "From the arrival of a request to its reply.",
        labels=["device", "operation"],
    )
    size = HistogramMetricFamily(
        "ggaoe_device_request_size_bytes", "Data of a request.", labels=["device", "operation"]
    )
    for name, export in daemon.exports.items():
        counters = export.device.counters
        for operation in ("read", "write", "flush"):
            counts = getattr(counters, f"{operation}_latency")
            bounds = [(latency_bound_ns(bucket) * _NS, bucket) for bucket in _LATENCY_BUCKETS]
            total_s = getattr(counters, f"{operation}_ns") * _NS
            latency.add_metric([name, operation], _cumulated(counts, bounds), total_s)
        for operation in ("read", "write"):
            counts = getattr(counters, f"{operation}_sectors")
            bounds = [
                (float(size_bound_sectors(bucket) * SECTOR_BYTES), bucket)
                for bucket in range(SIZE_BUCKETS)
            ]
            total_bytes = getattr(counters, f"{operation}_bytes")
            size.add_metric([name, operation], _cumulated(counts, bounds), total_bytes)
    yield from (latency, size)


def _cumulated(
    counts: Sequence[int], bounds: Iterable[tuple[float, int]]
) -> list[tuple[str, float]]:
    """(bound, how many were not above it), and all of them at the end; `bounds` are with the last
    bucket that each includes."""
    found: list[tuple[str, float]] = []
    below = start = 0
    for bound, bucket in bounds:
        below += sum(counts[start : bucket + 1])
        start = bucket + 1
        found.append((f"{bound:.10g}", below))
    return [*found, ("+Inf", below + sum(counts[start:]))]


def _interfaces(daemon: Daemon) -> Iterator[Metric]:
    ports = {printable(port.name): port for port in daemon.engine.ports.values()}
    info = GaugeMetricFamily(
        "ggaoe_interface_info", "An interface that serves; always 1.", labels=["interface", "mac"]
    )
    mtu = GaugeMetricFamily(
        "ggaoe_interface_mtu_bytes", "Longest frame, less its header.", labels=["interface"]
    )
    refused = GaugeMetricFamily(
        "ggaoe_interface_refused",
        "1 for each interface that should serve and cannot.",
        labels=["interface"],
    )
    counters = {name: port.link.refresh() for name, port in ports.items()}
    for name, port in ports.items():
        info.add_metric([name, format_mac(port.link.mac)], 1)
        mtu.add_metric([name], port.path.mtu_bytes)
    for name in {*daemon.interfaces.refused, *daemon.interfaces.missing()}:
        refused.add_metric([printable(name)], 1)
    yield from (info, mtu, refused)
    for key, called, doc in _INTERFACE:
        family = CounterMetricFamily(f"ggaoe_interface_{called}", doc, labels=["interface"])
        for name, found in counters.items():
            family.add_metric([name], getattr(found, key))
        yield family
    drops = CounterMetricFamily(
        "ggaoe_interface_drops", "Frames without an answer.", labels=["interface", "reason"]
    )
    for name, found in counters.items():
        _add_reasons(drops, [name], found.drops)
    yield drops


def _initiators(daemon: Daemon) -> Iterator[Metric]:
    own = ["device", "initiator"]
    seen = [
        ([name, format_mac(mac)], counters)
        for name, export in daemon.exports.items()
        for mac, counters in export.device.initiators.items()
    ]
    info = GaugeMetricFamily(
        "ggaoe_initiator_info", "Where a host was seen last; always 1.", labels=[*own, "interface"]
    )
    last = GaugeMetricFamily(
        "ggaoe_initiator_last_seen_seconds", "When a host was seen last, since 1970.", labels=own
    )
    in_flight = GaugeMetricFamily(
        "ggaoe_initiator_in_flight", "Requests of a host in flight.", labels=own
    )
    requests = CounterMetricFamily(
        "ggaoe_initiator_requests", "Requests that were served.", labels=[*own, "operation"]
    )
    moved = CounterMetricFamily(
        "ggaoe_initiator_bytes", "Data that was read or written.", labels=[*own, "operation"]
    )
    drops = CounterMetricFamily(
        "ggaoe_initiator_drops", "Requests without an answer.", labels=[*own, "reason"]
    )
    epoch_s = time.time() - time.monotonic()
    for labels, counters in seen:
        info.add_metric([*labels, printable(counters.interface)], 1)
        last.add_metric(labels, round(epoch_s + counters.last_seen_s, 3))
        in_flight.add_metric(labels, counters.in_flight)
        for operation in _INITIATOR_OPERATIONS:
            requests.add_metric([*labels, operation], getattr(counters, f"{operation}_requests"))
        moved.add_metric([*labels, "read"], counters.read_bytes)
        moved.add_metric([*labels, "write"], counters.write_bytes)
        _add_reasons(drops, labels, counters.drops)
    yield from (info, last, in_flight, requests, moved, drops)
    for key, doc in _INITIATOR:
        family = CounterMetricFamily(f"ggaoe_initiator_{key}", doc, labels=own)
        for labels, counters in seen:
            family.add_metric(labels, getattr(counters, key))
        yield family


def _add_reasons(
    family: CounterMetricFamily, labels: Sequence[str], drops: Mapping[str, int]
) -> None:
    for reason, count in drops.items():
        if count:
            family.add_metric([*labels, reason], count)
