"""What one side packs, the other unpacks: header, taskfile, config, mask and reserve arguments."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ggaoe.proto import access, query
from ggaoe.proto.ata import LBA28, Identity, Opcode, identify_page, lba_sector
from ggaoe.proto.frame import (
    pack_request,
    pack_response,
    pack_taskfile,
    padded,
    sectors_advertised,
    sectors_that_fit,
    unpack_header,
    unpack_taskfile,
)

deterministic = settings(derandomize=True, max_examples=200)

byte = st.integers(0, 0xFF)
short = st.integers(0, 0xFFFF)
mac = st.binary(min_size=6, max_size=6)
head = st.builds(pack_request, mac, mac, short, byte, byte, st.integers(0, (1 << 32) - 1))


@deterministic
@given(mac, mac, short, byte, byte, st.integers(0, (1 << 32) - 1))
def test_header(
    destination: bytes, source: bytes, shelf: int, slot: int, command: int, tag: int
) -> None:
    header = unpack_header(pack_request(destination, source, shelf, slot, command, tag))
    assert header == (destination, source, 0x88A2, 0x10, 0, shelf, slot, command, tag)


@deterministic
@given(head, mac, short, byte, st.none() | st.integers(1, 6))
def test_response(frame: bytes, source: bytes, shelf: int, slot: int, error: int | None) -> None:
    request = unpack_header(frame)
    assert request is not None
    header = unpack_header(pack_response(request, source, shelf, slot, error))
    assert header is not None
    assert (header.destination, header.source) == (request.source, source)
    assert (header.shelf, header.slot) == (shelf, slot)
    assert (header.command, header.tag) == (request.command, request.tag)
    assert header.is_response
    assert header.is_error == (error is not None)
    assert header.error == (error or 0)


@deterministic
@given(head, byte, byte, byte, byte, mac)
def test_taskfile(
    frame: bytes, aflags: int, feature: int, sectors: int, command: int, lba: bytes
) -> None:
    packed = pack_taskfile(aflags, feature, sectors, command, lba)
    assert unpack_taskfile(frame + packed) == (aflags, feature, sectors, command, lba, 0)


@deterministic
@given(st.sampled_from(list(Opcode)), st.integers(0, (1 << 48) - 1))
def test_lba_width_comes_from_the_opcode(opcode: Opcode, sector: int) -> None:
    expected = sector % (1 << 28) if opcode in LBA28 else sector
    assert lba_sector(opcode, sector.to_bytes(6, "little")) == expected


@deterministic
@given(head, st.integers(0, 15), st.binary(max_size=1024), short, short, byte, st.binary())
def test_config(
    frame: bytes, ccmd: int, text: bytes, buffers: int, firmware: int, sectors: int, rest: bytes
) -> None:
    packed = query.pack_config(ccmd, text, buffers, firmware, sectors)
    argument = query.unpack_config(frame + packed + rest)
    assert argument == (buffers, firmware, sectors, ccmd, text)


@deterministic
@given(head, byte, st.lists(st.tuples(byte, mac), max_size=255), st.binary())
def test_mask(frame: bytes, mcmd: int, entries: list[tuple[int, bytes]], rest: bytes) -> None:
    directives = tuple(access.Directive(*entry) for entry in entries)
    argument = access.unpack_mask(frame + access.pack_mask(mcmd, directives) + rest)
    assert argument == (mcmd, 0, len(directives), directives)


@deterministic
@given(head, byte, st.lists(mac, max_size=255, unique=True), st.binary())
def test_reserve(frame: bytes, rcmd: int, macs: list[bytes], rest: bytes) -> None:
    argument = access.unpack_reserve(frame + access.pack_reserve(rcmd, tuple(macs)) + rest)
    assert argument == (rcmd, tuple(macs))


@deterministic
@given(head, byte, st.lists(mac, max_size=255), st.data())
def test_a_cut_list_is_none(
    frame: bytes, command: int, macs: list[bytes], data: st.DataObject
) -> None:
    directives = tuple(access.Directive(1, entry) for entry in macs)
    mask = access.pack_mask(command, directives)
    reserve = access.pack_reserve(command, tuple(macs))
    if macs:
        cut = data.draw(st.integers(1, 6 * len(macs)))
        assert access.unpack_mask(frame + mask[:-cut]) is None
        assert access.unpack_reserve(frame + reserve[:-cut]) is None


@deterministic
@given(st.binary(max_size=2000))
def test_padding_keeps_what_was_there(frame: bytes) -> None:
    result = padded(frame)
    assert len(result) == max(60, len(frame))
    assert result.startswith(frame)
    assert not any(result[len(frame) :])


@deterministic
@given(st.integers(0, 200_000))
def test_what_is_advertised_fits(mtu_bytes: int) -> None:
    assert 0 <= sectors_advertised(mtu_bytes) <= sectors_that_fit(mtu_bytes) <= 255
    fitting = sectors_that_fit(mtu_bytes)
    assert fitting == 0 or 36 + 512 * fitting <= mtu_bytes + 14


@deterministic
@given(st.text(), st.text(), st.text(), st.booleans(), st.integers(0, 1 << 48))
def test_every_identify_page_is_whole(
    serial: str, model: str, firmware: str, write_cache: bool, size_sectors: int
) -> None:
    page = identify_page(Identity(serial, model, firmware, write_cache), size_sectors)
    assert len(page) == 512
    assert sum(page) % 256 == 0
    assert int.from_bytes(page[200:208], "little") == size_sectors
