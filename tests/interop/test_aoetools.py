"""Debian's aoetools get right answers; they need no kernel module, only raw sockets."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from helpers.needs import requires_namespaces, requires_program
from helpers.netns import Namespace, veth
from helpers.targets import REPOSITORY, Ggaoe

DISK_BYTES = 1 << 20
TIMEOUT_S = 20
ANSWER_TIMEOUT_S = "10"
SILENCE_S = "1"  # aoecfg knows whole seconds only, and 0 is for ever


@dataclass(frozen=True)
class Bench:
    """A host that has aoetools, and the target that it talks to."""

    host: Namespace
    target: Ggaoe
    mtu_bytes: int

    def run(self, *argv: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """A tool to its end, in the host's network."""
        requires_program(argv[0])
        return subprocess.run(
            ["nsenter", f"--net=/proc/{self.host.pid}/ns/net", "--", *argv],
            check=False,
            input=given,
            capture_output=True,
            timeout=TIMEOUT_S,
            cwd=REPOSITORY,
        )

    def config(self, *options: str, timeout: str = ANSWER_TIMEOUT_S) -> str:
        """What `aoecfg OPTIONS` for e0.1 prints."""
        done = self.run("aoecfg", *options, "-t", timeout, "0", "1", "near0")
        assert done.returncode == 0
        return done.stdout.decode().strip()

    def ping(self, *options: str, given: bytes = b"") -> str:
        """What `aoeping OPTIONS` for e0.1 prints, which must succeed."""
        done = self.run("aoeping", *options, "-s", ANSWER_TIMEOUT_S, "0", "1", "near0", given=given)
        assert done.returncode == 0, done
        return done.stdout.decode()

    def smart(self, command: str, given: bytes = b"") -> tuple[dict[str, int], bytes]:
        """Registers and data that `aoeping -S COMMAND` prints."""
        head, _, dump = self.ping("-S", command, given=given).partition("SMART data:\n")
        registers = dict(line.strip().split(": ") for line in head.splitlines()[1:] if line.strip())
        return {name: int(value, 16) for name, value in registers.items()}, bytes.fromhex(dump)


@pytest.fixture
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """Parametrise it indirectly with the MTU."""
    requires_namespaces()
    mtu_bytes = getattr(request, "param", 1500)
    backing = tmp_path / "disk"
    with backing.open("wb") as file:
        file.truncate(DISK_BYTES)
    with Namespace() as host, Namespace() as far:
        veth(host, "near0", far, "far0", mtu_bytes)
        target = Ggaoe(far, ["far0"], backing, tmp_path)
        target.start()
        try:
            yield Bench(host, target, mtu_bytes)
            target.stop()
        finally:
            print(target.log.read_text())


def test_aoecfg_sets_and_finds_config_strings(bench: Bench) -> None:
    assert bench.config("-c", "read") == ""
    assert bench.config("-c", "set", "-s", "root disk") == "root disk"
    assert bench.config("-c", "set", "-s", "root disk") == "root disk"
    assert bench.config("-c", "set", "-s", "other") == "*badcfg*"
    assert bench.config("-c", "read") == "root disk"
    assert bench.config("-c", "test", "-s", "root disk") == "root disk"
    assert bench.config("-c", "prefix", "-s", "root") == "root disk"
    assert bench.config("-c", "test", "-s", "root", timeout=SILENCE_S) == ""
    assert bench.config("-c", "prefix", "-s", "disk", timeout=SILENCE_S) == ""
    assert bench.config("-c", "fset", "-s", "other") == "other"
    everybody = bench.run("aoecfg", "-c", "prefix", "-s", "oth", "-t", SILENCE_S, "near0")
    assert everybody.stdout == b"0.1\tother\n"


def test_aoeping_finds_and_identifies(bench: Bench) -> None:
    mac = bench.target.namespace.mac("far0").hex()
    assert f"found e0.1 with mac {mac}" in bench.ping("-v")
    fields = dict(line.split(": ", 1) for line in bench.ping("-I").splitlines() if ": " in line)
    assert fields["serial_number"].strip() == "disk"
    assert fields["model"].strip() == "ggaoe"
    page = bytes.fromhex(bench.ping("-i").partition(":")[2])
    assert len(page) == 512
    assert int.from_bytes(page[200:208], "little") == DISK_BYTES // 512
    assert sum(page) % 256 == 0
    absent = bench.run("aoeping", "-s", "1", "0", "2", "near0")
    assert absent.returncode != 0


def test_aoeping_uses_smart(bench: Bench) -> None:
    registers, data = bench.smart("read_data")
    assert registers["Status"] == 0x40
    assert len(data) == 512
    assert sum(data) % 256 == 0
    registers, _ = bench.smart("return_status")
    assert (registers["LBA Mid"], registers["LBA High"]) == (0x4F, 0xC2)
    bench.smart("offline_immediate:0")
    note = b"note".ljust(512, b".")
    assert bench.smart("read_log:128")[1] == bytes(512)
    bench.smart("write_log:128", given=note)
    assert bench.smart("read_log:128")[1] == note
    bench.smart("disable")
    refused = bench.run("aoeping", "-S", "return_status", "-s", ANSWER_TIMEOUT_S, "0", "1", "near0")
    assert (refused.returncode, refused.stderr) == (1, b"SMART command aborted on target.\n")
    bench.smart("enable")
    bench.smart("return_status")


@pytest.mark.parametrize("bench", [9000], indirect=True)
def test_aoe_sancheck_measures_the_payload(bench: Bench) -> None:
    """It tries every size and reports the largest that came back."""
    done = bench.run("aoe-sancheck")
    assert done.returncode == 0
    payload = str(17 * 512)
    rows = [line.split() for line in done.stdout.decode().splitlines()]
    assert ["near0", "UP", str(bench.mtu_bytes)] in rows
    assert ["e0.1", "1", payload, "near0"] in rows
