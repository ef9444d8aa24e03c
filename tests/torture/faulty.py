"""A disk under the unmodified daemon that fails as it is told: errors, silence, another size.

Owns: the rules of a file served by FUSE, and loop devices made of files. Must not know: AoE, the
daemon.
"""

from __future__ import annotations

import errno
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from helpers.netns import Namespace
from torture.recorder import _IN_HEADER, _TRANSFER_IN, SECTOR_BYTES, Event, Recorder, _Opcode

READ, WRITE, FLUSH, STATUS = _Opcode.READ, _Opcode.WRITE, _Opcode.FSYNC, _Opcode.GETATTR


class FaultyDisk(Recorder):
    """A `Recorder`'s file, without its record. Rules hold for every request from then on."""

    attributes_valid_s = 0

    def __init__(self, namespace: Namespace, path: Path, size_bytes: int) -> None:
        super().__init__(namespace, path, size_bytes, seed=0)
        self.failures = 0
        """Requests that were failed."""
        self._failing: dict[int, tuple[int, range]] = {}
        self.refuses_direct_writes = False
        """As mergerfs does: EINVAL for writes by whoever has opened the file with O_DIRECT."""
        self._held: dict[int, range] = {}
        self._waiting: list[bytes] = []
        self._lock = threading.Lock()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()
        super().__exit__(kind, error, trace)

    def fail(self, opcode: int, error: int = errno.EIO, sectors: range = range(1 << 40)) -> None:
        """Requests of that kind that touch one of `sectors` fail with `error`."""
        self._failing[opcode] = (error, sectors)

    def heal(self) -> None:
        """Nothing fails any more."""
        self._failing = {}

    def hold(self, *opcodes: int, sectors: range = range(1 << 40)) -> None:
        """Requests of these kinds that touch one of `sectors` are not answered until `release`."""
        self._held = dict.fromkeys(opcodes, sectors)

    def put(self, sector: int, data: bytes) -> None:
        """Change the content behind the kernel's back, where nobody has read it yet."""
        self._image[sector * SECTOR_BYTES : sector * SECTOR_BYTES + len(data)] = data

    def find(self, data: bytes) -> range:
        """The sectors that hold `data`, a whole number of them, wherever it was written first."""
        at = self._image.index(data)
        return range(at // SECTOR_BYTES, (at + len(data)) // SECTOR_BYTES)

    @property
    def holds(self) -> int:
        """Requests that wait for `release`."""
        return len(self._waiting)

    def release(self) -> None:
        with self._lock:
            self._held = {}
            waiting, self._waiting = self._waiting, []
        for request in waiting:
            self._handle(memoryview(request))

    def _handle(self, request: memoryview) -> None:
        _, opcode, unique, *_ = _IN_HEADER.unpack_from(request)
        with self._lock:
            held = self._held.get(opcode)
            if held is not None and _touches(request, opcode, held):
                self._waiting.append(bytes(request))
                return
        error, sectors = self._failing.get(opcode, (0, range(0)))
        if opcode == WRITE and self.refuses_direct_writes and _is_direct(request):
            error = errno.EINVAL
        elif not _touches(request, opcode, sectors):
            error = 0
        if error:
            self.failures += 1
            self._reply(unique, error=error)
            return
        super()._handle(request)
        self.record.clear()

    def _reply_later(self, delay_max_s: float, event: Event, payload: bytes = b"") -> None:
        self._reply(event.request, payload)


def _touches(request: memoryview, opcode: int, sectors: range) -> bool:
    if opcode not in (READ, WRITE):
        return True
    _, offset_bytes, size_bytes, *_ = _TRANSFER_IN.unpack_from(request, _IN_HEADER.size)
    first, end = offset_bytes // SECTOR_BYTES, -(-(offset_bytes + size_bytes) // SECTOR_BYTES)
    return first < sectors.stop and sectors.start < end


def _is_direct(request: memoryview) -> bool:
    handle, *_ = _TRANSFER_IN.unpack_from(request, _IN_HEADER.size)
    return bool(handle)


def fill(path: Path) -> None:
    """Make the file as large as its file system permits."""
    with path.open("wb", buffering=0) as filler, suppress(OSError):
        while filler.write(bytes(4096)):
            pass
