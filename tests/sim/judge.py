"""The judge: a model of the disk that watches the target's side of the wire.

It knows every frame that has arrived, in order of arrival, every reply, when the disk was flushed,
and what befell the target, and holds it to its promises:

- Of requests that overlap, one of them a write, the one that arrived first takes effect first.
- A read returns what the order of arrival leaves there; garbage never.
- An acknowledged write is there, also after a power cut (with a write cache: once a FLUSH was
  acknowledged); one that is not acknowledged is there or not, sector by sector; a value that was
  overwritten never returns.
- An acknowledged FLUSH or durable write had a flush of the disk that began after it had arrived.
- After a flush has failed that should have saved what was acknowledged, the next FLUSH of each host
  that writes fails; so may those that follow, as an answer can get lost.
- Each reply answers a request that waits for one; what the target gave up is never answered, and
  what it has looked at and has not given up is, once nothing befalls it any more.
- What hosts have set is in force, and found by whoever asks, from the acknowledgement on, whatever
  becomes of the process. Nothing of a host that a reservation locks out takes effect any more; what
  it had asked for before is dropped unless it had been started.
- Refused is only who is locked out or finds the device off its disk, and they always. Who asks
  while the disk is being opened again, as planned, is answered afterwards, and never refused.
- Nobody fails but for sectors of his own, or a write or FLUSH for a flush that failed meanwhile: it
  may have lost what a later flush would not save; or a read that no frame has room for since the
  MTU was lowered. Such a read is not ignored for ever.

A request whose reply is missing may have taken effect in its turn, or not at all; so may each copy.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum

from ggaoe.proto.ata import Op
from ggaoe.proto.frame import SECTOR_BYTES
from sim.wire import (
    RESERVE,
    RESERVED,
    SETTINGS,
    UNAVAILABLE,
    Answered,
    Asked,
    Told,
    macs_of,
)

AT_ONCE_NS = 10_000
"""Each arrival takes a nanosecond, and the target no time at all."""


class Presence(Enum):
    """What a host finds at the target's address."""

    NOTHING = "nothing"
    NO_DISK = "no disk"
    DISK = "disk"


class BrokenPromiseError(AssertionError):
    """The target broke a promise."""


@dataclass(eq=False)
class Record:
    """One arrival; `outcome` is what became of it on the disk, None while that is open."""

    asked: Asked
    number: int
    flush_failures: int
    seen_ns: int | None = None
    """When the target looked at it; None: it still waits for that."""
    refusals: set[int] = field(default_factory=set)
    """The AoE errors that may answer it."""
    outcome: str | None = None
    is_unfit: bool = False
    """A read that no reply can carry since the MTU was lowered: it has no effect, and may fail."""
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

