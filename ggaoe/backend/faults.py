"""A backend around another one that makes it fail, as and when a test says.

Owns: which transfers meet which fault, and those it holds back. Must not know what the inner store
is. Nothing here waits or draws a number on its own: a plan decides, and a plan with a seed decides
the same again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ggaoe.backend.base import Backend, Transfer
from ggaoe.backend.workers import Completions
from ggaoe.proto.ata import Op
from ggaoe.proto.frame import SECTOR_BYTES


@dataclass(frozen=True)
class Fail:
    """The transfer does nothing and fails with `errno` (positive)."""

    errno: int


@dataclass(frozen=True)
class Short:
    """Only the first `length_bytes` are moved, and that is the result."""

    length_bytes: int


@dataclass(frozen=True)
class Hold:
    """The transfer waits in `FaultBackend.held` until it is released; a hang, if it never is."""


Fault = Fail | Short | Hold
Plan = Callable[[Transfer], Fault | None]


@dataclass
class Rule:
    """`fault` for each transfer of one of `ops` that touches [start, end), `times` times at most.

    A FLUSH touches every range.
    """

    fault: Fault
    ops: Iterable[Op] = tuple(Op)
    start_bytes: int = 0
    end_bytes: int | None = None
    times: int | None = None

    def __call__(self, transfer: Transfer) -> Fault | None:
        if self.times == 0 or transfer.op not in self.ops:
            return None
        end_bytes = transfer.offset_bytes + transfer.length_bytes
        if transfer.op is not Op.FLUSH and (
            end_bytes <= self.start_bytes
            or (self.end_bytes is not None and transfer.offset_bytes >= self.end_bytes)
        ):
            return None
        if self.times is not None:
            self.times -= 1
        return self.fault


def seeded(seed: int, fail_rate: float, short_rate: float, errno: int) -> Plan:
    """A plan that strikes at random, the same for the same seed and sequence of transfers."""
    chance = random.Random(seed)

    def decide(transfer: Transfer) -> Fault | None:
        drawn = chance.random()
        if drawn < fail_rate:
            return Fail(errno)
        if drawn < fail_rate + short_rate and transfer.length_bytes > SECTOR_BYTES:
            sectors = transfer.length_bytes // SECTOR_BYTES
            return Short(chance.randrange(1, sectors) * SECTOR_BYTES)
        return None

    return decide


class FaultBackend(Backend):
    """`inner` with faults: the first of `plans` that has one for a transfer decides.

    `plans` may be changed at any time and holds for what is submitted from then on.
    """

    def __init__(self, inner: Backend, *plans: Plan) -> None:
        self.inner = inner
        self.plans = list(plans)
        self.held: list[Transfer] = []
        self.size_bytes = inner.size_bytes
        self.granule_bytes = inner.granule_bytes
        self.granule_origin_bytes = inner.granule_origin_bytes
        self.read_only = inner.read_only
        self.origin = inner.origin
        self.description = f"faults over {inner.description}"
        self.warnings = inner.warnings
        self._completions = Completions(self._deliver)
        inner.complete = self._inner_complete

    def submit(self, transfers: Sequence[Transfer]) -> None:
        sound = []
        for transfer in transfers:
            fault = self._fault_of(transfer)
            if isinstance(fault, Fail):
                self._completions.add(transfer, -fault.errno)
            elif isinstance(fault, Hold):
                self.held.append(transfer)
            else:
                sound.append(transfer if fault is None else _Shortened(transfer, fault))
        self.inner.submit(sound)

    def release(self, count: int | None = None) -> None:
        """Let the first `count` held transfers (all without a count) go on to the inner store."""
        released = self.held[:count]
        del self.held[:count]
        self.inner.submit(released)

    async def refresh_size_bytes(self) -> int:
        self.size_bytes = await self.inner.refresh_size_bytes()
        return self.size_bytes

    async def close(self) -> None:
        await self.inner.close()

    def _fault_of(self, transfer: Transfer) -> Fault | None:
        for plan in self.plans:
            if (fault := plan(transfer)) is not None:
                return fault
        return None

    def _deliver(self, done: Sequence[Transfer]) -> None:
        self.complete(done)

    def _inner_complete(self, done: Sequence[Transfer]) -> None:
        self._deliver([t.whole() if isinstance(t, _Shortened) else t for t in done])


class _Shortened(Transfer):
    """The beginning of `original`, for the inner store."""

    __slots__ = ("original",)

    def __init__(self, original: Transfer, fault: Short) -> None:
        buffers = []
        left_bytes = fault.length_bytes
        for buffer in original.buffers:
            if left_bytes > 0:
                buffers.append(buffer[:left_bytes])
                left_bytes -= len(buffer)
        super().__init__(original.op, original.offset_bytes, buffers, original.owner)
        self.length_bytes = min(fault.length_bytes, original.length_bytes)
        self.original = original

    def whole(self) -> Transfer:
        self.original.result = self.result
        return self.original
