"""Our initiator and its command line tools against Debian's vblade."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from ggaoe.cli.tools import add_tool_parsers
from ggaoe.client import AtaCommandError, Initiator, RefusedError, RemoteDevice, Timing
from ggaoe.proto.access import Dcmd
from ggaoe.proto.ata import POWER_MODE_ACTIVE, Opcode
from ggaoe.proto.frame import SECTOR_BYTES, Error, sectors_advertised
from ggaoe.proto.query import Ccmd
from helpers.loop import loop_device
from helpers.needs import requires_namespaces, requires_program
from helpers.netns import Namespace, Process, veth
from helpers.targets import REPOSITORY, Vblade

pytestmark = pytest.mark.one_engine

DEADLINE_S = 60.0
SHELF, SLOT = 0, 1
DISK_SECTORS = 16384
MTUS_BYTES = (1500, 9000)

_MAIN = """
import argparse, sys
from ggaoe.cli.tools import add_tool_parsers

parser = argparse.ArgumentParser()
add_tool_parsers(parser.add_subparsers())
arguments = parser.parse_args()
sys.exit(arguments.run(arguments))
"""


class Bench:
    """An initiator's namespace and vblade in another, joined by a veth pair."""

    def __init__(self, host: Namespace, target: Vblade, mtu_bytes: int) -> None:
        self.host = host
        self.target = target
        self.mtu_bytes = mtu_bytes

    @property
    def disk(self) -> Path:
        return self.target.backing

    def initiator(self) -> Initiator:
        with self.host.entered():
            return Initiator(["near0"], Timing(deadline_s=DEADLINE_S))

    def tool(self, *argv: str) -> int:
        """Exit status of `ggaoe ARGV`, run in the initiator's namespace."""
        parser = argparse.ArgumentParser()
        add_tool_parsers(parser.add_subparsers())
        arguments = parser.parse_args(argv)
        with self.host.entered():
            return int(arguments.run(arguments))

    def spawn_tool(self, *argv: str, stdin: Path | None = None, stdout: Path) -> Process:
        """The same as a process, for what needs standard input and output."""
        with (stdin or Path(os.devnull)).open("rb") as given, stdout.open("wb") as taken:
            return self.host.spawn(
                sys.executable,
                *("-c", _MAIN, *argv),
                stdin=given.fileno(),
                stdout=taken,
                cwd=REPOSITORY,
            )


@pytest.fixture(params=MTUS_BYTES)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    requires_namespaces()
    requires_program("vblade")
    with Namespace() as host, Namespace() as far:
        veth(host, "near0", far, "far0", request.param)
        disk = tmp_path / "disk"
        disk.write_bytes(bytes(DISK_SECTORS * SECTOR_BYTES))
        target = Vblade(far, ["far0"], disk, tmp_path, SHELF, SLOT)
        target.start()
        yield Bench(host, target, request.param)


@pytest.fixture
async def device(bench: Bench) -> AsyncIterator[RemoteDevice]:
    async with asyncio.timeout(DEADLINE_S), bench.initiator() as initiator:
        yield await initiator.open(SHELF, SLOT)


async def test_discovery(bench: Bench) -> None:
    async with bench.initiator() as initiator:
        found = await initiator.discover(1.0)
    assert [(one.shelf, one.slot, one.interface) for one in found] == [(SHELF, SLOT, "near0")]
    assert found[0].mac == bench.target.namespace.mac("far0")
    assert found[0].sectors == sectors_advertised(bench.mtu_bytes)
    assert found[0].buffer_count == 64


async def test_identity(device: RemoteDevice) -> None:
    identity = await device.identify()
    assert identity.size_sectors == DISK_SECTORS
    assert identity.lba48
    assert "vblade" in identity.model


async def test_random_data_comes_back(bench: Bench, device: RemoteDevice) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    expected = bytearray(DISK_SECTORS * SECTOR_BYTES)
    for _ in range(20):
        sectors = rng.randint(1, 600)
        at = rng.randrange(DISK_SECTORS - sectors)
        data = rng.randbytes(sectors * SECTOR_BYTES)
        await device.write(at, data)
        expected[at * SECTOR_BYTES : at * SECTOR_BYTES + len(data)] = data
    await device.flush()
    assert await device.read(0, DISK_SECTORS) == expected
    assert bench.disk.read_bytes() == expected


