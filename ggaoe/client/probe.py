"""How large frames may be: each way to a target is tried with frames of every size that matters.

Owns the search and what its result means. Nothing that it sends changes anything at a target: an
IDENTIFY with zeros behind it outward, a READ inward (both of which other tools send, too).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ggaoe.client.device import RemoteDevice
from ggaoe.client.port import Path
from ggaoe.errors import ClientError
from ggaoe.proto.frame import ATA_HEADER_BYTES, SECTOR_BYTES, sectors_advertised
from ggaoe.units import counted, format_mac

PROBE_TIMEOUT_S = 0.25
PROBE_COPIES_MAX = 3
"""A size that so many frames in a row did not pass does not pass."""


@dataclass(frozen=True, slots=True)
class PathSizes:
    """What one way to a target carries; sizes in sectors of data in one frame."""

    interface: str
    mac: bytes
    mtu_bytes: int
    """Of our interface."""
    ours: int
    """What fits into our MTU."""
    announced: int
    """What the target says that it takes."""
    outward: int
    """What got there; 0: nothing does."""
    inward: int
    """What came back."""
    failure: str | None = None
    """Why `inward` could not be found out."""

    @property
    def expected(self) -> int:
        return min(self.ours, self.announced)

    @property
    def usable(self) -> int:
        return min(self.outward, self.inward)

    @property
    def is_good(self) -> bool:
        """Whatever both ends say that they take gets through."""
        return self.failure is None and self.usable == self.expected

    def limit(self) -> str:
        """What keeps frames from being larger, for people."""
        if self.failure is not None:
            return self.failure
        if self.outward == 0:
            return f"nothing gets to {format_mac(self.mac)} this way"
        if not self.is_good:
            back = "" if self.outward < self.expected else " back"
            return (
                f"frames of {frame_bytes(self.usable + 1)} bytes are lost on the way{back}: raise "
                f"the MTU of switches and interfaces between, or lower ours"
            )
        if self.ours < self.announced:
            wanted = frame_bytes(self.announced)
            theirs = counted(self.announced, "sector")
            return f"our MTU: the target takes {theirs}, as an MTU of {wanted} does"
        if self.announced < self.ours:
            return f"the target: our MTU would do for {counted(self.ours, 'sector')}"
        return "the MTU of both"


def frame_bytes(sectors: int) -> int:
    """A whole frame with so much data; Linux sends it from this MTU on."""
    return sectors * SECTOR_BYTES + ATA_HEADER_BYTES


async def probe_path(device: RemoteDevice, path: Path) -> PathSizes:
    """Find out what `path`, one of the device's, carries. Takes a few seconds where frames are
    lost, since silence is the only answer then."""
    link = path.port.link
    ours = sectors_advertised(link.mtu_bytes)
    announced = path.sectors_told
    most = min(ours, announced)

    async def is_outward(sectors: int) -> bool:
        return await device.probe_outward(path, frame_bytes(sectors), PROBE_TIMEOUT_S)

    async def is_inward(sectors: int) -> bool:
        return await device.probe_inward(path, sectors, PROBE_TIMEOUT_S)

    outward = await _largest(most, is_outward)
    inward, failure = 0, None
    if outward:
        try:
            inward = await _largest(most, is_inward)
        except ClientError as error:
            failure = str(error)
    return PathSizes(link.name, path.mac, link.mtu_bytes, ours, announced, outward, inward, failure)


async def _largest(most: int, passes: Callable[[int], Awaitable[bool]]) -> int:
    """The largest size of 1 to `most` that passes, given that all smaller ones do, too."""
    if await _passes(most, passes):
        return most
    good, bad = 0, most
    while bad - good > 1:
        middle = (good + bad) // 2
        if await _passes(middle, passes):
            good = middle
        else:
            bad = middle
    return good


async def _passes(size: int, passes: Callable[[int], Awaitable[bool]]) -> bool:
    for _ in range(PROBE_COPIES_MAX):
        if await passes(size):
            return True
    return False
