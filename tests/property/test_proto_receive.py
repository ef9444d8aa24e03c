"""Whatever bytes arrive, the outcome is a lawful response, a drop, a change or a transfer."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from ggaoe.proto import ata
from ggaoe.proto.ata import Op
from ggaoe.proto.frame import unpack_header
from ggaoe.proto.rules import EVERYBODY, Rule, Rules
from ggaoe.proto.target import Change, Dropped, Io, Outcome, Path, Reply, Settings, TargetState
from unit.proto.host import (
    ANY_SHELF,
    ANY_SLOT,
    MAC_A,
    MAC_B,
    MAC_C,
    MAC_TARGET,
    SHELF,
    SLOT,
    Host,
    ata_argument,
    make_target,
    mask_argument,
    request,
)

hosts = st.sampled_from([MAC_A, MAC_B, MAC_C])
mac_lists = st.lists(st.one_of(hosts, st.binary(min_size=6, max_size=6)), max_size=255, unique=True)
addresses = st.tuples(st.sampled_from([SHELF, ANY_SHELF]), st.sampled_from([SLOT, ANY_SLOT]))
sizes_sectors = st.none() | st.integers(0, 1 << 48) | st.sampled_from([0, 1, 8, 1 << 28, 1 << 48])
opcodes = st.sampled_from([int(opcode) for opcode in ata.Opcode]) | st.integers(0, 255)
smart_features = st.sampled_from([int(feature) for feature in ata.Smart])
taskfiles = st.builds(
    ata_argument,
    opcodes,
    lba=st.integers(0, 9) | st.integers(0, (1 << 48) - 1) | st.just(0xC24F80),
    sectors=st.integers(0, 3) | st.integers(0, 255),
    feature=smart_features | st.integers(0, 255),
    aflags=st.integers(0, 255),
)
arguments = st.one_of(
    st.binary(max_size=80),
    st.tuples(taskfiles, st.integers(0, 1100).map(bytes)).map(b"".join),
    st.tuples(taskfiles, st.binary(max_size=40)).map(b"".join),
)
frames = st.builds(
    lambda address, *fields: request(
        *fields[:2], source=fields[2], shelf=address[0], slot=address[1], tag=fields[3]
    ),
    addresses,
    st.integers(0, 4) | st.integers(0, 255),
    arguments,
    hosts,
    st.integers(0, (1 << 32) - 1),
)
paths = st.builds(
    Path,
    mac=st.just(MAC_TARGET),
    mtu_bytes=st.sampled_from([1060, 1500, 4200, 9000, 65536]),
    sectors_offered_max=st.integers(0, 255),
)
states = st.builds(
    TargetState,
    config_string=st.binary(max_size=1024),
    mask=st.just(()) | mac_lists.map(tuple),
    reserved=st.just(()) | mac_lists.map(tuple),
    smart_enabled=st.booleans(),
)
rules = st.just(EVERYBODY) | st.builds(
    Rules,
    st.lists(st.builds(Rule, st.text(max_size=5), st.booleans(), st.frozensets(hosts))).map(tuple),
    st.booleans(),
)
administrations = st.builds(
    Settings,
    shelf=st.just(SHELF),
    slot=st.just(SLOT),
    serial=st.text(max_size=30),
    model=st.text(max_size=50),
    firmware=st.text(max_size=10),
    buffer_count=st.integers(2, 65535),
    read_only=st.booleans(),
    accept=rules,
    deny=rules,
    discover=rules,
    read=rules,
    write=rules,
    change=rules,
)


def check_lawful(frame: bytes, outcome: Outcome, path: Path, size_sectors: int | None) -> None:
    if isinstance(outcome, Dropped):
        return
    if isinstance(outcome, Io):
        assert size_sectors is not None
        assert outcome.sector + outcome.sectors <= size_sectors
        assert (outcome.sectors == 0) == (outcome.op is Op.FLUSH)
        if outcome.op is Op.WRITE:
            assert len(frame) >= 36 + 512 * outcome.sectors
        if outcome.op is Op.READ:
            assert 36 + 512 * outcome.sectors <= path.mtu_bytes + 14
        return
    assert isinstance(outcome, Reply | Change)
    reply = outcome.frame
    assert 60 <= len(reply) <= path.mtu_bytes + 14
    assert reply[0:6] == frame[6:12]
    assert reply[6:12] == path.mac
    assert reply[12:14] == b"\x88\xa2"
    has_error = reply[15] != 0
    assert reply[14] == (0x1C if has_error else 0x18)
    assert 0 <= reply[15] <= 6
    assert reply[16:19] == bytes([SHELF >> 8, SHELF & 0xFF, SLOT])
    assert reply[19:24] == frame[19:24], "command and tag"
    if reply[19] == 0 and not has_error:
        assert reply[27] in (0x40, 0x41)
        assert (reply[27] == 0x41) == (reply[25] != 0)
        assert len(reply) in (60, 36 + 512)
        assert reply[34:36] == bytes(2)


@settings(derandomize=True, max_examples=1000)
@given(frames, administrations, states, sizes_sectors, paths, st.integers(0, 0x17))
@example(
    request(2, mask_argument(1, (1, MAC_A), error=1)),
    make_target().settings,
    TargetState(),
    8,
    Path(MAC_TARGET, 1500),
    0x10,
)
def test_any_request_is_answered_by_the_rules(
    frame: bytes,
    administration: Settings,
    state: TargetState,
    size_sectors: int | None,
    path: Path,
    version_flags: int,
) -> None:
    frame = frame[:14] + bytes([version_flags & ~0x08]) + frame[15:]
    target = make_target(administration, size_sectors)
    target.state = state
    outcome = Host(target, path=path).send_frame(frame)
    check_lawful(frame, outcome, path, size_sectors)
    if isinstance(outcome, Change) and not outcome.fence:
        assert outcome.state != state


@settings(derandomize=True, max_examples=500)
@given(st.binary(max_size=100) | st.binary(max_size=60).map(lambda tail: MAC_TARGET + tail))
def test_any_bytes_are_a_frame_or_none(frame: bytes) -> None:
    header = unpack_header(frame)
    is_aoe = len(frame) >= 24 and frame[12:14] == b"\x88\xa2"
    assert (header is not None) == is_aoe


@settings(derandomize=True, max_examples=500)
@given(frames, states)
def test_every_kind_of_buffer_gives_the_same_outcome(frame: bytes, state: TargetState) -> None:
    outcomes = []
    path = Path(MAC_TARGET, 1500)
    for make in (bytes, bytearray, memoryview):
        target = make_target()
        target.state = state
        header = unpack_header(frame)
        assert header is not None
        outcomes.append(target.receive(header, make(frame), path))
    assert outcomes[0] == outcomes[1] == outcomes[2]


@settings(derandomize=True, max_examples=300)
@given(frames, states)
def test_padding_of_a_network_card_changes_nothing(frame: bytes, state: TargetState) -> None:
    """Zeros behind a frame are no argument where the argument was whole."""
    outcomes = []
    for sent in (frame, frame + bytes(40)):
        target = make_target()
        target.state = state
        outcome = Host(target).send_frame(sent)
        outcomes.append(outcome)
    plain = outcomes[0]
    was_whole = not (isinstance(plain, Reply) and plain.is_error)
    if was_whole:
        assert outcomes[1] == plain
