"""The screen of ggaoectl top: what fits, and what is shown only where there is something."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import pytest

from ggaoe.cli.rates import rates
from unit.cli.answering import HOST, Daemon

top = pytest.importorskip("ggaoe.cli.top", reason="needs rich")

HEIGHT = 24


def found(**device: Any) -> dict[str, Any]:
    daemon = Daemon(Path())
    before, after = (asyncio.run(daemon.stats({})) for _ in range(2))
    result = rates(before, after)  # type: ignore[arg-type]
    keys = ("address", "state", "reason", "size_bytes")
    for name, one in result["devices"].items():
        one.update({key: daemon.devices[name][key] for key in keys} | device)
    return result


def shown(width: int, result: dict[str, Any]) -> list[str]:
    from rich.console import Console

    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(top.view(result, width, HEIGHT))
    return [line.rstrip() for line in console.export_text().splitlines()]


def test_everything_fits_and_nothing_escapes() -> None:
    lines = shown(120, found())
    rows = {line.split()[0]: line.split()[1:] for line in lines if line}
    assert rows["disk"][:5] == ["e0.1", "serving", "400", "KiB/s", "50"]
    assert rows[HOST][:2] == ["disk", "eth0"]
    assert "late: No such file\\nor directory" in lines


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_a_narrow_screen_has_fewer_columns(width: int) -> None:
    lines = shown(width, found())
    heads = next(line for line in lines if line.startswith("DEVICE"))
    assert "STATE" in heads
    assert ("ADDRESS" in heads) == (width >= 100)
    if width >= 80:
        assert "…" not in "".join(lines)


def test_what_should_not_be_is_shown_where_it_is() -> None:
    assert "ERR/s" not in "".join(shown(200, found(drops_per_s=0.0)))
    assert "ERR/s" in "".join(shown(200, found(errors_per_s=3.0)))
    assert "THROTTLED/s" not in "".join(shown(200, found()))
    assert "THROTTLED/s" in "".join(shown(200, found(throttled_per_s=3.0)))


def test_no_more_is_drawn_than_a_screen_holds() -> None:
    result = found()
    one = result["devices"]["disk"]
    result["devices"] |= {f"disk{number}": one for number in range(1000)}
    lines = shown(120, result)
    assert len([line for line in lines if line.startswith("disk")]) == HEIGHT - 1
    assert any(line.startswith(HOST) for line in lines)
