"""Who is answered at all, with which AoE error, and in which order the checks come."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ggaoe.proto.frame import BROADCAST, unpack_header
from ggaoe.proto.rules import EVERYBODY, Rules
from ggaoe.proto.target import DropReason, Io, Reply, TargetState
from unit.proto.host import (
    ANY_SHELF,
    ANY_SLOT,
    FLUSH,
    IDENTIFY,
    MAC_A,
    MAC_B,
    MAC_TARGET,
    PATH,
    READ,
    SETTINGS,
    SHELF,
    SLOT,
    TAG,
    WRITE,
    Host,
    all_but,
    answer_of,
    ata_argument,
    config_argument,
    drop_of,
    make_target,
    mask_argument,
    only,
    request,
    reserve_argument,
)

COMMANDS = {
    "ata": (0, ata_argument(IDENTIFY)),
    "config": (1, config_argument(0)),
    "mask": (2, mask_argument(0)),
    "reserve": (3, reserve_argument(0)),
}
each_command = pytest.mark.parametrize(
    ("command", "argument"), COMMANDS.values(), ids=COMMANDS.keys()
)


@pytest.mark.parametrize(
    ("shelf", "slot", "expected"),
    [
        (SHELF, SLOT, True),
        (ANY_SHELF, ANY_SLOT, True),
        (SHELF, ANY_SLOT, True),
        (ANY_SHELF, SLOT, True),
        (SHELF + 1, SLOT, False),
        (SHELF, SLOT + 1, False),
        (SHELF + 1, ANY_SLOT, False),
        (ANY_SHELF, SLOT + 1, False),
        (SLOT, SHELF & 0xFF, False),
    ],
)
def test_shelf_and_slot_match_independently(shelf: int, slot: int, expected: bool) -> None:
    assert make_target().is_addressed(shelf, slot) is expected


@each_command
@pytest.mark.parametrize(
    ("shelf", "slot"),
    [(SHELF, SLOT), (ANY_SHELF, ANY_SLOT), (SHELF, ANY_SLOT), (ANY_SHELF, SLOT)],
)
def test_every_reply_carries_the_real_address_and_the_request_s_tag(
    command: int, argument: bytes, shelf: int, slot: int
) -> None:
    answer = answer_of(Host(make_target()).send(command, argument, shelf=shelf, slot=slot))
    assert answer.address == (SHELF, SLOT)
    assert answer.destination == MAC_A
    assert answer.source == MAC_TARGET
    assert answer.frame[12:16] == b"\x88\xa2\x18\x00"
    assert answer.command == command
    assert answer.tag == TAG


@each_command
def test_the_two_low_flags_of_a_request_are_ignored(command: int, argument: bytes) -> None:
    answer = answer_of(Host(make_target()).send(command, argument, version_flags=0x13))
    assert answer.version_flags == 0x18


@each_command
@pytest.mark.parametrize("version", [0, 2, 15])
def test_another_version_gets_error_5_in_version_1(
    command: int, argument: bytes, version: int
) -> None:
    outcome = Host(make_target()).send(command, argument, version_flags=version << 4)
    answer = answer_of(outcome)
    assert answer.version_flags == 0x1C
    assert answer.error == 5
    assert answer.address == (SHELF, SLOT)
    assert len(answer.frame) == 60


def test_the_version_nibble_of_the_config_argument_is_no_version() -> None:
    for nibble in (0x00, 0x10, 0xF0):
        assert answer_of(Host(make_target()).config(nibble)).error is None


@pytest.mark.parametrize("command", [0x04, 0x05, 0x7F, 0xF0, 0xFE, 0xFF])
@pytest.mark.parametrize("argument", [b"", b"\xee" * 1024])
def test_an_unknown_command_gets_a_bare_header_with_error_1(command: int, argument: bytes) -> None:
    answer = answer_of(Host(make_target()).send(command, argument))
    assert answer.error == 1
    assert answer.command == command
    assert answer.argument == bytes(36)


@each_command
def test_a_missing_argument_header_gets_error_2(command: int, argument: bytes) -> None:
    header_bytes = {0: 12, 1: 8, 2: 4, 3: 2}[command]
    for length in range(header_bytes):
        answer = answer_of(Host(make_target()).send(command, argument[:length]))
        assert answer.error == 2
        assert len(answer.frame) == 60


@each_command
def test_the_argument_header_alone_is_enough(command: int, argument: bytes) -> None:
    assert answer_of(Host(make_target()).send(command, argument)).error is None


@each_command
def test_trailing_payload_is_neither_refused_nor_echoed(command: int, argument: bytes) -> None:
    plain = answer_of(Host(make_target()).send(command, argument))
    trailing = answer_of(Host(make_target()).send(command, argument + b"\xed" * 1024))
    assert trailing == plain


@each_command
def test_replies_have_at_least_60_bytes(command: int, argument: bytes) -> None:
    assert len(answer_of(Host(make_target()).send(command, argument)).frame) >= 60


# --- lists ------------------------------------------------------------------------------------

LISTS = {
    "none": (EVERYBODY, EVERYBODY, True),
    "accepted": (only(MAC_A), EVERYBODY, True),
    "not accepted": (only(MAC_B), EVERYBODY, False),
    "empty": (only(), EVERYBODY, False),
    "denied": (EVERYBODY, all_but(MAC_A), False),
    "another denied": (EVERYBODY, all_but(MAC_B), True),
    "accepted and denied": (only(MAC_A), all_but(MAC_A), False),
}


@each_command
@pytest.mark.parametrize(("accept", "deny", "is_heard"), LISTS.values(), ids=LISTS.keys())
def test_access_lists_hold_for_every_command(
    command: int,
    argument: bytes,
    accept: Rules,
    deny: Rules,
    is_heard: bool,
) -> None:
    target = make_target(replace(SETTINGS, accept=accept, deny=deny))
    outcome = Host(target).send(command, argument)
    if is_heard:
        assert answer_of(outcome).error is None
    else:
        assert drop_of(outcome) is DropReason.ACCESS_LIST


@each_command
def test_a_mask_list_silences_everybody_else(command: int, argument: bytes) -> None:
    target = make_target()
    target.state = TargetState(mask=(MAC_B,))
    assert drop_of(Host(target, MAC_A).send(command, argument)) is DropReason.MASK_LIST
    assert answer_of(Host(target, MAC_B).send(command, argument)).error is None


# --- order of checks: each fault hides all the later ones -----------------------------------------


def test_each_check_comes_before_the_next() -> None:
    denied = replace(SETTINGS, accept=only(MAC_B), discover=only(MAC_B), read_only=True)
    target = make_target(denied, size_sectors=None)
    target.state = TargetState(mask=(MAC_B,), reserved=(MAC_B,))
    host = Host(target)

    # Everything is wrong at once; one fault after the other is mended.
    assert drop_of(host.send(9, version_flags=0x20)) is DropReason.ACCESS_LIST
    target.settings = replace(denied, accept=EVERYBODY)
    assert drop_of(host.send(9, version_flags=0x20)) is DropReason.MASK_LIST
    target.state = TargetState(reserved=(MAC_B,))
    assert drop_of(host.send(9, version_flags=0x20)) is DropReason.DISCOVER_LIST
    target.settings = replace(SETTINGS, read_only=True)
    assert answer_of(host.send(9, version_flags=0x20)).error == 5
    assert answer_of(host.send(9)).error == 1
    assert answer_of(host.send(0)).error == 2
    assert answer_of(host.ata(0xFF, 1 << 20, 0)).error == 6
    target.state = TargetState()
    assert answer_of(host.ata(0xFF, 1 << 20, 0)).error == 3
    target.size_sectors = 8
    assert answer_of(host.ata(0xFF, 1 << 20, 0)).registers == (0x41, 0x04)
    assert answer_of(host.ata(WRITE, 1 << 20, 0)).registers == (0x41, 0x04)
    assert answer_of(host.ata(WRITE, 1 << 20, 1)).registers == (0x41, 0x04)
    assert answer_of(host.ata(WRITE, 1 << 20, 1, data=bytes(512))).registers == (0x41, 0x10)
    assert answer_of(host.ata(WRITE, 7, 1, data=bytes(512))).registers == (0x41, 0x04)
    target.settings = SETTINGS
    assert isinstance(host.ata(WRITE, 7, 1, data=bytes(512)), Io)


@pytest.mark.parametrize("opcode", [IDENTIFY, READ, FLUSH, 0xB0, 0xE5])
def test_without_a_backing_store_ata_gets_error_3_with_its_argument(opcode: int) -> None:
    outcome = Host(make_target(size_sectors=None)).ata(opcode, lba=0xC24F00)
    answer = answer_of(outcome)
    assert answer.error == 3
    assert answer.argument == ata_argument(opcode, lba=0xC24F00) + bytes(24)


def test_without_a_backing_store_the_other_commands_work() -> None:
    host = Host(make_target(size_sectors=None))
    assert answer_of(host.config(0)).error is None
    assert answer_of(host.mask(0)).error is None
    assert answer_of(host.reserve(1, MAC_A)).error is None


def test_an_error_reply_keeps_the_argument_and_drops_the_data() -> None:
    target = make_target()
    target.state = TargetState(reserved=(MAC_B,))
    answer = answer_of(Host(target).ata(WRITE, 5, 2, data=b"\xda" * 1024))
    assert answer.argument == ata_argument(WRITE, 5, 2) + bytes(24)


def test_a_backing_store_that_went_away_with_a_request_gets_the_same_error() -> None:
    target = make_target()
    frame = request(0, ata_argument(WRITE, 5, 2) + b"\xda" * 1024)
    header = unpack_header(frame)
    assert header is not None
    answer = answer_of(target.io_unavailable(header, frame, PATH))
    assert answer.error == 3
    assert answer.argument == ata_argument(WRITE, 5, 2) + bytes(24)


def test_errors_of_every_kind_are_marked_for_the_counters() -> None:
    target = make_target()
    target.state = TargetState(config_string=b"label", reserved=(MAC_B,))
    host = Host(target)
    outcomes = {
        "version": host.send(1, version_flags=0x20),
        "command": host.send(9),
        "argument missing": host.send(1),
        "bad argument": host.config(15),
        "config present": host.config(3, b"other"),
        "mask directive": host.mask(1, (9, MAC_A)),
        "reserved": host.ata(READ),
        "success": host.config(0),
    }
    marked = {name: isinstance(made, Reply) and made.is_error for name, made in outcomes.items()}
    assert marked == dict.fromkeys(outcomes, True) | {"success": False}


# --- advertisement --------------------------------------------------------------------------------


def test_an_advertisement_is_an_unsolicited_config_reply() -> None:
    target = make_target()
    target.state = TargetState(config_string=b"label")
    frame = target.advertisement(BROADCAST, PATH)
    reply = answer_of(Host(target).config(0, tag=0)).frame
    assert frame == BROADCAST + reply[6:]
