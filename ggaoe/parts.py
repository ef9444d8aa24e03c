"""Long answers of the control socket: how they are taken apart and put together again.

A part has the shape of the whole. Of several, lists go on, objects are joined by their keys, and
anything else is as the last one has it. Pure; must not know what an answer says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

ENTRIES_MAX = 50
"""Of one list or object in one part, so that it is short enough for a message: an entry is a device
or an interface, with some KiB."""


def split(whole: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Parts of `whole`, whose lists and objects may be long."""
    short = {key: value for key, value in whole.items() if not isinstance(value, list | dict)}
    yield {**short, **{key: type(value)() for key, value in whole.items() if key not in short}}
    for key, value in whole.items():
        if isinstance(value, list):
            for start in range(0, len(value), ENTRIES_MAX):
                yield {key: value[start : start + ENTRIES_MAX]}
        elif isinstance(value, dict):
            entries = list(value.items())
            for start in range(0, len(entries), ENTRIES_MAX):
                yield {key: dict(entries[start : start + ENTRIES_MAX])}


def join(whole: dict[str, Any], part: Mapping[str, Any]) -> None:
    """Add one more part to what has arrived."""
    for key, value in part.items():
        known = whole.get(key)
        if isinstance(known, dict) and isinstance(value, dict):
            join(known, value)
        elif isinstance(known, list) and isinstance(value, list):
            known.extend(value)
        else:
            whole[key] = value
