"""Breaking the target on purpose, a line at a time, to see whether anybody notices."""

from __future__ import annotations

import importlib
import inspect
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Edit:
    """In the source of `function`, as `module` knows it, each text becomes another."""

    module: str
    function: str
    changes: dict[str, str]


@dataclass(frozen=True)
class Mutation:
    """What the target then does wrong, in words, and how it is made to."""

    name: str
    edits: tuple[Edit, ...]
    engine: str = "portable"

    def __str__(self) -> str:
        return f"{self.engine}: {self.name}"


@contextmanager
def in_force(mutation: Mutation) -> Iterator[None]:
    """The target is broken like that; AssertionError where its source has changed."""
    with ExitStack() as stack:
        for edit in mutation.edits:
            stack.enter_context(_edited(edit))
        yield


@contextmanager
def _edited(edit: Edit) -> Iterator[None]:
    function: Any = importlib.import_module(edit.module)
    for part in edit.function.split("."):
        function = getattr(function, part)
    source = textwrap.dedent(inspect.getsource(function))
    for before, after in edit.changes.items():
        assert source.count(before) == 1, f"{edit.function} does not say {before!r} once"
        source = source.replace(before, after)
    made: dict[str, Any] = {}
    exec(compile(source, f"mutated {edit.function}", "exec"), function.__globals__, made)
    # The function stays the one that others may have in their tables.
    original, function.__code__ = function.__code__, made[function.__name__].__code__
    try:
        yield
    finally:
        function.__code__ = original
