"""A host's side of the wire for tests of `ggaoe.proto`, with offsets written out by hand.

Uses none of the codecs under test. `Host.send` does what a caller of `Target.receive` owes it: the
address check before, and putting a `Change` into force after.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ggaoe.proto.frame import unpack_header
from ggaoe.proto.rules import Rule, Rules
from ggaoe.proto.target import Change, Dropped, DropReason, Outcome, Path, Reply, Settings, Target

ANY_SHELF, ANY_SLOT = 0xFFFF, 0xFF
SHELF, SLOT = 0x0102, 0x03
TAG = 0x80C0FFEE
MAC_TARGET = bytes.fromhex("0200000000fe")
MAC_A, MAC_B, MAC_C, MAC_D = (bytes([2, 0, 0, 0, 0, last]) for last in (0xA, 0xB, 0xC, 0xD))
PATH = Path(MAC_TARGET, mtu_bytes=1500, sectors_offered_max=2)
JUMBO = Path(MAC_TARGET, mtu_bytes=9000, sectors_offered_max=17)
SIZE_SECTORS = 4096

READ, READ_EXT, WRITE, WRITE_EXT = 0x20, 0x24, 0x30, 0x34
READ_DMA, READ_DMA_EXT, WRITE_DMA, WRITE_DMA_EXT = 0xC8, 0x25, 0xCA, 0x35
VERIFY, VERIFY_EXT = 0x40, 0x42
FLUSH, FLUSH_EXT, IDENTIFY, SMART = 0xE7, 0xEA, 0xEC, 0xB0

SETTINGS = Settings(
    shelf=SHELF, slot=SLOT, serial="testdev", model="ggaoe disk", firmware="0.1", buffer_count=64
)


def only(*macs: bytes) -> Rules:
    """Rules that permit these hosts."""
    return Rules((Rule("only", True, frozenset(macs)),), others=False)


def all_but(*macs: bytes) -> Rules:
    """Rules that refuse these hosts."""
    return Rules((Rule("!but", False, frozenset(macs)),), others=True)


def make_target(settings: Settings = SETTINGS, size_sectors: int | None = SIZE_SECTORS) -> Target:
    target = Target(settings)
    target.size_sectors = size_sectors
    return target


def request(
    command: int,
    argument: bytes = b"",
    *,
    source: bytes = MAC_A,
    shelf: int = SHELF,
    slot: int = SLOT,
    tag: int = TAG,
    version_flags: int = 0x10,
) -> bytes:
    """A request frame, unpadded."""
    return (
        MAC_TARGET
        + source
        + b"\x88\xa2"
        + bytes([version_flags, 0])
        + struct.pack(">HBBI", shelf, slot, command, tag)
        + argument
    )


def ata_argument(
    opcode: int, lba: int = 0, sectors: int = 1, feature: int = 0, aflags: int = 0
) -> bytes:
    return bytes([aflags, feature, sectors, opcode]) + lba.to_bytes(6, "little") + bytes(2)


def config_argument(ccmd: int, text: bytes = b"", text_bytes: int | None = None) -> bytes:
    length = len(text) if text_bytes is None else text_bytes
    return struct.pack(">HHBBH", 0, 0, 0, ccmd, length) + text


def mask_argument(mcmd: int, *directives: tuple[int, bytes], error: int = 0) -> bytes:
    body = b"".join(bytes([0, dcmd]) + mac for dcmd, mac in directives)
    return bytes([0, mcmd, error, len(directives)]) + body


def reserve_argument(rcmd: int, *macs: bytes) -> bytes:
    return bytes([rcmd, len(macs)]) + b"".join(macs)


@dataclass(frozen=True)
class Answer:
    """A response frame by its offsets; `argument` is everything from byte 24 on."""

    frame: bytes

    @property
    def destination(self) -> bytes:
        return self.frame[0:6]

    @property
    def source(self) -> bytes:
        return self.frame[6:12]

    @property
    def version_flags(self) -> int:
        return self.frame[14]

    @property
    def error(self) -> int | None:
        """The AoE error where flag E is set."""
        return self.frame[15] if self.frame[14] & 0x04 else None

    @property
    def address(self) -> tuple[int, int]:
        return int.from_bytes(self.frame[16:18], "big"), self.frame[18]

    @property
    def command(self) -> int:
        return self.frame[19]

    @property
    def tag(self) -> int:
        return int.from_bytes(self.frame[20:24], "big")

    @property
    def argument(self) -> bytes:
        return self.frame[24:]

    @property
    def registers(self) -> tuple[int, int]:
        """(status, error) of an ATA reply."""
        return self.frame[27], self.frame[25]

    @property
    def sectors(self) -> int:
        return self.frame[26]

    @property
    def lba(self) -> bytes:
        return self.frame[28:34]

    @property
    def data(self) -> bytes:
        return self.frame[36:]

    @property
    def config_string(self) -> bytes:
        return self.frame[32 : 32 + int.from_bytes(self.frame[30:32], "big")]

    @property
    def mask_error(self) -> tuple[int, int]:
        """(merror, index) of a mask reply."""
        return self.frame[26], self.frame[27]

    @property
    def masks(self) -> list[bytes]:
        entries = [self.frame[28 + 8 * index :][:8] for index in range(self.frame[27])]
        assert all(entry[:2] == bytes(2) for entry in entries), "reserved and dcmd are 0 in a list"
        return [entry[2:] for entry in entries]

    @property
    def reserved(self) -> list[bytes]:
        return [self.frame[26 + 6 * index :][:6] for index in range(self.frame[25])]


class Host:
    """One initiator; keyword arguments of every method are those of `request`."""

    def __init__(self, target: Target, mac: bytes = MAC_A, path: Path = PATH) -> None:
        self.target = target
        self.mac = mac
        self.path = path

    def send(self, command: int, argument: bytes = b"", **fields: int) -> Outcome:
        return self.send_frame(request(command, argument, source=self.mac, **fields))

    def send_frame(self, frame: bytes) -> Outcome:
        header = unpack_header(frame)
        assert header is not None
        assert self.target.is_addressed(header.shelf, header.slot)
        outcome = self.target.receive(header, frame, self.path)
        if isinstance(outcome, Change):
            self.target.state = outcome.state
        return outcome

    def ata(
        self,
        opcode: int,
        lba: int = 0,
        sectors: int = 1,
        *,
        feature: int = 0,
        aflags: int = 0,
        data: bytes = b"",
        **fields: int,
    ) -> Outcome:
        return self.send(0, ata_argument(opcode, lba, sectors, feature, aflags) + data, **fields)

    def config(
        self, ccmd: int, text: bytes = b"", text_bytes: int | None = None, **fields: int
    ) -> Outcome:
        return self.send(1, config_argument(ccmd, text, text_bytes), **fields)

    def mask(self, mcmd: int, *directives: tuple[int, bytes], **fields: int) -> Outcome:
        return self.send(2, mask_argument(mcmd, *directives), **fields)

    def reserve(self, rcmd: int, *macs: bytes, **fields: int) -> Outcome:
        return self.send(3, reserve_argument(rcmd, *macs), **fields)


def answer_of(outcome: Outcome) -> Answer:
    """The response that `outcome` leads to at once."""
    assert isinstance(outcome, Reply | Change), outcome
    return Answer(outcome.frame)


def drop_of(outcome: Outcome) -> DropReason:
    assert isinstance(outcome, Dropped), outcome
    return outcome.reason
