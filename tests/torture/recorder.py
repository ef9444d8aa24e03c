"""A disk under the unmodified daemon that remembers everything, and loses what a power cut takes.

Owns: a file served by FUSE, the record of its writes and flushes, each with its begin and its end,
and the states in which a power cut at any point of that record may leave the medium. Must not know:
AoE, the daemon, what is written.

The file speaks the kernel's FUSE protocol itself (uapi/linux/fuse.h), over /dev/fuse. Data arrive
as soon as they are written even through the page cache, which writes through unless told
otherwise; so whatever lies in that cache is in the record, too, as something not flushed yet.
"""

from __future__ import annotations

import errno
import heapq
import os
import random
import select
import stat
import struct
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import pytest

from helpers.netns import COMMAND_TIMEOUT_S, Namespace, wait_until

SECTOR_BYTES = 512
WRITE_DELAY_MAX_S = 0.001
FLUSH_DELAY_MAX_S = 0.005
"""The longest that either takes; long enough for others to come in between."""
SURVIVAL_CHANCES = (0.0, 0.1, 0.5, 0.9, 1.0)
"""How likely a sector that was not flushed is on the medium: each cut takes one of these."""


class Step(IntEnum):
    """What happened to a request."""

    WRITE = 0
    WRITTEN = 1
    FLUSH = 2
    FLUSHED = 3


class Event(NamedTuple):
    """A step of one request: `request` is the same at its begin and its end."""

    step: Step
    request: int
    offset_bytes: int = 0
    data: bytes = b""


class Medium:
    """What a disk with a volatile write cache holds, following a record event by event.

    A finished flush makes durable what had been written when the flush began, and nothing else is.
    """

    def __init__(self, content: bytes) -> None:
        self.durable = bytearray(content)
        self.races = 0
        """Writes that began while another one to the same sector was under way: which of them
        is left would be chance."""
        self._cached: dict[int, Event] = {}
        self._underway: dict[int, Event] = {}
        self._covered: dict[int, list[int]] = {}

    @property
    def cached_writes(self) -> int:
        """Writes that a power cut may take back."""
        return len(self._cached)

    def follow(self, events: Iterable[Event]) -> None:
        for event in events:
            match event.step:
                case Step.WRITE:
                    self.races += any(_overlap(event, other) for other in self._underway.values())
                    self._cached[event.request] = self._underway[event.request] = event
                case Step.WRITTEN:
                    del self._underway[event.request]
                case Step.FLUSH:
                    written = [key for key in self._cached if key not in self._underway]
                    self._covered[event.request] = written
                case Step.FLUSHED:
                    for key in self._covered.pop(event.request):
                        write = self._cached.pop(key, None)
                        if write is not None:  # otherwise an earlier flush has had it
                            end_bytes = write.offset_bytes + len(write.data)
                            self.durable[write.offset_bytes : end_bytes] = write.data

    def after_power_cut(self, rng: random.Random) -> bytearray:
        """One of the possible contents: what is durable, and of the rest any choice of sectors."""
        image = bytearray(self.durable)
        chance = rng.choice(SURVIVAL_CHANCES)
        for write in self._cached.values():
            for at in range(0, len(write.data), SECTOR_BYTES):
                if rng.random() < chance:
                    start = write.offset_bytes + at
                    image[start : start + SECTOR_BYTES] = write.data[at : at + SECTOR_BYTES]
        return image


def _overlap(one: Event, other: Event) -> bool:
    return (
        one.offset_bytes < other.offset_bytes + len(other.data)
        and other.offset_bytes < one.offset_bytes + len(one.data)
    )  # fmt: skip


def power_cuts(
    medium: Medium, record: Sequence[Event], points: Iterable[int], rng: random.Random
) -> Iterator[tuple[int, bytearray]]:
    """(point, content) for a power cut after the first `point` events, for ascending points."""
    followed = 0
    for point in points:
        medium.follow(record[followed:point])
        followed = point
        yield point, medium.after_power_cut(rng)


# --- the kernel's protocol, uapi/linux/fuse.h ----------------------------------------------------


class _Opcode(IntEnum):
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    FLUSH = 25
    INIT = 26
    INTERRUPT = 36
    BATCH_FORGET = 42


_UNANSWERED = (_Opcode.FORGET, _Opcode.BATCH_FORGET, _Opcode.INTERRUPT)
_EMPTY = (_Opcode.RELEASE, _Opcode.FLUSH)

