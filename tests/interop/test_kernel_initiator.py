"""Acceptance: a real Linux initiator, in a guest kernel, uses the disk that we serve.

Each test has the guest do what an administrator does, then looks at the backing file from the
host: both ends have to agree. With GGAOE_TEST_TARGET=vblade the same tests run against Debian's
vblade, to tell a broken harness from a broken target; the first test does so always.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from helpers.needs import requires_program, requires_user_mode_linux
from helpers.targets import Ggaoe, TargetUnderTest, Vblade
from interop.guest import Images, Transcript, Wire, best_transport, run_guest

TARGETS: dict[str, type[TargetUnderTest]] = {"ggaoe": Ggaoe, "vblade": Vblade}
TARGET = TARGETS[os.environ.get("GGAOE_TEST_TARGET", "ggaoe")]

MIB = 1 << 20
SECTOR_BYTES = 512
GUEST_TIMEOUT_S = 400.0  # the longest takes 30 s on two cores; a slow machine may take more

pytestmark = pytest.mark.timeout(GUEST_TIMEOUT_S + 60)
mtus = pytest.mark.parametrize("mtu_bytes", [1500, 9000])


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    """The guest's file system, assembled once."""
    requires_user_mode_linux()
    return Images.assemble(tmp_path_factory.mktemp("guest"))


@dataclass(frozen=True)
class Scene:
    """A target that serves `backing` as e0.1, and a guest to be booted at the wire's other end."""

    images: Images
    wire: Wire
    target: TargetUnderTest
    backing: Path

    def run(
        self,
        script: str,
        *,
        fio_jobs: str | None = None,
        aoe_options: Mapping[str, int] | None = None,
    ) -> Transcript:
        """Run a guest; `fio_jobs` is its /jobs.fio. Its script has to succeed."""
        transcript = run_guest(
            self.images,
            self.wire,
            script,
            with_fio=fio_jobs is not None,
            files={"jobs.fio": fio_jobs or ""},
            aoe_options=aoe_options,
            actions={
                "start-target": self.target.start,
                "stop-target": self.target.stop,
                "kill-target": self.target.kill,
                "pull-cable": self.wire.pull,
                "plug-cable": self.wire.plug,
                "interface-down": self.wire.interface_down,
                "interface-up": self.wire.interface_up,
            },
            timeout_s=GUEST_TIMEOUT_S,
        )
        print(transcript)
        assert transcript.status == 0
        return transcript


@contextmanager
def scene(
    images: Images,
    directory: Path,
    target_class: type[TargetUnderTest],
    mtus_bytes: list[int],
    *,
    backing_bytes: int = 256 * MIB,
    transport: str | None = None,
) -> Iterator[Scene]:
    """A scene with one cable per MTU; all of it ends with the block."""
    if target_class is Vblade:
        requires_program("vblade")
    backing = directory / "disk"
    with backing.open("wb") as file:
        file.truncate(backing_bytes)
    with Wire(mtus_bytes, transport or best_transport()) as wire:
        target = target_class(wire.namespace, wire.interfaces, backing, directory)
        target.start()
        try:
            yield Scene(images, wire, target, backing)
        finally:
            print(f"log of {target.name}:", target.log.read_text(), sep="\n")


class Restricted(Ggaoe):
    """ggaoe; `options` are more lines of the disk's section."""

    options = ""

    def configuration(self) -> str:
        return super().configuration() + self.options


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify_on_host(backing: Path, jobs: str, directory: Path, *sections: str) -> None:
    """Read `sections` of fio jobs back from the backing file itself, checking every block."""
    local = directory / "host.fio"
    local.write_text(jobs.replace("/dev/etherd/e0.1", str(backing)).replace("direct=1", "direct=0"))
    chosen = [f"--section={section}" for section in sections]
    subprocess.run(["fio", "--eta=never", *chosen, local], check=True, cwd=directory, timeout=60)


@pytest.mark.one_engine
@pytest.mark.parametrize("transport", ["tap", "raw"])
def test_harness_itself_works_with_vblade(images: Images, tmp_path: Path, transport: str) -> None:
    """If this fails, look at the harness before you look at the target."""
    if transport == "tap" and best_transport() != "tap":
        pytest.skip("needs a writable /dev/net/tun")
    size_bytes = 4 * MIB
    with scene(
        images, tmp_path, Vblade, [1500], backing_bytes=size_bytes, transport=transport
    ) as stage:
        stage.backing.write_bytes(random.Random(1).randbytes(size_bytes))
        transcript = stage.run(". /functions; find_disk; sha256sum $disk")
    assert transcript.output[-1].split()[0] == sha256(stage.backing)


FILE_SYSTEM = """
. /functions
aoe-discover
await 10 is_up
mkfs.ext4 -q $disk || fail mkfs
mount -t ext4 $disk /mnt || fail mount
dd if=/dev/urandom of=/tmp/original bs=1M count=100 2> /dev/null || fail 'make a file'
cp /tmp/original /mnt/copy || fail copy
umount /mnt || fail umount
mount -t ext4 $disk /mnt || fail 'mount again'
cmp /tmp/original /mnt/copy || fail 'the file came back different'
umount /mnt || fail 'umount again'
fsck.ext4 -f -n $disk || fail fsck
sha256sum < /tmp/original
"""


