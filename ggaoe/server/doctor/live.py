"""What a running daemon says of itself, where that is not as it should be."""

from __future__ import annotations

from collections.abc import Iterator

from ggaoe import __version__
from ggaoe.server.confine import OFF
from ggaoe.server.doctor.base import Finding, Live, Severity, Situation
from ggaoe.units import counted

_SEVERITIES: dict[str, Severity] = {"waiting": "error", "conflict": "error", "stopped": "note"}
"""Of a device with a reason, by its state; of the other states it is a warning."""


def daemon(situation: Situation) -> Iterator[Finding]:
    live = situation.live
    if live is None:
        yield Finding("note", "ggaoe", f"was not asked: {situation.unreachable}")
        return
    found = [*_itself(live), *_devices(live), *_interfaces(live), *_drops(live)]
    yield from found
    if not found:
        about = live.daemon
        text = f"runs as process {about['pid']}, engine {about['engine']}, and serves everything"
        yield Finding("ok", "ggaoe", text)


def _itself(live: Live) -> Iterator[Finding]:
    about = live.daemon
    if about["version"] != __version__:
        text = f"version {about['version']} runs, {__version__} is installed"
        yield Finding("warning", "ggaoe", text, "restart it: hosts wait meanwhile")
    if live.changes is None:
        text = "would refuse a reload: see the findings about the configuration"
        yield Finding("warning", "ggaoe", text)
    elif live.changes:
        text = f"runs with another configuration: {'; '.join(live.changes)}"
        yield Finding("note", "ggaoe", text, "ggaoectl reload puts the file into force")
    if reason := about.get("metrics", {}).get("reason"):
        text = f"no metrics, no status page: {reason}"
        yield Finding("warning", "ggaoe", text, "mend that and restart: hosts wait meanwhile")
    for name in ("landlock", "seccomp"):
        reason = about.get(name, {}).get("reason")
        if reason and reason != OFF:
            yield Finding("warning", "ggaoe", f"no {name}: {reason}", "see confinement above")


def _devices(live: Live) -> Iterator[Finding]:
    for device in live.devices:
        name = device["name"]
        if device["reason"]:
            severity = _SEVERITIES.get(device["state"], "warning")
            yield Finding(severity, name, f"{device['state']}: {device['reason']}")
        elif not device["interfaces"]:
            remedy = "see the findings about interfaces"
            yield Finding("error", name, "is served on no interface", remedy)
        for warning in device["warnings"]:
            yield Finding("warning", name, warning)


def _interfaces(live: Live) -> Iterator[Finding]:
    for interface in live.listing["interfaces"]:
        if not interface["serving"]:
            yield Finding("warning", interface["name"], f"does not serve: {interface['reason']}")


def _drops(live: Live) -> Iterator[Finding]:
    for name, counters in live.stats["devices"].items():
        if lost := counters["drops"].get("mtu"):
            yield Finding(
                "warning",
                name,
                f"{counted(lost, 'request')} dropped for which a frame had room only before the "
                "MTU of an interface was lowered",
                "stop I/O before lowering an MTU; on a host that still asks for too much: "
                "aoe-revalidate",
            )
    for name, counters in live.stats["interfaces"].items():
        drops = counters["drops"]
        if lost := counters["dropped_by_kernel"]:
            yield Finding(
                "warning",
                name,
                f"{counted(lost, 'frame')} found no room since the counters began",
                "make ring-buffer-size larger (receive-buffer-size where rings are off)",
            )
        if others := drops.get("conflict"):
            yield Finding(
                "error",
                name,
                f"{counted(others, 'time')} another target answered for an address of ours",
                "find it: ggaoe discover on a host; the log has its MAC address",
            )
        if drops.get("vlan"):
            text = f"dropped for their VLAN tag: {counted(drops['vlan'], 'frame')}"
            yield Finding("note", name, text, "make a VLAN interface, and name it in interfaces")
