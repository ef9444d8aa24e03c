"""One event loop for all inputs of a process, in which no exception goes unnoticed."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from functools import cache
from typing import Any, TypeVar

try:
    from uvloop import new_event_loop
except ImportError:
    from asyncio import new_event_loop

T = TypeVar("T")

_lost: list[dict[str, Any]] = []


@cache
def loop() -> asyncio.AbstractEventLoop:
    """The loop; it lives as long as the process."""
    made = new_event_loop()
    made.set_exception_handler(lambda _, context: _lost.append(context))
    return made


def run(doing: Coroutine[Any, Any, T]) -> T:
    """The result of `doing`; raises what any callback of the loop has raised meanwhile."""
    try:
        return loop().run_until_complete(doing)
    finally:
        lost = [context.get("exception") or RuntimeError(context["message"]) for context in _lost]
        _lost.clear()
        if lost:
            raise lost[0]
