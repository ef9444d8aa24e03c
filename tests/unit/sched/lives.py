"""Every course of events in which something has several ways to go on, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar


class Life(Protocol):
    """Goes on by steps."""

    def choices(self) -> int:
        """How many ways to go on there are; 0 at the end."""

    def step(self, choice: int) -> None:
        """Go on by one of them."""


L = TypeVar("L", bound=Life)


def every_life(begin: Callable[[], L]) -> Iterator[L]:
    """Each life, at its end; it is lived from its beginning, which `begin` makes."""
    path: list[tuple[int, int]] = []
    while True:
        life = begin()
        for choice, _ in path:
            life.step(choice)
        while (choices := life.choices()) > 0:
            path.append((0, choices))
            life.step(0)
        yield life
        while path and path[-1][0] + 1 == path[-1][1]:
            path.pop()
        if not path:
            return
        path[-1] = (path[-1][0] + 1, path[-1][1])
