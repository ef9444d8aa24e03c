"""Commands 2 and 3: what edits do to the mask list and the reservation, and whom these stop."""

from __future__ import annotations

import pytest

from ggaoe.proto.access import mask_entries_max, reserve_entries_max, unpack_mask
from ggaoe.proto.target import Change, DropReason, Io, Reply, TargetState
from unit.proto.host import (
    ANY_SHELF,
    ANY_SLOT,
    FLUSH,
    IDENTIFY,
    JUMBO,
    MAC_A,
    MAC_B,
    MAC_C,
    MAC_D,
    PATH,
    READ,
    SHELF,
    SLOT,
    SMART,
    VERIFY,
    WRITE,
    Host,
    answer_of,
    ata_argument,
    drop_of,
    make_target,
    mask_argument,
)

NOTHING, ADD, DELETE = 0, 1, 2
NONE, BAD_DIRECTIVE, FULL = 0, 2, 3
WILDCARDS = [(ANY_SHELF, ANY_SLOT), (SHELF, ANY_SLOT), (ANY_SHELF, SLOT)]


def macs(count: int) -> tuple[bytes, ...]:
    """`count` different MACs, MAC_A among them and first."""
    return (MAC_A, *(bytes([2, 1, 0, 0, 0, index]) for index in range(count - 1)))


def masked(*listed: bytes, mtu_bytes_min: int = 1500) -> Host:
    target = make_target()
    target.mtu_bytes_min = mtu_bytes_min
    target.state = TargetState(mask=listed)
    return Host(target)


def reserved(*listed: bytes) -> Host:
    target = make_target()
    target.state = TargetState(reserved=listed)
    return Host(target)


@pytest.mark.parametrize(
    ("mtu_bytes", "mask", "reserve"), [(1060, 130, 174), (1500, 185, 248), (9000, 255, 255)]
)
def test_how_many_entries_a_reply_holds(mtu_bytes: int, mask: int, reserve: int) -> None:
    assert mask_entries_max(mtu_bytes) == mask
    assert reserve_entries_max(mtu_bytes) == reserve


# --- command 2 --------------------------------------------------------------------------------


def test_a_mask_reply_by_its_bytes() -> None:
    answer = answer_of(masked(MAC_A, MAC_B).mask(0))
    expected = bytes([0, 0, 0, 2, 0, 0]) + MAC_A + bytes(2) + MAC_B
    assert answer.argument == expected.ljust(36, b"\0")


@pytest.mark.parametrize("listed", [(), (MAC_A,), macs(185)])
def test_read_returns_the_whole_list(listed: tuple[bytes, ...]) -> None:
    answer = answer_of(masked(*listed).mask(0))
    assert answer.masks == list(listed)
    assert len(answer.frame) == max(60, 28 + 8 * len(listed))


def test_read_ignores_directives() -> None:
    host = masked(MAC_A)
    assert answer_of(host.mask(0, (ADD, MAC_B), (9, MAC_C))).masks == [MAC_A]
    assert host.target.state.mask == (MAC_A,)


@pytest.mark.parametrize(
    ("before", "directives", "after"),
    [
        ((), [(ADD, MAC_A)], (MAC_A,)),
        ((), [(ADD, MAC_A), (ADD, MAC_B)], (MAC_A, MAC_B)),
        ((MAC_A, MAC_B), [(DELETE, MAC_A)], (MAC_B,)),
        ((MAC_A,), [(DELETE, MAC_A)], ()),
        ((MAC_A,), [(ADD, MAC_B), (DELETE, MAC_A)], (MAC_B,)),
        ((MAC_A,), [(DELETE, MAC_A), (ADD, MAC_A)], (MAC_A,)),
        ((MAC_A,), [(NOTHING, MAC_B)], (MAC_A,)),
        ((MAC_A,), [], (MAC_A,)),
        ((MAC_A,), [(ADD, MAC_A)], (MAC_A,)),
        ((MAC_A,), [(DELETE, MAC_B)], (MAC_A,)),
        ((), [(ADD, MAC_A), (ADD, MAC_A)], (MAC_A,)),
    ],
)
def test_directives_apply_in_order(
    before: tuple[bytes, ...], directives: list[tuple[int, bytes]], after: tuple[bytes, ...]
) -> None:
    host = masked(*before)
    outcome = host.mask(1, *directives)
    answer = answer_of(outcome)
    assert answer.error is None
    assert answer.argument[1:3] == bytes([1, NONE])
    assert answer.masks == list(after)
    assert host.target.state.mask == after
    assert isinstance(outcome, Change if before != after else Reply)


