"""Results for people: aligned columns, IEC units, and colour where a terminal wants it.

Owns the text of every result of the control socket. Must not know how it was fetched; what a
result holds is as the daemon sent it, and nothing of it reaches the terminal unescaped.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TextIO

from ggaoe.units import counted, format_size, printable

Result = Mapping[str, Any]
View = Callable[[Result, bool], list[str]]
"""From a result, and whether to colour, to lines."""
Cell = str | int | None
_OPERATIONS = ("discover", "read", "write", "change")
Column = tuple[Any, ...]
"""Head, function from values to a Cell, and the counters that are its values."""

_BOLD, _YELLOW, _PLAIN = "\x1b[1m", "\x1b[33m", "\x1b[0m"
_CLEAR = "\x1b[H\x1b[J"
_ALARMS = frozenset({"warning", "error", "critical"})
_ALERTS = frozenset({"waiting", "draining", "stopped", "down", "not ok"})


def is_screen(stream: TextIO) -> bool:
    """Whether a terminal that understands control sequences shows `stream`."""
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def wants_colour(stream: TextIO) -> bool:
    """Whether to colour what is written to `stream`: no-color.org."""
    return is_screen(stream) and not os.environ.get("NO_COLOR")


def table(heads: Sequence[str], rows: Iterable[Sequence[Cell]], colour: bool) -> list[str]:
    """Aligned columns below their heads; columns whose head starts with `>` stand to the
    right; None is shown as `-`."""
    cells = [["-" if cell is None else printable(str(cell)) for cell in row] for row in rows]
    titles = [head.removeprefix(">") for head in heads]
    widths = [max(map(width, column)) for column in zip(titles, *cells, strict=True)]
    lines = []
    for number, row in enumerate([titles, *cells]):
        padded = []
        for cell, columns, head in zip(row, widths, heads, strict=True):
            space = " " * (columns - width(cell))
            padded.append(space + cell if head.startswith(">") else cell + space)
        if colour:
            padded = [
                f"{_YELLOW}{text}{_PLAIN}" if text.strip() in _ALERTS else text for text in padded
            ]
        line = "  ".join(padded).rstrip()
        lines.append(f"{_BOLD}{line}{_PLAIN}" if colour and number == 0 else line)
    return lines


def width(text: str) -> int:
    """How many columns of a terminal `text` takes, which is printable."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width  # late: hardly ever needed

    return sum(
        0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in text
    )


def config_string(hexadecimal: str) -> str:
    """A config string as text: ASCII as it is, any other byte as `\\xNN`."""
    return "".join(
        "\\\\" if byte == 0x5C else chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}"
        for byte in bytes.fromhex(hexadecimal)
    )


def version(result: Result, colour: bool) -> list[str]:
    return _pairs(_version_facts(result))


def _version_facts(result: Result) -> list[tuple[str, Cell]]:
    return [
        ("version", f"{result['name']} {result['version']}"),
        ("protocol", result["protocol"]),
        ("engine", result["engine"]),
        ("process", result["pid"]),
        ("uptime", _age(result["uptime_s"])),
        ("configuration", result["config"]),
    ]


def reload(result: Result, colour: bool) -> list[str]:
    changes = [printable(change) for change in result["changes"]]
    if not changes:
        return ["no changes"]
    return changes if result["applied"] else [*changes, "nothing of this was applied"]


def changed(result: Result, colour: bool) -> list[str]:
    """What a verb has changed, or would, and which files have it now."""
    lines = [printable(change) for change in result["changes"]]
    for what in ("started", "stopped", "already"):
        if names := result.get(what):
            lines.append(f"{what}: {printable(', '.join(names))}")
    lines += [f"written to {printable(file)}" for file in result.get("files", ())]
    if not lines:
        return ["no changes"]
    if not result["applied"]:
        return [*lines, "nothing of this was applied"]
    if not result.get("saved", True):
        lines.append("not saved: the next reload takes it back (--persist saves it)")
    return lines


def events(result: Result | Sequence[Result], colour: bool) -> list[str]:
    """A line each, as the log has it, with the kind of event in front."""
    found = result["events"] if isinstance(result, Mapping) else result
    return [_event(event, colour) for event in found]


