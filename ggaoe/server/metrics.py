"""The daemon's counters as Prometheus reads them, by prometheus-client.

Owns the names, units and labels of all metrics, which are an interface: dashboards and alerts of
others refer to them. Nothing is counted here: a look at the engine's counters is taken whenever
somebody asks, a device at a time, so that nothing else waits for all of them.

A host has series at a device that it has read, written or had an error from. Others have not: each
host that looks for disks is seen by every device, and would have a dozen series at each.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
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
from ggaoe.proto.target import DropReason
from ggaoe.server.condition import condition_of
from ggaoe.server.export import Export, State
from ggaoe.units import format_mac, printable

if TYPE_CHECKING:
    from ggaoe.engine.counters import DeviceCounters, Failures, InitiatorCounters
    from ggaoe.server.app import Daemon

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
HOSTS_AT_ONCE = 32
"""Their series are written in two milliseconds or so."""

_BUCKETS_AN_OCTAVE = 4
_NS = 1e-9

_LATENCY_BOUNDS = [
    (f"{latency_bound_ns(bucket) * _NS:.10g}", bucket)
    for bucket in range(_BUCKETS_AN_OCTAVE - 1, LATENCY_BUCKETS - 1, _BUCKETS_AN_OCTAVE)
]
"""The last bucket of each octave; the very last one of all has no end."""
_SIZE_BOUNDS = [
    (str(size_bound_sectors(bucket) * SECTOR_BYTES), bucket) for bucket in range(SIZE_BUCKETS)
]

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
_DEVICE_GAUGES = (
    ("size_bytes", "What hosts see of it; absent until it has been opened."),
    ("interfaces", "Interfaces that serve it."),
    ("queue_length", "Most requests in flight."),
    ("in_flight", "Requests in flight."),
    ("waiting", "Requests that wait behind a full queue."),
)
_DEVICE_DROPS = tuple(reason.value for reason in DropReason)
"""Each is there from the start, with 0: an increase of what appears only with 1 is never seen."""
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
    """All metrics in the text format 0.0.4, written a piece at a time: the event loop goes round
    between them."""
    texts: dict[bytes, list[bytes]] = {}
    for families in _pieces(daemon):
        for family in families:
            about, kind, samples = generate_latest(_Taken(family)).split(b"\n", 2)
            texts.setdefault(about, [about, b"\n", kind, b"\n"]).append(samples)
        await asyncio.sleep(0)
    return b"".join(chain.from_iterable(texts.values()))


class _Taken(Collector):
    """One family."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterable[Metric]:
        return (self._family,)


def _pieces(daemon: Daemon) -> Iterator[Iterable[Metric]]:
    """Every metric, with what it is when it is asked for; of each metric samples are in any number
    of pieces."""
    yield _of_daemon(daemon)
    yield _interfaces(daemon)
    for name, export in list(daemon.exports.items()):
        yield _of_device(name, export, condition_of(daemon.interfaces, export).state)
        users = ((mac, one) for mac, one in export.device.initiators.items() if _is_user(one))
        while hosts := list(islice(users, HOSTS_AT_ONCE)):
            yield _initiators(name, hosts)


def _of_daemon(daemon: Daemon) -> Iterator[Metric]:
    build = GaugeMetricFamily(
        "ggaoe_build_info", "What runs; always 1.", labels=["version", "engine"]
    )
    build.add_metric([__version__, daemon.engine.name], 1)
    yield build
    yield GaugeMetricFamily(
        "ggaoe_start_time_seconds",
        "When the daemon was started, since 1970.",
        round(daemon.started_at_s, 3),
    )


def _of_device(name: str, export: Export, state_now: State) -> Iterator[Metric]:
    config, device = export.config, export.device
    info = GaugeMetricFamily(
        "ggaoe_device_info",
        "What a device is; always 1.",
        labels=["device", "address", "path", "read_only"],
    )
    path = printable(str(config.path)) if config.path else f"UUID={config.uuid}"
    info.add_metric([name, config.address, path, str(config.read_only).lower()], 1)
    yield info
    state = GaugeMetricFamily(
        "ggaoe_device_state", "1 for the state that a device is in.", labels=["device", "state"]
    )
    for one in State:
        state.add_metric([name, one.value], state_now is one)
    yield state
    size_sectors = device.target.size_sectors
    values: dict[str, int | None] = {
        "size_bytes": None if size_sectors is None else size_sectors * SECTOR_BYTES,
        "interfaces": len(device.ports),
        "queue_length": config.queue_length,
        "in_flight": device.in_flight,
        "waiting": device.waiting,
    }
    for key, doc in _DEVICE_GAUGES:
        gauge = GaugeMetricFamily(f"ggaoe_device_{key}", doc, labels=["device"])
        value = values[key]
        if value is not None:
            gauge.add_metric([name], value)
        yield gauge
    counters = device.counters
    yield from _failures(name, device.failures)
    yield from _operations(name, counters)
    yield from _histograms(name, counters)


def _failures(name: str, failures: Failures) -> Iterator[Metric]:
    count = CounterMetricFamily(
        "ggaoe_device_backend_errors",
        "Requests and flushes that the file or disk has failed since it was opened.",
        labels=["device"],
    )
    count.add_metric([name], failures.count)
    age = GaugeMetricFamily(
        "ggaoe_device_backend_error_age_seconds",
        "Time since the last one; missing where there is none.",
        labels=["device"],
    )
    if failures.last is not None:
        age.add_metric([name], failures.age_s)
    yield from (count, age)