def test_a_bad_directive_stops_and_what_came_before_stays() -> None:
    host = masked(MAC_A)
    outcome = host.mask(1, (ADD, MAC_B), (DELETE, MAC_A), (3, MAC_C), (ADD, MAC_D))
    answer = answer_of(outcome)
    assert answer.error is None
    assert answer.argument == bytes([0, 1, BAD_DIRECTIVE, 2]) + bytes(32)
    assert isinstance(outcome, Change)
    assert host.target.state.mask == (MAC_B,)


def test_a_bad_first_directive_changes_nothing() -> None:
    host = masked(MAC_A)
    outcome = host.mask(1, (0xFF, MAC_B))
    assert answer_of(outcome).mask_error == (BAD_DIRECTIVE, 0)
    assert isinstance(outcome, Reply)


def test_a_full_list_takes_no_more_but_is_still_edited() -> None:
    host = masked(*macs(185))
    assert answer_of(host.mask(1, (ADD, MAC_B))).mask_error == (FULL, 0)
    assert answer_of(host.mask(1, (ADD, MAC_A))).mask_error[0] == NONE
    assert answer_of(host.mask(1, (DELETE, macs(2)[1]), (ADD, MAC_B))).mask_error[0] == NONE
    assert answer_of(host.mask(1, (NOTHING, MAC_A), (ADD, MAC_C))).mask_error == (FULL, 1)


@pytest.mark.parametrize(("mtu_bytes_min", "entries"), [(1060, 130), (1500, 185), (9000, 185)])
def test_the_smallest_link_limits_the_list(mtu_bytes_min: int, entries: int) -> None:
    host = masked(*macs(entries), mtu_bytes_min=mtu_bytes_min)
    assert answer_of(host.mask(1, (ADD, MAC_B))).mask_error == (FULL, 0)
    host = masked(*macs(entries - 1), mtu_bytes_min=mtu_bytes_min)
    assert len(answer_of(host.mask(1, (ADD, MAC_B))).masks) == entries


@pytest.mark.parametrize("mcmd", [2, 3, 0xFF])
def test_an_unknown_mcmd_is_error_2(mcmd: int) -> None:
    host = masked(MAC_A)
    answer = answer_of(host.mask(mcmd, (ADD, MAC_B)))
    assert answer.error == 2
    assert host.target.state.mask == (MAC_A,)


@pytest.mark.parametrize(("count", "directive_bytes"), [(1, 0), (1, 7), (4, 31), (255, 32)])
def test_directives_beyond_the_frame_are_error_2(count: int, directive_bytes: int) -> None:
    host = masked(MAC_A)
    argument = bytes([0, 1, 0, count]) + bytes(directive_bytes)
    assert answer_of(host.send(2, argument)).error == 2
    assert host.target.state.mask == (MAC_A,)


def test_the_reply_fields_of_a_request_mean_nothing() -> None:
    host = masked()
    answer = answer_of(host.send(2, mask_argument(1, (ADD, MAC_A), error=0xFF)))
    assert answer.argument[2] == NONE
    assert answer.masks == [MAC_A]