def _event(event: Result, colour: bool) -> str:
    if event["event"] == "lost":
        return f"(not shown: {counted(event['count'], 'event')}, which came too fast)"
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event["time_s"]))
    line = f"{stamp}  {printable(event['event']):18}  {printable(event['text'])}"
    return f"{_YELLOW}{line}{_PLAIN}" if colour and event["level"] in _ALARMS else line


def listing(result: Result, colour: bool) -> list[str]:
    unsaved = result.get("unsaved", ())
    changed = frozenset(result.get("unsaved_devices", ()))
    devices = table(
        ["DEVICE", "ADDRESS", "STATE", ">SIZE", "MODE", "INTERFACES", "PATH", "REASON"],
        [
            (
                device["name"] + ("*" if device["name"] in changed else ""),
                device["address"],
                device["state"],
                _size(device["size_bytes"]),
                _mode(device),
                _joined(device["interfaces"]),
                _path(device),
                device["reason"],
            )
            for device in result["devices"]
        ],
        colour,
    )
    interfaces = table(
        ["INTERFACE", "MAC", "LINK", "SERVES", ">MTU", ">SECTORS", "REASON"],
        [
            (
                interface["name"],
                interface["mac"],
                "up" if interface["is_up"] else "down",
                "yes" if interface["serving"] else "no",
                interface["mtu_bytes"],
                interface["sectors"],
                interface["reason"],
            )
            for interface in result["interfaces"]
        ],
        colour,
    )
    notes = [f"  {printable(change)}" for change in unsaved]
    head = ["* not in the configuration file, a reload takes it back:"] if notes else []
    hint = [] if result["devices"] else ["no device: add one to the file, or with ggaoectl add"]
    return _sections([devices, interfaces, hint, head + notes])


def show(result: Result, colour: bool) -> list[str]:
    sections = []
    if "daemon" in result:
        sections.append(_daemon(result["daemon"]))
    for device in result["devices"]:
        name = printable(device["name"])
        initiators = [((mac,), counters) for mac, counters in device["initiators"].items()]
        hosts = _counters(["INITIATOR"], _INITIATOR_STATS, initiators, colour)
        details = [*_facts(device), *named_counters(device["counters"]), *hosts]
        head = f"{_BOLD}{name}{_PLAIN}" if colour else name
        sections.append([head, *(f"  {line}" for line in details)])
    return _sections(sections)


def _daemon(daemon: Result) -> list[str]:
    landlock, seccomp = daemon["landlock"], daemon["seccomp"]
    on = {
        "landlock": f"ABI {landlock['abi']}, {counted(landlock['rules'], 'rule')}",
        "seccomp": counted(seccomp["calls"], "system call"),
    }
    if metrics := daemon.get("metrics"):
        on["metrics"] = metrics["place"]
    return _pairs(
        [
            *_version_facts(daemon),
            ("user", daemon["user"]),
            *(
                ("capability", f"{name}: {reason}")
                for name, reason in daemon["capabilities"].items()
            ),
            ("no new privileges", "yes" if daemon["no_new_privileges"] else "no"),
            *((name, daemon[name]["reason"] or text) for name, text in on.items()),
        ]
    )


def why(result: Result, colour: bool) -> list[str]:
    """The host as such, and a section for each device; an older daemon knows only operations."""
    host = printable(result["host"])
    sections = [_host(host, result)] if "heard" in result else []
    for device in result["devices"]:
        reason = f": {device['reason']}" if device["reason"] else ""
        seen = device["last_seen"]
        about = f"{device['name']} ({device['address']}, {device['state']}{reason})"
        last = f"seen {_age(seen['age_s'])} ago on {seen['interface']}" if seen else "never seen"
        head = printable(f"{host} at {about}, {last}")
        checks = device.get("checks", ())
        rows = [(one["check"], one["verdict"], one["text"]) for one in checks]
        remedies = [f"{one['check']}: {one['remedy']}" for one in checks if one["remedy"]]
        may = [
            (name, "yes" if found["permitted"] else "no", _because(found["checks"]))
            for name, found in device["operations"].items()
        ]
        sections += [
            [
                f"{_BOLD}{head}{_PLAIN}" if colour else head,
                *_last_frames(device.get("frames", ()), colour),
            ],
            table(["CHECK", "FOUND", "WHAT"], rows, colour) if rows else [],
            [printable(f"to do, {remedy}") for remedy in remedies],
            table(["OPERATION", "MAY", "BECAUSE"], may, colour),
        ]
    return _sections(sections)


