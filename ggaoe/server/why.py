"""Why a host sees a device, or does not: every check between its cable and the disk, in the order
in which they decide, each with what it finds and, where that is wrong, with what to do.

Owns the checks and their words. What may be done is decided in `proto`, and only asked of it here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from ggaoe.config import DeviceConfig
from ggaoe.engine.base import Device, Port, sectors_of
from ggaoe.engine.counters import InitiatorCounters
from ggaoe.engine.limit import SOURCE_RATE_PER_S
from ggaoe.engine.sightings import Fate, Sighting
from ggaoe.net.link import Interface
from ggaoe.proto import ata
from ggaoe.proto.frame import ATA_HEADER_BYTES, ETHERNET_BYTES, SECTOR_BYTES, Command
from ggaoe.proto.operation import Operation
from ggaoe.proto.rules import Rules
from ggaoe.proto.target import DropReason, Refusal
from ggaoe.server.export import limits_of
from ggaoe.server.inquiry import Inquiry, Strayed
from ggaoe.server.interfaces import FormerAddress
from ggaoe.units import ago, counted, format_mac, format_size

LISTS = ("accept", "deny", *Operation)
"""In the order in which they decide; the first two are about everything."""
ADDRESS_LEARNED_S = 30.0
"""So long after its change, every host knows an interface's address or has given it up."""
MEMBERS_SHOWN_MAX = 16
"""Of a list, in the command that would lengthen it."""
_CONFLICT_REMEDY = "stop the other target, or give one of the two another shelf or slot"


class Verdict(StrEnum):
    """The values are part of the control protocol."""

    OK = "ok"
    NOT_OK = "not ok"
    UNKNOWN = "unknown"
    """Nothing has come of the host that would tell."""


class Check(NamedTuple):
    """What one check finds, and what to do where that is wrong, or cannot be known."""

    check: str
    verdict: Verdict
    text: str
    remedy: str | None = None


@dataclass(frozen=True)
class Subject:
    """A device that `inquiry` is about; `device` is None where it is stopped."""

    inquiry: Inquiry
    config: DeviceConfig
    state: str
    reason: str | None
    device: Device | None
    wanted: list[Interface]
    """The interfaces on which it is to be served."""
    unserved: dict[str, str]
    """Why such an interface does not serve, by name."""
    conflicts: Mapping[bytes, float]
    """MAC addresses of other targets with its address, and the seconds since each was heard."""
    former_addresses: dict[bytes, FormerAddress]
    """Addresses that interfaces had before theirs changed."""

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def ports(self) -> list[Port]:
        ports = self.device.ports if self.device is not None else ()
        return sorted(ports, key=lambda port: port.name)

    @property
    def names(self) -> str:
        """Of the interfaces that serve it."""
        return ", ".join(port.name for port in self.ports)

    @property
    def frames(self) -> list[Sighting]:
        """The last ones of the host that have come to the device, oldest first."""
        return self.device.last_frames(self.inquiry.mac) if self.device is not None else []

    @property
    def heard(self) -> list[tuple[float, str]]:
        """When the host was heard last on each interface that serves the device, in that order."""
        heard_s = self.inquiry.heard_s
        return sorted(
            (heard_s[port.name], port.name) for port in self.ports if port.name in heard_s
        )

    def last_stray(self, *reasons: str) -> Strayed | None:
        """The host's last frame that has come to no device for one of `reasons`, by an interface
        that serves this one and has had no later frame of that host."""
        found = [
            strayed
            for strayed in self.inquiry.strays
            if strayed.port in self.ports
            and strayed.stray.reason in reasons
            and strayed.stray.time_s >= self.inquiry.heard_s[strayed.port.name]
        ]
        return found[-1] if found else None

    @property
    def initiator(self) -> InitiatorCounters | None:
        """What the device has counted of the host."""
        if self.device is None:
            return None
        return dict(self.device.initiators.items()).get(self.inquiry.mac)


def checks(subject: Subject) -> list[Check]:
    """All of them, in order."""
    return [check(subject) for check in _CHECKS]


