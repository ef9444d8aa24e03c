"""How a request of the initiator fails: nobody answers, the target refuses, or the disk fails."""

from __future__ import annotations

from ggaoe.errors import ClientError
from ggaoe.proto.access import MaskError
from ggaoe.proto.ata import OP_OF_OPCODE, AtaError, Op, Opcode, Status
from ggaoe.proto.frame import Error

_REFUSALS: dict[int, str] = {
    Error.COMMAND: "command not supported",
    Error.ARGUMENT: "bad argument",
    Error.UNAVAILABLE: "device unavailable",
    Error.CONFIG_PRESENT: "another config string is set",
    Error.VERSION: "AoE version not supported",
    Error.RESERVED: "reserved by another host",
}
_ATA_ERRORS = {
    AtaError.ABRT: "command refused",
    AtaError.IDNF: "beyond the end of the device",
    AtaError.UNC: "unreadable medium",
}
_MASK_ERRORS: dict[int, str] = {
    MaskError.BAD_DIRECTIVE: "bad directive",
    MaskError.FULL: "the list is full",
}


class NoAnswerError(ClientError):
    """Every copy of a request went unanswered until its deadline."""


class RefusedError(ClientError):
    """A reply with the E flag; `code` is its error byte."""

    def __init__(self, device: str, code: int) -> None:
        self.code = code
        reason = _REFUSALS.get(code, "unknown reason")
        super().__init__(f"{device} refuses: {reason} (AoE error {code})")


class AtaCommandError(ClientError):
    """The disk reports failure; `status` and `error` are its registers."""

    def __init__(self, device: str, opcode: int, sector: int, status: int, error: int) -> None:
        self.opcode = opcode
        self.sector = sector
        self.status = status
        self.error = error
        try:
            name = Opcode(opcode).name
        except ValueError:
            name = f"command 0x{opcode:02x}"
        reasons = [text for bit, text in _ATA_ERRORS.items() if error & bit]
        if status & Status.DF:
            reasons.append("device fault")
        where = f" at sector {sector}" if OP_OF_OPCODE.get(opcode, Op.FLUSH) != Op.FLUSH else ""
        super().__init__(
            f"{device}: {name}{where}: {', '.join(reasons) or 'failed'}"
            f" (status 0x{status:02x}, error 0x{error:02x})"
        )


class MaskEditError(ClientError):
    """Directive number `index` of a mask edit failed; those before it are in force."""

    def __init__(self, device: str, error: int, index: int) -> None:
        self.error = error
        self.index = index
        reason = _MASK_ERRORS.get(error, "unspecified error")
        super().__init__(f"{device}: mask list directive {index}: {reason}")
