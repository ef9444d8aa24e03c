"""`parse_identify` against the page that our target makes, and against any bytes."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from ggaoe.client.identity import parse_identify
from ggaoe.proto.ata import LBA48_SECTORS_MAX, Identity, identify_page


@given(st.integers(0, (1 << 48) - 1), st.booleans(), st.sampled_from([512, 4096]))
def test_reads_what_a_target_says(sectors: int, cache: bool, physical: int) -> None:
    identity = Identity("serial-7", "a model", "1.0", cache, physical_sector_bytes=physical)
    remote = parse_identify(identify_page(identity, sectors))
    assert (remote.serial, remote.model, remote.firmware) == ("serial-7", "a model", "1.0")
    assert remote.size_sectors == sectors
    assert remote.write_cache == cache
    assert remote.physical_sector_bytes == physical
    assert remote.lba48
    assert remote.flush
    assert remote.flush_ext


def test_old_disk_has_28_bits() -> None:
    words = [0] * 256
    words[60], words[61] = 0x5678, 0x0123
    words[100] = 99
    remote = parse_identify(struct.pack("<256H", *words))
    assert not remote.lba48
    assert remote.size_sectors == 0x01235678


def test_size_is_no_more_than_addresses_reach() -> None:
    """Whatever is asked for fits into an address."""
    page = struct.pack("<256H", *[0xFFFF] * 256)
    assert parse_identify(page).size_sectors == LBA48_SECTORS_MAX


@given(st.binary(min_size=512, max_size=512))
def test_any_page_is_some_identity(page: bytes) -> None:
    assert 0 <= parse_identify(page).size_sectors <= LBA48_SECTORS_MAX