# --- the way to the device ----------------------------------------------------------------------


def _interface(one: Subject) -> Check:
    name = "interface"
    if one.device is None:
        return Check(name, Verdict.UNKNOWN, "no interface serves a device that is stopped")
    if not one.ports:
        return _unserved(one)
    inquiry = one.inquiry
    if one.heard:
        time_s, where = one.heard[-1]
        text = f"heard {inquiry.ago(time_s)} on {where}; served on {one.names}"
        return Check(name, Verdict.OK, text)
    if inquiry.heard_s:
        elsewhere = ", ".join(sorted(inquiry.heard_s))
        return Check(
            name,
            Verdict.NOT_OK,
            f"heard on {elsewhere}, where the device is not served; it is on {one.names}",
            f"add {elsewhere} to interfaces of {one.name}, or connect the host to {one.names}",
        )
    others = [f"{count} on {where}" for where, count in inquiry.others.items()]
    return Check(
        name,
        Verdict.UNKNOWN,
        f"never heard on {one.names}; other hosts: {', '.join(others) or 'none, either'}",
        f"on the host: is {format_mac(inquiry.mac)} the address that it sends from, is its "
        "interface up and not left out of aoe_iflist; then aoe-discover; between the two: cable, "
        f"switch, and whether both are in one VLAN; here: is {one.names} the right interface",
    )


def _unserved(one: Subject) -> Check:
    reasons = [f"{name}: {reason}" for name, reason in one.unserved.items()]
    patterns = ", ".join(one.config.interfaces)
    if not reasons:
        reasons = [f"there is none that is called {patterns}" if patterns else "there is none"]
    down = next((found.name for found in one.wanted if not found.is_up), None)
    if one.state == "conflict":
        remedy = _CONFLICT_REMEDY
    elif down is not None:
        remedy = f"ip link set {down} up, and look at its cable"
    else:
        remedy = f"correct interfaces of {one.name}: ggaoectl list shows what there is"
    text = f"no interface serves the device: {'; '.join(reasons)}"
    return Check("interface", Verdict.NOT_OK, text, remedy)


def _mtu(one: Subject) -> Check:
    name = "MTU"
    offers = [
        f"{port.name} has {port.path.mtu_bytes}, and announces "
        f"{counted(sectors_of(port), 'sector')} a frame"
        for port in one.ports
    ]
    if not offers:
        return Check(name, Verdict.UNKNOWN, "no interface serves the device")
    text = "; ".join(offers)
    cut = one.last_stray("truncated")
    if cut is not None:
        port, stray = cut
        mtu_bytes = stray.length_bytes - ETHERNET_BYTES
        return Check(
            name,
            Verdict.NOT_OK,
            f"a frame of {stray.length_bytes} bytes was longer than {port.name} takes; {text}",
            f"ip link set {port.name} mtu {mtu_bytes}, or the MTU of {port.name} for the host",
        )
    refused = _too_large(one.frames)
    if refused is not None:
        sectors = refused.head[26]
        if refused.cause in (Refusal.MTU.value, DropReason.MTU.value):
            return _lowered_mtu(one, refused, text)
        return Check(
            name,
            Verdict.NOT_OK,
            f"it has asked for {counted(sectors, 'sector')} in one frame on {refused.interface}; "
            f"{text}",
            f"ip link set {refused.interface} mtu {sectors * SECTOR_BYTES + ATA_HEADER_BYTES} or "
            f"more, on the way to the host, too; or there: aoe-revalidate {one.config.address}",
        )
    if not one.frames:
        return Check(name, Verdict.UNKNOWN, f"{text}; nothing has come of the host")
    longest = max(seen.length_bytes for seen in one.frames)
    return Check(name, Verdict.OK, f"{text}; its last frames had up to {longest} bytes")


