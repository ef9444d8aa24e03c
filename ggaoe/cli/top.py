"""`ggaoectl top` on a terminal: the tables of `render` as one screen that is drawn again and again,
by rich. Must not know how the numbers were fetched."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ggaoe.cli import render
from ggaoe.units import printable

_STATES = {"serving": "green", "waiting": "bold red", "draining": "yellow"}
_COLUMNS = {"READ": "bright_blue", "WRITTEN": "dark_orange"}
"""What belongs together up to the next of these has its colour, as on the status page."""
_UNCOLOURED = frozenset({"QUEUE", "IN-FLIGHT", "WAITING", "ERR/s", "DROP/s", "SEEN"})
_ALARMING = frozenset({"ERR/s", "DROP/s", "LOST/s", "WAITING"})
_NOTHING = frozenset({"0", "-", "0 B/s"})


@contextmanager
def screen(colour: bool) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Shows what it is called with on the whole screen, until the end of the context."""
    console = Console(no_color=not colour, highlight=False)
    with Live(console=console, screen=True, auto_refresh=False, transient=True) as live:
        yield lambda rates: live.update(view(rates), refresh=True)


def view(rates: Mapping[str, Any]) -> RenderableType:
    """One interval, as `render.top` has it."""
    stamp = time.strftime("%Y-%m-%d %H:%M:%S")
    title = Text.assemble(
        ("ggaoe", "bold"), f"  {stamp}  every {rates['interval_s']:.1f} s", ("  Ctrl-C ends", "dim")
    )
    tables = [_table(heads, rows) for heads, rows in render.top_tables(rates)]
    reasons = [
        Text(printable(f"{name}: {device['reason']}"), "yellow")
        for name, device in rates["devices"].items()
        if device["reason"]
    ]
    return Group(title, *tables, *reasons)


def _table(heads: Sequence[str], rows: Sequence[Sequence[render.Cell]]) -> Table:
    table = Table(box=SIMPLE_HEAD, header_style="dim", padding=(0, 1), pad_edge=False)
    styles = []
    style = ""
    for head in heads:
        name = head.removeprefix(">")
        style = "" if name in _UNCOLOURED else _COLUMNS.get(name, style)
        styles.append(style)
        table.add_column(
            name, justify="right" if head != name else "left", no_wrap=True, overflow="ellipsis"
        )
    for row in rows:
        names = (head.removeprefix(">") for head in heads)
        table.add_row(*map(_cell, names, row, styles))
    return table


def _cell(name: str, value: render.Cell, style: str) -> Text:
    text = "-" if value is None else printable(str(value))
    if text in _NOTHING:
        style = "dim"
    elif name == "STATE":
        style = _STATES.get(text, "yellow")
    elif name in _ALARMING:
        style = "bold yellow"
    elif name in ("DEVICE", "HOST", "INTERFACE"):
        style = "bold"
    return Text(text, style)
