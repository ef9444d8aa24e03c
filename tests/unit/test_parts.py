"""A long answer that was taken apart is the same when it has been put together."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ggaoe import parts

MANY = 3 * parts.ENTRIES_MAX + 1


@pytest.mark.parametrize(
    "whole",
    [
        {},
        {"devices": [], "missing": ["x"], "unsaved": []},
        {"host": "h", "devices": {f"d{n}": {"drops": {"a": n}} for n in range(MANY)}, "left": None},
        {"devices": [{"name": n} for n in range(MANY)], "interfaces": [{"name": "e"}], "n": 1.5},
    ],
)
def test_there_and_back(whole: dict[str, Any]) -> None:
    found = list(parts.split(whole))
    for part in found:
        assert all(
            len(value) <= parts.ENTRIES_MAX
            for value in part.values()
            if isinstance(value, list | dict)
        )
    joined: dict[str, Any] = {}
    for part in found:
        parts.join(joined, json.loads(json.dumps(part)))
    assert joined == whole


def test_objects_are_joined_as_deep_as_they_go() -> None:
    joined: dict[str, Any] = {}
    for part in (
        {"a": {"b": {"c": 1}, "l": [1]}},
        {"a": {"b": {"d": 2}, "l": [2]}},
        {"a": {"e": 3}},
    ):
        parts.join(joined, part)
    assert joined == {"a": {"b": {"c": 1, "d": 2}, "l": [1, 2], "e": 3}}
