"""`ggaoe vblade` beside Debian's vblade: the same line, the same exit status, the same disk."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from ggaoe.client import AtaCommandError, Found, Initiator, RemoteDevice, Timing
from ggaoe.proto.frame import SECTOR_BYTES
from helpers.needs import requires_namespaces, requires_program
from helpers.netns import Namespace, Process, veth
from helpers.targets import REPOSITORY

pytestmark = pytest.mark.one_engine

DEADLINE_S = 60.0
COMMAND_TIMEOUT_S = 30.0
LISTEN_S = 1.0
DISK_SECTORS = 2047
SURPLUS_BYTES = 100
COMMANDS = {
    "vblade": ["vblade"],
    "ggaoe": [sys.executable, "-m", "ggaoe.cli.ggaoe", "vblade"],
}


@dataclass
class Bench:
    """A host's network and a target's; `command` is one of the two programs."""

    host: Namespace
    target: Namespace
    disk: Path
    command: Sequence[str]

    def start(self, *options: str) -> tuple[Process, str]:
        """Serve the disk as e7.3; the process, and the line that it prints."""
        process = self.target.spawn(
            *(*self.command, *options, "7", "3", "far0", str(self.disk)),
            stdout=subprocess.PIPE,
            cwd=REPOSITORY,
        )
        assert process.stdout is not None
        return process, process.stdout.readline().decode()

    def run(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        """The program with arguments that end it at once."""
        return subprocess.run(
            ["nsenter", f"--net=/proc/{self.target.pid}/ns/net", "--", *self.command, *arguments],
            check=False,
            capture_output=True,
            timeout=COMMAND_TIMEOUT_S,
            cwd=REPOSITORY,
        )

    @asynccontextmanager
    async def initiator(self) -> AsyncIterator[Initiator]:
        with self.host.entered():
            made = Initiator(["near0"], Timing(deadline_s=DEADLINE_S))
        async with asyncio.timeout(DEADLINE_S), made as initiator:
            yield initiator

    @asynccontextmanager
    async def device(self) -> AsyncIterator[RemoteDevice]:
        async with self.initiator() as initiator:
            yield await initiator.open(7, 3)

    async def found(self) -> list[Found]:
        async with self.initiator() as initiator:
            return await initiator.discover(LISTEN_S)


@pytest.fixture(params=COMMANDS)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    requires_namespaces()
    if request.param == "vblade":
        requires_program("vblade")
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(DISK_SECTORS * SECTOR_BYTES + SURPLUS_BYTES))
    with Namespace() as host, Namespace() as target:
        veth(host, "near0", target, "far0")
        yield Bench(host, target, disk, COMMANDS[request.param])


@pytest.mark.parametrize(
    ("options", "sectors", "access"),
    [
        ("", DISK_SECTORS, "O_RDWR"),
        ("-d -s -b 8", DISK_SECTORS, "O_RDWR"),
        ("-r", DISK_SECTORS, "O_RDONLY"),
        ("-o 7", DISK_SECTORS - 7, "O_RDWR"),
        ("-l 5 -o 7", 5, "O_RDWR"),
        ("-o 010", DISK_SECTORS - 8, "O_RDWR"),
        ("-l 0x10", 16, "O_RDWR"),
        ("-rdsb8 -m020000000001 --", DISK_SECTORS, "O_RDONLY"),
    ],
)
def test_start_up_line(bench: Bench, options: str, sectors: int, access: str) -> None:
    _, line = bench.start(*options.split())
    assert re.fullmatch(rf"pid \d+: e7\.3, {sectors} sectors {access}\n", line)


def test_options_behind_the_arguments(bench: Bench) -> None:
    """As the unit of vblade has them."""
    process = bench.target.spawn(
        *(*bench.command, "7", "3", "far0", str(bench.disk), "-r", "-l", "8"),
        stdout=subprocess.PIPE,
        cwd=REPOSITORY,
    )
    assert process.stdout is not None
    assert process.stdout.readline().endswith(b": e7.3, 8 sectors O_RDONLY\n")


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "1 2 far0",
        "1 2 far0 DISK more",
        "-z 1 2 far0 DISK",
        "1 2 none0 DISK",
        "1 2 far0 /nowhere",
        "1 2 far0 /tmp",
        "-b 0 1 2 far0 DISK",
        "-b x 1 2 far0 DISK",
        "-o 99999 1 2 far0 DISK",
        "-o -1 1 2 far0 DISK",
        "-l 99999 1 2 far0 DISK",
        "-l 0 1 2 far0 DISK",
        "-1 2 far0 DISK",
        "-m",
    ],
)
def test_bad_arguments_end_it_with_1(bench: Bench, arguments: str) -> None:
    done = bench.run(*arguments.replace("DISK", str(bench.disk)).split())
    assert done.returncode == 1
    assert done.stdout == b""
    assert done.stderr
    assert b"Traceback" not in done.stderr


def test_a_file_below_one_sector_is_refused(bench: Bench) -> None:
    bench.disk.write_bytes(bytes(SECTOR_BYTES - 1))
    assert bench.run("1", "2", "far0", str(bench.disk)).returncode == 1


async def test_disk(bench: Bench) -> None:
    process, _ = bench.start("-b", "9", "-o", "7", "-l", "1000")
    (found,) = await bench.found()
    assert (found.shelf, found.slot, found.buffer_count) == (7, 3, 9)
    async with bench.device() as device:
        identity = await device.identify()
        assert identity.size_sectors == 1000
        hostname = bench.target.run("hostname").strip()
        assert identity.serial == f"7.3:{hostname}"[:20].strip()
        await device.write(999, b"z" * SECTOR_BYTES)
        assert await device.read(998, 2) == bytes(SECTOR_BYTES) + b"z" * SECTOR_BYTES
        with pytest.raises(AtaCommandError):
            await device.read(1000, 1)
    content = bench.disk.read_bytes()
    assert content.index(b"z") == (7 + 999) * SECTOR_BYTES
    assert len(content) == DISK_SECTORS * SECTOR_BYTES + SURPLUS_BYTES
    assert process.poll() is None
    process.stop()


async def test_read_only(bench: Bench) -> None:
    bench.start("-r")
    async with bench.device() as device:
        with pytest.raises(AtaCommandError):
            await device.write(0, b"z" * SECTOR_BYTES)
        assert await device.read(0, 1) == bytes(SECTOR_BYTES)
    assert b"z" not in bench.disk.read_bytes()


async def test_hosts(bench: Bench) -> None:
    mine = bench.host.mac("near0").hex().upper()
    process, _ = bench.start("-m", "020000000001,02:00:00:00:00:02")
    assert await bench.found() == []
    process.stop()
    bench.start("-m", f"02:00:00:00:00:01,{mine}")
    assert len(await bench.found()) == 1


@pytest.mark.parametrize("bench", ["ggaoe"], indirect=True)
@pytest.mark.parametrize("host", ["02:00:00:00:00", "2:0:0:0:0:1"])
def test_a_host_named_wrongly_is_refused(bench: Bench, host: str) -> None:
    """vblade goes on without it, and serves everybody where no other one is named."""
    done = bench.run("-m", host, "1", "2", "far0", str(bench.disk))
    assert done.returncode == 1
    assert f"'{host}' is not a MAC address".encode() in done.stderr