def _lowered_mtu(one: Subject, refused: Sighting, text: str) -> Check:
    """A read was under way when the MTU was lowered, and no reply can carry it any more."""
    sectors = refused.head[26]
    fate = "rejected" if refused.fate is Fate.REFUSED else "dropped, and rejected if it comes again"
    return Check(
        "MTU",
        Verdict.NOT_OK,
        f"a read of {counted(sectors, 'sector')} was under way when the MTU of {refused.interface} "
        f"was lowered, and no frame has room for it: {fate}; {text}",
        "stop I/O before lowering an MTU; if it was not meant: ip link set "
        f"{refused.interface} mtu {sectors * SECTOR_BYTES + ATA_HEADER_BYTES} or more",
    )


def _too_large(frames: list[Sighting]) -> Sighting | None:
    """The last read for which a frame has no room, unless one that fits was answered since."""
    for seen in reversed(frames):
        is_ata = len(seen.head) >= ATA_HEADER_BYTES and seen.head[19] == Command.ATA
        if seen.cause in _TOO_LARGE and is_ata:
            return seen
        is_read = is_ata and ata.OP_OF_OPCODE.get(seen.head[27]) is ata.Op.READ
        if is_read and seen.fate is Fate.ANSWERED:
            return None
    return None


_TOO_LARGE = (Refusal.SECTOR_COUNT.value, Refusal.MTU.value, DropReason.MTU.value)


def _vlan(one: Subject) -> Check:
    name = "VLAN"
    numbers = {found.name: found.vlan_id for found in one.wanted}
    kinds = []
    for port in one.ports:
        number = numbers.get(port.name)
        kinds.append(f"{port.name} is {'untagged' if number is None else f'VLAN {number}'}")
    if not kinds:
        return Check(name, Verdict.UNKNOWN, "no interface serves the device")
    text = "; ".join(kinds)
    tagged = one.last_stray("vlan")
    if tagged is not None:
        port, stray = tagged
        parent = port.name
        return Check(
            name,
            Verdict.NOT_OK,
            f"its frame of {one.inquiry.ago(stray.time_s)} on {parent} had the tag of a VLAN that "
            f"has no interface here; {text}",
            f"let host or switch send untagged frames to {parent}; or find the number N with "
            f"tcpdump -eni {parent} vlan, then ip link add link {parent} name {parent}.N type vlan "
            f"id N, and {parent}.N in interfaces of {one.name}",
        )
    if one.heard:
        return Check(name, Verdict.OK, text)
    return Check(name, Verdict.UNKNOWN, f"{text}; nothing has come of the host")


def _address(one: Subject) -> Check:
    name, address = "address", one.config.address
    if one.conflicts:
        heard = [f"{format_mac(mac)} {ago(age_s)}" for mac, age_s in sorted(one.conflicts.items())]
        return Check(
            name,
            Verdict.NOT_OK,
            f"other targets have replied for {address}: {', '.join(heard)}",
            "unless both are the same storage, give one of them another shelf or slot",
        )
    moved = _moved(one)
    if moved is not None and not moved[1]:
        remedy = f"if it still does in half a minute, on the host: aoe-revalidate {address}"
        return Check(name, Verdict.NOT_OK, moved[0], remedy)
    if one.frames:
        text = f"it has asked for {address}, or for all"
        return Check(name, Verdict.OK, f"{text}; {moved[0]}" if moved is not None else text)
    foreign = one.last_stray("foreign_host")
    if foreign is not None:
        port, stray = foreign
        return Check(
            name,
            Verdict.NOT_OK,
            f"its last frame on {port.name} was for {format_mac(stray.head[:6])}, and "
            f"{port.name} has {format_mac(port.path.mac)}",
            "on the host: aoe-discover, so that it learns who serves what",
        )
    lost = one.last_stray("address")
    if lost is not None:
        port, stray = lost
        shelf, slot = int.from_bytes(stray.head[16:18], "big"), stray.head[18]
        return Check(
            name,
            Verdict.NOT_OK,
            f"it has asked for e{shelf}.{slot} on {port.name}, which nothing has there; "
            f"this is {address}",
            f"on the host: use {address}; or here: "
            f"ggaoectl set {one.name} shelf={shelf} slot={slot} --persist",
        )
    return Check(name, Verdict.UNKNOWN, f"it has not asked for {address}")