def _operations(name: str, counters: DeviceCounters) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "ggaoe_device_requests", "Requests that were served.", labels=["device", "operation"]
    )
    for operation in _DEVICE_OPERATIONS:
        requests.add_metric([name, operation], getattr(counters, f"{operation}_requests"))
    moved = CounterMetricFamily(
        "ggaoe_device_bytes", "Data that was read or written.", labels=["device", "operation"]
    )
    moved.add_metric([name, "read"], counters.read_bytes)
    moved.add_metric([name, "write"], counters.write_bytes)
    errors = CounterMetricFamily(
        "ggaoe_device_errors",
        "Requests that were answered with an error of ATA (the store's, mostly) or of AoE.",
        labels=["device", "kind"],
    )
    errors.add_metric([name, "ata"], counters.ata_errors)
    errors.add_metric([name, "aoe"], counters.aoe_errors)
    drops = CounterMetricFamily(
        "ggaoe_device_drops", "Requests without an answer, by reason.", labels=["device", "reason"]
    )
    _add_reasons(drops, [name], {**dict.fromkeys(_DEVICE_DROPS, 0), **counters.drops})
    yield from (requests, moved, errors, drops)
    for key, called, doc in _DEVICE:
        family = CounterMetricFamily(f"ggaoe_device_{called}", doc, labels=["device"])
        family.add_metric([name], getattr(counters, key))
        yield family


def _histograms(name: str, counters: DeviceCounters) -> Iterator[Metric]:
    latency = HistogramMetricFamily(
        "ggaoe_device_latency_seconds",
        "From the arrival of a request to its reply.",
        labels=["device", "operation"],
    )
    for operation in ("read", "write", "flush"):
        counts = getattr(counters, f"{operation}_latency")
        total_s = getattr(counters, f"{operation}_ns") * _NS
        latency.add_metric([name, operation], _cumulated(counts, _LATENCY_BOUNDS), total_s)
    yield latency
    size = HistogramMetricFamily(
        "ggaoe_device_request_size_bytes", "Data of a request.", labels=["device", "operation"]
    )
    for operation in ("read", "write"):
        counts = getattr(counters, f"{operation}_sectors")
        total_bytes = getattr(counters, f"{operation}_bytes")
        size.add_metric([name, operation], _cumulated(counts, _SIZE_BOUNDS), total_bytes)
    yield size


def _cumulated(counts: Sequence[int], bounds: Iterable[tuple[str, int]]) -> list[tuple[str, float]]:
    """(bound, how many were not above it), and all of them at the end; `bounds` are with the last
    bucket that each includes."""
    found: list[tuple[str, float]] = []
    below = start = 0
    for bound, bucket in bounds:
        below += sum(counts[start : bucket + 1])
        start = bucket + 1
        found.append((bound, below))
    return [*found, ("+Inf", below + sum(counts[start:]))]


def _interfaces(daemon: Daemon) -> Iterator[Metric]:
    ports = {printable(port.name): port for port in daemon.engine.ports.values()}
    info = GaugeMetricFamily(
        "ggaoe_interface_info", "An interface that serves; always 1.", labels=["interface", "mac"]
    )
    mtu = GaugeMetricFamily(
        "ggaoe_interface_mtu_bytes", "Longest frame, less its header.", labels=["interface"]
    )
    serving = GaugeMetricFamily(
        "ggaoe_interface_serving",
        "Whether an interface serves that a device wants: 0 where its link is down, it does not "
        "exist or cannot be opened.",
        labels=["interface"],
    )
    refused = GaugeMetricFamily(
        "ggaoe_interface_refused",
        "1 for each interface that should serve and does not exist or cannot be opened.",
        labels=["interface"],
    )
    for name, port in ports.items():
        info.add_metric([name, format_mac(port.link.mac)], 1)
        mtu.add_metric([name], port.path.mtu_bytes)
    failed = {*daemon.interfaces.refused, *daemon.interfaces.missing()}
    for name in sorted(map(printable, failed)):
        refused.add_metric([name], 1)
    wanted = {interface.name for interface in daemon.interfaces.wanted()}
    for name in sorted({*map(printable, wanted | failed), *ports}):
        serving.add_metric([name], name in ports)
    yield from (info, mtu, serving, refused)
    counters = {name: port.link.refresh() for name, port in ports.items()}
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


def _is_user(counters: InitiatorCounters) -> bool:
    return counters.read_requests + counters.write_requests + counters.errors > 0


def _initiators(device: str, hosts: Sequence[tuple[bytes, InitiatorCounters]]) -> Iterator[Metric]:
    own = ["device", "initiator"]
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
    seen = [([device, format_mac(mac)], counters) for mac, counters in hosts]
    for labels, counters in seen:
        info.add_metric([*labels, printable(counters.interface)], 1)
        last.add_metric(labels, round(epoch_s + counters.last_seen_s, 3))
        in_flight.add_metric(labels, counters.in_flight)
        for operation in _INITIATOR_OPERATIONS:
            requests.add_metric([*labels, operation], getattr(counters, f"{operation}_requests"))
        moved.add_metric([*labels, "read"], counters.read_bytes)
        moved.add_metric([*labels, "write"], counters.write_bytes)
        _add_reasons(drops, labels, {key: n for key, n in counters.drops.items() if n})
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
        family.add_metric([*labels, reason], count)