def test_a_host_that_left_itself_out_is_not_heard_any_more() -> None:
    host = masked()
    assert answer_of(host.mask(1, (ADD, MAC_B))).masks == [MAC_B]
    assert drop_of(host.mask(1, (ADD, MAC_A))) is DropReason.MASK_LIST
    assert drop_of(host.config(0)) is DropReason.MASK_LIST


@pytest.mark.parametrize(("shelf", "slot"), WILDCARDS)
def test_a_mask_edit_by_wildcard_is_refused(shelf: int, slot: int) -> None:
    host = masked(MAC_A)
    assert answer_of(host.mask(1, (ADD, MAC_B), shelf=shelf, slot=slot)).error == 2
    assert host.target.state.mask == (MAC_A,)
    assert answer_of(host.mask(0, shelf=shelf, slot=slot)).masks == [MAC_A]


def test_a_reply_that_outgrew_the_link_is_not_sent_and_changes_nothing() -> None:
    listed = macs(255)
    host = masked(*listed)
    assert drop_of(host.mask(0)) is DropReason.MTU
    assert drop_of(host.mask(1, (DELETE, listed[1]))) is DropReason.MTU
    assert host.target.state.mask == listed
    assert answer_of(Host(host.target, path=JUMBO).mask(0)).masks == list(listed)


def test_the_reply_to_a_failed_edit_reads_as_an_index_without_a_list() -> None:
    answer = answer_of(masked().mask(1, (ADD, MAC_A), (9, MAC_B)))
    assert unpack_mask(answer.frame) == (1, BAD_DIRECTIVE, 1, ())


# --- command 3 --------------------------------------------------------------------------------


def test_a_reserve_reply_by_its_bytes() -> None:
    answer = answer_of(reserved(MAC_A, MAC_B).reserve(0))
    assert answer.argument == (bytes([0, 2]) + MAC_A + MAC_B).ljust(36, b"\0")


@pytest.mark.parametrize("listed", [(), (MAC_B,), macs(248)])
def test_everybody_may_read_the_reservation(listed: tuple[bytes, ...]) -> None:
    answer = answer_of(reserved(*listed).reserve(0))
    assert answer.error is None
    assert answer.reserved == list(listed)
    assert len(answer.frame) == max(60, 26 + 6 * len(listed))


def test_read_ignores_the_list_it_came_with() -> None:
    host = reserved(MAC_B)
    assert answer_of(host.reserve(0, MAC_A, MAC_C)).reserved == [MAC_B]
    assert host.target.state.reserved == (MAC_B,)


@pytest.mark.parametrize(
    ("before", "wanted"),
    [
        ((), (MAC_A,)),
        ((), (MAC_B,)),
        ((), ()),
        ((MAC_A,), (MAC_B, MAC_C)),
        ((MAC_B, MAC_A), (MAC_A,)),
        ((MAC_A,), ()),
    ],
)
def test_set_is_open_to_whoever_holds_a_free_or_own_reservation(
    before: tuple[bytes, ...], wanted: tuple[bytes, ...]
) -> None:
    host = reserved(*before)
    first = host.reserve(1, *wanted)
    again = host.reserve(1, *wanted)
    assert isinstance(first, Change)
    assert first.fence
    assert answer_of(first).error is None
    assert answer_of(first).reserved == list(wanted)
    assert host.target.state.reserved == wanted
    assert answer_of(again) == answer_of(first), "a lost reply is asked for again"


@pytest.mark.parametrize("wanted", [(), (MAC_A,), (MAC_A, MAC_B), (MAC_B, MAC_C)])
def test_set_by_another_host_is_error_6(wanted: tuple[bytes, ...]) -> None:
    host = reserved(MAC_B)
    outcome = host.reserve(1, *wanted)
    assert isinstance(outcome, Reply)
    assert answer_of(outcome).error == 6
    assert host.target.state.reserved == (MAC_B,)


