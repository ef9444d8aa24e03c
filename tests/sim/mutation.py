"""Breaking the target on purpose, a line at a time, to see whether anybody notices."""

from __future__ import annotations

import importlib
import inspect
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass


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
    module = importlib.import_module(edit.module)
    *classes, name = edit.function.split(".")
    owner: object = module
    for part in classes:
        owner = getattr(owner, part)
    original = getattr(owner, name)
    source = textwrap.dedent(inspect.getsource(original))
    for before, after in edit.changes.items():
        assert source.count(before) == 1, f"{edit.function} does not say {before!r} once"
        source = source.replace(before, after)
    made: dict[str, object] = {}
    exec(compile(source, f"mutated {edit.function}", "exec"), original.__globals__, made)
    setattr(owner, name, made[name])
    try:
        yield
    finally:
        setattr(owner, name, original)
