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


def shown(width: int, result: dict[str, Any], height: int = HEIGHT) -> list[str]:
    from rich.console import Console

    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(top.view(result, width, height))
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


@pytest.mark.parametrize("height", [24, 12, 8, 3, 1])
def test_a_screen_has_something_of_everything(height: int) -> None:
    result = found()
    quiet = result["devices"]["late"]
    result["devices"] |= {f"quiet{number}": quiet for number in range(1000)}
    result["devices"]["busy"] = result["devices"]["disk"] | {"reason": "word " * 100}
    lines = shown(100, result, height)
    assert len(lines) <= height
    names = [line.split()[0] for line in lines if line]
    if height >= 8:
        assert names[names.index("DEVICE") + 1] == "disk"
        assert any(line.startswith("busy: word word") for line in lines)
        assert names.count("…") == 2
    if height >= 20:
        assert names[names.index("DEVICE") + 2] == "busy"
        assert {HOST, "eth0"} <= set(names)


def test_what_fits_keeps_its_order() -> None:
    names = [line.split()[0] for line in shown(120, found()) if line]
    assert names.index("late") == names.index("disk") + 1
    assert not any("…" in name for name in names)


def test_wide_characters_take_their_room() -> None:
    result = found()
    result["devices"]["名前" * 20] = result["devices"]["disk"]
    (line,) = [line for line in shown(100, result) if line.startswith("名")]
    assert line.index("…") < line.index(" serving ") < line.index(" 400 KiB/s ")
    assert line.count("…") == 1
