"""SMART (0xB0) as aoeping sends and judges it."""

from __future__ import annotations

import pytest

from ggaoe.proto.target import Change, Reply, Target
from unit.proto.host import (
    ANY_SLOT,
    SMART,
    Answer,
    Host,
    answer_of,
    make_target,
)

READ_DATA, OFFLINE, READ_LOG, WRITE_LOG = 0xD0, 0xD4, 0xD5, 0xD6
ENABLE, DISABLE, STATUS = 0xD8, 0xD9, 0xDA
FEATURES = (READ_DATA, OFFLINE, READ_LOG, WRITE_LOG, ENABLE, DISABLE, STATUS)
KEY = 0xC24F00
HOST_LOG = 0x80
OK, ABRT = (0x40, 0), (0x41, 0x04)
DATA = bytes(range(256)) * 2


def smart(
    target: Target, feature: int, log: int = 0, sectors: int = 1, data: bytes = b"", **fields: int
) -> Answer:
    outcome = Host(target).ata(SMART, KEY | log, sectors, feature=feature, data=data, **fields)
    return answer_of(outcome)


def argument_for(feature: int) -> tuple[int, bytes]:
    """(log address, data) with which `feature` succeeds."""
    return (HOST_LOG, DATA) if feature == WRITE_LOG else (0, b"")


@pytest.mark.parametrize("feature", FEATURES)
def test_every_success_carries_a_sector(feature: int) -> None:
    """aoeping takes any shorter reply for a failure, also where no data is due."""
    log, data = argument_for(feature)
    answer = smart(make_target(), feature, log, data=data)
    assert answer.registers == OK
    assert answer.error is None
    assert answer.sectors == 0
    assert len(answer.frame) == 36 + 512


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("lba", [0, 0x4FC200, 0xC20000, 0x004F00, 0xC24E00, 0xC34F00])
def test_without_the_key_every_feature_is_aborted(feature: int, lba: int) -> None:
    log, data = argument_for(feature)
    target = make_target()
    before = target.state
    outcome = Host(target).ata(SMART, lba | log, feature=feature, data=data)
    assert answer_of(outcome).registers == ABRT
    assert target.state == before


@pytest.mark.parametrize("feature", sorted(set(range(256)) - set(FEATURES)))
def test_other_features_are_aborted(feature: int) -> None:
    answer = smart(make_target(), feature)
    assert answer.registers == ABRT
    assert answer.data == bytes(512), "aoeping says nothing about a shorter reply"


def test_data_is_a_page_with_a_checksum() -> None:
    page = smart(make_target(), READ_DATA).data
    assert len(page) == 512
    assert sum(page) % 256 == 0
    assert page[:2] == b"\x10\x00", "structure revision"
    assert not any(page[2:367]), "no vendor attributes"
    assert page[367:371] == b"\x01\x03\x00\x01", "off-line immediate, SMART, error log"


def test_status_returns_the_key_while_all_is_well() -> None:
    target = make_target()
    assert smart(target, STATUS, sectors=0).lba == bytes([0, 0x4F, 0xC2, 0, 0, 0])
    target.is_failing = True
    answer = smart(target, STATUS, 0xE0_000007, sectors=0)
    assert answer.registers == OK
    assert answer.lba == bytes([7, 0xF4, 0x2C, 0xE0, 0, 0])


# --- logs -------------------------------------------------------------------------------------


def test_the_log_directory_lists_exactly_the_logs_that_can_be_read() -> None:
    target = make_target()
    directory = smart(target, READ_LOG, 0).data
    assert int.from_bytes(directory[:2], "little") == 1
    listed = {log for log in range(1, 256) if directory[2 * log : 2 * log + 2] == b"\x01\x00"}
    readable = {log for log in range(1, 256) if smart(target, READ_LOG, log).registers == OK}
    assert listed == readable == {0x01, 0x06, *range(0x80, 0xA0)}


@pytest.mark.parametrize("log", [0x01, 0x06])
def test_the_drive_s_own_logs_are_empty_pages_with_a_checksum(log: int) -> None:
    page = smart(make_target(), READ_LOG, log).data
    assert page[0] == 1
    assert not any(page[2:511])
    assert sum(page) % 256 == 0


@pytest.mark.parametrize("log", [0x80, 0x9F])
def test_a_host_log_is_empty_until_it_is_written(log: int) -> None:
    target = make_target()
    assert smart(target, READ_LOG, log).data == bytes(512)
    assert smart(target, WRITE_LOG, log, data=DATA).registers == OK
    assert smart(target, READ_LOG, log).data == DATA
    assert smart(target, READ_LOG, 0x80 ^ 0x9F ^ log).data == bytes(512)


@pytest.mark.parametrize("log", [0x00, 0x01, 0x06, 0x7F, 0xA0, 0xFF])
def test_no_other_log_can_be_written(log: int) -> None:
    target = make_target()
    assert smart(target, WRITE_LOG, log, data=DATA).registers == ABRT
    assert target.state.smart_logs == {}


@pytest.mark.parametrize("feature", [READ_LOG, WRITE_LOG])
@pytest.mark.parametrize("sectors", [0, 2, 255])
def test_logs_have_one_sector(feature: int, sectors: int) -> None:
    assert smart(make_target(), feature, HOST_LOG, sectors, DATA * 2).registers == ABRT


@pytest.mark.parametrize("data", [b"", DATA[:511]])
def test_a_log_write_without_its_data_is_aborted(data: bytes) -> None:
    assert smart(make_target(), WRITE_LOG, HOST_LOG, data=data).registers == ABRT


def test_aoeping_s_log_write_with_w_in_the_wrong_byte_works() -> None:
    target = make_target()
    answer = smart(target, WRITE_LOG, HOST_LOG, data=DATA, version_flags=0x11)
    assert answer.registers == OK
    assert answer.version_flags == 0x18
    assert target.state.smart_logs == {HOST_LOG: DATA}


@pytest.mark.parametrize("subcommand", [1, 2, 0x7F, 0x81])
def test_self_tests_are_not_offered(subcommand: int) -> None:
    assert smart(make_target(), OFFLINE, subcommand).registers == ABRT


# --- enable and disable -----------------------------------------------------------------------


@pytest.mark.parametrize("feature", sorted(set(FEATURES) - {ENABLE, DISABLE}))
def test_disabled_smart_aborts(feature: int) -> None:
    target = make_target()
    log, data = argument_for(feature)
    assert smart(target, DISABLE).registers == OK
    assert smart(target, feature, log, data=data).registers == ABRT
    assert smart(target, ENABLE).registers == OK
    assert smart(target, feature, log, data=data).registers == OK


@pytest.mark.parametrize(
    ("feature", "log", "data"), [(DISABLE, 0, b""), (WRITE_LOG, HOST_LOG, DATA)]
)
def test_what_changes_state_is_stored_once_and_succeeds_again(
    feature: int, log: int, data: bytes
) -> None:
    host = Host(make_target())
    first = host.ata(SMART, KEY | log, feature=feature, data=data)
    again = host.ata(SMART, KEY | log, feature=feature, data=data)
    assert isinstance(first, Change)
    assert isinstance(again, Reply)
    assert first.frame == again.frame


@pytest.mark.parametrize("feature", [ENABLE, DISABLE, WRITE_LOG])
def test_what_changes_state_is_refused_for_wildcards(feature: int) -> None:
    target = make_target()
    before = target.state
    log, data = argument_for(feature)
    assert smart(target, feature, log, data=data, slot=ANY_SLOT).registers == ABRT
    assert target.state == before
    assert smart(target, READ_DATA, slot=ANY_SLOT).registers == OK
