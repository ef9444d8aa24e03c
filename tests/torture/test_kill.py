"""kill -9 in the middle of everything, restarted at once: nothing acknowledged is lost or changed.

Verified writes go on all the time, from our own client or from the kernel's initiator in a guest,
and so do changes of the config string, the mask list and the reservation. The daemon is killed at
seeded moments: after some number of acknowledgements, and now and then while it starts.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from ggaoe.client import Timing
from ggaoe.proto.frame import SECTOR_BYTES
from helpers.loop import loop_device
from helpers.targets import Ggaoe
from integration.scene import MIB, Daemon, Scene, device
from interop.guest import Images, Wire, run_guest
from torture.budget import OVERHEAD_S, seeded, torture_s
from torture.changes import StateChanges
from torture.ledger import FINDINGS_MAX, Ledger, Load

SECONDS = 2.0
WRITES_BETWEEN_KILLS_MAX = 300
DEATH_AT_START_CHANCE = 0.3
PATIENCE = Timing(deadline_s=60.0)

pytestmark = pytest.mark.timeout(2 * torture_s(SECONDS) + OVERHEAD_S)


@dataclass
class Supervisor:
    """Kills the daemon, and starts it again."""

    daemon: Daemon
    rng: random.Random
    kills: int = 0
    kills_at_start: int = 0

    def kill_and_restart(self) -> None:
        self._kill()
        while self.rng.random() < DEATH_AT_START_CHANCE:
            self.daemon.launch()
            landmark = self.rng.choice(["", "far0: serving", "disk (e0.1): opened"])
            self.daemon.wait_for_log(landmark)
            self._kill()
            self.kills_at_start += 1
        self.daemon.start()

    def _kill(self) -> None:
        assert self.daemon.running.poll() is None
        self.daemon.kill()
        self.kills += 1


@contextmanager
def backing(scene: Scene, way: str) -> Iterator[str]:
    """The options of a device on a file of zeros, called disk, or on a loop device over it."""
    path = scene.disk(size_bytes=MIB)
    if way != "loop":
        yield device(direct_io=way == "direct")
        return
    with loop_device(path, namespace=scene.target) as loop:
        yield device(path=loop)


@pytest.mark.parametrize("way", ["direct", "buffered", "loop"])
async def test_writes_and_state_outlive_the_process(scene: Scene, engine: str, way: str) -> None:
    rng, end_s = seeded(), time.monotonic() + torture_s(SECONDS)
    ledger = Ledger(MIB // SECTOR_BYTES)
    with backing(scene, way) as section:
        daemon = scene.daemon(section)
        daemon.start()
        supervisor = Supervisor(daemon, rng)
        async with scene.initiator(timing=PATIENCE) as initiator:
            remote = await initiator.open(0, 1)
            load, state = Load(remote, ledger, rng), StateChanges(remote, scene.host.mac("near0"))
            async with load.running(), state.running():
                while time.monotonic() < end_s:
                    await load.more(rng.randint(1, WRITES_BETWEEN_KILLS_MAX))
                    await asyncio.to_thread(supervisor.kill_and_restart)
                    await load.read_all()
            await load.read_all()
            await state.check()
        assert daemon.stop() == 0
    findings = ledger.check((scene.directory / "disk").read_bytes(), ledger.floor)
    assert not findings, "\n".join(map(str, findings[:FINDINGS_MAX]))
    print(
        f"{engine} {way}: {supervisor.kills} kills ({supervisor.kills_at_start} while starting),"
        f" {load.writes} writes and {load.reads} reads verified, {remote.counters.resent} frames"
        f" resent, {state.changes} changes of state"
    )


GUEST_DISK_BYTES = 48 * MIB
GUEST_OVERHEAD_S = 90.0
GUEST_KILL_CHANCE = 0.3
GUEST_KILLS_MIN = 2

# fio writes and verifies again and again; a log with checksums grows beside it. The host kills the
# target after some of the log's lines, in the middle of what fio has under way.
GUEST_LOAD = """
. /functions
find_disk
mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 $disk || fail mkfs
mount -t ext4 $disk /mnt || fail mount
fio() {
    /usr/bin/fio --eta=never --name=load --filename=/mnt/fio --size=4m --bs=4k --iodepth=16 \
        --ioengine=libaio --direct=1 --verify=crc32c --verify_fatal=1 "$@" > /tmp/fio.log 2>&1
}
(
    while [ ! -e /tmp/enough ]; do
        fio --rw=randwrite || { touch /tmp/failed; break; }
    done
) &
load=$!
line=0
read -r now rest < /proc/uptime
end=$((${now%.*} + SECONDS))
while read -r now rest < /proc/uptime; [ ${now%.*} -lt $end ] || [ $line -lt KILLS_MIN ]; do
    line=$((line + 1))
    set -- $(echo "$line" | sha256sum)
    echo "$line $1" | dd of=/mnt/log oflag=append conv=notrunc,fsync 2> /dev/null ||
        fail 'write the log'
    host logged
done
touch /tmp/enough
wait $load
[ ! -e /tmp/failed ] || { cat /tmp/fio.log; fail 'fio did not verify'; }
umount /mnt || fail umount
fsck.ext4 -f -n $disk || fail fsck
mount -t ext4 $disk /mnt || fail 'mount again'
fio --rw=randread || { cat /tmp/fio.log; fail 'fio did not verify after a new mount'; }
[ "$(wc -l < /mnt/log)" = $line ] || fail 'lines of the log'
while read -r number sum; do
    set -- $(echo "$number" | sha256sum)
    [ "$1" = "$sum" ] || fail "line $number of the log"
done < /mnt/log
umount /mnt || fail 'umount again'
"""


@dataclass
class GuestKiller:
    """Kills the target after some lines of the guest's log, and starts it at once."""

    target: Ggaoe
    rng: random.Random
    lines: int = 0
    kills: int = 0

    def logged(self) -> None:
        self.lines += 1
        if self.lines <= GUEST_KILLS_MIN or self.rng.random() < GUEST_KILL_CHANCE:
            self.target.kill()
            self.target.start()
            self.kills += 1


def test_the_kernel_initiator_only_pauses(images: Images, tmp_path: Path, engine: str) -> None:
    rng, seconds = seeded(), torture_s(SECONDS)
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(GUEST_DISK_BYTES)
    with Wire([9000]) as wire:
        target = Ggaoe(wire.namespace, wire.interfaces, disk, tmp_path)
        target.start()
        killer = GuestKiller(target, rng)
        transcript = run_guest(
            images,
            wire,
            GUEST_LOAD.replace("SECONDS", str(int(seconds))).replace(
                "KILLS_MIN", str(GUEST_KILLS_MIN)
            ),
            with_fio=True,
            actions={"logged": killer.logged},
            timeout_s=seconds + GUEST_OVERHEAD_S,
        )
        target.stop()
    assert transcript.status == 0, transcript
    assert transcript.kernel_complaints() == []
    subprocess.run(["e2fsck", "-f", "-n", disk], check=True, capture_output=True, timeout=60)
    print(f"{engine} guest: {killer.kills} kills, {killer.lines} lines of the log")
    assert killer.kills >= GUEST_KILLS_MIN