async def test_requests_at_once_do_not_mix(device: RemoteDevice) -> None:
    blocks = [os.urandom(40 * SECTOR_BYTES) for _ in range(16)]
    async with asyncio.TaskGroup() as tasks:
        for number, block in enumerate(blocks):
            tasks.create_task(device.write(number * 40, block))
    async with asyncio.TaskGroup() as tasks:
        reading = [tasks.create_task(device.read(number * 40, 40)) for number in range(16)]
    assert [task.result() for task in reading] == blocks


async def test_beyond_the_end(device: RemoteDevice) -> None:
    with pytest.raises(AtaCommandError, match="beyond the end"):
        await device.read(DISK_SECTORS - 1, 2)


async def test_power_mode_and_unknown_command(device: RemoteDevice) -> None:
    assert await device.check_power_mode() == POWER_MODE_ACTIVE
    with pytest.raises(AtaCommandError, match="STANDBY_IMMEDIATE: command refused"):
        await device.ata(Opcode.STANDBY_IMMEDIATE)


async def test_config_string(device: RemoteDevice) -> None:
    empty = await device.query()
    assert empty is not None
    assert empty.text == b""
    await device.query(Ccmd.SET, b"label")
    with pytest.raises(RefusedError) as caught:
        await device.query(Ccmd.SET, b"other")
    assert caught.value.code == Error.CONFIG_PRESENT
    prefix = await device.query(Ccmd.PREFIX, b"la")
    assert prefix is not None
    assert prefix.text == b"label"
    assert await device.query(Ccmd.TEST, b"la", silence_s=0.2) is None
    await device.query(Ccmd.FORCE, b"other")
    exact = await device.query(Ccmd.TEST, b"other")
    assert exact is not None


async def test_mask_and_reservation(bench: Bench, device: RemoteDevice) -> None:
    ours = bench.host.mac("near0")
    other = b"\x02\0\0\0\0\x09"
    assert await device.read_mask() == ()
    # No further: vblade 25 garbles a list of several, and deletes nothing.
    assert await device.edit_mask([(Dcmd.ADD, ours)]) == (ours,)
    assert await device.read_mask() == (ours,)
    assert await device.read_reservation() == ()
    assert await device.reserve([ours]) == (ours,)
    assert await device.reserve([other]) == (other,)
    with pytest.raises(RefusedError) as caught:
        await device.read(0, 1)
    assert caught.value.code == Error.RESERVED
    assert await device.reserve([], force=True) == ()
    assert len(await device.read(0, 1)) == SECTOR_BYTES


async def test_resumes_after_the_target_was_away(bench: Bench, device: RemoteDevice) -> None:
    data = os.urandom(2000 * SECTOR_BYTES)
    await device.identify()
    bench.target.kill()
    writing = asyncio.create_task(device.write(0, data))
    while not device.counters.resent:  # noqa: ASYNC110 - a counter has no event
        await asyncio.sleep(0.01)
    bench.target.start()
    await writing
    assert await device.read(0, 2000) == data


