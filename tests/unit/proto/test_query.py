"""Command 1: the config string and the counts that come with it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ggaoe.proto.query import pack_config, unpack_config
from ggaoe.proto.target import Change, DropReason, Path, Reply, TargetState
from unit.proto.host import (
    ANY_SHELF,
    ANY_SLOT,
    MAC_TARGET,
    SETTINGS,
    SHELF,
    SLOT,
    Host,
    answer_of,
    drop_of,
    make_target,
)

LABEL = b"disk \x00\xff of X"
WILDCARDS = [(ANY_SHELF, ANY_SLOT), (SHELF, ANY_SLOT), (ANY_SHELF, SLOT)]


def host_of(label: bytes = b"", mtu_bytes: int = 1500) -> Host:
    target = make_target()
    target.state = TargetState(config_string=label)
    return Host(target, path=Path(MAC_TARGET, mtu_bytes))


@pytest.mark.parametrize(("mtu_bytes", "sectors"), [(1500, 2), (4200, 8), (9000, 17), (65536, 127)])
def test_a_reply_has_the_counts_version_ccmd_and_the_string(mtu_bytes: int, sectors: int) -> None:
    answer = answer_of(host_of(LABEL, mtu_bytes).config(0))
    head = bytes([0, 64, 0, 1, sectors, 0x10, 0, len(LABEL)])
    assert answer.argument == (head + LABEL).ljust(36, b"\0")


def test_the_buffer_count_is_the_settings() -> None:
    host = Host(make_target(replace(SETTINGS, buffer_count=65535)))
    assert answer_of(host.config(0)).argument[:2] == b"\xff\xff"


@pytest.mark.parametrize("text_bytes", [0, 10, 1024, 1025, 0xFFFF])
@pytest.mark.parametrize("payload", [b"", b"\xed" * 10, b"\xed" * 1024])
def test_read_ignores_length_and_payload(text_bytes: int, payload: bytes) -> None:
    host = host_of(LABEL)
    answer = answer_of(host.config(0, payload, text_bytes))
    assert answer.config_string == LABEL
    assert answer == answer_of(host.config(0))


@pytest.mark.parametrize("ccmd", [0, 1, 2, 3, 4])
def test_a_reply_echoes_ccmd(ccmd: int) -> None:
    assert answer_of(host_of(LABEL).config(ccmd, LABEL)).argument[5] == 0x10 | ccmd


@pytest.mark.parametrize(
    ("text", "is_equal", "is_prefix"),
    [
        (LABEL, True, True),
        (b"", False, True),
        (LABEL[:1], False, True),
        (LABEL[:-1], False, True),
        (LABEL + b"\0", False, False),
        (LABEL.upper(), False, False),
    ],
)
def test_tests_answer_or_are_silent(text: bytes, is_equal: bool, is_prefix: bool) -> None:
    for ccmd, matches in ((1, is_equal), (2, is_prefix)):
        outcome = host_of(LABEL).config(ccmd, text)
        if matches:
            assert answer_of(outcome).config_string == LABEL
        else:
            assert drop_of(outcome) is DropReason.CONFIG_MISMATCH


def test_an_empty_string_equals_only_an_empty_one() -> None:
    assert answer_of(host_of().config(1)).config_string == b""
    assert drop_of(host_of().config(1, b"x")) is DropReason.CONFIG_MISMATCH


def test_the_length_field_counts_and_not_the_frame() -> None:
    assert answer_of(host_of(LABEL).config(1, LABEL + bytes(50), len(LABEL))).error is None


def test_set_stores_into_an_empty_target_and_succeeds_again() -> None:
    host = host_of()
    first = host.config(3, LABEL)
    again = host.config(3, LABEL)
    assert isinstance(first, Change)
    assert not first.fence
    assert first.state.config_string == LABEL
    assert isinstance(again, Reply)
    assert first.frame == again.frame
    assert answer_of(first).config_string == LABEL


@pytest.mark.parametrize("text", [b"", b"other", LABEL + b"\0", LABEL[:-1]])
def test_set_beside_another_string_is_error_4_with_the_current_one(text: bytes) -> None:
    host = host_of(LABEL)
    answer = answer_of(host.config(3, text))
    assert answer.error == 4
    assert answer.config_string == LABEL
    assert answer.argument[:6] == bytes([0, 64, 0, 1, 2, 0x13])
    assert host.target.state.config_string == LABEL


def test_set_of_nothing_on_an_empty_target_succeeds_and_stores_nothing() -> None:
    outcome = host_of().config(3)
    assert isinstance(outcome, Reply)
    assert answer_of(outcome).error is None


@pytest.mark.parametrize("text", [b"", b"other", b"\0" * 1024])
def test_force_replaces_and_succeeds_again(text: bytes) -> None:
    host = host_of(LABEL)
    first = host.config(4, text)
    again = host.config(4, text)
    assert isinstance(first, Change)
    assert isinstance(again, Reply)
    assert first.frame == again.frame
    assert answer_of(first).config_string == text
    assert answer_of(host.config(0)).config_string == text


def test_a_change_leaves_the_other_state_alone() -> None:
    host = host_of()
    state = replace(host.target.state, reserved=(b"abcdef",), smart_enabled=False)
    host.target.state = state
    host.config(4, LABEL)
    assert host.target.state == replace(state, config_string=LABEL)


@pytest.mark.parametrize("ccmd", range(5, 16))
def test_an_unknown_ccmd_is_error_2(ccmd: int) -> None:
    answer = answer_of(host_of(LABEL).config(ccmd, LABEL))
    assert answer.error == 2
    assert answer.argument[5] == 0x10 | ccmd
    assert answer.config_string == LABEL


@pytest.mark.parametrize("ccmd", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("payload_bytes", "text_bytes"), [(0, 1), (27, 28), (1023, 1024), (1025, 1025), (28, 0xFFFF)]
)
def test_a_length_over_1024_or_beyond_the_frame_is_error_2(
    ccmd: int, payload_bytes: int, text_bytes: int
) -> None:
    host = host_of()
    answer = answer_of(host.config(ccmd, bytes(payload_bytes), text_bytes))
    assert answer.error == 2
    assert host.target.state == TargetState()


def test_the_longest_string_is_stored_and_returned() -> None:
    answer = answer_of(host_of().config(3, b"\xab" * 1024))
    assert answer.config_string == b"\xab" * 1024
    assert len(answer.frame) == 32 + 1024


@pytest.mark.parametrize(("shelf", "slot"), WILDCARDS)
def test_wildcards_find_and_never_set(shelf: int, slot: int) -> None:
    for ccmd, text in ((0, b""), (1, LABEL), (2, LABEL[:3])):
        answer = answer_of(host_of(LABEL).config(ccmd, text, shelf=shelf, slot=slot))
        assert answer.config_string == LABEL
        assert answer.address == (SHELF, SLOT)
    for ccmd in (3, 4):
        host = host_of()
        assert answer_of(host.config(ccmd, LABEL, shelf=shelf, slot=slot)).error == 2
        assert host.target.state.config_string == b""


def test_the_codec_puts_fields_where_they_belong() -> None:
    packed = pack_config(3, b"ab", buffer_count=0x0102, firmware=0x0304, sectors=5)
    assert packed == bytes([1, 2, 3, 4, 5, 0x13, 0, 2]) + b"ab"
    assert unpack_config(bytes(24) + packed + bytes(26)) == (0x0102, 0x0304, 5, 3, b"ab")
