"""The header codec, lengths and sectors per frame (AoE r11, common header; MTU arithmetic)."""

from __future__ import annotations

import pytest

from ggaoe.proto.frame import (
    BROADCAST,
    Command,
    Error,
    pack_advertisement,
    pack_request,
    pack_response,
    pack_taskfile,
    padded,
    sectors_advertised,
    sectors_that_fit,
    unpack_header,
    unpack_taskfile,
)
from unit.proto.host import MAC_A, MAC_TARGET, ata_argument, request

FRAME = request(1, shelf=0x1234, slot=0x56, tag=0x89ABCDEF, version_flags=0x1C)


def test_header_fields_are_read_from_their_offsets() -> None:
    header = unpack_header(FRAME)
    assert header is not None
    assert header.destination == MAC_TARGET
    assert header.source == MAC_A
    assert header.ethertype == 0x88A2
    assert (header.shelf, header.slot) == (0x1234, 0x56)
    assert header.command == Command.CONFIG
    assert header.tag == 0x89ABCDEF
    assert header.version == 1
    assert header.is_response
    assert header.is_error


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview])
def test_any_buffer_is_read(make: type[bytes]) -> None:
    assert unpack_header(make(FRAME)) == unpack_header(FRAME)


@pytest.mark.parametrize("length", [0, 1, 14, 23])
def test_a_frame_shorter_than_the_header_is_no_frame(length: int) -> None:
    assert unpack_header(FRAME[:length]) is None


def test_a_bare_header_is_a_frame() -> None:
    assert unpack_header(FRAME[:24]) is not None


def test_another_ethertype_is_no_frame() -> None:
    assert unpack_header(FRAME[:12] + b"\x08\x00" + FRAME[14:]) is None


@pytest.mark.parametrize(
    ("flags", "is_response", "is_error"),
    [(0x10, False, False), (0x13, False, False), (0x18, True, False), (0x1C, True, True)],
)
def test_flags(flags: int, is_response: bool, is_error: bool) -> None:
    header = unpack_header(request(0, version_flags=flags))
    assert header is not None
    assert (header.is_response, header.is_error) == (is_response, is_error)


def test_a_request_is_packed_with_version_1_and_no_flags() -> None:
    packed = pack_request(MAC_TARGET, MAC_A, 0x1234, 0x56, 1, 0x89ABCDEF)
    assert packed == FRAME[:14] + b"\x10" + FRAME[15:24]


def test_a_response_goes_back_with_the_tag_and_the_real_address() -> None:
    header = unpack_header(request(0, shelf=0xFFFF, slot=0xFF, tag=0x89ABCDEF))
    assert header is not None
    packed = pack_response(header, MAC_TARGET, 7, 8)
    assert packed == MAC_A + MAC_TARGET + bytes.fromhex("88a2 18 00 0007 08 00 89abcdef")


def test_an_error_response_has_flag_e_and_the_code() -> None:
    header = unpack_header(request(3))
    assert header is not None
    assert pack_response(header, MAC_TARGET, 7, 8, Error.RESERVED)[14:16] == b"\x1c\x06"


def test_an_advertisement_is_a_config_response_with_tag_0() -> None:
    packed = pack_advertisement(BROADCAST, MAC_TARGET, 7, 8)
    assert packed == BROADCAST + MAC_TARGET + bytes.fromhex("88a2 18 00 0007 08 01 00000000")


def test_the_taskfile_is_read_from_its_offsets() -> None:
    argument = ata_argument(0x34, lba=0x060504030201, sectors=9, feature=7, aflags=0x53)
    taskfile = unpack_taskfile(request(0, argument))
    assert taskfile == (0x53, 7, 9, 0x34, bytes([1, 2, 3, 4, 5, 6]), 0)
    assert pack_taskfile(*taskfile[:5]) == argument


@pytest.mark.parametrize(("length", "expected"), [(24, 60), (59, 60), (60, 60), (61, 61)])
def test_padding_fills_with_zeros_to_60_bytes(length: int, expected: int) -> None:
    frame = padded(b"\xaa" * length)
    assert frame == (b"\xaa" * length + bytes(60))[:expected]


@pytest.mark.parametrize(
    ("mtu_bytes", "sectors"),
    [
        (0, 0),
        (547, 0),
        (548, 1),
        (1059, 1),
        (1060, 2),
        (1500, 2),
        (4200, 8),
        (8227, 15),
        (8228, 16),
        (9000, 17),
        (16384, 31),
        (65536, 127),
        (36 + 512 * 255, 255),
        (1 << 20, 255),
    ],
)
def test_sectors_advertised_count_the_whole_header_into_the_mtu(
    mtu_bytes: int, sectors: int
) -> None:
    assert sectors_advertised(mtu_bytes) == sectors


@pytest.mark.parametrize(
    ("mtu_bytes", "sectors"),
    [(0, 0), (533, 0), (534, 1), (1500, 2), (1557, 2), (1558, 3), (8214, 16), (1 << 20, 255)],
)
def test_sectors_that_fit_do_not_count_the_ethernet_header(mtu_bytes: int, sectors: int) -> None:
    assert sectors_that_fit(mtu_bytes) == sectors
    if 0 < sectors < 255:
        assert 36 + 512 * sectors <= mtu_bytes + 14 < 36 + 512 * (sectors + 1)