_IN_HEADER = struct.Struct("=IIQQIIIHH")
_OUT_HEADER = struct.Struct("=IiQ")
_INIT_OUT = struct.Struct("=IIIIHHIIHHI28x")
_OPEN_IN = struct.Struct("=II")
_OPEN_OUT = struct.Struct("=QII")
_TRANSFER_IN = struct.Struct("=QQIIQII")  # fuse_read_in and fuse_write_in alike
_WRITE_OUT = struct.Struct("=II")
_ATTR_OUT = struct.Struct("=QII6Q10I")
_STATFS_OUT = struct.Struct("=5Q4I24x")

_VERSION = (7, 31)
_ASYNC_READ, _BIG_WRITES, _ASYNC_DIO = 1 << 0, 1 << 5, 1 << 15
_OPEN_DIRECT_IO, _OPEN_PARALLEL_DIRECT_WRITES = 1 << 0, 1 << 6
_TRANSFER_BYTES_MAX = 32 * 4096  # as much as the kernel sends without further agreement
_REQUEST_BYTES_MAX = _TRANSFER_BYTES_MAX + 4096
_BACKGROUND_MAX = 64
_BLOCK_BYTES = 4096


class _Due(NamedTuple):
    """A reply that is held back until `due_s`."""

    due_s: float
    unique: int
    event: Event
    payload: bytes