@mtus
def test_a_file_system_keeps_what_was_written(
    images: Images, tmp_path: Path, mtu_bytes: int
) -> None:
    requires_program("debugfs")
    with scene(images, tmp_path, TARGET, [mtu_bytes]) as stage:
        transcript = stage.run(FILE_SYSTEM)
        stage.target.stop()
    assert transcript.kernel_complaints() == []
    subprocess.run(["fsck.ext4", "-f", "-n", stage.backing], check=True, timeout=60)
    found = tmp_path / "found"
    subprocess.run(["debugfs", "-R", f"dump /copy {found}", stage.backing], check=True, timeout=60)
    assert sha256(found) == transcript.output[-1].split()[0]


# The first MiB stays empty: random bytes there look like a partition table now and then.
FIO_HEAD = """
[global]
filename=/dev/etherd/e0.1
direct=1
ioengine=libaio
verify=crc32c
verify_fatal=1
stonewall
"""

# Each writing job reads back what it wrote; the reading jobs then check the same blocks again.
FIO_PATTERNS = FIO_HEAD + "".join(
    f"""
[write-sequential-{depth}]
rw=write
bs=64k
offset=1m
size=32m
iodepth={depth}
[read-sequential-{depth}]
rw=read
bs=64k
offset=1m
size=32m
iodepth={depth}
[write-random-{depth}]
rw=randwrite
bs=4k
offset=33m
size=16m
iodepth={depth}
[read-random-{depth}]
rw=randread
bs=4k
offset=33m
size=16m
iodepth={depth}
[write-odd-sizes-{depth}]
rw=randwrite
bsrange=512-64k
offset=50m
size=16m
iodepth={depth}
"""
    for depth in (1, 32)
)


@mtus
def test_fio_verifies_every_pattern(images: Images, tmp_path: Path, mtu_bytes: int) -> None:
    with scene(images, tmp_path, TARGET, [mtu_bytes]) as stage:
        transcript = stage.run(
            ". /functions; find_disk; fio --eta=never /jobs.fio", fio_jobs=FIO_PATTERNS
        )
        stage.target.stop()
    assert transcript.kernel_complaints() == []
    verify_on_host(stage.backing, FIO_PATTERNS, tmp_path, "read-sequential-32", "read-random-32")


OUTAGE_BYTES = 48 * MIB
FIO_OUTAGE = (
    FIO_HEAD
    + f"""
offset=1m
size={OUTAGE_BYTES}
bs=4k
iodepth=32
[write]
rw=randwrite
[read]
rw=randread
"""
)

# outage SECTORS END BEGIN: after so many sectors, have the host break it, see it stay broken in
# the middle of I/O, and have it mended. One second is longer than any answer takes.
OUTAGE = """
. /functions
outage() {
    await 60 has_written "$1"
    host "$2"
    sleep 1
    before=$(sectors_written)
    sleep 1
    [ "$before" = "$(sectors_written)" ] || fail "I/O went on in spite of $2"
    kill -0 $fio || fail "$2 was not in the middle of I/O"
    host "$3"
    await 30 has_written $((before + 1))
}
find_disk
fio --eta=never --section=write /jobs.fio > /tmp/fio.log 2>&1 &
fio=$!
"""

FIND_AGAIN = """
wait $fio || { cat /tmp/fio.log; fail 'fio did not verify'; }
modprobe -r aoe && modprobe aoe || fail 'reload the driver'
aoe-discover
await 10 is_up
fio --eta=never --section=read /jobs.fio || fail 'fio did not verify when the disk was found again'
"""


@mtus
def test_io_resumes_after_outages(images: Images, tmp_path: Path, mtu_bytes: int) -> None:
    step = OUTAGE_BYTES // SECTOR_BYTES // 8
    script = OUTAGE
    script += f"outage {step} kill-target start-target\n"
    script += f"outage {2 * step} pull-cable plug-cable\n"
    if TARGET.survives_interface_down:
        script += f"outage {3 * step} interface-down interface-up\n"
    with scene(images, tmp_path, TARGET, [mtu_bytes]) as stage:
        transcript = stage.run(script + FIND_AGAIN, fio_jobs=FIO_OUTAGE)
        stage.target.stop()
    assert transcript.kernel_complaints() == []
    verify_on_host(stage.backing, FIO_OUTAGE, tmp_path, "read")


DEAD_AND_BACK = """
. /functions
find_disk
host kill-target
dd if=$disk of=/dev/null bs=4k count=1 iflag=direct 2> /dev/null && fail 'read from a dead target'
await 30 is_down
host start-target
await 30 is_up
last=$(($(cat "$sysfs/size") - 1))
dd if=/dev/urandom of=$disk bs=512 seek=$last conv=fsync count=1 2> /tmp/error || fail end
echo 3 > /proc/sys/vm/drop_caches
sha256sum $disk
"""