def _moved(one: Subject) -> tuple[str, bool] | None:
    """What the last change of an interface's address means for the host, and whether the host has
    used the new address since; None where it is long ago."""
    ports = {port.name: port for port in one.ports}
    for mac, former in reversed(one.former_addresses.items()):
        port = ports.get(former.interface)
        if port is None or one.inquiry.now_s - former.changed_s > ADDRESS_LEARNED_S:
            continue
        text = (
            f"the address of {port.name} changed from {format_mac(mac)} to "
            f"{format_mac(port.path.mac)} {one.inquiry.ago(former.changed_s)}; Linux resends to "
            "the old one for about 11 s"
        )
        stray = one.last_stray("foreign_host")
        sends_to_old = stray is not None and stray.stray.head[:6] == mac
        heard_s = one.inquiry.heard_s.get(port.name)
        return text, not sends_to_old and (heard_s is None or heard_s > former.changed_s)
    return None


# --- who may --------------------------------------------------------------------------------------


def _lists(one: Subject) -> Check:
    """Each by itself, where a host would only be told of the first one that refuses."""
    name, mac = "access lists", one.inquiry.mac
    refusing: list[str] = []
    passed: list[str] = []
    for option in LISTS:
        rules: Rules = getattr(one.config, option)
        reason = rules.reason(mac)
        if not rules.permits(mac):
            refusing.append(option)
        elif reason is not None:
            passed.append(f"{option}: {reason}")
    if not refusing:
        decided = f" ({'; '.join(passed)})" if passed else ""
        return Check(name, Verdict.OK, f"nothing is refused{decided}")
    reasons = [f"{option}: {getattr(one.config, option).reason(mac)}" for option in refusing]
    what = "everything, by " if refusing[0] in LISTS[:2] else ""
    text = f"it is refused {what}{'; '.join(reasons)}"
    return Check(name, Verdict.NOT_OK, text, _permitting(one, refusing[0]))


def _permitting(one: Subject, option: str) -> str:
    """How to have a host permitted by a list that refuses it."""
    rules: Rules = getattr(one.config, option)
    rule = rules.deciding(one.inquiry.mac)
    if rule is not None:
        return (
            f"if it may: take {rule.text} out of {option} of {one.name}, or the host out of that "
            "list, in the configuration; then ggaoectl reload"
        )
    if len(rules.rules) >= MEMBERS_SHOWN_MAX:
        mac = format_mac(one.inquiry.mac)
        return f"if it may: add {mac} to {option} of {one.name} in the configuration; then reload"
    members = ", ".join([*(known.text for known in rules.rules), format_mac(one.inquiry.mac)])
    return f"if it may: ggaoectl set {one.name} '{option}={members}' --persist"


def _mask(one: Subject) -> Check:
    name = "mask list"
    if one.device is None:
        return Check(name, Verdict.UNKNOWN, "not known of a device that is stopped")
    mask = one.device.target.state.mask
    if not mask:
        return Check(name, Verdict.OK, "hosts have set none")
    if one.inquiry.mac in mask:
        return Check(name, Verdict.OK, "it is in it")
    return Check(
        name,
        Verdict.NOT_OK,
        f"hosts have restricted it to {', '.join(map(format_mac, mask))}",
        f"on one of those: ggaoe mask add {one.config.address} {format_mac(one.inquiry.mac)}; "
        f"or here, for everybody: ggaoectl clear-macmask {one.name}",
    )


def _reservation(one: Subject) -> Check:
    name = "reservation"
    if one.device is None:
        return Check(name, Verdict.UNKNOWN, "not known of a device that is stopped")
    reserved = one.device.target.state.reserved
    if not reserved:
        return Check(name, Verdict.OK, "there is none")
    if not one.device.target.is_locked_out(one.inquiry.mac):
        return Check(name, Verdict.OK, "it holds it")
    return Check(
        name,
        Verdict.NOT_OK,
        f"held by {', '.join(map(format_mac, reserved))}: others may not read or write",
        f"on that host, if it is done: ggaoe release {one.config.address}; "
        f"or here: ggaoectl clear-reserve {one.name}",
    )