def _host(host: str, result: Result) -> list[str]:
    """Where it is heard, and what it has sent that is for no device here."""
    served = _joined(result["interfaces"]) or "none"
    others = [f"{count} on {name}" for name, count in result["others"].items()]
    heard = [f"{_age(at['age_s'])} ago on {at['interface']}" for at in result["heard"]]
    said = f"heard {_joined(heard)}" if heard else "never heard"
    line = f"{said}; interfaces: {served}; other hosts: {_joined(others) or 'none'}"
    frames = _last_frames(result["frames"], False)
    return [
        printable(f"{host} {line}"),
        *(["its last frames for no device here:"] if frames else ()),
        *frames,
    ]


def _last_frames(frames: Sequence[Result], colour: bool) -> list[str]:
    rows = [
        (
            f"{frame['age_s']:.1f}",
            frame["interface"],
            frame["length_bytes"],
            frame["to"],
            frame["asks"],
            f"{frame['fate']}: {frame['cause']}" if frame["cause"] else frame["fate"],
            frame["times"],
        )
        for frame in frames
    ]
    heads = [">AGO/s", "INTERFACE", ">BYTES", "TO", "ASKS", "BECAME", ">TIMES"]
    return table(heads, rows, colour) if rows else []


def _because(checks: Sequence[Result]) -> str:
    """The check that refuses, or all rules that were passed."""
    if not checks[-1]["permits"]:
        checks = checks[-1:]
    rules = [f"{check['check']}: {check['rule']}" for check in checks if check["rule"] is not None]
    return "; ".join(rules) or "nothing restricts it"


def _permitted(members: Sequence[str] | None) -> str:
    return "everybody" if members is None else _joined(members) or "nobody"


def _facts(device: Result) -> list[str]:
    reason = f": {device['reason']}" if device["reason"] else ""
    facts: list[tuple[str, Cell]] = [
        ("address", device["address"]),
        ("state", f"{device['state']}{reason}"),
        ("path", _path(device)),
        ("size", _size_exactly(device["size_bytes"])),
        ("mode", "read only" if device["read_only"] else "read and write"),
        ("backend", device["backend"]),
        ("write cache", "on" if device["write_cache"] else "off"),
        ("queue length", device["queue_length"]),
        ("limits", _limits(device.get("limits", {}))),  # an older daemon has none
        ("interfaces", _joined(device["interfaces"])),
        ("accept", _permitted(device["accept"])),
        ("deny", _joined(device["deny"]) or "nobody"),
        *((name, _permitted(device.get(name))) for name in _OPERATIONS),  # an older daemon has none
        ("mask list", _joined(device["mask"])),
        ("reserved for", _joined(device["reserved"])),
        ("config string", config_string(device["config_string"]) or None),
        *(("warning", text) for text in device["warnings"]),
    ]
    return _pairs(facts)


def _path(device: Result) -> str:
    """With the UUID by which it was found."""
    path: str = device["path"]
    uuid = device.get("uuid")  # an older daemon has none
    return path if uuid is None or path == f"UUID={uuid}" else f"{path} (UUID={uuid})"


def _limits(limits: Result) -> str:
    texts = []
    for name, limit in limits.items():
        is_size = name.endswith("bandwidth")
        per_s = _size(limit["per_s"]) if is_size else counted(limit["per_s"], "request")
        burst = _size(limit["burst"]) if is_size else limit["burst"]
        whose = " of each initiator" if name.startswith("initiator") else ""
        texts.append(f"{per_s} per second{whose}, {burst} at once")
    return "; ".join(texts) or "none"


def named_counters(counters: Result) -> list[str]:
    """Of one device, histograms in a few numbers."""
    names: list[tuple[str, Cell]] = []
    for key, value in counters.items():
        name = key.replace("_", " ")
        if key.endswith("_latency"):
            operation = key.removesuffix("_latency")
            mean = (counters.get(f"{operation}_ns", 0), counters.get(f"{operation}_requests", 0))
            names.append((name, _spread(value, *mean)))
        elif key.endswith("_sectors"):
            sizes = ", ".join(f"up to {sectors}: {count}" for sectors, count in value.items())
            names.append((name, sizes or None))
        elif key != "drops" and not key.endswith("_ns"):  # those are in the mean
            names.append((name, value))
    drops = counters.get("drops", {}).items()
    return _pairs([*names, *((f"dropped: {reason}", count) for reason, count in drops)])