def test_a_disk_given_up_comes_back_by_advertisement(images: Images, tmp_path: Path) -> None:
    """The guest does not ask again: the target's own word at its start brings the disk back. The
    last sector is in a page that the disk does not fill, where the backup of a GPT may be."""
    size_bytes = 4 * MIB + 3 * SECTOR_BYTES
    with scene(images, tmp_path, TARGET, [9000], backing_bytes=size_bytes) as stage:
        stage.backing.write_bytes(random.Random(2).randbytes(size_bytes))
        end = stage.backing.read_bytes()[-SECTOR_BYTES:]
        transcript = stage.run(DEAD_AND_BACK, aoe_options={"aoe_deadsecs": 2})
    assert stage.backing.stat().st_size == size_bytes
    assert stage.backing.read_bytes()[-SECTOR_BYTES:] != end
    assert transcript.output[-1].split()[0] == sha256(stage.backing)


def test_io_goes_on_over_the_other_path(images: Images, tmp_path: Path) -> None:
    """Two cables are two paths to one disk; a pulled one costs time, not data."""
    step = OUTAGE_BYTES // SECTOR_BYTES // 8
    script = OUTAGE + f"await 60 has_written {step}\nhost pull-cable 0\n"
    script += f"await 60 has_written {3 * step}\nhost plug-cable 0\n"
    with scene(images, tmp_path, TARGET, [9000, 9000]) as stage:
        transcript = stage.run(script + FIND_AGAIN, fio_jobs=FIO_OUTAGE)
        stage.target.stop()
    assert transcript.kernel_complaints() == []
    verify_on_host(stage.backing, FIO_OUTAGE, tmp_path, "read")


# What is written to the block device directly fails at once; a page that the kernel writes back
# later fails in fsync. Nothing may take as long as the initiator's patience (aoe_deadsecs).
UNWRITABLE = """
. /functions
find_disk
sha256sum $disk
before=$(cut -d. -f1 /proc/uptime)
for size in 512 4k 64k; do
    fio --name=write --filename=$disk --rw=write --direct=1 --offset=8k --size=$size --bs=$size \
        > /tmp/error 2>&1 && fail "$size written directly"
    grep -qi 'input/output error' /tmp/error || fail "$(cat /tmp/error)"
done
dd if=/dev/urandom of=$disk bs=4k seek=8 count=4 conv=fsync 2> /tmp/error && fail 'fsync succeeded'
mkfs.ext4 -q $disk 2> /tmp/error && fail 'mkfs succeeded'
[ $(($(cut -d. -f1 /proc/uptime) - before)) -lt 60 ] || fail 'errors took too long'
is_up || fail 'the disk was given up'
echo 3 > /proc/sys/vm/drop_caches
sha256sum $disk
"""


@pytest.mark.one_engine
@pytest.mark.parametrize(
    "options",
    ["write = 02:00:00:00:00:99\n", "read-only = true\n"],
    ids=["not in the write list", "read-only device"],
)
def test_a_host_that_may_only_read(
    images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str
) -> None:
    """It reads, its writes end with an I/O error that its user gets at once, and the disk is as it
    was."""
    monkeypatch.setattr(Restricted, "options", options)
    size_bytes = 4 * MIB
    with scene(images, tmp_path, Restricted, [1500], backing_bytes=size_bytes) as stage:
        stage.backing.write_bytes(random.Random(3).randbytes(size_bytes))
        before = sha256(stage.backing)
        transcript = stage.run(UNWRITABLE, fio_jobs="")
    sums = [line.split()[0] for line in transcript.output if line.endswith("/dev/etherd/e0.1")]
    assert sums == [before, before]
    assert sha256(stage.backing) == before


FIO_LIMITED = (
    FIO_HEAD
    + """
[write]
rw=randwrite
bs=8k
size=1m
iodepth=32
[read]
rw=randread
bs=8k
size=1m
iodepth=32
"""
)


def test_a_limited_host_is_slowed_and_sees_no_error(
    images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it wants more than the limit all the time: it holds back what it is told to, instead
    of sending again what waits."""
    monkeypatch.setattr(Restricted, "options", "iops-limit = 50\n")
    with scene(images, tmp_path, Restricted, [9000]) as stage:
        transcript = stage.run(
            ". /functions; find_disk; fio --eta=never /jobs.fio", fio_jobs=FIO_LIMITED
        )
        ctl = [sys.executable, "-m", "ggaoe.cli.ggaoectl", "-c", str(tmp_path / "ggaoed.conf")]
        stats = subprocess.check_output([*ctl, "--json", "stats", "disk"], timeout=60)
        stage.target.stop()
    counters = json.loads(stats)["devices"]["disk"]
    needed = 3 * MIB // 8192
    assert needed <= counters["read_requests"] + counters["write_requests"] < 2 * needed
    assert counters["throttled"] > needed // 2
    assert transcript.kernel_complaints() == []
    verify_on_host(stage.backing, FIO_LIMITED, tmp_path, "read")
