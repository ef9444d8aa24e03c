"""Power cuts under a file system: what the guest's fsync has promised is there after any of them.

A Linux guest makes an ext4 file system on a recorded disk, by the kernel's own initiator, and uses
it as a database does: it writes files, and a log with checksums about them, and tells the host
whenever fsync has returned. Meanwhile others write without any fsync. Then the power is cut at
seeded points of the record: each time the journal is replayed, e2fsck has nothing to complain, and
all that the host had been told by then can be read.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import re
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from helpers.targets import Ggaoe
from interop.guest import Images, Wire, run_guest
from torture.budget import OVERHEAD_S, seeded, torture_s
from torture.filesystem import MAKE, look_inside, repair, requires_e2fsprogs
from torture.recorder import Medium, Recorder, power_cuts

SECONDS = 2.0
GUEST_LIFE_MAX_S = 15.0
GUEST_OVERHEAD_S = 60.0
MIB = 1 << 20
DISK_BYTES = 24 * MIB
CUTS_PER_S = 10

pytestmark = pytest.mark.timeout(2 * torture_s(SECONDS) + OVERHEAD_S)

# Each round makes a file, replaces one by renaming, and writes both down in the log.
DATABASE = """
. /functions
find_disk
MAKE $disk || fail mkfs
mount -t ext4 $disk /mnt || fail mount
mkdir /mnt/files
sync
host made
while :; do
    dd if=/dev/urandom of=/mnt/junk bs=1k count=50 2> /dev/null
    usleep 50000
    rm /mnt/junk
done &
round=0
read -r now rest < /proc/uptime
end=$((${now%.*} + SECONDS))
while read -r now rest < /proc/uptime && [ ${now%.*} -lt $end ]; do
    round=$((round + 1))
    file=/mnt/files/$((round % 40))
    rm -f $file
    dd if=/dev/urandom of=$file bs=700 count=$((round * 7 % 30 + 1)) conv=fsync 2> /dev/null ||
        fail 'write a file'
    set -- $(sha256sum $file)
    line="$round $1"
    set -- $(echo "$line" | sha256sum)
    echo $round | dd of=/mnt/new conv=fsync 2> /dev/null || fail 'write a new file'
    mv /mnt/new /mnt/current
    echo "$line $1" | dd of=/mnt/log oflag=append conv=notrunc,fsync 2> /dev/null ||
        fail 'write the log'
    host promised $round
done
"""
FILES = 40


@dataclass
class Promises:
    """What the guest said, with the length of the record at that time."""

    recorder: Recorder
    made_at: int = 0
    rounds: list[tuple[int, int]] = field(default_factory=list)

    def made(self) -> None:
        self.made_at = len(self.recorder.record)

    def promised(self, number: str) -> None:
        self.rounds.append((len(self.recorder.record), int(number)))

    def by(self, point: int) -> int:
        """The last round promised when the record had `point` events."""
        return max((number for at, number in self.rounds if at <= point), default=0)


class BufferedGgaoe(Ggaoe):
    """Through the page cache, which is not durable either."""

    def configuration(self) -> str:
        return super().configuration() + "direct-io = false\n"


def check_database(directory: Path, promised: int) -> None:
    """The log tells of every promised round, and of rounds only; files are as it says."""
    log = directory / "log"
    lines = log.read_text().splitlines() if log.exists() else []
    sums: dict[int, str] = {}
    for number, line in enumerate(lines, 1):
        found = re.fullmatch(r"(\d+) (\w{64}) (\w{64})", line)
        assert found, f"line {number} of the log: {line!r}"
        text = f"{found[1]} {found[2]}\n"
        assert hashlib.sha256(text.encode()).hexdigest() == found[3], line
        assert int(found[1]) == number, line
        sums[number] = found[2]
    assert len(lines) >= promised
    # The next round may have removed its file already, and so may later ones whose fsync never
    # returned; the log is at most one round ahead of the promises.
    for number in range(max(1, promised - FILES + 2), promised + 1):
        data = (directory / "files" / str(number % FILES)).read_bytes()
        assert hashlib.sha256(data).hexdigest() == sums[number], f"file of round {number}"
    if promised:
        current = (directory / "current").read_text()
        assert int(current) >= promised


def cut_power(
    recorder: Recorder, promises: Promises, directory: Path, cuts: int, rng: random.Random
) -> int:
    """Judge `cuts` power cuts; the sum of the writes that each could have lost."""
    record, medium = recorder.record, Medium(bytes(DISK_BYTES))
    image, inside = directory / "image", directory / "inside"
    points = sorted(rng.choices(range(promises.made_at, len(record)), k=cuts - 1))
    lost = 0
    for point, content in power_cuts(medium, record, [*points, len(record)], rng):
        image.write_bytes(content)
        lost += medium.cached_writes
        promised = promises.by(point)
        try:
            repair(image)
            look_inside(image, inside)
            check_database(inside, promised)
        except AssertionError as error:
            kept = directory / "failed"
            kept.write_bytes(content)
            error.add_note(f"power cut after {point} of {len(record)} events, image in {kept}")
            raise
    assert medium.races == 0
    return lost


def use_and_cut(
    images: Images, directory: Path, target_class: type[Ggaoe], seconds: float, rng: random.Random
) -> str:
    """One guest's life, and the power cuts in it; what happened, for the record."""
    path = directory / "disk"
    with (
        Wire([9000]) as wire,
        Recorder(wire.namespace, path, DISK_BYTES, rng.randrange(1 << 32)) as recorder,
    ):
        promises = Promises(recorder)
        target = target_class(wire.namespace, wire.interfaces, path, directory)
        target.start()
        transcript = run_guest(
            images,
            wire,
            DATABASE.replace("SECONDS", str(int(seconds))).replace("MAKE", MAKE),
            actions={"made": promises.made, "promised": promises.promised},
            timeout_s=seconds + GUEST_OVERHEAD_S,
        )
        target.stop()
    assert transcript.status == 0, transcript
    assert transcript.kernel_complaints() == []
    assert promises.rounds
    cuts = int(seconds * CUTS_PER_S)
    lost = cut_power(recorder, promises, directory, cuts, rng)
    return (
        f"{len(promises.rounds)} rounds, {len(recorder.record)} events,"
        f" {cuts} cuts with {lost / cuts:.1f} writes to lose each"
    )


def test_fsync_keeps_its_promise(images: Images, tmp_path: Path, engine: str) -> None:
    requires_e2fsprogs()
    rng, seconds = seeded(), torture_s(SECONDS)
    end_s = time.monotonic() + seconds
    ways = [Ggaoe, BufferedGgaoe]
    rng.shuffle(ways)
    for target_class in itertools.cycle(ways):
        figures = use_and_cut(images, tmp_path, target_class, min(seconds, GUEST_LIFE_MAX_S), rng)
        print(f"{engine} {target_class.__name__}: {figures}")
        if time.monotonic() > end_s:
            break