def _spread(counts: Mapping[str, int], total_ns: int, requests: int) -> str | None:
    from ggaoe.engine.histogram import quantile  # late: ggaoectl has to start fast

    if not requests:
        return None
    bounds = {f"p{share}": quantile(counts, share / 100) for share in (50, 99)}
    texts = [f"{name} {_latency(ns / 1000)}" for name, ns in bounds.items() if ns is not None]
    return ", ".join([f"mean {_latency(total_ns / requests / 1000)}", *texts])


def stats(result: Result, colour: bool) -> list[str]:
    initiators = [
        ((device, mac), counters)
        for device, by_mac in result["initiators"].items()
        for mac, counters in by_mac.items()
    ]
    sections = [
        _counters(["DEVICE"], _DEVICE_STATS, _named(result["devices"]), colour),
        _counters(["INTERFACE"], _INTERFACE_STATS, _named(result["interfaces"]), colour),
        _counters(["DEVICE", "INITIATOR"], _INITIATOR_STATS, initiators, colour),
    ]
    return _sections(sections)


def config_strings(result: Result, colour: bool) -> list[str]:
    rows = [(name, config_string(text) or None) for name, text in result["devices"].items()]
    return table(["DEVICE", "CONFIG-STRING"], rows, colour)


def mask_lists(result: Result, colour: bool) -> list[str]:
    return _hosts("MASK-LIST", result, colour)


def reservations(result: Result, colour: bool) -> list[str]:
    return _hosts("RESERVED-FOR", result, colour)


def _hosts(head: str, result: Result, colour: bool) -> list[str]:
    rows = [(name, _joined(macs)) for name, macs in result["devices"].items()]
    return table(["DEVICE", head], rows, colour)


def cleared(result: Result, colour: bool) -> list[str]:
    return [f"cleared: {_joined(list(map(printable, result['cleared']))) or 'nothing'}"]


def monitor(rates: Result, colour: bool) -> list[str]:
    """One interval; `rates` as of the module of that name."""
    stamp = time.strftime("%Y-%m-%d %H:%M:%S")
    sections = [
        _counters(["DEVICE"], _DEVICE_RATES, _named(rates["devices"]), colour),
        _counters(["INTERFACE"], _INTERFACE_RATES, _named(rates["interfaces"]), colour),
    ]
    return [f"{stamp}, {rates['interval_s']:.1f} s", *_sections(sections), ""]


def top(rates: Result, colour: bool) -> list[str]:
    """One interval, with hosts; devices with what `list` says of them."""
    stamp = time.strftime("%Y-%m-%d %H:%M:%S")
    sections = [table(heads, rows, colour) for heads, rows in top_tables(rates)]
    return [f"{stamp}, {rates['interval_s']:.1f} s", *_sections(sections), ""]


def top_tables(rates: Result) -> Iterator[tuple[list[str], list[Sequence[Cell]]]]:
    """Heads, as `table` has them, and rows: of devices, hosts and interfaces, as far as there are
    some; hosts with the most data first."""
    hosts = [
        ((mac, device), counters)
        for device, by_mac in rates["initiators"].items()
        for mac, counters in by_mac.items()
    ]
    hosts.sort(key=lambda host: -host[1]["read_bytes_per_s"] - host[1]["write_bytes_per_s"])
    for heads, columns, owners in (
        (["DEVICE"], _TOP_DEVICE, _named(rates["devices"])),
        (["HOST", "DEVICE"], _TOP_INITIATOR, hosts),
        (["INTERFACE"], _TOP_INTERFACE, _named(rates["interfaces"])),
    ):
        if owners:
            yield [*heads, *(head for head, *_ in columns)], _rows(columns, owners)


def refreshed(lines: list[str]) -> list[str]:
    """The lines in place of what the screen shows."""
    return [_CLEAR + lines[0], *lines[1:]]


