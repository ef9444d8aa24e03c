"""The judge: a model of the disk that watches the target's side of the wire, and nothing else.

It knows every frame that has arrived, in order of arrival, and every reply, and holds the target to
its promises:

- Of requests that overlap, one of them a write, the one that arrived first takes effect first.
- A read returns what the order of arrival leaves there; garbage never.
- An acknowledged write is there, also after a power cut (with a write cache: once a FLUSH was
  acknowledged); one that is not acknowledged is there or not, sector by sector; a value that was
  overwritten never returns.
- Each reply answers a request that waits for one; what the target gave up is never answered.
- Once a reservation is acknowledged, nothing of a host that it locks out takes effect any more.
- Nobody fails but for sectors of his own, or a flush that failed.

A request whose reply is missing may have taken effect in its turn, or not at all; so may each copy.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ggaoe.proto.ata import Op
from ggaoe.proto.frame import SECTOR_BYTES
from sim.wire import Answered, Asked

AT_ONCE_NS = 10_000
"""Each arrival takes a nanosecond, and the target no time at all."""


class BrokenPromiseError(AssertionError):
    """The target broke a promise."""


@dataclass(eq=False)
class Record:
    """One arrival. `outcome` is None while it waits for its reply."""

    asked: Asked
    number: int
    flush_failures: int
    seen_ns: int | None
    """When the target looked at it; None: it still waits for that."""
    outcome: str | None = None
    data: bytes = b""
    snapshot: list[tuple[set[bytes], int] | None] = field(default_factory=list)
    """A FLUSH: what each sector could hold when it arrived, and how many writes it had seen; None:
    a flush need not save what is there."""

    def content(self, sector: int) -> bytes:
        at = (sector - self.asked.sector) * SECTOR_BYTES
        data = self.asked.data if self.asked.op is Op.WRITE else self.data
        return data[at : at + SECTOR_BYTES]


GOOD, FAILED = "good", "failed"
REFUSED = "refused"
"""It has no effect, now or later."""
SILENT = "silent"
"""It will not be answered: it has taken effect in its turn, or never will."""


class _Sector:
    """What one sector can hold: `live` to a reader, `durable` after a power cut."""

    def __init__(self) -> None:
        self.live = {bytes(SECTOR_BYTES)}
        self.durable = {bytes(SECTOR_BYTES)}
        self.written: list[bytes] = []
        self.is_trusted = True
        """False: a flush has failed that should have saved what is here, and a later flush need not
        save it (as Linux has it), until it is written again."""
        self.records: deque[Record] = deque()
        """In order of arrival; those at the front that are settled are folded into the sets."""

    def fold(self, record: Record, at: int, *, write_cache: bool, is_trusted: bool) -> None:
        self.live = possible_after(self.live, record, at)
        if record.asked.op is not Op.WRITE or record.outcome == REFUSED:
            return
        content = record.content(at)
        self.written.append(content)
        if record.outcome != GOOD:
            self.durable = self.durable | {content}
            return
        self.durable = self.durable | {content} if write_cache else {content}
        self.is_trusted = self.is_trusted or is_trusted


def possible_after(possible: set[bytes], record: Record, sector: int) -> set[bytes]:
    """What `sector` can hold after `record`, if it could hold `possible` before."""
    if record.asked.op is Op.WRITE and record.outcome != REFUSED:
        content = record.content(sector)
        return {content} if record.outcome == GOOD else possible | {content}
    if record.asked.op is Op.READ and record.outcome == GOOD:
        return {record.content(sector)}
    return possible


class Judge:
    """`flush_failures` says how many flushes of the disk have failed so far; `ill` are the sectors
    that have been bad or full at any time."""

    def __init__(
        self, size_sectors: int, *, write_cache: bool, flush_failures: Callable[[], int],
        ill: set[int],
    ) -> None:  # fmt: skip
        self._write_cache = write_cache
        self._flush_failures = flush_failures
        self._ill = ill
        self._sectors = [_Sector() for _ in range(size_sectors)]
        self._waiting: dict[tuple[object, ...], deque[Record]] = {}
        self._damaged: dict[tuple[object, ...], list[int]] = {}
        self._locked_out: Counter[tuple[object, ...]] = Counter()
        self._asked = 0
        self.may_refuse = False
        """The device was taken off its disk at some time: it answers that it is not available."""
        self.answers = 0
        self.reads_checked = 0

    # --- what happens ------------------------------------------------------------------------

    def asked(self, asked: Asked, seen_ns: int | None) -> None:
        """A whole request has arrived, and the target looks at it now, or (None) later."""
        self._asked += 1
        record = Record(asked, self._asked, self._flush_failures(), seen_ns)
        self._waiting.setdefault(asked.key, deque()).append(record)
        if asked.op is Op.FLUSH:
            record.snapshot = [
                (sector.live, len(sector.written)) if sector.is_trusted else None
                for sector in self._sectors
            ]
        for sector in asked.span:
            self._sectors[sector].records.append(record)

    def damaged(self, asked: Asked, now_ns: int) -> None:
        """The target looks at a request that was cut off: an error at once is the right answer, or
        none."""
        self._damaged.setdefault(asked.key, []).append(now_ns)

    def seen(self, asked: Asked, now_ns: int) -> None:
        """The target looks at a request that has waited for that."""
        for record in self._waiting.get(asked.key, ()):
            if record.asked is asked:
                record.seen_ns = now_ns

    def answered(self, answers: Iterable[Answered], now_ns: int) -> None:
        """Replies that left the target at once; those to writes had to be first."""
        settled = [
            (self._match(answer, now_ns), answer)
            for answer in answers
            if not self._is_expected(answer, now_ns)
        ]
        settled.sort(key=lambda pair: pair[0].asked.op is not Op.WRITE)
        for record, answer in settled:
            self._settle(record, answer)

    @property
    def mark(self) -> int:
        """Names all that has been asked up to now."""
        return self._asked

    def stale(self, asked: Asked) -> None:
        """It has waited for the target for so long that it must be thrown away."""
        for record in self._waiting.get(asked.key, ()):
            if record.asked is asked:
                self._settle_silently([record], REFUSED)
                return

    def dropped(self, mark: int) -> None:
        """The target has finished what it had started of all before `mark`, and answered it: what
        is left of it must have no effect."""
        self._settle_silently([r for r in self._all_waiting() if r.number <= mark], REFUSED)

    def reserved(self, owners: Iterable[bytes]) -> None:
        """The target has acknowledged a reservation: what others have asked must have no effect."""
        owners = set(owners)
        if owners:
            locked_out = [r for r in self._all_waiting() if r.asked.source not in owners]
            self._locked_out.update(record.asked.key for record in locked_out)
            self._settle_silently(locked_out, REFUSED)

    def silenced(self, path: int | None = None) -> None:
        """No request of `path` (None: at all) that waits now will be answered."""
        records = [r for r in self._all_waiting() if path is None or r.asked.path == path]
        self._settle_silently(records, SILENT)

    def ended(self, content: Callable[[int], bytes], *, power_was_cut: bool) -> None:
        """The target has ended without ado, and the disk holds `content`."""
        self.silenced()
        for number, sector in enumerate(self._sectors):
            while sector.records:
                self._fold(sector, number)
            found = content(number)
            allowed = sector.durable if power_was_cut else sector.live
            if found not in allowed:
                what = "after a power cut" if power_was_cut else "at the end"
                raise BrokenPromiseError(
                    f"sector {number} {what}: {_names([found])} of {_names(allowed)}"
                )
            sector.live = {found}
            if power_was_cut:
                sector.durable = {found}

    def flush_failed(self) -> None:
        """A flush of the disk has failed; hosts will hear of it."""
        for sector in self._sectors:
            if len(sector.durable) > 1 or sector.records:
                sector.is_trusted = False

    # --- what it means -----------------------------------------------------------------------

    def _all_waiting(self) -> list[Record]:
        return [record for records in self._waiting.values() for record in records]

    def _is_expected(self, answer: Answered, now_ns: int) -> bool:
        """Whether it is an error that answers no request of ours: a frame that was cut off, or what
        a reservation has locked out."""
        key = answer.key
        if answer.error is not None and self._locked_out[key]:
            self._locked_out[key] -= 1
            return True
        seen_ns = self._damaged.get(key)
        if answer.is_good or not seen_ns or now_ns - seen_ns[-1] > AT_ONCE_NS:
            return False
        seen_ns.pop()
        return True

    def _match(self, answer: Answered, now_ns: int) -> Record:
        records = self._waiting.get(answer.key)
        if not records:
            raise BrokenPromiseError(f"{answer} answers nothing that waits for an answer")
        self.answers += 1
        if answer.error is not None:
            # A copy of what is under way is refused while the device is off its disk.
            return self._take(records[-1])
        record = self._take(records[0])
        # Copies of it that the target has seen meanwhile are answered with it.
        twins = [r for r in records if r.seen_ns is not None and r.seen_ns < now_ns]
        self._settle_silently(twins, SILENT)
        return record

    def _take(self, record: Record) -> Record:
        """`record` does not wait any more."""
        same = self._waiting[record.asked.key]
        same.remove(record)
        if not same:
            del self._waiting[record.asked.key]
        return record

    def _settle_silently(self, records: Iterable[Record], outcome: str) -> None:
        for record in records:
            self._take(record).outcome = outcome

    def _settle(self, record: Record, answer: Answered) -> None:
        asked = record.asked
        if answer.is_good:
            record.outcome, record.data = GOOD, answer.data
            if asked.op is Op.READ and len(answer.data) != asked.count * SECTOR_BYTES:
                raise BrokenPromiseError(f"{asked} was answered with {len(answer.data)} bytes")
        elif answer.error is not None:
            record.outcome = REFUSED
            if not self.may_refuse:
                raise BrokenPromiseError(f"{asked} was refused: {answer}")
        else:
            record.outcome = FAILED
            self._excuse(record, answer)
        if asked.op is Op.FLUSH:
            self._flushed(record)
        for number in asked.span:
            self._settle_sector(self._sectors[number], number, record)

    def _excuse(self, record: Record, answer: Answered) -> None:
        is_flushed = record.asked.op in (Op.WRITE, Op.FLUSH)
        if is_flushed and self._flush_failures() > record.flush_failures:
            return
        if self._ill.isdisjoint(record.asked.span):
            raise BrokenPromiseError(f"{record.asked} failed without a cause: {answer}")

    def _settle_sector(self, sector: _Sector, number: int, record: Record) -> None:
        if record.outcome != REFUSED:
            self._check_order(sector, number, record)
        while sector.records and sector.records[0].outcome is not None:
            self._fold(sector, number)

    def _check_order(self, sector: _Sector, number: int, record: Record) -> None:
        """`record` has taken effect: what is older and overlaps did so before, or never may."""
        possible = sector.live
        is_write = record.asked.op is Op.WRITE
        for older in sector.records:
            if older is record:
                break
            if older.outcome is None and (is_write or older.asked.op is Op.WRITE):
                self._settle_silently([older], SILENT)
            possible = possible_after(possible, older, number)
        if record.asked.op is Op.READ and record.outcome == GOOD:
            self.reads_checked += 1
            found = record.content(number)
            if found not in possible:
                raise BrokenPromiseError(
                    f"{record.asked} found {_names([found])} in sector {number}, "
                    f"which could hold {_names(possible)}"
                )

    def _flushed(self, record: Record) -> None:
        if record.outcome != GOOD or record.flush_failures != self._flush_failures():
            return
        for sector, snapshot in zip(self._sectors, record.snapshot, strict=True):
            if snapshot is not None:
                live, count = snapshot
                sector.durable = sector.durable & (live | set(sector.written[count:]))

    def _fold(self, sector: _Sector, number: int) -> None:
        """Take the oldest record of `sector` into what it can hold."""
        record = sector.records.popleft()
        came_after = record.flush_failures == self._flush_failures()
        sector.fold(record, number, write_cache=self._write_cache, is_trusted=came_after)


def _names(contents: Iterable[bytes]) -> str:
    """Contents as people can tell them apart: a sector repeats the name of its write."""
    names = []
    for content in contents:
        name = content[:8]
        whole = name * (SECTOR_BYTES // len(name)) == content
        names.append(f"write {int.from_bytes(name)}" if whole else f"garbage {content[:16].hex()}…")
    return " or ".join(sorted(names))