@pytest.mark.parametrize("wanted", [(), (MAC_A,), (MAC_C,), (MAC_B,)])
def test_force_is_open_to_everybody_and_fences(wanted: tuple[bytes, ...]) -> None:
    host = reserved(MAC_B)
    for _ in range(2):
        outcome = host.reserve(2, *wanted)
        assert isinstance(outcome, Change)
        assert outcome.fence
        assert answer_of(outcome).reserved == list(wanted)
    assert host.target.state.reserved == wanted


def test_the_destination_of_a_frame_reserves_nothing() -> None:
    """The requester is the source: a target's own MAC in the list opens no door."""
    host = reserved(PATH.mac)
    assert answer_of(host.reserve(1, MAC_A)).error == 6


def test_a_mac_named_twice_is_listed_once() -> None:
    assert answer_of(reserved().reserve(1, MAC_B, MAC_A, MAC_B)).reserved == [MAC_B, MAC_A]


@pytest.mark.parametrize("rcmd", [3, 4, 0xFF])
def test_an_unknown_rcmd_is_error_2(rcmd: int) -> None:
    host = reserved(MAC_A)
    assert answer_of(host.reserve(rcmd, MAC_B)).error == 2
    assert host.target.state.reserved == (MAC_A,)


@pytest.mark.parametrize(("count", "mac_bytes"), [(1, 0), (1, 5), (6, 34), (255, 34)])
def test_macs_beyond_the_frame_are_error_2(count: int, mac_bytes: int) -> None:
    host = reserved(MAC_A)
    assert answer_of(host.send(3, bytes([1, count]) + bytes(mac_bytes))).error == 2
    assert host.target.state.reserved == (MAC_A,)


@pytest.mark.parametrize("rcmd", [1, 2])
def test_a_reservation_that_no_reply_could_hold_is_error_2(rcmd: int) -> None:
    target = make_target()
    host = Host(target, path=JUMBO)
    assert answer_of(host.reserve(rcmd, *macs(249))).error == 2
    assert target.state.reserved == ()
    answer = answer_of(host.reserve(rcmd, *macs(248)))
    assert answer.error is None
    assert answer.reserved == list(macs(248))


@pytest.mark.parametrize(("shelf", "slot"), WILDCARDS)
@pytest.mark.parametrize("rcmd", [1, 2])
def test_a_reservation_by_wildcard_is_refused(rcmd: int, shelf: int, slot: int) -> None:
    host = reserved(MAC_A)
    assert answer_of(host.reserve(rcmd, MAC_B, shelf=shelf, slot=slot)).error == 2
    assert host.target.state.reserved == (MAC_A,)
    assert answer_of(host.reserve(0, shelf=shelf, slot=slot)).reserved == [MAC_A]


@pytest.mark.parametrize("opcode", [READ, WRITE, VERIFY, FLUSH, SMART, 0xE5, 0xE0, 0xEF, 0x00])
def test_a_reservation_locks_others_out_of_all_ata_but_identify(opcode: int) -> None:
    target = reserved(MAC_B).target
    stranger, holder = Host(target, MAC_A), Host(target, MAC_B)
    answer = answer_of(stranger.ata(opcode, 0xC24F00, data=bytes(512)))
    assert answer.error == 6
    assert answer.argument == ata_argument(opcode, 0xC24F00) + bytes(24)
    outcome = holder.ata(opcode, 0xC24F00, data=bytes(512))
    assert isinstance(outcome, Io) or answer_of(outcome).error is None


def test_a_locked_out_host_may_identify_and_talk() -> None:
    stranger = reserved(MAC_B)
    assert answer_of(stranger.ata(IDENTIFY)).registers == (0x40, 0)
    assert answer_of(stranger.config(4, b"label")).error is None
    assert answer_of(stranger.mask(0)).error is None


def test_release_opens_the_target_again() -> None:
    target = reserved(MAC_B).target
    assert answer_of(Host(target, MAC_A).ata(READ)).error == 6
    Host(target, MAC_B).reserve(1)
    assert isinstance(Host(target, MAC_A).ata(READ), Io)