DOUBTFUL = "doubtful"
"""A copy that came at the moment of the reply: it counts as answered, or is still to be."""


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
    """`bad` sectors fail, `full` ones fail writes, until the disk has `healed`. `presence` is for
    whoever makes things happen to set."""

    def __init__(
        self, size_sectors: int, *, write_cache: bool, bad: Iterable[int], full: Iterable[int]
    ) -> None:
        self._write_cache = write_cache
        self._bad, self._full = set(bad), set(bad) | set(full)
        self._ill_until = math.inf
        """What has arrived up to then may fail for sectors of its own."""
        self._sectors = [_Sector() for _ in range(size_sectors)]
        self._waiting: dict[tuple[object, ...], deque[Record]] = {}
        """For a reply, by what replies have in common with their requests."""
        self._damaged: dict[tuple[object, ...], list[int]] = {}
        self._settings = {command: {b""} for command in SETTINGS}
        """What each can be: one value, unless a change is under way."""
        self._asked = 0
        self._flushed_until = 0
        """What arrived up to then is followed by a flush of the disk."""
        self._flush_failures = 0
        self._unsaved = 0
        """The number of the last write that was acknowledged from the cache; 0: a flush has saved
        it."""
        self._cached: set[bytes] = set()
        """Whose writes were acknowledged from the cache."""
        self._untold: set[bytes] = set()
        """Those of them that a failed flush may have deprived of a write, and do not know yet."""
        self._writers: set[bytes] = set()
        """Whoever has asked for a write."""
        self._deprived: set[bytes] = set()
        """Those of them that a failed flush may have deprived."""
        self.presence = Presence.NOTHING
        self.answers = 0
        self.reads_checked = 0

    # --- what happens ------------------------------------------------------------------------

    def asked(self, asked: Asked) -> Record:
        """A whole request has arrived; the target has not looked at it yet."""
        self._asked += 1
        record = Record(asked, self._asked, self._flush_failures)
        self._waiting.setdefault(asked.key, deque()).append(record)
        if asked.op is Op.WRITE:
            self._writers.add(asked.source)
        if asked.op is Op.FLUSH:
            record.snapshot = [
                (sector.live, len(sector.written)) if sector.is_trusted else None
                for sector in self._sectors
            ]
        for sector in asked.span:
            self._sectors[sector].records.append(record)
        return record

    def seen(self, record: Record, now_ns: int, *, fits: bool) -> None:
        """The target looks at a request, unless its link has been closed; whether its reply fits
        into a frame."""
        record.seen_ns = now_ns
        if not fits:
            record.is_unfit = True
            record.outcome = record.outcome or REFUSED
        locked_out = [_locks_out(owners, record) for owners in self._settings[RESERVE]]
        if self.presence is not Presence.NOTHING and any(locked_out):
            record.refusals.add(RESERVED)
        if self.presence is Presence.NO_DISK and not all(locked_out):
            record.refusals.add(UNAVAILABLE)
        if self.presence is not Presence.DISK or all(locked_out):
            record.outcome = record.outcome or REFUSED

    def damaged(self, asked: Asked, now_ns: int) -> None:
        """The target looks at a request that was cut off: an error at once is the right answer, or
        none."""
        self._damaged.setdefault(asked.key, []).append(now_ns)

    def answered(self, answers: Iterable[Answered], now_ns: int) -> None:
        """Replies that left the target at once."""
        for answer in answers:
            if not self._is_for_damaged(answer, now_ns):
                self._settle(self._match(answer, now_ns), answer)

    def stale(self, record: Record) -> None:
        """It has waited for the target for so long that it must be thrown away."""
        if record in self._waiting.get(record.asked.key, ()):
            self._give_up([record], REFUSED)

    def dropped(self) -> None:
        """The target is off its disk, has finished what it had started, and answered it: what else
        it had looked at must have no effect."""
        seen = (r for r in self._all_waiting() if r.seen_ns is not None and r.outcome is None)
        self._give_up(list(seen), REFUSED)

    def setting(self, command: int, value: bytes) -> None:
        """A host asks for a change of a setting; there is one change at a time, which may arrive
        several times before it is acknowledged."""
        self._settings[command].add(value)

    def told(self, told: Told, *, is_change: bool) -> None:
        """The target says what a setting is: it acknowledges the change, or was asked."""
        possible = self._settings[told.command]
        if told.value not in possible:
            allowed = " or ".join(sorted(value.hex() or "nothing" for value in possible))
            raise BrokenPromiseError(f"{told}, and it can only be {allowed}")
        self._settings[told.command] = {told.value}
        if told.command == RESERVE and is_change:
            for record in self._all_waiting():
                if _locks_out(told.value, record):
                    record.outcome = record.outcome or REFUSED

    def flush_began(self) -> int:
        """A flush of the disk begins; what `flush_ended` is to be told."""
        return self._asked

    def flush_ended(self, began: int, is_good: bool) -> None:
        """It has saved what was there when it began; or has failed, and hosts will hear of it."""
        if is_good:
            self._flushed_until = max(self._flushed_until, began)
            if self._unsaved <= began:
                self._unsaved = 0
            return
        self._flush_failures += 1
        if self._write_cache:
            if self._unsaved:
                self._untold |= self._cached
            self._deprived |= self._writers
            self._unsaved = 0
        for sector in self._sectors:
            if len(sector.durable) > 1 or sector.records:
                sector.is_trusted = False

    def healed(self) -> None:
        """The disk has recovered."""
        self._ill_until = min(self._ill_until, self._asked)

    def calm(self) -> None:
        """Nothing has befallen the target for so long that it must have answered everything."""
        for record in self._all_waiting():
            if record.outcome is None:
                raise BrokenPromiseError(f"{record.asked} was never answered")

    def silenced(self, path: int | None = None) -> None:
        """No request of `path` (None: at all) that waits now will be answered."""
        records = [r for r in self._all_waiting() if path is None or r.asked.path == path]
        self._give_up(records, SILENT)

    def ended(self, content: Callable[[int], bytes], *, power_was_cut: bool) -> None:
        """The target has ended without ado, and the disk holds `content`."""
        self.silenced()
        self._unsaved = 0
        for hosts in (self._cached, self._untold, self._writers, self._deprived):
            hosts.clear()
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

    # --- what it means -----------------------------------------------------------------------

    def _all_waiting(self) -> list[Record]:
        return [record for records in self._waiting.values() for record in records]

    def _is_for_damaged(self, answer: Answered, now_ns: int) -> bool:
        """Whether it is an error for a frame that was cut off."""
        seen_ns = self._damaged.get(answer.key)
        if answer.is_good or not seen_ns or now_ns - seen_ns[-1] > AT_ONCE_NS:
            return False
        seen_ns.pop()
        return True

    def _match(self, answer: Answered, now_ns: int) -> Record:
        """The request that `answer` is for. Among copies an error is for the last that it may
        answer, anything else for the first; those that were seen meanwhile have no effect."""
        same = self._waiting.get(answer.key, ())
        if answer.error is not None:
            fitting = [r for r in same if answer.error in r.refusals]
        else:
            fitting = [
                r
                for r in same
                if (not answer.is_good if r.is_unfit else r.outcome in (None, DOUBTFUL))
            ]
        if not fitting:
            raise BrokenPromiseError(f"{answer} answers nothing that waits for such an answer")
        self.answers += 1
        if answer.error is not None:
            return self._take(fitting[-1])
        seen = [r for r in fitting[1:] if r.seen_ns is not None]
        self._give_up([r for r in seen if r.seen_ns != now_ns], REFUSED)
        for record in seen:
            record.outcome = record.outcome or DOUBTFUL
        return self._take(fitting[0])

    def _take(self, record: Record) -> Record:
        """`record` does not wait any more."""
        same = self._waiting[record.asked.key]
        same.remove(record)
        if not same:
            del self._waiting[record.asked.key]
        return record

    def _give_up(self, records: Iterable[Record], outcome: str) -> None:
        """`records` will not be answered; `outcome` is theirs unless they had one."""
        for record in records:
            self._take(record)
            record.outcome = record.outcome or outcome

    def _settle(self, record: Record, answer: Answered) -> None:
        asked = record.asked
        if record.is_unfit:
            return
        if answer.is_good:
            record.outcome, record.data = GOOD, answer.data
            if asked.op is Op.READ and len(answer.data) != asked.count * SECTOR_BYTES:
                raise BrokenPromiseError(f"{asked} was answered with {len(answer.data)} bytes")
            is_durable = asked.op is Op.FLUSH or (asked.op is Op.WRITE and not self._write_cache)
            if is_durable and self._flushed_until < record.number:
                raise BrokenPromiseError(f"{asked} was acknowledged, and no flush has covered it")
            if asked.op is Op.WRITE and self._write_cache:
                self._unsaved = max(self._unsaved, record.number)
                self._cached.add(asked.source)
        elif answer.error is not None:
            record.outcome = REFUSED
        else:
            record.outcome = FAILED
            self._excuse(record, answer)
        if asked.op is Op.FLUSH:
            self._flushed(record)
            self._tell(record)
        for number in asked.span:
            self._settle_sector(self._sectors[number], number, record)

    def _excuse(self, record: Record, answer: Answered) -> None:
        """Raises where it had no reason to fail."""
        op = record.asked.op
        if op in (Op.WRITE, Op.FLUSH) and self._flush_failures > record.flush_failures:
            return
        if op is Op.FLUSH and record.asked.source in self._deprived:
            return
        ill = self._full if op is Op.WRITE else self._bad
        if record.number > self._ill_until or ill.isdisjoint(record.asked.span):
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
                if not any(_locks_out(owners, older) for owners in self._settings[RESERVE]):
                    raise BrokenPromiseError(f"{record.asked} has passed {older.asked}")
                older.outcome = REFUSED  # dropped for a reservation that is about to be answered
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
        if record.outcome != GOOD or record.flush_failures != self._flush_failures:
            return
        for sector, snapshot in zip(self._sectors, record.snapshot, strict=True):
            if snapshot is not None:
                live, count = snapshot
                sector.durable = sector.durable & (live | set(sector.written[count:]))

    def _tell(self, record: Record) -> None:
        """What the answer to a FLUSH says to its host of failed ones before."""
        host = record.asked.source
        came_after = record.flush_failures == self._flush_failures
        if record.outcome == GOOD and came_after and host in self._untold:
            raise BrokenPromiseError(f"{record.asked} was acknowledged, though a flush has failed")
        if record.outcome == FAILED:
            self._untold.discard(host)

    def _fold(self, sector: _Sector, number: int) -> None:
        """Take the oldest record of `sector` into what it can hold."""
        record = sector.records.popleft()
        came_after = record.flush_failures == self._flush_failures
        sector.fold(record, number, write_cache=self._write_cache, is_trusted=came_after)


def _locks_out(owners: bytes, record: Record) -> bool:
    return bool(owners) and record.asked.source not in macs_of(owners)


def _names(contents: Iterable[bytes]) -> str:
    """Contents as people can tell them apart: a sector repeats the name of its write."""
    names = []
    for content in contents:
        name = content[:8]
        whole = name * (SECTOR_BYTES // len(name)) == content
        names.append(f"write {int.from_bytes(name)}" if whole else f"garbage {content[:16].hex()}…")
    return " or ".join(sorted(names))
