"""The bench's load generator passes targets that are right, and finds out those that are not."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ggaoe.engine.select import ENGINES
from helpers.needs import requires_namespaces, requires_program
from helpers.netns import Namespace, Process, veth, wait_until
from helpers.targets import REPOSITORY, Ggaoe, TargetUnderTest, Vblade

pytestmark = pytest.mark.one_engine

SECTOR_BYTES = 512
BACKING_SECTORS = 2048
BUSY_FRAMES = 1000
TIMEOUT_S = 30.0


class Bench(NamedTuple):
    """The generator, and two machines joined by near0, far0 and near1, far1."""

    aoeload: Path
    near: Namespace
    far: Namespace
    directory: Path

    def spawn(self, *arguments: str) -> Process:
        return self.near.spawn(self.aoeload, "load", "--sleep", *arguments, stdout=subprocess.PIPE)

    def load(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """Exit status and report of a run."""
        return self.result(self.spawn(*arguments))

    def result(self, process: Process) -> tuple[int, dict[str, Any]]:
        assert process.stdout is not None
        output = process.stdout.read()
        return process.wait(TIMEOUT_S), json.loads(output)

    def reflect(self, *interfaces: str) -> Process:
        return self.far.spawn(self.aoeload, "reflect", "--sleep", *interfaces)


@pytest.fixture(scope="module")
def aoeload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    requires_namespaces()
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler: apt-get install gcc libc6-dev")
    program = tmp_path_factory.mktemp("bench") / "aoeload"
    source = REPOSITORY / "bench" / "aoeload.c"
    subprocess.run(["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", program, source], check=True)
    return program


@pytest.fixture
def bench(aoeload: Path, tmp_path: Path) -> Iterator[Bench]:
    with Namespace() as near, Namespace() as far:
        for index in range(2):
            veth(near, f"near{index}", far, f"far{index}", 9000)
        yield Bench(aoeload, near, far, tmp_path)


def number_sectors(path: Path) -> None:
    with path.open("wb") as file:
        for lba in range(BACKING_SECTORS):
            file.write(struct.pack("<Q", lba).ljust(SECTOR_BYTES, b"\xa5"))


@pytest.mark.parametrize("target_class", [Vblade, Ggaoe])
def test_every_byte_of_a_target_is_verified(
    bench: Bench, target_class: type[TargetUnderTest]
) -> None:
    if target_class is Vblade:
        requires_program("vblade")
    backing = bench.directory / "disk"
    backing.write_bytes(bytes(BACKING_SECTORS * SECTOR_BYTES))
    target = target_class(bench.far, ["far0"], backing, bench.directory)
    target.start()
    status, report = bench.load(
        "--check=all", "--write-percent=50", "--seconds=0.2", "--sectors=16", "e0.1@near0"
    )
    target.stop()
    assert (status, report["first_trouble"]) == (0, "")
    assert report["requests"] > 0
    data = backing.read_bytes()
    numbers = [data[lba * SECTOR_BYTES :][:8] for lba in range(BACKING_SECTORS)]
    assert numbers == [struct.pack("<Q", lba) for lba in range(BACKING_SECTORS)]


def test_a_target_that_forgets_is_found_out(bench: Bench) -> None:
    bench.reflect("far0")
    status, report = bench.load("--check=all", "--seconds=0.1", "--region=128", "e0.1@near0")
    assert status == 1
    assert report["wrong_data"] > 0
    assert report["first_trouble"]


def test_one_wrong_sector_is_found(bench: Bench) -> None:
    backing = bench.directory / "disk"
    number_sectors(backing)
    with backing.open("r+b") as file:
        file.seek(1001 * SECTOR_BYTES)
        file.write(b"wrong!!!")
    target = Ggaoe(bench.far, ["far0"], backing, bench.directory)
    target.start()
    whole = ("--sequential", "--seconds=0.2", "--sectors=8", "e0.1@near0")
    assert bench.load("--region=1000", *whole)[0] == 0
    status, report = bench.load(*whole)
    target.stop()
    assert status == 1
    assert report["first_trouble"].startswith("e0.1 read of sector 1000: ")


def test_devices_are_counted_one_by_one(bench: Bench) -> None:
    bench.reflect("far0", "far1")
    status, report = bench.load(
        "--check=none", "--seconds=0.1", "e0.1@near0", "e7.254@near1", "e0.2@near0"
    )
    counts = [device["requests"] for device in report["devices"]]
    assert status == 0
    assert [device["device"] for device in report["devices"]] == ["e0.1", "e7.254", "e0.2"]
    assert all(count > 0 for count in counts)
    assert sum(counts) == report["requests"]


def test_a_target_that_falls_silent_ends_the_run(bench: Bench) -> None:
    reflector = bench.reflect("far0")
    load = bench.spawn("--check=none", "--seconds=60", "--timeout=0.02", "e0.1@near0")

    def busy() -> bool:
        rows = Path(f"/proc/{bench.far.pid}/net/dev").read_text().splitlines()
        (received,) = (row.split()[2] for row in rows if row.strip().startswith("far0:"))
        return int(received) > BUSY_FRAMES

    wait_until(busy, TIMEOUT_S, "the load is under way")
    reflector.kill()
    status, report = bench.result(load)
    assert status == 1
    assert report["lost"] == 1
    assert report["retransmissions"] > 0


def test_the_runner_measures_and_prints(aoeload: Path, tmp_path: Path) -> None:
    for program in ("taskset", "tc", "setpriv"):
        requires_program(program)
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two processors")
    targets = "ggaoe-portable,reflector-sleeping" + ",ggaoe-unit" * ("native" in ENGINES)
    done = subprocess.run(
        [
            *(sys.executable, "bench/run.py", "--rounds=1", "--seconds=0.1", "--size-mib=4"),
            *("--cases=read-1k-d1,mixed-64,wire-1g", "--targets", targets),
            f"--directory={tmp_path}",
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "| random read, 2 sectors, MTU 1500, depth 1 | ggaoe-portable | " in done.stdout
    assert "| half writes, 1 KiB, 64 devices on 4 interfaces" in done.stdout
    assert "| random read, 16 sectors, MTU 9000, depth 32, wire of 1 Gbit/s | " in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_runner_refuses_what_it_does_not_know() -> None:
    done = subprocess.run(
        [sys.executable, "bench/run.py", "--targets=vblade,ggaoe-nativ"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "nothing is called ggaoe-nativ: see --list" in done.stderr
