"""Error replies are well formed, whatever they are about, on both engines."""

from __future__ import annotations

from ggaoe.engine.base import Engine
from ggaoe.proto.frame import Error
from unit.engine.errors import LABEL, error_replies
from unit.proto.host import Answer
from unit.proto.strict import SMART, check_reply


async def test_a_strict_reader_reads_every_error_reply(engine_class: type[Engine]) -> None:
    answers = {name: Answer(frame) for name, frame in (await error_replies(engine_class)).items()}
    for name, answer in answers.items():
        try:
            check_reply(answer.frame, SMART if name == "ATA, SMART" else 0)
        except AssertionError as error:
            error.add_note(f"{name}: {answer.frame.hex(' ')}")
            raise
    assert {answer.error for answer in answers.values()} == {None, *Error}
    for name, answer in answers.items():
        if name.startswith("ATA, "):
            assert answer.registers[0] == 0x41, name
        elif name != "directive":
            assert answer.error, name
    for name in ("ccmd", "config string present"):
        assert answers[name].config_string == LABEL
