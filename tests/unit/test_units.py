"""Numbers as people read and write them."""

from __future__ import annotations

import pytest

from ggaoe.units import counted


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [
        (0, "device", "0 devices"),
        (1, "device", "1 device"),
        (2, "device", "2 devices"),
        (1, "more problem", "1 more problem"),
        (3, "address", "3 addresses"),
        (4, "entry", "4 entries"),
        (5, "way", "5 ways"),
    ],
)
def test_one_is_no_plural(count: int, noun: str, text: str) -> None:
    assert counted(count, noun) == text
