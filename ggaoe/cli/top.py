"""`ggaoectl top` on a terminal: the tables of `render` as one screen that is drawn again and again,
by rich. Must not know how the numbers were fetched."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

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
        return max(map(len, (self.name, *self.texts)))


@contextmanager
def screen(colour: bool) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Shows what it is called with on the whole screen, until the end of the context."""
    console = Console(no_color=not colour, highlight=False)
    with Live(console=console, screen=True, auto_refresh=False, transient=True) as live:
        yield lambda rates: live.update(view(rates, *console.size), refresh=True)


def view(rates: Mapping[str, Any], width: int, height: int) -> RenderableType:
    """One interval, as `render.top` has it, in `width` columns of characters if that can be; of no
    table more than the `height` lines of a screen."""
    stamp = time.strftime("%Y-%m-%d %H:%M:%S")
    interval = f"  {stamp}, {rates['interval_s']:.1f} s  "
    parts: list[RenderableType] = [
        Text.assemble(("ggaoe", "bold"), interval, ("Ctrl-C ends", "dim"))
    ]
    for heads, rows in render.top_tables(rates):
        parts += [Text(), _table(_fitting(_columns(heads, rows[:height]), width))]
    reasons = [
        Text(printable(f"{name}: {device['reason']}"), "yellow")
        for name, device in rates["devices"].items()
        if device["reason"]
    ]
    return Group(*parts, Text(), *reasons[:height])


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
        table.add_column(column.name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
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