# --- the device ---------------------------------------------------------------------------------


def _device(one: Subject) -> Check:
    name = "device"
    if one.device is None:
        text = f"stopped: {one.reason}"
        return Check(name, Verdict.NOT_OK, text, f"ggaoectl start {one.name}")
    size_sectors = one.device.target.size_sectors
    if one.state == "conflict":
        return Check(name, Verdict.NOT_OK, f"{one.state}: {one.reason}", _CONFLICT_REMEDY)
    if one.state != "serving" or size_sectors is None:
        remedy = "once that is put right it is served within half a minute, or: ggaoectl reload"
        return Check(name, Verdict.NOT_OK, f"{one.state}: {one.reason}", remedy)
    mode = ", read-only" if one.config.read_only else ""
    text = f"serving {format_size(size_sectors * SECTOR_BYTES)}{mode}"
    if one.reason is not None:
        text += f"; {one.reason}"
    last = one.frames[-1] if one.frames else None
    if last is None or last.fate is not Fate.REFUSED:
        if not _only_asks(one.frames):
            return Check(name, Verdict.OK, text)
        text += "; it has asked for devices several times, and not identified or used this one"
        remedy = (
            f"if aoe-stat on the host says down,closewait: aoe-revalidate {one.config.address}, "
            "because the driver does not ask again by itself for a disk that is open"
        )
        return Check(name, Verdict.UNKNOWN, text, remedy)
    if last.cause == Refusal.READ_ONLY.value:
        remedy = f"mount it read-only, or: ggaoectl set {one.name} read-only=false --persist"
        return Check(name, Verdict.NOT_OK, f"{text}: it has tried to write", remedy)
    if last.cause == Refusal.BEYOND_END.value:
        remedy = f"on the host: aoe-revalidate {one.config.address}"
        text += ": it has asked for more, and may know another size"
        return Check(name, Verdict.NOT_OK, text, remedy)
    if last == one.device.last_io(one.inquiry.mac):
        remedy = f"look at {one.config.path or one.config.uuid}, and at ggaoectl events"
        return Check(name, Verdict.NOT_OK, f"{text}, but it has failed: {last.cause}", remedy)
    return Check(name, Verdict.OK, text)


def _only_asks(frames: list[Sighting]) -> bool:
    """Whether a host asks for devices again and again, and does nothing else. Linux identifies each
    that replies, unless it has it open."""
    times = sum(seen.times for seen in frames if seen.fate is Fate.ANSWERED)
    return times > 1 and all(seen.head[19] == Command.CONFIG for seen in frames)


def _limits(one: Subject) -> Check:
    name = "limits"
    initiator = one.initiator
    drops = initiator.drops if initiator is not None else {}
    if lost := drops.get(DropReason.RATE_LIMITED.value):
        return Check(
            name,
            Verdict.NOT_OK,
            f"{lost} of its frames got no answer since counting began: more than "
            f"{SOURCE_RATE_PER_S} a second that neither read nor write",
            "find out what on the host asks so often",
        )
    if lost := drops.get(DropReason.QUEUE_FULL.value):
        return Check(
            name,
            Verdict.NOT_OK,
            f"{lost} of its requests have found no room since counting began",
            f"let it have no more under way than the {one.config.queue_length} of queue-length",
        )
    limits = [
        f"{option.replace('_', '-')} {limit.per_s}/s"
        for option, limit in limits_of(one.config)._asdict().items()
        if limit.per_s
    ]
    if not limits:
        return Check(name, Verdict.OK, "none is set")
    delayed = initiator.throttled if initiator is not None else 0
    return Check(name, Verdict.OK, f"{', '.join(limits)}: {delayed} of its requests were delayed")


_CHECKS: tuple[Callable[[Subject], Check], ...] = (
    _interface,
    _mtu,
    _vlan,
    _address,
    _lists,
    _mask,
    _reservation,
    _device,
    _limits,
)