def test_discover_tool(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.tool("discover", "-i", "near0", "-t", "0.3", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["version"] == 1
    assert [(one["shelf"], one["slot"]) for one in answer["targets"]] == [(SHELF, SLOT)]
    assert bench.tool("discover", "-t", "0.3") == 0
    header, row = capsys.readouterr().out.splitlines()
    assert row.split()[:2] == ["e0.1", "near0"]
    assert header.index("MAC") == row.index(answer["targets"][0]["mac"])
    bench.target.kill()
    assert bench.tool("discover", "-t", "0.1") == 1
    assert "no target answers on near0" in capsys.readouterr().err


def test_identify_and_ping_tools(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.tool("identify", "e0.1") == 0
    assert f"{DISK_SECTORS} sectors (8 MiB)" in capsys.readouterr().out
    assert bench.tool("identify", "e0.1", "--json") == 0
    assert json.loads(capsys.readouterr().out)["size_sectors"] == DISK_SECTORS
    assert bench.tool("ping", "e0.1", "-c", "3", "--interval", "0.01") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith("e0.1: seq=")]) == 3
    assert "3 sent, 3 answered" in lines
    assert bench.tool("ping", "e0.1", "-c", "2", "--interval", "0.01", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["shelf"], found["slot"], found["sent"], found["answered"]) == (0, 1, 2, 2)
    first, second = found["times_us"]
    low, high = min(first, second), max(first, second)
    assert (found["time_us"]["min"], found["time_us"]["max"]) == (low, high)
    assert 0 < low <= found["time_us"]["median"] <= high


def test_copy_tool_both_ways(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, copied = tmp_path / "source", tmp_path / "copied"
    # Several chunks, and no whole number of sectors.
    data = os.urandom(5_000_001)
    source.write_bytes(data)
    assert bench.tool("copy", "--force", str(source), "e0.1") == 0
    whole = data.ljust(DISK_SECTORS * SECTOR_BYTES, b"\0")
    assert bench.disk.read_bytes() == whole
    said = capsys.readouterr().err
    assert "of 4.8 MiB, " in said
    assert " left" in said
    assert f"copied 4.8 MiB from {source} to e0.1 in " in said
    assert bench.tool("copy", "-q", "e0.1", str(copied)) == 0
    assert copied.read_bytes() == whole
    assert capsys.readouterr().err == ""
    for words, copied_bytes in (
        ((str(source), "e0.1"), len(data)),
        (("e0.1", str(copied)), len(whole)),
    ):
        assert bench.tool("copy", "--json", "--force", *words) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["version"], found["shelf"], found["slot"]) == (1, 0, 1)
        assert (found["bytes"], found["write"]) == (copied_bytes, words[1] == "e0.1")
        assert min(found["elapsed_s"], found["bytes_per_s"]) > 0
    assert bench.tool("copy", "--json", "e0.1", "-") == 2
    assert "--json" in capsys.readouterr().err


def test_copy_tool_with_pipes(bench: Bench, tmp_path: Path) -> None:
    source, copied, nothing = tmp_path / "source", tmp_path / "copied", tmp_path / "nothing"
    source.write_bytes(os.urandom(DISK_SECTORS * SECTOR_BYTES))
    assert (
        bench.spawn_tool("copy", "--force", "-", "e0.1", stdin=source, stdout=nothing).wait() == 0
    )
    assert bench.spawn_tool("copy", "e0.1", "-", stdout=copied).wait() == 0
    assert copied.read_bytes() == source.read_bytes() == bench.disk.read_bytes()
    assert nothing.read_bytes() == b""


def test_copy_tool_fills_a_block_device(bench: Bench, tmp_path: Path) -> None:
    data = os.urandom(DISK_SECTORS * SECTOR_BYTES)
    bench.disk.write_bytes(data)
    file = tmp_path / "large"
    file.write_bytes(bytes((DISK_SECTORS + 8) * SECTOR_BYTES))
    with loop_device(file) as large:
        assert bench.tool("copy", "-q", "e0.1", str(large)) == 1
        assert not any(file.read_bytes())
        assert bench.tool("copy", "-q", "--force", "e0.1", str(large)) == 0
        assert file.read_bytes() == data + bytes(8 * SECTOR_BYTES)


def test_copy_tool_refuses_what_does_not_fit(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x" * (DISK_SECTORS * SECTOR_BYTES + 1))
    before = bench.disk.read_bytes()
    assert bench.tool("copy", str(source), "e0.1") == 1
    assert "nothing was written" in capsys.readouterr().err
    assert bench.disk.read_bytes() == before
    assert bench.tool("copy", str(tmp_path / "absent"), "e0.1") == 1
    assert "absent" in capsys.readouterr().err
    file = tmp_path / "small"
    file.write_bytes(bytes((DISK_SECTORS - 8) * SECTOR_BYTES))
    with loop_device(file) as small:
        assert bench.tool("copy", "--force", "e0.1", str(small)) == 1
        assert "nothing was written" in capsys.readouterr().err
        assert not any(file.read_bytes())
    assert bench.tool("copy", "a", "b") == 2
    assert bench.tool("copy", "e0.1", "e0.2") == 2


def test_copy_tool_overwrites_only_when_told_to(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backup, link = tmp_path / "backup", tmp_path / "link"
    backup.write_bytes(b"precious")
    backup.chmod(0o600)
    link.symlink_to(backup)
    before = bench.disk.read_bytes()
    for words in ((str(backup), "e0.1"), ("e0.1", str(backup)), ("e0.1", str(link))):
        assert bench.tool("copy", *words) == 1
        assert "would be overwritten: add --force" in capsys.readouterr().err
    assert (bench.disk.read_bytes(), backup.read_bytes()) == (before, b"precious")
    assert bench.tool("copy", "--force", "e0.1", str(link)) == 0
    assert backup.read_bytes() == before
    assert link.is_symlink()
    assert backup.stat().st_mode & 0o777 == 0o600


def test_copy_tool_leaves_no_truncated_image_and_resumes(bench: Bench, tmp_path: Path) -> None:
    data = os.urandom(DISK_SECTORS * SECTOR_BYTES)
    bench.disk.write_bytes(data)
    backup, partial = tmp_path / "backup", tmp_path / "backup.partial"
    said_path = tmp_path / "said"
    with said_path.open("wb") as said_file:
        limited = bench.host.spawn(
            "prlimit",
            f"--fsize={5 << 20}",
            *(sys.executable, "-c", _MAIN, "copy", "e0.1", str(backup)),
            stderr=said_file,
            cwd=REPOSITORY,
        )
        assert limited.wait() == 1
    said = said_path.read_text()
    assert f"backup.partial has 4 MiB of 8 MiB. hint: ggaoe copy --resume e0.1 {backup}" in said
    assert f"{backup}: File too large" in said
    assert not backup.exists()
    assert partial.read_bytes() == data[: 5 << 20]
    assert bench.tool("copy", "e0.1", str(backup)) == 1, "neither continued nor begun again"
    # What is between the compared ends shows that the rest only was read.
    with partial.open("r+b") as file:
        file.seek(5 << 19)
        file.write(b"kept")
    assert bench.tool("copy", "--resume", "e0.1", str(backup)) == 0
    at = 5 << 19
    assert backup.read_bytes() == data[:at] + b"kept" + data[at + 4 :]
    assert not partial.exists()


@pytest.mark.parametrize("at", [0, (4 << 20) - 1])
def test_copy_tool_does_not_continue_with_another_disk(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str], at: int
) -> None:
    data = bytearray(os.urandom(DISK_SECTORS * SECTOR_BYTES))
    bench.disk.write_bytes(data)
    data[at] ^= 1
    partial = tmp_path / "backup.partial"
    partial.write_bytes(data[: 4 << 20])
    assert bench.tool("copy", "--resume", "e0.1", str(tmp_path / "backup")) == 1
    assert "is not the beginning of e0.1" in capsys.readouterr().err
    assert partial.stat().st_size == 4 << 20
    assert not (tmp_path / "backup").exists()


def test_copy_tool_resumes_what_a_disk_has_already(bench: Bench, tmp_path: Path) -> None:
    data = os.urandom(DISK_SECTORS * SECTOR_BYTES)
    source = tmp_path / "source"
    source.write_bytes(data)
    bench.disk.write_bytes(data[: 4 << 20] + bytes(4 << 20))
    assert bench.tool("copy", "--resume", "--force", str(source), "e0.1") == 0
    assert bench.disk.read_bytes() == data


def test_copy_tool_keeps_holes(bench: Bench, tmp_path: Path) -> None:
    data = b"\xff" * 65536
    with bench.disk.open("r+b") as disk:
        disk.truncate(0)
        disk.truncate(DISK_SECTORS * SECTOR_BYTES)
        disk.seek(3 << 20)
        disk.write(data)
    backup = tmp_path / "backup"
    assert bench.tool("copy", "e0.1", str(backup)) == 0
    assert backup.read_bytes() == bench.disk.read_bytes()
    assert backup.stat().st_blocks * 512 < 1 << 20
