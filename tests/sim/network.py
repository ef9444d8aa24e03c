"""Two paths that lose, duplicate, delay, reorder and cut off frames.

Owns what is on its way. Must not know what frames mean.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass

Deliver = Callable[[int, bytes, bool], None]
"""(path, frame, whether it was cut off)"""


@dataclass(frozen=True)
class Weather:
    """Chances per frame, and the longest delays in seconds; `late_rate` of all take `late_s`."""

    loss_rate: float = 0.0
    duplicate_rate: float = 0.0
    cut_rate: float = 0.0
    delay_s: float = 0.0001
    late_rate: float = 0.0
    late_s: float = 1.0


class Network:
    """`to_target` and `to_hosts` take a frame in; it may come out by what `deliver` was set to."""

    def __init__(self, chance: random.Random, weather: Weather) -> None:
        self._chance = chance
        self._loop = asyncio.get_running_loop()
        self.weather = weather
        self.deliver_to_target: Deliver
        self.deliver_to_hosts: Deliver

    def to_target(self, path: int, frame: bytes) -> None:
        self._carry(path, frame, self.deliver_to_target)

    def to_hosts(self, path: int, frame: bytes) -> None:
        self._carry(path, frame, self.deliver_to_hosts)

    def _carry(self, path: int, frame: bytes, deliver: Deliver) -> None:
        chance, weather = self._chance, self.weather
        if chance.random() < weather.loss_rate:
            return
        copies = 2 if chance.random() < weather.duplicate_rate else 1
        for _ in range(copies):
            longest_s = weather.late_s if chance.random() < weather.late_rate else weather.delay_s
            is_cut = chance.random() < weather.cut_rate
            whole = frame[: chance.randrange(len(frame))] if is_cut else frame
            self._loop.call_later(longest_s * chance.random(), deliver, path, whole, is_cut)
