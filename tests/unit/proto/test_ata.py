"""Command 0: which taskfile becomes which transfer, and which error registers refuse it."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from ggaoe.proto.ata import Op, error_register
from ggaoe.proto.frame import unpack_header
from ggaoe.proto.target import DropReason, Io, Outcome, Path
from unit.proto.host import (
    ANY_SHELF,
    ANY_SLOT,
    FLUSH,
    FLUSH_EXT,
    IDENTIFY,
    JUMBO,
    MAC_TARGET,
    PATH,
    READ,
    READ_DMA,
    READ_DMA_EXT,
    READ_EXT,
    SETTINGS,
    SHELF,
    SIZE_SECTORS,
    SLOT,
    VERIFY,
    VERIFY_EXT,
    WRITE,
    WRITE_DMA,
    WRITE_DMA_EXT,
    WRITE_EXT,
    Answer,
    Host,
    answer_of,
    ata_argument,
    drop_of,
    make_target,
    request,
)

OK = (0x40, 0)
ABRT = (0x41, 0x04)
IDNF = (0x41, 0x10)
UNC = (0x41, 0x40)

READS = (READ, READ_EXT, READ_DMA, READ_DMA_EXT)
WRITES = (WRITE, WRITE_EXT, WRITE_DMA, WRITE_DMA_EXT)
VERIFIES = (VERIFY, VERIFY_EXT)
OPS = (
    dict.fromkeys(READS, Op.READ)
    | dict.fromkeys(WRITES, Op.WRITE)
    | dict.fromkeys(VERIFIES, Op.VERIFY)
)
NARROW = (READ, READ_DMA, WRITE, WRITE_DMA, VERIFY)
WIDE = (READ_EXT, READ_DMA_EXT, WRITE_EXT, WRITE_DMA_EXT, VERIFY_EXT)

each_transfer = pytest.mark.parametrize("opcode", OPS)


def io_of(outcome: Outcome) -> tuple[Op, int, int]:
    assert isinstance(outcome, Io), outcome
    return outcome.op, outcome.sector, outcome.sectors


def refused(outcome: Outcome) -> Answer:
    """An ATA error is no AoE error, has no data, and says how many sectors are missing."""
    answer = answer_of(outcome)
    assert answer.error is None
    assert len(answer.frame) == 60
    assert answer.data == bytes(24)
    return answer


@each_transfer
def test_the_opcode_gives_the_transfer(opcode: int) -> None:
    outcome = Host(make_target()).ata(opcode, 7, 2, data=bytes(1024))
    assert io_of(outcome) == (OPS[opcode], 7, 2)


@each_transfer
@pytest.mark.parametrize("aflags", [0x00, 0x01, 0x02, 0x10, 0x40, 0x53, 0xFF])
def test_aflags_give_neither_direction_nor_width(opcode: int, aflags: int) -> None:
    outcome = Host(make_target()).ata(opcode, 7, 2, aflags=aflags, data=bytes(1024))
    assert io_of(outcome) == (OPS[opcode], 7, 2)


@pytest.mark.parametrize("opcode", NARROW)
@pytest.mark.parametrize("aflags", [0x00, 0x40])
def test_28_bit_opcodes_ignore_device_bits_and_the_high_bytes(opcode: int, aflags: int) -> None:
    host = Host(make_target())
    outcome = host.ata(opcode, 0xAABB_E0_000123, 1, aflags=aflags, data=bytes(512))
    assert io_of(outcome) == (OPS[opcode], 0x123, 1)


@pytest.mark.parametrize("opcode", WIDE)
@pytest.mark.parametrize("aflags", [0x00, 0x40])
def test_48_bit_opcodes_use_all_six_bytes(opcode: int, aflags: int) -> None:
    sector = 0x0102_03040506
    host = Host(make_target(size_sectors=1 << 48))
    outcome = host.ata(opcode, sector, 1, aflags=aflags, data=bytes(512))
    assert io_of(outcome) == (OPS[opcode], sector, 1)


@each_transfer
def test_the_last_sector_is_served_and_the_next_is_not_found(opcode: int) -> None:
    host = Host(make_target())
    data = bytes(1024)
    last = SIZE_SECTORS - 1
    assert io_of(host.ata(opcode, last, 1, data=data)) == (OPS[opcode], last, 1)
    assert refused(host.ata(opcode, last, 2, data=data)).registers == IDNF
    assert refused(host.ata(opcode, last + 1, 1, data=data)).registers == IDNF


@pytest.mark.parametrize("opcode", WIDE)
@pytest.mark.parametrize("size_sectors", [(1 << 28) - 1, 1 << 28, (1 << 28) + 1, 1 << 32, 1 << 48])
def test_the_end_of_a_large_device(opcode: int, size_sectors: int) -> None:
    host = Host(make_target(size_sectors=size_sectors))
    data = bytes(1024)
    last = size_sectors - 1
    assert io_of(host.ata(opcode, last, 1, data=data)) == (OPS[opcode], last, 1)
    assert refused(host.ata(opcode, last, 2, data=data)).registers == IDNF
    top = (1 << 48) - 1
    if top > last:
        assert refused(host.ata(opcode, top, 1, data=data)).registers == IDNF


@pytest.mark.parametrize("opcode", NARROW)
def test_28_bits_reach_no_farther_than_a_small_device(opcode: int) -> None:
    host = Host(make_target(size_sectors=(1 << 28) - 1))
    data = bytes(1024)
    assert io_of(host.ata(opcode, (1 << 28) - 2, 1, data=data))[1] == (1 << 28) - 2
    assert refused(host.ata(opcode, (1 << 28) - 1, 1, data=data)).registers == IDNF
    assert refused(host.ata(opcode, (1 << 28) - 2, 2, data=data)).registers == IDNF


@each_transfer
def test_an_empty_device_has_no_sector(opcode: int) -> None:
    outcome = Host(make_target(size_sectors=0)).ata(opcode, 0, 1, data=bytes(512))
    assert refused(outcome).registers == IDNF


@each_transfer
def test_count_0_is_aborted(opcode: int) -> None:
    answer = refused(Host(make_target()).ata(opcode, 7, 0, data=bytes(512)))
    assert answer.registers == ABRT
    assert answer.sectors == 0


@pytest.mark.parametrize("opcode", WRITES)
@pytest.mark.parametrize("missing_bytes", [1, 511, 512, 1024])
def test_a_write_without_all_its_data_is_aborted(opcode: int, missing_bytes: int) -> None:
    answer = refused(Host(make_target()).ata(opcode, 7, 2, data=bytes(1024 - missing_bytes)))
    assert answer.registers == ABRT
    assert answer.sectors == 2


@pytest.mark.parametrize("opcode", WRITES)
def test_a_write_ignores_bytes_behind_its_data(opcode: int) -> None:
    assert io_of(Host(make_target()).ata(opcode, 7, 1, data=bytes(1024))) == (Op.WRITE, 7, 1)


@pytest.mark.parametrize("opcode", WRITES)
def test_a_read_only_target_aborts_writes(opcode: int) -> None:
    host = Host(make_target(replace(SETTINGS, read_only=True)))
    answer = refused(host.ata(opcode, 7, 1, data=bytes(512)))
    assert answer.registers == ABRT
    assert answer.sectors == 1
    assert io_of(host.ata(READ, 7, 1)) == (Op.READ, 7, 1)
    assert io_of(host.ata(FLUSH)) == (Op.FLUSH, 0, 0)


@pytest.mark.parametrize("opcode", WRITES)
@pytest.mark.parametrize(
    ("shelf", "slot"), [(ANY_SHELF, ANY_SLOT), (SHELF, ANY_SLOT), (ANY_SHELF, SLOT)]
)
def test_a_write_to_a_wildcard_is_aborted(opcode: int, shelf: int, slot: int) -> None:
    host = Host(make_target())
    answer = refused(host.ata(opcode, 7, 1, data=bytes(512), shelf=shelf, slot=slot))
    assert answer.registers == ABRT
    assert answer.address == (SHELF, SLOT)
    assert io_of(host.ata(READ, 7, 1, shelf=shelf, slot=slot)) == (Op.READ, 7, 1)


# --- what fits into a frame -----------------------------------------------------------------------


@pytest.mark.parametrize("opcode", READS)
def test_reads_are_served_up_to_what_fits(opcode: int) -> None:
    host = Host(make_target(), path=Path(MAC_TARGET, mtu_bytes=1558, sectors_offered_max=2))
    assert io_of(host.ata(opcode, 7, 3)) == (Op.READ, 7, 3)
    answer = refused(host.ata(opcode, 7, 4))
    assert answer.registers == ABRT
    assert answer.sectors == 4


@pytest.mark.parametrize("opcode", VERIFIES)
def test_verify_carries_no_data_and_needs_no_room(opcode: int) -> None:
    assert io_of(Host(make_target()).ata(opcode, 7, 255)) == (Op.VERIFY, 7, 255)


@pytest.mark.parametrize("opcode", READS)
def test_a_read_of_255_sectors_is_served_where_it_fits(opcode: int) -> None:
    host = Host(make_target(), path=Path(MAC_TARGET, mtu_bytes=22 + 255 * 512))
    assert io_of(host.ata(opcode, 7, 255)) == (Op.READ, 7, 255)


@pytest.mark.parametrize("opcode", READS)
def test_after_the_mtu_shrank_a_read_of_the_old_size_is_dropped(opcode: int) -> None:
    """An error would reach the user; silence makes the host ask for less."""
    host = Host(make_target(), path=Path(MAC_TARGET, mtu_bytes=1500, sectors_offered_max=17))
    assert drop_of(host.ata(opcode, 7, 17)) is DropReason.MTU
    assert drop_of(host.ata(opcode, 7, 3)) is DropReason.MTU
    assert io_of(host.ata(opcode, 7, 2)) == (Op.READ, 7, 2)
    assert refused(host.ata(opcode, 7, 18)).registers == ABRT


# --- odd but real initiators ----------------------------------------------------------------------


@pytest.mark.parametrize("opcode", [READ, READ_EXT])
def test_a_linux_taint_probe_reads(opcode: int) -> None:
    """A READ of LBA 0 with W clear that carries a full payload of zeros."""
    outcome = Host(make_target(), path=JUMBO).ata(opcode, 0, 17, data=bytes(17 * 512))
    assert io_of(outcome) == (Op.READ, 0, 17)


def test_winaoe_finds_disks_by_a_broadcast_identify_with_e_set() -> None:
    frame = request(0, ata_argument(IDENTIFY, aflags=0x40), shelf=ANY_SHELF, slot=ANY_SLOT)
    answer = answer_of(Host(make_target()).send_frame(b"\xff" * 6 + frame[6:]))
    assert answer.registers == OK
    assert answer.address == (SHELF, SLOT)
    assert answer.source == MAC_TARGET
    assert len(answer.frame) == 36 + 512


def test_linux_sends_identify_with_a0_in_the_device_bits() -> None:
    answer = answer_of(Host(make_target()).ata(IDENTIFY, 0xA0_000000))
    assert answer.registers == OK
    assert answer.lba == bytes([0, 0, 0, 0xA0, 0, 0])


# --- what moves no data ---------------------------------------------------------------------------


@pytest.mark.parametrize("opcode", [FLUSH, FLUSH_EXT])
@pytest.mark.parametrize("sectors", [0, 1, 255])
def test_flush_goes_to_the_medium_whatever_count_and_address_say(opcode: int, sectors: int) -> None:
    outcome = Host(make_target()).ata(opcode, (1 << 48) - 1, sectors)
    assert io_of(outcome) == (Op.FLUSH, 0, 0)


def test_check_power_mode_says_active() -> None:
    answer = answer_of(Host(make_target()).ata(0xE5, sectors=0))
    assert answer.registers == OK
    assert answer.sectors == 0xFF


@pytest.mark.parametrize("opcode", [0xE0, 0xE1, 0xE2, 0xE3, 0xE6])
def test_the_idle_family_does_nothing_successfully(opcode: int) -> None:
    answer = answer_of(Host(make_target()).ata(opcode, sectors=5))
    assert answer.registers == OK
    assert answer.sectors == 0


@pytest.mark.parametrize("feature", range(256))
def test_set_features_accepts_five_features(feature: int) -> None:
    answer = answer_of(Host(make_target()).ata(0xEF, feature=feature))
    assert answer.registers == (OK if feature in (0x02, 0x82, 0x03, 0xAA, 0x55) else ABRT)


KNOWN = {*OPS, FLUSH, FLUSH_EXT, IDENTIFY, 0xB0, 0xE0, 0xE1, 0xE2, 0xE3, 0xE5, 0xE6, 0xEF}


@pytest.mark.parametrize("opcode", sorted(set(range(256)) - KNOWN))
def test_every_other_opcode_is_aborted(opcode: int) -> None:
    answer = refused(Host(make_target()).ata(opcode, data=bytes(512)))
    assert answer.registers == ABRT


def test_a_reply_echoes_aflags_and_lba_and_clears_the_reserved_bytes() -> None:
    argument = ata_argument(0xE5, lba=0x060504030201, aflags=0x53)[:10] + b"\xff\xff"
    answer = answer_of(Host(make_target()).send(0, argument))
    assert answer.argument[:12] == bytes([0x53, 0, 0xFF, 0x40, 1, 2, 3, 4, 5, 6, 0, 0])


# --- the reply after a transfer -------------------------------------------------------------------


def finished(opcode: int, error: int | None) -> Answer:
    """The reply to a request of 2 sectors from 7 on that ended with `error`, or well."""
    target = make_target()
    frame = request(0, ata_argument(opcode, 7, 2, aflags=0x41) + bytes(1024))
    header = unpack_header(frame)
    assert header is not None
    io = target.receive(header, frame, PATH)
    assert isinstance(io, Io)
    if error is None:
        return Answer(target.ata_head(header, io.taskfile, PATH))
    return Answer(target.io_failure(header, io, PATH, error).frame)


@pytest.mark.parametrize("opcode", [*OPS, FLUSH, FLUSH_EXT])
def test_the_head_of_a_success_passes_every_initiator_s_test(opcode: int) -> None:
    """Linux and 9front want none of BSY, DF, DRQ and ERR; the opcode left there would fail."""
    answer = finished(opcode, None)
    assert len(answer.frame) == 36
    assert answer.argument == bytes([0x41, 0, 0, 0x40, 7, 0, 0, 0, 0, 0, 0, 0])


@pytest.mark.parametrize("opcode", [*OPS, FLUSH, FLUSH_EXT])
@pytest.mark.parametrize("registers", [ABRT, IDNF, UNC])
def test_a_failed_transfer_is_an_ata_error(opcode: int, registers: tuple[int, int]) -> None:
    answer = finished(opcode, registers[1])
    assert answer.error is None
    assert answer.registers == registers
    assert answer.sectors == 2
    assert len(answer.frame) == 60


@pytest.mark.parametrize(
    ("error_number", "is_read", "register"),
    [
        (errno.EIO, True, 0x40),
        (errno.EIO, False, 0x04),
        (errno.ENODATA, True, 0x40),
        (errno.ENOSPC, False, 0x04),
        (errno.ENXIO, True, 0x04),
        (errno.EROFS, False, 0x04),
    ],
)
def test_the_error_register_for_an_errno(error_number: int, is_read: bool, register: int) -> None:
    assert error_register(error_number, is_read=is_read) == register
