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
    ata_argument,
    config_argument,
    drop_of,
    make_target,
    only,
)

ABORTED = (0x41, 0x04)
CHECK_POWER, SET_FEATURES = 0xE5, 0xEF
SMART_KEY = 0xC24F00


def host(**lists: Rules) -> Host:
    """MAC_A at a target with these lists."""
    return Host(make_target(replace(SETTINGS, **lists)))


def aborts(outcome: object) -> bool:
    return isinstance(outcome, Reply) and answer_of(outcome).registers == ABORTED


def test_whoever_may_not_discover_finds_nothing() -> None:
    stranger = host(discover=only(MAC_B))
    stranger.target.state = TargetState(config_string=b"secret")
    before = stranger.target.state
    for outcome in (
        *(stranger.config(ccmd, b"text") for ccmd in (*range(5), 9)),
        *(stranger.ata(opcode) for opcode in (IDENTIFY, CHECK_POWER, SET_FEATURES, 0xE0, 0x00)),
        *(stranger.ata(SMART, SMART_KEY, feature=feature) for feature in (0xD8, 0xD9)),
        stranger.mask(0),
        stranger.mask(1),
        stranger.mask(1, (1, MAC_A)),
        stranger.mask(7),
        *(stranger.reserve(rcmd, MAC_A) for rcmd in (0, 1, 2, 7)),
        *(stranger.send(command) for command in (0, 1, 2, 3, 9)),
        stranger.send(0, ata_argument(READ)[:-1]),
        stranger.send(1, config_argument(0, text_bytes=1025)),
        stranger.ata(READ, version_flags=0x20),
        stranger.config(0, version_flags=0x20),
    ):
        assert drop_of(outcome) is DropReason.DISCOVER_LIST
    assert stranger.target.state == before


def test_whoever_may_not_discover_does_what_lists_permit() -> None:
    stranger = host(discover=only(MAC_B))
    assert isinstance(stranger.ata(READ), Io)
    assert isinstance(stranger.ata(WRITE, data=bytes(512)), Io)
    assert answer_of(stranger.ata(SMART, SMART_KEY, feature=0xD0)).registers == (0x40, 0)
    assert answer_of(stranger.ata(READ, 1 << 20)).registers == (0x41, 0x10)
    stranger.target.settings = replace(stranger.target.settings, read=only(), write=only())
    for opcode in (READ, VERIFY, WRITE, FLUSH, SMART):
        outcome = stranger.ata(opcode, data=bytes(512))
        assert drop_of(outcome) is DropReason.DISCOVER_LIST


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


@pytest.mark.parametrize("opcode", [CHECK_POWER, SET_FEATURES, 0xE0, 0x00])
def test_who_may_discover_gets_what_is_on_no_other_list(opcode: int) -> None:
    closed = dict.fromkeys(("read", "write", "change"), only())
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


def test_a_reservation_for_others_is_told_of_changes() -> None:
    target = make_target()
    target.state = TargetState(reserved=(MAC_B, MAC_C))
    visitor = Host(target)
    (told,) = [found for found in target.explain(MAC_A, Operation.CHANGE) if found.rule]
    assert (told.check, told.permits) == ("reservation", True)
    holders = "02:00:00:00:00:0b, 02:00:00:00:00:0c"
    assert told.rule == f"held by {holders}: no SMART, and no reservation but by force"
    assert answer_of(visitor.ata(SMART, SMART_KEY, feature=0xD9)).error == 6
    assert answer_of(visitor.reserve(1, MAC_A)).error == 6
    assert isinstance(visitor.config(4, b"text"), Change)
    assert isinstance(visitor.reserve(2, MAC_A), Change)
    assert not any(found.rule for found in target.explain(MAC_A, Operation.CHANGE))


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
        if happened[Operation.CHANGE]:
            reserves = visitor.reserve(1, visitor.mac)
            named = [finding.rule for finding in explained[Operation.CHANGE] if finding.rule]
            assert (answer_of(reserves).error == 6) == any("SMART" in rule for rule in named)
        for operation, findings in explained.items():
            verdicts.add((operation, findings[-1].check, findings[-1].permits))
    if seed == 0:
        refusing = {check for operation, check, permits in verdicts if not permits}
        assert refusing == {
            "accept", "deny", "mask list", "discover", "read", "write", "change",
            "reservation", "store", "read-only",
        }  # fmt: skip
