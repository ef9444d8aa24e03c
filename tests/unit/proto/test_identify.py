"""IDENTIFY DEVICE word by word, as initiators read it."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from ggaoe.proto.ata import Identity, identify_page, serial_of
from ggaoe.proto.target import Settings, Target
from unit.proto.host import IDENTIFY, SETTINGS, SIZE_SECTORS, SMART, Host, answer_of, make_target

IDENTITY = Identity(serial="testdev", model="ggaoe disk", firmware="0.1")


def words_of(page: bytes) -> tuple[int, ...]:
    assert len(page) == 512
    return struct.unpack("<256H", page)


def words_for(size_sectors: int, settings: Settings = SETTINGS) -> tuple[int, ...]:
    return words_from(make_target(settings, size_sectors))


def words_from(target: Target) -> tuple[int, ...]:
    answer = answer_of(Host(target).ata(IDENTIFY))
    assert answer.registers == (0x40, 0)
    assert len(answer.frame) == 36 + 512
    return words_of(answer.data)


def text_of(words: tuple[int, ...], first: int, last: int) -> str:
    return b"".join(struct.pack(">H", word) for word in words[first : last + 1]).decode("ascii")


def test_fixed_words() -> None:
    words = words_for(SIZE_SECTORS)
    expected = {
        0: 0x0040,
        47: 0x8000,
        49: 0x0300,
        50: 0x4000,
        53: 0x0006,
        80: 0x00F0,
        82: 0x0061,
        83: 0x7400,
        84: 0x4000,
        85: 0x0041,
        86: 0x3400,
        87: 0x4000,
        93: 0x400B,
    }
    assert {word: words[word] for word in expected} == expected


def test_what_is_not_offered_is_zero() -> None:
    words = words_for(SIZE_SECTORS)
    trim, sata, logical_sector, world_wide_name = [69, 105, 169], [76, 77, 78, 79], [117, 118], 108
    unused = [*trim, *sata, *logical_sector, *range(world_wide_name, 112), 206, 209, 217, 222]
    assert [words[word] for word in unused] == [0] * len(unused)


def test_texts_are_byte_swapped_and_padded_with_spaces() -> None:
    words = words_for(SIZE_SECTORS)
    assert text_of(words, 10, 19) == "testdev".ljust(20)
    assert text_of(words, 23, 26) == "0.1".ljust(8)
    assert text_of(words, 27, 46) == "ggaoe disk".ljust(40)
    page = identify_page(IDENTITY, SIZE_SECTORS)
    assert page[20:28] == b"ettsed v"


def test_long_texts_are_cut_and_foreign_letters_replaced() -> None:
    settings = replace(SETTINGS, serial="s" * 21, firmware="f" * 9, model="ä" * 41)
    words = words_for(SIZE_SECTORS, settings)
    assert text_of(words, 10, 19) == "s" * 20
    assert text_of(words, 23, 26) == "f" * 8
    assert text_of(words, 27, 46) == "?" * 40


@pytest.mark.parametrize(
    ("size_sectors", "lba28"),
    [
        (0, 0),
        (1, 1),
        (4095, 4095),
        (4096, 4096),
        (0x0FFFFFFE, 0x0FFFFFFE),
        (0x0FFFFFFF, 0x0FFFFFFF),
        (0x10000000, 0x0FFFFFFF),
        ((1 << 32) - 1, 0x0FFFFFFF),
        (1 << 32, 0x0FFFFFFF),
        ((1 << 32) + 5, 0x0FFFFFFF),
        ((1 << 48) - 1, 0x0FFFFFFF),
    ],
)
def test_capacities(size_sectors: int, lba28: int) -> None:
    words = words_for(size_sectors)
    assert words[60] | words[61] << 16 == lba28
    assert sum(words[100 + index] << 16 * index for index in range(4)) == size_sectors


@pytest.mark.parametrize(
    ("size_sectors", "cylinders"),
    [(0, 0), (1007, 0), (1008, 1), (16383 * 1008, 16383), (1 << 40, 16383)],
)
def test_geometry_stays_within_the_device(size_sectors: int, cylinders: int) -> None:
    words = words_for(size_sectors)
    assert words[54:57] == (cylinders, 16, 63)
    assert (words[1], words[3], words[6]) == (cylinders, 16, 63)


@pytest.mark.parametrize("size_sectors", [0, 1, 4097, 1 << 33])
def test_the_checksum_makes_all_bytes_sum_to_zero(size_sectors: int) -> None:
    page = identify_page(IDENTITY, size_sectors)
    assert page[510] == 0xA5
    assert sum(page) % 256 == 0


@pytest.mark.parametrize(
    ("physical_sector_bytes", "word_106"),
    [(512, 0x4000), (1024, 0x6001), (2048, 0x6002), (4096, 0x6003), (65536, 0x6007)],
)
def test_physical_sectors(physical_sector_bytes: int, word_106: int) -> None:
    target = make_target()
    target.physical_sector_bytes = physical_sector_bytes
    assert words_from(target)[106] == word_106


@pytest.mark.parametrize(("write_cache", "word_85"), [(False, 0x0041), (True, 0x0061)])
def test_the_write_cache_is_shown_where_it_is_on(write_cache: bool, word_85: int) -> None:
    words = words_for(SIZE_SECTORS, replace(SETTINGS, write_cache=write_cache))
    assert (words[82], words[85]) == (0x0061, word_85)


def test_disabled_smart_stays_supported() -> None:
    target = make_target()
    Host(target).ata(SMART, 0xC24F00, feature=0xD9)
    words = words_from(target)
    assert (words[82], words[85]) == (0x0061, 0x0040)


def test_the_page_follows_size_and_settings() -> None:
    target = make_target()
    before = words_from(target)
    target.size_sectors = 2 * SIZE_SECTORS
    assert words_from(target)[100] == 2 * SIZE_SECTORS
    target.settings = replace(SETTINGS, model="another")
    assert text_of(words_from(target), 27, 46) == "another".ljust(40)
    target.settings, target.size_sectors = SETTINGS, SIZE_SECTORS
    assert words_from(target) == before


@pytest.mark.parametrize("sectors", [0, 1])
@pytest.mark.parametrize("data", [b"", bytes(24), b"\xed" * 1024, b"\xed" * 8964])
def test_any_length_of_the_request_gets_the_same_page(sectors: int, data: bytes) -> None:
    """aoe-sancheck pads IDENTIFY up to the MTU, aoeping to 1024 bytes."""
    answer = answer_of(Host(make_target()).ata(IDENTIFY, sectors=sectors, data=data))
    assert answer.registers == (0x40, 0)
    assert answer.sectors == 0
    assert len(answer.frame) == 36 + 512
    assert words_of(answer.data) == words_for(SIZE_SECTORS)


# --- serials ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "disk", "a" * 20, "with space"])
def test_a_short_name_is_its_own_serial(name: str) -> None:
    assert serial_of(name) == name


@pytest.mark.parametrize("name", ["a" * 21, "ä", "disk\udcff"])
def test_other_names_get_a_digest(name: str) -> None:
    serial = serial_of(name)
    assert len(serial) <= 20
    assert serial.isascii()
    assert serial == serial_of(name)
    assert serial != serial_of(name + "x")
    assert serial != serial_of("x" + name[1:])