class Recorder:
    """The file `path` in the mount namespace of `namespace`, `size_bytes` of zeros at first.

    A context manager, served by a thread of this process. Nothing is left behind: with the
    descriptor of /dev/fuse its file is gone, and with the namespace the mount.
    """

    attributes_valid_s = 1 << 30
    """So long the kernel answers a question for its size by itself."""

    def __init__(self, namespace: Namespace, path: Path, size_bytes: int, seed: int) -> None:
        self.path = path
        self.record: list[Event] = []
        """Grows at its end. An event is here before the writer can know of it."""
        self._namespace = namespace
        self._image = bytearray(size_bytes)
        self._rng = random.Random(seed)
        self._due: list[_Due] = []
        self._start = Medium(bytes(size_bytes))

    def __enter__(self) -> Recorder:
        try:
            self._fd = os.open("/dev/fuse", os.O_RDWR | os.O_NONBLOCK)
        except OSError as error:
            pytest.skip(f"needs /dev/fuse: {os.strerror(error.errno or 0)}")
        self._stop_read, self._stop_write = os.pipe()
        self._thread = threading.Thread(target=self._serve, name="recorder", daemon=True)
        try:
            self._mount()
        except BaseException:
            os.close(self._fd)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Somebody may have it open still, whose requests fail from now on.
        self._namespace.run("umount", "--lazy", self.path)
        os.write(self._stop_write, b"x")
        self._thread.join()
        for fd in (self._fd, self._stop_read, self._stop_write):
            os.close(fd)

    def _mount(self) -> None:
        self.path.touch()
        options = f"fd={self._fd},rootmode={stat.S_IFREG:o},user_id=0,group_id=0"
        mounting = subprocess.Popen(
            [
                *("nsenter", f"--target={self._namespace.pid}", "--mount", "--"),
                *("mount", "-i", "-t", "fuse", "-o", options, "ggaoe-recorder", self.path),
            ],
            pass_fds=[self._fd],
        )
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)

        def is_begun() -> bool:
            asked = any(events & select.POLLIN for _, events in poll.poll(0))
            return asked or mounting.poll() is not None

        # The kernel's first request comes with the mount, and mount(8) may look at the result.
        wait_until(is_begun, COMMAND_TIMEOUT_S, "mount of a FUSE file")
        self._thread.start()
        if mounting.wait(COMMAND_TIMEOUT_S) != 0:
            raise RuntimeError("mount of a FUSE file failed, see its message above")

    def medium(self) -> Medium:
        """The medium as it was where the record begins."""
        return Medium(bytes(self._start.durable))

    def cut_power(self, rng: random.Random) -> None:
        """Lose what a power cut now would, and begin a new record. Nobody may have it open."""
        medium = self.medium()
        medium.follow(self.record)
        self._image[:] = medium.after_power_cut(rng)
        self._start = Medium(bytes(self._image))
        self.record.clear()

    # --- in the thread ----------------------------------------------------------------------

    def _serve(self) -> None:
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        poll.register(self._stop_read, select.POLLIN)
        buffer = bytearray(_REQUEST_BYTES_MAX)
        while True:
            wait_s = max(0.0, self._due[0].due_s - time.monotonic()) if self._due else None
            ready = dict(poll.poll(None if wait_s is None else wait_s * 1000))
            if self._stop_read in ready or ready.get(self._fd, 0) & select.POLLERR:
                return
            if self._fd in ready:
                try:
                    length_bytes = os.readv(self._fd, [buffer])
                except OSError as error:
                    if error.errno in (errno.EAGAIN, errno.EINTR, errno.ENOENT):
                        continue  # somebody has given up just now
                    return
                self._handle(memoryview(buffer)[:length_bytes])
            while self._due and self._due[0].due_s <= time.monotonic():
                due = heapq.heappop(self._due)
                self.record.append(due.event)
                self._reply(due.unique, due.payload)

    def _handle(self, request: memoryview) -> None:
        _, opcode, unique, *_ = _IN_HEADER.unpack_from(request)
        body = request[_IN_HEADER.size :]
        if opcode in _UNANSWERED:
            return
        if opcode in _EMPTY:
            self._reply(unique)
        elif opcode == _Opcode.INIT:
            flags = _ASYNC_READ | _BIG_WRITES | _ASYNC_DIO
            limits = (_BACKGROUND_MAX, _BACKGROUND_MAX, _TRANSFER_BYTES_MAX, 1, 0, 0, 0)
            self._reply(unique, _INIT_OUT.pack(*_VERSION, _TRANSFER_BYTES_MAX, flags, *limits))
        elif opcode in (_Opcode.GETATTR, _Opcode.SETATTR):
            self._reply(unique, self._attributes())
        elif opcode == _Opcode.OPEN:
            flags, _ = _OPEN_IN.unpack_from(body)
            is_direct = bool(flags & os.O_DIRECT)
            options = _OPEN_DIRECT_IO | _OPEN_PARALLEL_DIRECT_WRITES if is_direct else 0
            self._reply(unique, _OPEN_OUT.pack(is_direct, options, 0))
        elif opcode == _Opcode.READ:
            _, offset_bytes, size_bytes, *_ = _TRANSFER_IN.unpack_from(body)
            self._reply(unique, self._image[offset_bytes : offset_bytes + size_bytes])
        elif opcode == _Opcode.WRITE:
            _, offset_bytes, size_bytes, *_ = _TRANSFER_IN.unpack_from(body)
            data = bytes(body[_TRANSFER_IN.size : _TRANSFER_IN.size + size_bytes])
            self._image[offset_bytes : offset_bytes + size_bytes] = data
            self.record.append(Event(Step.WRITE, unique, offset_bytes, data))
            payload = _WRITE_OUT.pack(size_bytes, 0)
            self._reply_later(WRITE_DELAY_MAX_S, Event(Step.WRITTEN, unique), payload)
        elif opcode == _Opcode.FSYNC:
            self.record.append(Event(Step.FLUSH, unique))
            self._reply_later(FLUSH_DELAY_MAX_S, Event(Step.FLUSHED, unique))
        elif opcode == _Opcode.STATFS:
            self._reply(unique, _STATFS_OUT.pack(0, 0, 0, 0, 0, _BLOCK_BYTES, 255, _BLOCK_BYTES, 0))
        else:
            self._reply(unique, error=errno.ENOSYS)

    def _attributes(self) -> bytes:
        size_bytes = len(self._image)
        times = (0,) * 6
        mode, links, owner, group, device, flags = stat.S_IFREG | 0o600, 1, 0, 0, 0, 0
        blocks = size_bytes // SECTOR_BYTES
        return _ATTR_OUT.pack(
            *(self.attributes_valid_s, 0, 0, 1, size_bytes, blocks, *times),
            *(mode, links, owner, group, device, _BLOCK_BYTES, flags),
        )

    def _reply_later(self, delay_max_s: float, event: Event, payload: bytes = b"") -> None:
        due_s = time.monotonic() + self._rng.uniform(0, delay_max_s)
        heapq.heappush(self._due, _Due(due_s, event.request, event, payload))

    def _reply(self, unique: int, payload: bytes | bytearray = b"", error: int = 0) -> None:
        header = _OUT_HEADER.pack(_OUT_HEADER.size + len(payload), -error, unique)
        # Nobody waits for it where the file has been taken away meanwhile.
        with suppress(OSError):
            os.writev(self._fd, [header, payload])
