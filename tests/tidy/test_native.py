"""What the compiler does not check of the native engine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

NATIVE = Path(__file__).parents[2] / "ggaoe" / "engine" / "native"
_ENTER = re.compile(r"( {8,})enter\((.+)\)")
_WITHOUT_GIL = re.compile(r"c?def .* nogil:")


def problems_of(source: str) -> list[str]:
    """Places where the lock is taken other than by a whole block without the GIL: whoever took the
    GIL with the lock in hand would make the data path wait for other Python threads."""
    found = []
    lines = source.splitlines()
    has_gil = True
    for number, line in enumerate(lines):
        if line and not line.startswith(" "):
            has_gil = _WITHOUT_GIL.fullmatch(line) is None
        match = _ENTER.fullmatch(line)
        if match is None or not has_gil:
            continue
        indent, engine = match.groups()
        block = lines[number:]
        end = next(
            (at for at, each in enumerate(block) if each.strip() and not each.startswith(indent)),
            len(block),
        )
        if not lines[number - 1].strip().startswith("with nogil:"):
            found.append(f"line {number + 1}: enter without nogil")
        if f"{indent}leave({engine})" not in block[:end]:
            found.append(f"line {number + 1}: leave is not in the same block")
    return found


def test_the_lock_is_held_without_the_gil() -> None:
    assert problems_of((NATIVE / "core.pyx").read_text()) == []


@pytest.mark.parametrize(
    "lines",
    [
        ["with nogil:", "    enter(engine)", "count += 1", "leave(engine)"],
        ["enter(engine)", "count += 1", "leave(engine)"],
    ],
    ids=["half a block", "no block"],
)
def test_the_check_finds(lines: list[str]) -> None:
    assert problems_of("".join(f"{' ' * 8}{line}\n" for line in lines))