def _pairs(pairs: Sequence[tuple[str, Cell]]) -> list[str]:
    width = max((len(name) for name, _ in pairs), default=0)
    return [
        f"{printable(name):<{width}}  {'-' if value is None else printable(str(value))}"
        for name, value in pairs
    ]


def _sections(sections: Iterable[list[str]]) -> list[str]:
    """Those that have lines, with an empty line between them."""
    lines = [line for section in sections if section for line in (*section, "")]
    return lines[:-1]


def _named(owners: Result) -> list[tuple[tuple[str], Result]]:
    return [((name,), counters) for name, counters in owners.items()]


def _counters(
    heads: list[str],
    columns: Sequence[Column],
    owners: Sequence[tuple[tuple[str, ...], Result]],
    colour: bool,
) -> list[str]:
    """A line per owner, which `heads` name, with its counters (an older daemon lacks some); none
    where nobody has any."""
    rows = _rows(columns, owners)
    return table([*heads, *(head for head, *_ in columns)], rows, colour) if rows else []


def _rows(
    columns: Sequence[Column], owners: Iterable[tuple[tuple[str, ...], Result]]
) -> list[Sequence[Cell]]:
    return [
        (*owner, *(show(*(counters.get(key, 0) for key in keys)) for _, show, *keys in columns))
        for owner, counters in owners
    ]


def _joined(words: Sequence[str]) -> str | None:
    return ", ".join(words) or None


def _mode(device: Result) -> str:
    return "ro" if device["read_only"] else "rw"


def _size(size_bytes: int | None) -> str | None:
    return None if size_bytes is None else format_size(size_bytes)


def _size_exactly(size_bytes: int | None) -> str | None:
    return None if size_bytes is None else f"{format_size(size_bytes)} ({size_bytes} bytes)"


def _rate(value: float) -> str:
    return f"{value:.0f}" if value >= 10 or value == 0 else f"{value:.1f}"


def _mean(value: float | None) -> str | None:
    return None if value is None else f"{value:.1f}"


def _latency(latency_us: float | None) -> str | None:
    if latency_us is None:
        return None
    return f"{latency_us:.0f} us" if latency_us < 1000 else f"{latency_us / 1000:.1f} ms"


