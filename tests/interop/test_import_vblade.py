"""What an import of vblade's configuration exports is what Debian's vblade exported: the same
address, part, hosts and rights."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest

from ggaoe.cli.ggaoe import main
from ggaoe.client import AtaCommandError, Initiator, Timing
from ggaoe.proto.frame import SECTOR_BYTES
from helpers.needs import requires_namespaces, requires_program
from helpers.netns import Namespace, veth
from helpers.targets import Ggaoe, Vblade

pytestmark = pytest.mark.one_engine

DEADLINE_S = 60.0
LISTEN_S = 1.0
DISK_SECTORS = 301
SHELF, SLOT = 7, 3
OTHER = "02:00:00:00:00:09"


class Exported(NamedTuple):
    """What a host finds; nothing where nobody answers it."""

    shelf: int
    slot: int
    size_sectors: int
    first: bytes
    last: bytes
    is_writable: bool


@dataclass
class Line(Vblade):
    """vblade with options."""

    options: str = ""

    def _commands(self) -> list[list[str]]:
        address = [str(SHELF), str(SLOT)]
        return [["vblade", *self.options.split(), *address, "far0", str(self.backing)]]


@dataclass
class ImportedLine(Ggaoe):
    """The daemon with what the import makes of the same."""

    options: str = ""

    def configuration(self) -> str:
        source, output = self.directory / "vblade.conf", self.directory / "imported.conf"
        source.write_text(f"{SHELF} {SLOT} far0 {self.backing} {self.options}\n")
        assert main(["import", "vblade", str(source), "-o", str(output)]) == 0
        own = super().configuration().partition("[disk]")[0]
        return own + output.read_text()


async def exported(host: Namespace) -> Exported | None:
    with host.entered():
        made = Initiator(["near0"], Timing(deadline_s=DEADLINE_S))
    async with asyncio.timeout(DEADLINE_S), made as initiator:
        found = await initiator.discover(LISTEN_S)
        if not found:
            return None
        (one,) = found
        device = await initiator.open(one.shelf, one.slot)
        size_sectors = (await device.identify()).size_sectors
        first, last = await device.read(0, 1), await device.read(size_sectors - 1, 1)
        is_writable = True
        try:
            await device.write(0, first)
        except AtaCommandError:
            is_writable = False
        return Exported(one.shelf, one.slot, size_sectors, bytes(first), bytes(last), is_writable)


@pytest.mark.parametrize(
    ("options", "sectors"),
    [
        ("-dsb 8", range(DISK_SECTORS)),
        ("-o 010", range(8, DISK_SECTORS)),
        ("-o 0x10 -l 9 -l 020", range(16, 32)),
        ("-m OTHER,MINE", range(DISK_SECTORS)),
        ("-m OTHER -m MINE -r", range(DISK_SECTORS)),
        ("-m OTHER", None),
    ],
)
async def test_the_same_is_exported(tmp_path: Path, options: str, sectors: range | None) -> None:
    requires_namespaces()
    requires_program("vblade")
    disk = tmp_path / "disk"
    content = b"".join(n.to_bytes(SECTOR_BYTES, "big") for n in range(DISK_SECTORS))
    disk.write_bytes(content + b"the end")
    with Namespace() as host, Namespace() as far:
        veth(host, "near0", far, "far0")
        mine = host.mac("near0").hex().upper()
        options = options.replace("OTHER", OTHER).replace("MINE", mine)
        results = []
        for made in (Line, ImportedLine):
            target = made(far, ["far0"], disk, tmp_path, options=options)
            target.start()
            results.append(await exported(host))
            target.stop()
            print(target.log.read_text())
    expected = None
    if sectors is not None:
        ends = [sectors[0].to_bytes(SECTOR_BYTES, "big"), sectors[-1].to_bytes(SECTOR_BYTES, "big")]
        expected = Exported(SHELF, SLOT, len(sectors), *ends, "-r" not in options.split())
    assert results == [expected, expected]
    assert disk.read_bytes() == content + b"the end"
