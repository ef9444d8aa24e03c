"""Config string, mask list and reservation against a model that is too simple to be wrong."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ggaoe.proto.target import Change, Dropped, DropReason, Io, Outcome, TargetState
from unit.proto.host import (
    IDENTIFY,
    MAC_A,
    MAC_B,
    MAC_C,
    MAC_D,
    READ,
    Answer,
    Host,
    answer_of,
    config_argument,
    drop_of,
    make_target,
    mask_argument,
    request,
    reserve_argument,
)

MTU_BYTES_MIN = 38
MASK_ENTRIES, RESERVE_ENTRIES = 3, 4
"""What fits at that MTU: lists small enough to be full now and then."""
MAC_E = bytes([2, 0, 0, 0, 0, 0xE])

macs = st.sampled_from([MAC_A, MAC_B, MAC_C, MAC_D, MAC_E])
texts = st.sampled_from([b"", b"a", b"ab", b"b\x00"])
directives = st.lists(st.tuples(st.sampled_from([0, 1, 1, 1, 2, 2, 3]), macs), max_size=5)


class Lists(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.target = make_target()
        self.target.mtu_bytes_min = MTU_BYTES_MIN
        self.text = b""
        self.mask: list[bytes] = []
        self.reserved: list[bytes] = []
        self.last: tuple[bytes, bytes] | None = None
        """(request, reply) of the last SET-type command, where it succeeded."""

    def send(self, source: bytes, command: int, argument: bytes) -> Answer | None:
        """The reply, or None where the model says that `source` is not heard."""
        frame = request(command, argument, source=source)
        outcome = Host(self.target).send_frame(frame)
        if not self.is_heard(source):
            assert drop_of(outcome) is DropReason.MASK_LIST
            return None
        if isinstance(outcome, Dropped):
            assert outcome.reason is DropReason.CONFIG_MISMATCH
            return None
        answer = answer_of(outcome)
        self.last = None if answer.error else (frame, answer.frame)
        return answer

    def is_heard(self, source: bytes) -> bool:
        return self.mask == [] or source in self.mask

    def is_locked_out(self, source: bytes) -> bool:
        return self.reserved != [] and source not in self.reserved

    @rule(source=macs, ccmd=st.integers(0, 5), text=texts)
    def config(self, source: bytes, ccmd: int, text: bytes) -> None:
        if not self.is_heard(source):
            assert self.send(source, 1, config_argument(ccmd, text)) is None
            return
        error, is_silent = None, False
        if ccmd == 1:
            is_silent = text != self.text
        elif ccmd == 2:
            is_silent = text != self.text[: len(text)]
        elif ccmd == 3 and self.text not in (b"", text):
            error = 4
        elif ccmd in (3, 4):
            self.text = text
        elif ccmd == 5:
            error = 2
        answer = self.send(source, 1, config_argument(ccmd, text))
        assert (answer is None) == is_silent
        if answer is not None:
            assert answer.error == error
            assert error == 2 or answer.config_string == self.text

    @rule(source=macs, edits=directives)
    def edit_mask(self, source: bytes, edits: list[tuple[int, bytes]]) -> None:
        if not self.is_heard(source):
            assert self.send(source, 2, mask_argument(1, *edits)) is None
            return
        answer = answer_of(Host(self.target, source).mask(1, *edits))
        expected = (0, 0)
        for index, (dcmd, mac) in enumerate(edits):
            if dcmd == 3:
                expected = (2, index)
            elif dcmd == 1 and mac not in self.mask and len(self.mask) == MASK_ENTRIES:
                expected = (3, index)
            elif dcmd == 1:
                self.mask = [*(entry for entry in self.mask if entry != mac), mac]
            elif dcmd == 2:
                self.mask = [entry for entry in self.mask if entry != mac]
            if expected[0]:
                break
        assert answer.error is None
        assert answer.frame[26] == expected[0]
        if expected[0]:
            assert answer.mask_error == expected
        else:
            assert sorted(answer.masks) == sorted(self.mask)
        is_repeatable = len({mac for _, mac in edits}) == len(edits) and not expected[0]
        frame = request(2, mask_argument(1, *edits), source=source)
        self.last = (frame, answer.frame) if is_repeatable else None

    @rule(source=macs, rcmd=st.integers(1, 3), wanted=st.lists(macs, max_size=5, unique=True))
    def reserve(self, source: bytes, rcmd: int, wanted: list[bytes]) -> None:
        error = None
        if rcmd == 3 or len(wanted) > RESERVE_ENTRIES:
            error = 2
        elif rcmd == 1 and self.is_locked_out(source) and wanted != self.reserved:
            error = 6
        answer = self.send(source, 3, reserve_argument(rcmd, *wanted))
        if answer is None:
            return
        assert answer.error == error
        if error is None:
            self.reserved = wanted
            assert answer.reserved == wanted

    @rule(source=macs)
    def read_lists(self, source: bytes) -> None:
        if not self.is_heard(source):
            return
        host = Host(self.target, source)
        assert sorted(answer_of(host.mask(0)).masks) == sorted(self.mask)
        assert answer_of(host.reserve(0)).reserved == self.reserved

    @rule(source=macs, opcode=st.sampled_from([READ, IDENTIFY]))
    def use(self, source: bytes, opcode: int) -> None:
        outcome = Host(self.target, source).ata(opcode)
        if not self.is_heard(source):
            assert drop_of(outcome) is DropReason.MASK_LIST
        elif opcode == IDENTIFY:
            assert answer_of(outcome).registers == (0x40, 0)
        elif self.is_locked_out(source):
            assert answer_of(outcome).error == 6
        else:
            assert isinstance(outcome, Io)

    @precondition(lambda self: self.last is not None)
    @rule()
    def lose_the_reply(self) -> None:
        """The host asks again and is answered as before, unless it has masked itself out."""
        assert self.last is not None
        frame, reply = self.last
        before = self.target.state
        outcome: Outcome = Host(self.target).send_frame(frame)
        if self.is_heard(frame[6:12]):
            assert answer_of(outcome).frame == reply
        else:
            assert drop_of(outcome) is DropReason.MASK_LIST
        assert self.target.state == before
        assert not isinstance(outcome, Change) or outcome.fence

    @rule()
    def restart(self) -> None:
        """All there is to know is in the state."""
        state = self.target.state
        self.target = make_target()
        self.target.mtu_bytes_min = MTU_BYTES_MIN
        self.target.state = state

    @invariant()
    def the_state_is_the_model_s(self) -> None:
        state = self.target.state
        assert state == TargetState(self.text, state.mask, tuple(self.reserved))
        assert sorted(state.mask) == sorted(self.mask)


Lists.TestCase.settings = settings(derandomize=True, max_examples=150, stateful_step_count=40)
TestLists = Lists.TestCase
