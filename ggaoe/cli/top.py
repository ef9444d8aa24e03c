"""`ggaoectl top` on a terminal: the tables of `render` as one screen that is drawn again and again,
by rich. Must not know how the numbers were fetched."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ggaoe.cli import render
from ggaoe.units import printable

_STATES = {"serving": "green", "waiting": "bold red", "draining": "yellow"}
_STYLES = {
    "READ": "bright_blue",
    "WRITTEN": "dark_orange",
    **dict.fromkeys(("QUEUE", "IN-FLIGHT"), ""),
}
"""Holds for the columns that follow, too, up to the next of these."""
_ALARMING = frozenset({"WAITING", "THROTTLED/s", "ERR/s", "DROP/s", "LOST/s"})
"""Shown while there is something in them."""
_LEAST = ("ADDRESS", "BY", "P50", "SEEN", "IN-FLIGHT", "QUEUE", "FRAMES/s", "REQ/s")
"""Left out one after another while a table is wider than the screen."""
_LINES_MIN = 2
"""Of each section: a row, and how many more there are."""
_NOTHING = frozenset({"0", "-", "0 B/s"})
_GAP = 2


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    is_right: bool
    style: str
    texts: list[str]

    @property
    def width(self) -> int:
        return max(map(render.width, (self.name, *self.texts)))


@contextmanager
def screen(colour: bool) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Shows what it is called with on the whole screen, until the end of the context, which SIGTERM
    is, too."""
    console = Console(no_color=not colour, highlight=False)
    before = signal.signal(signal.SIGTERM, _end)
    try:
        with Live(console=console, screen=True, auto_refresh=False, transient=True) as live:
            yield lambda rates: live.update(view(rates, *console.size), refresh=True)
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def view(rates: Mapping[str, Any], width: int, height: int) -> RenderableType:
    """One interval, as `render.top` has it, in `width` columns of characters if that can be, and in
    `height` lines; where there is not room for all devices, those that transfer most come first."""
    stamp = time.strftime("%Y-%m-%d %H:%M:%S")
    interval = f"  {stamp}, {rates['interval_s']:.1f} s  "
    title = Text.assemble(("ggaoe", "bold"), interval, ("Ctrl-C ends", "dim"), no_wrap=True)
    sections = _sections(rates, width)
    room = height - 1
    if sum(section.head_lines + len(section.rows) for section in sections) > room:
        sections = _sections({**rates, "devices": _busiest(rates["devices"])}, width)
    while sections and sum(section.head_lines + _LINES_MIN for section in sections) > room:
        sections.pop()
    room -= sum(section.head_lines for section in sections)
    parts: list[RenderableType] = [title]
    shares = _shares([len(section.rows) for section in sections], room)
    for section, share in zip(sections, shares, strict=True):
        count = len(section.rows)
        if count <= share:
            parts += [Text(), *section.draw(section.rows)]
        else:
            shown = section.rows[: share - 1]
            more = Text(f"… and {count - len(shown)} more", "dim")
            parts += [Text(), *section.draw(shown), more]
    return Group(*parts)


class _Section(NamedTuple):
    """A part of the screen, which `draw` makes of any of `rows`."""

    head_lines: int
    """With the empty one before it."""
    rows: Sequence[Any]
    draw: Callable[[Sequence[Any]], Sequence[RenderableType]]


def _sections(rates: Mapping[str, Any], width: int) -> list[_Section]:
    """Those that have rows, the most important first."""
    sections = [
        _Section(2, rows, partial(_drawn, heads, width)) for heads, rows in render.top_tables(rates)
    ]
    reasons = [
        Text(printable(f"{name}: {device['reason']}"), "yellow", no_wrap=True, overflow="ellipsis")
        for name, device in rates["devices"].items()
        if device["reason"]
    ]
    return [*sections[:1], *([_Section(1, reasons, list)] if reasons else []), *sections[1:]]


def _busiest(devices: Mapping[str, Any]) -> dict[str, Any]:
    def transferred(item: tuple[str, Any]) -> float:
        one = item[1]
        return -float(one["read_bytes_per_s"] + one["write_bytes_per_s"])

    return dict(sorted(devices.items(), key=transferred))


def _shares(wanted: Sequence[int], room: int) -> list[int]:
    """How many lines of `room` each gets of those that it wants: as many as all others, unless it
    wants fewer."""
    shares = [0] * len(wanted)
    for done, number in enumerate(sorted(range(len(wanted)), key=wanted.__getitem__)):
        shares[number] = min(wanted[number], room // (len(wanted) - done))
        room -= shares[number]
    return shares


def _drawn(
    heads: Sequence[str], width: int, rows: Sequence[Sequence[render.Cell]]
) -> list[RenderableType]:
    return [_table(_fitting(_columns(heads, rows), width))]


def _columns(heads: Sequence[str], rows: Sequence[Sequence[render.Cell]]) -> list[_Column]:
    columns = []
    style = ""
    for head, values in zip(heads, zip(*rows, strict=True), strict=True):
        name = head.removeprefix(">")
        style = _STYLES.get(name, style)
        texts = ["-" if value is None else printable(str(value)) for value in values]
        if name not in _ALARMING or not _NOTHING.issuperset(texts):
            columns.append(_Column(name, head != name, style, texts))
    return columns


def _fitting(columns: list[_Column], width: int) -> list[_Column]:
    for name in _LEAST:
        if sum(column.width + _GAP for column in columns) - _GAP <= width:
            break
        columns = [column for column in columns if column.name != name]
    return columns


def _table(columns: Sequence[_Column]) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, _GAP, 0, 0), pad_edge=False)
    for column in columns:
        justify = "right" if column.is_right else "left"
        # Of what does not fit the name is cut off, which is at the left; numbers stay whole.
        least = None if column is columns[0] else column.width
        table.add_column(
            column.name,
            justify=justify,  # type: ignore[arg-type]
            no_wrap=True,
            min_width=least,
        )
    for cells in zip(*(column.texts for column in columns), strict=True):
        table.add_row(*map(_cell, columns, cells))
    return table


def _cell(column: _Column, text: str) -> Text:
    style = column.style
    if text in _NOTHING:
        style = "dim"
    elif column.name == "STATE":
        style = _STATES.get(text, "yellow")
    elif column.name in _ALARMING:
        style = "bold yellow"
    elif column.name in ("DEVICE", "HOST", "INTERFACE"):
        style = "bold"
    return Text(text, style)
