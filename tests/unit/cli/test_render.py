"""Columns, escapes and colour."""

from __future__ import annotations

import os
import pty

import pytest

from ggaoe.cli import render


def test_columns_are_aligned_and_escaped() -> None:
    rows = [("a", 5, None), ("long\x1b[0m\nname", 12345, "x")]
    assert render.table(["NAME", ">N", "NOTE"], rows, colour=False) == [
        "NAME                   N  NOTE",
        "a                      5  -",
        "long\\x1b[0m\\nname  12345  x",
    ]


def test_wide_and_combining_characters_are_as_wide_as_a_terminal_shows_them() -> None:
    rows = [("名前", "x"), ("e\u0301", "y"), ("abcd", "z")]
    assert render.table(["N", "M"], rows, colour=False) == [
        "N     M",
        "名前  x",
        "e\u0301     y",
        "abcd  z",
    ]


def test_histograms_are_summed_up() -> None:
    counters = {
        "read_requests": 4,
        "read_ns": 4_000_000,
        "read_latency": {"1024": 3, "5000000": 1},
        "write_requests": 0,
        "write_ns": 0,
        "write_latency": {},
        "read_sectors": {"2": 3, "128": 1},
        "in_flight_sum": 9,
        "drops": {"mtu": 2},
    }
    lines = render.named_counters(counters)
    assert {" ".join(line.split()) for line in lines} == {
        "read requests 4",
        "read latency mean 1.0 ms, p50 1 us, p99 5.0 ms",
        "write requests 0",
        "write latency -",
        "read sectors up to 2: 3, up to 128: 1",
        "in flight sum 9",
        "dropped: mtu 2",
    }


def test_colour_does_not_move_columns() -> None:
    rows = [("a", "waiting", 1), ("b", "serving", 22)]
    plain = render.table(["NAME", "STATE", ">N"], rows, colour=False)
    coloured = render.table(["NAME", "STATE", ">N"], rows, colour=True)
    assert coloured != plain
    for code in ("\x1b[1m", "\x1b[33m", "\x1b[0m"):
        coloured = [line.replace(code, "") for line in coloured]
    assert coloured == plain


@pytest.mark.parametrize(
    ("term", "no_color", "screen", "colour"),
    [
        ("xterm", "", True, True),
        ("xterm", "1", True, False),
        ("dumb", "", False, False),
        ("", "", False, False),
    ],
)
def test_colour_is_for_terminals_that_want_it(
    term: str, no_color: str, screen: bool, colour: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", term or "dumb")
    if not term:
        monkeypatch.delenv("TERM")
    monkeypatch.setenv("NO_COLOR", no_color)
    ours, theirs = pty.openpty()
    with open(theirs, "w") as terminal:  # noqa: PTH123 - a descriptor
        assert render.is_screen(terminal) is screen
        assert render.wants_colour(terminal) is colour
    os.close(ours)


def test_a_file_gets_no_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    with open(os.devnull, "w") as file:  # noqa: PTH123
        assert not render.wants_colour(file)


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (b"", ""),
        (b"rack 3", "rack 3"),
        (b"a\\b\n\x7f\xc3\xbc", "a\\\\b\\x0a\\x7f\\xc3\\xbc"),
    ],
)
def test_config_strings_are_bytes(content: bytes, shown: str) -> None:
    assert render.config_string(content.hex()) == shown


def test_what_is_not_in_the_file_is_marked() -> None:
    row = {
        "name": "disk",
        "address": "e0.1",
        "state": "stopped",
        "reason": None,
        "size_bytes": None,
        "path": "/x",
        "read_only": False,
        "interfaces": [],
    }
    listed = {"devices": [row, {**row, "name": "same"}], "interfaces": []}
    unsaved = {"unsaved": ["change disk (e0.1): slot 1 → 2\x1b"], "unsaved_devices": ["disk"]}
    lines = render.listing({**listed, **unsaved}, colour=False)
    assert [line.split()[0] for line in lines[1:3]] == ["disk*", "same"]
    assert lines[-2:] == [
        "* not in the configuration file, a reload takes it back:",
        "  change disk (e0.1): slot 1 → 2\\x1b",
    ]
    assert not any("*" in line for line in render.listing(listed, colour=False))
    assert "no device: " not in "".join(render.listing(listed, colour=False))
    empty = render.listing({**listed, "devices": []}, colour=False)
    assert "no device: add one to the file, or with ggaoectl add" in empty


def test_changes() -> None:
    result = {"changes": ["add a (e0.1)"], "applied": True, "files": ["/etc/ggaoed.conf"]}
    assert render.changed(result, colour=False) == ["add a (e0.1)", "written to /etc/ggaoed.conf"]
    result = {"changes": [], "started": ["a", "b"], "already": ["c"], "applied": False}
    assert render.changed(result, colour=False) == [
        "started: a, b",
        "already: c",
        "nothing of this was applied",
    ]
    assert render.changed({"changes": [], "applied": True}, colour=False) == ["no changes"]
