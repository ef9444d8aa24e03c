"""The seed corpus of frames, each with the outcome that the protocol asks for."""

from __future__ import annotations

import pytest

from fuzz.make_corpus import DIRECTORY, SHELF, SLOT, corpus
from ggaoe.proto.frame import unpack_header
from ggaoe.proto.target import Change, Dropped, Io, Path, Settings, Target
from unit.proto.host import SETTINGS, SIZE_SECTORS

PATH = Path(bytes.fromhex("0200000000fe"), mtu_bytes=1500, sectors_offered_max=2)

OUTCOMES = {
    "linux-config-broadcast": "reply 60",
    "linux-identify": "reply 548",
    "linux-read-lba28": "READ 16+2",
    "linux-read-lba48": "READ 16+2",
    "linux-write-lba48": "WRITE 16+2",
    "linux-taint-probe": "READ 0+2",
    "aoeping-config": "reply 60",
    "aoeping-identify": "reply 548",
    "aoeping-smart-read-data": "reply 548",
    "aoeping-smart-status": "reply 548",
    "aoeping-smart-disable": "change 548",
    "aoeping-smart-write-log": "change 548",
    "aoecfg-read": "reply 60",
    "aoecfg-set": "change 60",
    "sancheck-identify": "reply 548",
    "ipxe-read": "READ 63+2",
    "winaoe-identify": "reply 548",
    "plan9-config-tag-0": "reply 60",
    "config-prefix": "reply 60",
    "config-test-other": "drop config_mismatch",
    "config-force": "change 1056",
    "mask-read": "reply 60",
    "mask-add-two": "change 60",
    "reserve-read": "reply 60",
    "reserve-set": "change 60 fence",
    "reserve-force-release": "change 60 fence",
    "flush-ext": "FLUSH 0+0",
    "check-power-mode": "reply 60",
    "set-features": "reply 60",
    "bad-empty": "not ours",
    "bad-cut-in-header": "not ours",
    "bad-ethertype": "not ours",
    "bad-response": "not ours",
    "bad-version": "error 5",
    "bad-address": "not ours",
    "bad-command-4": "error 1",
    "bad-command-f0": "error 1",
    "bad-ata-cut": "error 2",
    "bad-ata-opcode": "ata 41/04",
    "bad-read-count-0": "ata 41/04",
    "bad-read-count-255": "ata 41/04",
    "bad-read-past-end": "ata 41/10",
    "bad-write-no-data": "ata 41/04",
    "bad-write-broadcast": "ata 41/04",
    "bad-smart-key": "ata 41/04",
    "bad-config-cut": "error 2",
    "bad-config-length": "error 2",
    "bad-config-long": "error 2",
    "bad-config-ccmd": "error 2",
    "bad-mask-count": "error 2",
    "bad-mask-directive": "change 60",
    "bad-mask-mcmd": "error 2",
    "bad-reserve-count": "error 2",
    "bad-reserve-rcmd": "error 2",
}


def outcome_of(frame: bytes) -> str:
    settings = Settings(SHELF, SLOT, SETTINGS.serial, SETTINGS.model, SETTINGS.firmware, 64)
    target = Target(settings)
    target.size_sectors = SIZE_SECTORS
    header = unpack_header(frame)
    if header is None or header.is_response or not target.is_addressed(header.shelf, header.slot):
        return "not ours"
    outcome = target.receive(header, frame, PATH)
    if isinstance(outcome, Dropped):
        return f"drop {outcome.reason.value}"
    if isinstance(outcome, Io):
        return f"{outcome.op.name} {outcome.sector}+{outcome.sectors}"
    reply = outcome.frame
    if isinstance(outcome, Change):
        return f"change {len(reply)}" + (" fence" if outcome.fence else "")
    if reply[14] & 0x04:
        return f"error {reply[15]}"
    if reply[19] == 0 and reply[27] != 0x40:
        return f"ata {reply[27]:02x}/{reply[25]:02x}"
    return f"reply {len(reply)}"


def test_the_files_are_what_the_script_makes() -> None:
    stored = {path.stem: path.read_bytes() for path in DIRECTORY.glob("*.bin")}
    assert stored == corpus()
    assert stored.keys() == OUTCOMES.keys()


@pytest.mark.parametrize("name", OUTCOMES)
def test_replay(name: str) -> None:
    assert outcome_of((DIRECTORY / f"{name}.bin").read_bytes()) == OUTCOMES[name]
