"""Initiators as they are: Linux' driver, and the simple ones of boot loaders and 9front.

They own what they want done and when they ask again. They believe what they are told; the judge
does not. Facts about the drivers: aoecmd.c of Linux, aoe.c of iPXE and of 9front, in behaviour.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from dataclasses import dataclass

from ggaoe.proto.frame import SECTOR_BYTES
from sim.network import Network
from sim.wire import FLUSH, READ, SLOT, VERIFY, WRITE, Answered, request

PATIENCE_S = 180.0
"""After that Linux takes a disk for dead (aoe_deadsecs). Nothing that befalls it takes so long."""
TIMEOUT_S_MAX = 4.0
PROBE_TIMEOUT_S = 0.25
ANY_PATH = -1
COUNT_MAX = 255
OPCODES = (READ, READ, READ, WRITE, WRITE, WRITE, WRITE, VERIFY, FLUSH)


@dataclass(eq=False)
class Wish:
    """One request that a host wants done."""

    opcode: int
    sector: int
    count: int
    data: bytes
    path: int = ANY_PATH
    tag: int = 0
    tries: int = 0
    began_s: float = 0.0
    timer: asyncio.TimerHandle | None = None


@dataclass(frozen=True)
class Habits:
    """How a host behaves. `renews_tag`: a resend is a new request to the target, and may take
    another path (Linux); otherwise it is the same frame again (iPXE, WinAoE, 9front)."""

    renews_tag: bool
    window: int
    timeout_s: float


class Host:
    """`number` is unique among hosts; it does `wishes` in order, `habits.window` at a time, and
    `probes` once all is well."""

    def __init__(
        self, chance: random.Random, number: int, network: Network, targets: list[bytes],
        habits: Habits, wishes: list[Wish], probes: list[Wish],
    ) -> None:  # fmt: skip
        self.macs = [bytes([2, 0, 0, 0, number, path]) for path in range(len(targets))]
        self._chance = chance
        self._loop = asyncio.get_running_loop()
        self._network = network
        self._targets = targets
        self._habits = habits
        self._window = max(1, habits.window // 2)
        self._wishes = wishes
        self._probes = probes
        self._timeout_s = habits.timeout_s
        self._asked: dict[tuple[int, int], Wish] = {}
        self._given_up: dict[tuple[int, int], float] = {}
        """Requests that were asked again under another tag, and when."""
        self._outstanding = 0
        self._is_calm = False
        """What is asked is answered at once."""
        self._is_well = False
        """It is done, too."""
        self._tags = itertools.count(number << 16 | SLOT)
        self.sectors_max = COUNT_MAX
        """The most that is asked for at once from now on."""
        self.is_done = asyncio.Event()

    def begin(self) -> None:
        self._ask_for_more()

    def probe(self) -> None:
        """All is well: each probe must be done when it is first asked for."""
        self._is_well = True
        self._ask_calmly(self._probes)

    def flush(self) -> None:
        """By every path, once: it may fail, and tell of a failed one before."""
        paths = range(len(self.macs))
        self._ask_calmly([Wish(FLUSH, 0, 0, b"", path=path) for path in paths])

    def _ask_calmly(self, wishes: list[Wish]) -> None:
        self._is_calm = True
        self._timeout_s = PROBE_TIMEOUT_S
        self._wishes = wishes
        self.is_done.clear()
        self._ask_for_more()

    def _ask_for_more(self) -> None:
        while self._wishes and self._outstanding < self._window:
            wish = self._wishes.pop(0)
            wish.count = min(wish.count, self.sectors_max)
            wish.data = wish.data[: wish.count * SECTOR_BYTES]
            self._outstanding += 1
            wish.began_s = self._loop.time()
            wish.tag = next(self._tags)
            if wish.path == ANY_PATH:
                wish.path = self._chance.randrange(len(self.macs))
            self._send(wish)
        if not self._outstanding:
            self.is_done.set()

    def _send(self, wish: Wish) -> None:
        wish.tries += 1
        self._asked[wish.path, wish.tag] = wish
        wait_s = min(self._timeout_s * 2**wish.tries, TIMEOUT_S_MAX)
        wish.timer = self._loop.call_later(wait_s, self._time_out, wish)
        frame = request(
            self._targets[wish.path], self.macs[wish.path], wish.tag, wish.opcode, wish.sector,
            wish.count, wish.data,
        )  # fmt: skip
        self._network.to_target(wish.path, frame)

    def _time_out(self, wish: Wish) -> None:
        del self._asked[wish.path, wish.tag]
        waited_s = self._loop.time() - wish.began_s
        if wish.opcode == WRITE and wish.count > self.sectors_max and waited_s > PATIENCE_S:
            self._finish(wish)  # its frame is too large for the way, and nobody can know
            return
        if self._is_calm or waited_s > PATIENCE_S:
            raise AssertionError(f"no answer within {waited_s:g} s, {wish.tries} times asked")
        if self._habits.renews_tag:
            self._given_up[wish.path, wish.tag] = self._loop.time()
            self._window = 1
            wish.tag = next(self._tags)
            wish.path = self._chance.randrange(len(self.macs))
        self._send(wish)

    def hear(self, answer: Answered) -> None:
        """A reply has come; one to a tag that is not waited for any more is ignored."""
        asked_s = self._given_up.pop((answer.path, answer.tag), None)
        if asked_s is not None:  # Linux learns from it how long to wait
            self._timeout_s = max(self._timeout_s, self._loop.time() - asked_s)
        wish = self._asked.get((answer.path, answer.tag))
        if self._is_well and wish is not None and not answer.is_good:
            raise AssertionError(f"all is well, and {answer}")
        # An AoE error is waited out by Linux; the others ask again, too, with the same effect.
        if wish is None or answer.error is not None:
            return
        if wish.opcode == READ and answer.is_good and len(answer.data) != wish.count * SECTOR_BYTES:
            return
        del self._asked[wish.path, wish.tag]
        assert wish.timer is not None
        wish.timer.cancel()
        self._window = min(self._window + 1, self._habits.window)
        self._finish(wish)

    def _finish(self, wish: Wish) -> None:
        self._outstanding -= 1
        self._ask_for_more()


def wishes(
    chance: random.Random, number: int, amount: int, size_sectors: int, count_max: int
) -> list[Wish]:
    """`amount` random requests of the host `number`."""
    return [
        _wish(chance, chance.choice(OPCODES), number, index, size_sectors, count_max)
        for index in range(amount)
    ]


def probes(
    chance: random.Random, number: int, amount: int, size_sectors: int, count_max: int, paths: int
) -> list[Wish]:
    """One request of each kind by each path, after the `amount` of `wishes`."""
    made = []
    for path in range(paths):
        for opcode in (WRITE, READ, VERIFY, FLUSH):
            wish = _wish(chance, opcode, number, amount + path, size_sectors, count_max)
            wish.path = path
            made.append(wish)
    return made


def _wish(
    chance: random.Random, opcode: int, number: int, index: int, size_sectors: int, count_max: int
) -> Wish:
    """A random request; each sector of each write has a content of its own."""
    count = 0 if opcode == FLUSH else chance.randint(1, count_max)
    sector = chance.randrange(size_sectors - count + 1) if count else 0
    data = b""
    if opcode == WRITE:
        name = (number << 32 | index + 1) << 8
        data = b"".join((name | at).to_bytes(8) * (SECTOR_BYTES // 8) for at in range(count))
    return Wish(opcode, sector, count, data)