def _speed(rate_bytes: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if rate_bytes < 999.5:
            return f"{_rate(rate_bytes)} {unit}/s"
        rate_bytes /= 1024
    return f"{rate_bytes:.1f} GiB/s"


def _silence(silent_s: float) -> str:
    return "now" if silent_s < 2 else f"{_age(silent_s)} ago"


def _age(age_s: float) -> str:
    minutes, seconds = divmod(int(age_s), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return (f"{days} d " if days else "") + f"{hours:02d}:{minutes:02d}:{seconds:02d}"


def _text(text: str) -> str:
    return text


def _sum(*counts: int) -> int:
    return sum(counts)


def _total(drops: Mapping[str, int]) -> int:
    return sum(drops.values())


def _kib(rate_bytes: float) -> str:
    return _rate(rate_bytes / 1024)


_DEVICE_STATS: Sequence[Column] = (
    (">READS", _sum, "read_requests"),
    (">READ", _size, "read_bytes"),
    (">WRITES", _sum, "write_requests"),
    (">WRITTEN", _size, "write_bytes"),
    (">OTHER", _sum, "verify_requests", "flush_requests", "other_requests"),
    (">MERGED", _sum, "merged_requests"),
    (">IN-FLIGHT", _sum, "in_flight"),
    (">WAITING", _sum, "waiting"),
    (">WAITS", _sum, "waits"),
    (">THROTTLED", _sum, "throttled"),
    (">OVERLAPS", _sum, "overlaps"),
    (">ABSORBED", _sum, "absorbed"),
    (">ATA-ERRORS", _sum, "ata_errors"),
    (">AOE-ERRORS", _sum, "aoe_errors"),
    (">DROPS", _total, "drops"),
)
_INTERFACE_STATS: Sequence[Column] = (
    (">RX-FRAMES", _sum, "rx_frames"),
    (">RX", _size, "rx_bytes"),
    (">RX-BATCHES", _sum, "rx_batches"),
    (">TX-FRAMES", _sum, "tx_frames"),
    (">TX", _size, "tx_bytes"),
    (">TX-BATCHES", _sum, "tx_batches"),
    (">HELD", _sum, "tx_held"),
    (">LOST-BY-KERNEL", _sum, "dropped_by_kernel"),
    (">DROPS", _total, "drops"),
)
_INITIATOR_STATS: Sequence[Column] = (
    ("INTERFACE", _text, "interface"),
    (">READS", _sum, "read_requests"),
    (">READ", _size, "read_bytes"),
    (">WRITES", _sum, "write_requests"),
    (">WRITTEN", _size, "write_bytes"),
    (">OTHER", _sum, "other_requests"),
    (">IN-FLIGHT", _sum, "in_flight"),
    (">WAITS", _sum, "waits"),
    (">THROTTLED", _sum, "throttled"),
    (">ABSORBED", _sum, "absorbed"),
    (">ERRORS", _sum, "errors"),
    (">DROPS", _total, "drops"),
)
_DEVICE_RATES: Sequence[Column] = (
    (">READ/s", _rate, "read_iops"),
    (">KiB/s", _kib, "read_bytes_per_s"),
    (">TIME", _latency, "read_latency_us"),
    (">WRITE/s", _rate, "write_iops"),
    (">KiB/s", _kib, "write_bytes_per_s"),
    (">TIME", _latency, "write_latency_us"),
    (">OTHER/s", _rate, "other_iops"),
    (">MERGED/s", _rate, "merged_per_s"),
    (">QUEUE", _mean, "queue_depth_mean"),
    (">WAIT/s", _rate, "waits_per_s"),
    (">ABSORBED/s", _rate, "absorbed_per_s"),
    (">ERROR/s", _rate, "errors_per_s"),
    (">DROP/s", _rate, "drops_per_s"),
)
_INTERFACE_RATES: Sequence[Column] = (
    (">RX/s", _rate, "rx_frames_per_s"),
    (">KiB/s", _kib, "rx_bytes_per_s"),
    (">BATCH", _mean, "rx_batch_mean"),
    (">TX/s", _rate, "tx_frames_per_s"),
    (">KiB/s", _kib, "tx_bytes_per_s"),
    (">BATCH", _mean, "tx_batch_mean"),
    (">HELD/s", _rate, "tx_held_per_s"),
    (">LOST-BY-KERNEL/s", _rate, "dropped_by_kernel_per_s"),
    (">DROP/s", _rate, "drops_per_s"),
)
_TOP_DEVICE: Sequence[Column] = (
    ("ADDRESS", _text, "address"),
    ("STATE", _text, "state"),
    (">READ", _speed, "read_bytes_per_s"),
    (">REQ/s", _rate, "read_iops"),
    (">P50", _latency, "read_p50_us"),
    (">P99", _latency, "read_p99_us"),
    (">WRITTEN", _speed, "write_bytes_per_s"),
    (">REQ/s", _rate, "write_iops"),
    (">P50", _latency, "write_p50_us"),
    (">P99", _latency, "write_p99_us"),
    (">QUEUE", _mean, "queue_depth_mean"),
    (">WAITING", _sum, "waiting"),
    (">THROTTLED/s", _rate, "throttled_per_s"),
    (">ERR/s", _rate, "errors_per_s"),
    (">DROP/s", _rate, "drops_per_s"),
)
_TOP_INITIATOR: Sequence[Column] = (
    ("BY", _text, "interface"),
    (">READ", _speed, "read_bytes_per_s"),
    (">REQ/s", _rate, "read_iops"),
    (">WRITTEN", _speed, "write_bytes_per_s"),
    (">REQ/s", _rate, "write_iops"),
    (">IN-FLIGHT", _sum, "in_flight"),
    (">THROTTLED/s", _rate, "throttled_per_s"),
    (">ERR/s", _rate, "errors_per_s"),
    (">DROP/s", _rate, "drops_per_s"),
    (">SEEN", _silence, "silent_s"),
)
_TOP_INTERFACE: Sequence[Column] = (
    (">RECEIVED", _speed, "rx_bytes_per_s"),
    (">FRAMES/s", _rate, "rx_frames_per_s"),
    (">SENT", _speed, "tx_bytes_per_s"),
    (">FRAMES/s", _rate, "tx_frames_per_s"),
    (">LOST/s", _rate, "dropped_by_kernel_per_s"),
    (">DROP/s", _rate, "drops_per_s"),
)
