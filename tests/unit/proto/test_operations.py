"""Who may do which operation: the lists' effects on the wire, and that `explain` says the same."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from ggaoe.proto.operation import Operation
from ggaoe.proto.rules import EVERYBODY, Rule, Rules
from ggaoe.proto.target import Change, Dropped, DropReason, Io, Reply, Settings, TargetState
from unit.proto.host import (
    FLUSH,
    FLUSH_EXT,
    IDENTIFY,
    MAC_A,
    MAC_B,
    MAC_C,
    READ,
    READ_DMA_EXT,
    SETTINGS,
    SMART,
    VERIFY,
    WRITE,
    WRITE_DMA,
    Host,
    all_but,
    answer_of,
    drop_of,
    make_target,
    only,
)

ABORTED = (0x41, 0x04)
SMART_KEY = 0xC24F00


def host(**lists: Rules) -> Host:
    """MAC_A at a target with these lists."""
    return Host(make_target(replace(SETTINGS, **lists)))


def aborts(outcome: object) -> bool:
    return isinstance(outcome, Reply) and answer_of(outcome).registers == ABORTED


def test_whoever_may_not_discover_finds_nothing() -> None:
    stranger = host(discover=only(MAC_B))
    for outcome in (
        stranger.config(0),
        stranger.config(1),
        stranger.config(2),
        stranger.config(9),
        stranger.ata(IDENTIFY),
        stranger.mask(0),
        stranger.reserve(0),
    ):
        assert drop_of(outcome) is DropReason.DISCOVER_LIST
    assert isinstance(stranger.ata(READ), Io)
    assert isinstance(stranger.config(4, b"text"), Change)


def test_whoever_may_not_read_gets_an_ata_error() -> None:
    reader = host(read=all_but(MAC_A))
    for outcome in (
        reader.ata(READ),
        reader.ata(READ_DMA_EXT),
        reader.ata(VERIFY),
        reader.ata(SMART, SMART_KEY, feature=0xD0),
        reader.ata(SMART, SMART_KEY, feature=0x00),
    ):
        assert aborts(outcome)
    assert isinstance(reader.ata(WRITE, data=bytes(512)), Io)
    assert answer_of(reader.ata(IDENTIFY)).registers == (0x40, 0)
    assert answer_of(reader.config(0)).error is None


def test_whoever_may_not_write_finds_it_read_only() -> None:
    writer = host(write=only(MAC_B))
    for opcode in (WRITE, WRITE_DMA, FLUSH, FLUSH_EXT):
        outcome = writer.ata(opcode, 5, 2, data=bytes(1024))
        assert aborts(outcome)
        assert answer_of(outcome).sectors == 2
        assert answer_of(outcome).lba == (5).to_bytes(6, "little")
        assert len(answer_of(outcome).frame) == 60
    assert isinstance(writer.ata(READ), Io)
    assert isinstance(Host(writer.target, MAC_B).ata(WRITE, data=bytes(512)), Io)


def test_whoever_may_not_change_gets_error_2_and_changes_nothing() -> None:
    visitor = host(change=only(MAC_B))
    before = visitor.target.state
    for outcome in (
        visitor.config(3, b"text"),
        visitor.config(4, b"text"),
        visitor.mask(1, (1, MAC_A)),
        visitor.reserve(1, MAC_A),
        visitor.reserve(2, MAC_A),
    ):
        assert answer_of(outcome).error == 2
    for feature in (0xD8, 0xD9, 0xD6):
        assert aborts(visitor.ata(SMART, SMART_KEY | 0x80, feature=feature, data=bytes(512)))
    assert visitor.target.state == before
    for outcome in (visitor.config(0), visitor.mask(0), visitor.reserve(0)):
        assert answer_of(outcome).error is None
    assert isinstance(Host(visitor.target, MAC_B).config(4, b"text"), Change)


@pytest.mark.parametrize("opcode", [0xE5, 0xE0, 0x00])
def test_what_neither_tells_nor_changes_anything_is_on_no_list(opcode: int) -> None:
    closed = dict.fromkeys(("discover", "read", "write", "change"), only())
    assert host(**closed).ata(opcode) == host().ata(opcode)


def test_a_list_comes_behind_the_mask_list_and_before_the_reservation() -> None:
    stranger = host(read=only(MAC_B), accept=only(MAC_A))
    stranger.target.size_sectors = None
    stranger.target.state = TargetState(mask=(MAC_B,), reserved=(MAC_B,))
    assert drop_of(stranger.ata(READ)) is DropReason.MASK_LIST
    stranger.target.state = TargetState(reserved=(MAC_B,))
    assert aborts(stranger.ata(READ)), "it would wait for a release in vain"
    stranger.target.settings = SETTINGS
    assert answer_of(stranger.ata(READ)).error == 6


# --- rules ------------------------------------------------------------------------------------


def test_the_first_rule_that_matches_decides() -> None:
    rules = Rules(
        (
            Rule("!b", False, frozenset({MAC_B})),
            Rule("ab", True, frozenset({MAC_A, MAC_B})),
            Rule("!a", False, frozenset({MAC_A})),
        ),
        others=False,
    )
    assert [rules.permits(mac) for mac in (MAC_A, MAC_B, MAC_C)] == [True, False, False]
    assert [rules.reason(mac) for mac in (MAC_A, MAC_B, MAC_C)] == ["ab", "!b", "not in the list"]
    assert rules.exceptions == {MAC_A}
    assert (EVERYBODY.permits(MAC_A), EVERYBODY.reason(MAC_A)) == (True, None)
    nobody = Rules((), others=False)
    assert (nobody.permits(MAC_A), nobody.reason(MAC_A)) == (False, "empty list")


def random_rules(chance: random.Random, macs: list[bytes]) -> Rules:
    if chance.random() < 0.4:
        return EVERYBODY
    rules = tuple(
        Rule(f"rule {number}", chance.random() < 0.6, frozenset(chance.sample(macs, k=2)))
        for number in range(chance.randrange(4))
    )
    return Rules(rules, others=chance.random() < 0.6)


def random_target(chance: random.Random, macs: list[bytes]) -> tuple[Settings, TargetState]:
    names = ("accept", "deny", "discover", "read", "write", "change")
    settings = replace(
        SETTINGS,
        read_only=chance.random() < 0.3,
        **{name: random_rules(chance, macs) for name in names},
    )
    mask, reserved = (
        tuple(chance.sample(macs, k=chance.randrange(1, 3))) if chance.random() < 0.3 else ()
        for _ in range(2)
    )
    return settings, TargetState(mask=mask, reserved=reserved)


@pytest.mark.parametrize("seed", range(20))
def test_what_is_explained_is_what_happens(seed: int) -> None:
    chance = random.Random(seed)
    macs = [MAC_A, MAC_B, MAC_C]
    verdicts = set()
    for _ in range(100):
        settings, state = random_target(chance, macs)
        target = make_target(settings, chance.choice((None, 4096, 4096)))
        target.state = state
        visitor = Host(target, chance.choice(macs))
        outcomes = {
            Operation.DISCOVER: visitor.config(0),
            Operation.READ: visitor.ata(READ),
            Operation.WRITE: visitor.ata(WRITE, data=bytes(512)),
        }
        happened = {
            Operation.DISCOVER: not isinstance(outcomes[Operation.DISCOVER], Dropped),
            Operation.READ: isinstance(outcomes[Operation.READ], Io),
            Operation.WRITE: isinstance(outcomes[Operation.WRITE], Io),
        }
        explained = {
            operation: target.explain(visitor.mac, operation)
            for operation in (*outcomes, Operation.CHANGE)
        }
        happened[Operation.CHANGE] = isinstance(visitor.config(4, b"text"), Change)
        for operation, findings in explained.items():
            assert findings[-1].permits == happened[operation], (operation, findings, settings)
            assert all(finding.permits for finding in findings[:-1])
            assert findings[-1].permits or findings[-1].rule is not None
            verdicts.add((operation, findings[-1].check, findings[-1].permits))
    if seed == 0:
        refusing = {check for operation, check, permits in verdicts if not permits}
        assert refusing == {
            "accept", "deny", "mask list", "discover", "read", "write", "change",
            "reservation", "store", "read-only",
        }  # fmt: skip
