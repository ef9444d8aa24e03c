"""tshark's dissector and scapy's AoE layer read our frames as we meant them."""

from __future__ import annotations

import importlib
import importlib.util
import struct
import subprocess
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ggaoe.engine.base import Engine
from ggaoe.proto import access, query
from ggaoe.proto.ata import Op
from ggaoe.proto.frame import Command, pack_request, pack_taskfile, padded, unpack_header
from ggaoe.proto.target import Dropped, Io, TargetState
from ggaoe.testing.engine import ENGINES_ON_MEMORY
from helpers.needs import requires_program
from unit.engine.errors import error_replies
from unit.proto.host import MAC_A, MAC_B, MAC_TARGET, PATH, SHELF, SLOT, make_target

pytestmark = pytest.mark.one_engine

SECTOR = 0x0605_0403_0201
TOP_SECTOR = (1 << 48) - 1
DATA = bytes(range(256)) * 4
TAG = 0x8000_0000


class Exchange(NamedTuple):
    """A request that our client's codecs packed, and what our target replied."""

    request: bytes
    reply: bytes


def ata(opcode: int, sectors: int, sector: int = SECTOR, aflags: int = 0x40) -> bytes:
    return pack_taskfile(aflags, 0, sectors, opcode, sector.to_bytes(6, "little"))


def directive(mac: bytes) -> access.Directive:
    return access.Directive(access.Dcmd.ADD, mac)


ARGUMENTS: dict[str, tuple[Command, bytes]] = {
    "read": (Command.ATA, ata(0x24, 2)),
    "write": (Command.ATA, ata(0x34, 2, aflags=0x43) + DATA),
    "identify": (Command.ATA, ata(0xEC, 1, 0, 0)),
    "not-found": (Command.ATA, ata(0x24, 1, TOP_SECTOR)),
    "config": (Command.CONFIG, query.pack_config(query.Ccmd.READ)),
    "config-present": (Command.CONFIG, query.pack_config(query.Ccmd.SET, b"other")),
    "mask": (Command.MASK, access.pack_mask(access.Mcmd.EDIT, (directive(MAC_A),))),
    "reserve": (Command.RESERVE, access.pack_reserve(access.Rcmd.FORCE, (MAC_B, MAC_A))),
}


def exchange(name: str) -> Exchange:
    command, argument = ARGUMENTS[name]
    tag = TAG + list(ARGUMENTS).index(name)
    request = pack_request(MAC_TARGET, MAC_A, SHELF, SLOT, command, tag) + argument
    target = make_target(size_sectors=1 << 47)
    target.state = TargetState(config_string=b"label", mask=(MAC_A, MAC_B))
    header = unpack_header(request)
    assert header is not None
    outcome = target.receive(header, request, PATH)
    assert not isinstance(outcome, Dropped)
    if isinstance(outcome, Io):
        data = DATA if outcome.op is Op.READ else b""
        return Exchange(request, padded(target.ata_head(header, outcome.taskfile, PATH) + data))
    return Exchange(request, outcome.frame)


# --- tshark ---------------------------------------------------------------------------------------

TSHARK_FIELDS = (
    "aoe.version",
    "aoe.response",
    "aoe.flags_error",
    "aoe.error",
    "aoe.major",
    "aoe.minor",
    "aoe.cmd",
    "aoe.tag",
    "aoe.aflags.e",
    "aoe.aflags.d",
    "aoe.aflags.a",
    "aoe.aflags.w",
    "aoe.err_feature",
    "aoe.sector_count",
    "aoe.ata.cmd",
    "aoe.ata.status",
    "aoe.lba",
    "aoe.response_to",
)


def write_pcap(path: Path, frames: list[bytes]) -> None:
    """A capture file, link type Ethernet, one frame a millisecond."""
    content = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 1 << 18, 1)
    for index, frame in enumerate(frames):
        content += struct.pack("<IIII", 0, 1000 * index, len(frame), len(frame)) + frame
    path.write_bytes(content)


def dissected(path: Path) -> list[dict[str, int]]:
    """Each frame's AoE fields as numbers, without those that tshark leaves out."""
    wanted = [word for field in TSHARK_FIELDS for word in ("-e", field)]
    command = ["tshark", "-n", "-r", str(path), "-T", "fields", "-E", "separator=|", *wanted]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    # Booleans are 0 and 1 or, in later versions, False and True.
    numbers = {"False": 0, "True": 1}
    return [
        {
            field.removeprefix("aoe."): numbers[text] if text in numbers else int(text, 0)
            for field, text in zip(TSHARK_FIELDS, line.split("|"), strict=True)
            if text
        }
        for line in done.stdout.splitlines()
    ]


def header_fields(name: str, **more: int) -> dict[str, int]:
    command, _ = ARGUMENTS[name]
    tag = TAG + list(ARGUMENTS).index(name)
    header = {"version": 1, "response": 0, "flags_error": 0, "major": SHELF, "minor": SLOT}
    return header | {"cmd": command, "tag": tag} | more


def ata_fields(aflags: int, opcode: int, sector: int, **registers: int) -> dict[str, int]:
    """What tshark shows of a taskfile: A of writes only, D only beside E."""
    flags = {"aflags.e": aflags >> 6 & 1, "aflags.w": aflags & 1}
    if aflags & 0x40:
        flags["aflags.d"] = aflags >> 4 & 1
    if aflags & 0x01:
        flags["aflags.a"] = aflags >> 1 & 1
    return flags | {"err_feature": 0, "ata.cmd": opcode, "lba": sector} | registers


@pytest.mark.parametrize(
    ("name", "aflags", "opcode", "sector", "sectors", "failure"),
    [
        ("read", 0x40, 0x24, SECTOR, 2, {}),
        ("write", 0x43, 0x34, SECTOR, 2, {}),
        ("identify", 0x00, 0xEC, 0, 1, {}),
        (
            "not-found",
            0x40,
            0x24,
            TOP_SECTOR,
            1,
            {"err_feature": 0x10, "ata.status": 0x41, "sector_count": 1},
        ),
    ],
)
def test_tshark_reads_an_ata_exchange_and_pairs_it(
    tmp_path: Path,
    name: str,
    aflags: int,
    opcode: int,
    sector: int,
    sectors: int,
    failure: dict[str, int],
) -> None:
    requires_program("tshark")
    write_pcap(tmp_path / "capture.pcap", list(exchange(name)))
    request, reply = dissected(tmp_path / "capture.pcap")
    taskfile = ata_fields(aflags, opcode, sector)
    assert request == header_fields(name) | taskfile | {"sector_count": sectors}
    done = {"sector_count": 0, "ata.status": 0x40} | failure
    assert reply == header_fields(name, response=1, response_to=1) | taskfile | done


def test_tshark_reads_the_headers_of_the_other_commands(tmp_path: Path) -> None:
    requires_program("tshark")
    names = [name for name, (command, _) in ARGUMENTS.items() if command is not Command.ATA]
    write_pcap(tmp_path / "capture.pcap", [part for name in names for part in exchange(name)])
    expected = []
    for name in names:
        failure = {"flags_error": 1, "error": 4} if name == "config-present" else {}
        expected += [header_fields(name), header_fields(name, response=1) | failure]
    assert dissected(tmp_path / "capture.pcap") == expected


# --- scapy ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scapy_aoe() -> Any:
    """scapy.contrib.aoe, which is followed only where it follows the protocol: its flag names are
    bit-reversed (only integers are used here), and its counts of mask and reserve lists have two
    bytes (these two are read byte by byte in the unit tests)."""
    if importlib.util.find_spec("scapy") is None:
        pytest.skip("needs scapy: pip install scapy")
    with warnings.catch_warnings():
        # Its import meets deprecated names of the cryptography package, which is not our matter.
        warnings.simplefilter("ignore")
        return importlib.import_module("scapy.contrib.aoe")


def layer(scapy_aoe: Any, frame: bytes) -> Any:
    packet = scapy_aoe.Ether(frame)
    assert packet.type == 0x88A2
    return packet[scapy_aoe.AOE]


SCAPY_READS = [name for name in ARGUMENTS if name not in ("mask", "reserve")]


@pytest.mark.parametrize("name", SCAPY_READS)
def test_scapy_reads_the_header(scapy_aoe: Any, name: str) -> None:
    command, _ = ARGUMENTS[name]
    is_error = name == "config-present"
    for frame, flags in zip(exchange(name), (0x0, 0xC if is_error else 0x8), strict=True):
        packet = layer(scapy_aoe, frame)
        assert (packet.version, int(packet.flags)) == (1, flags)
        assert packet.error == (4 if flags & 4 else 0)
        assert (packet.major, packet.minor, packet.cmd) == (SHELF, SLOT, command)
        assert packet.tag == TAG + list(ARGUMENTS).index(name)


def test_scapy_reads_a_taskfile_with_its_data(scapy_aoe: Any) -> None:
    taskfile = layer(scapy_aoe, exchange("write").request).i_ata_cmd
    assert (int(taskfile.flags), taskfile.err_feature) == (0x43, 0)
    assert (taskfile.sector_count, taskfile.cmd_status) == (2, 0x34)
    assert [getattr(taskfile, f"lba{index}") for index in range(6)] == [1, 2, 3, 4, 5, 6]
    assert taskfile.data == DATA


def test_scapy_reads_a_refusal(scapy_aoe: Any) -> None:
    taskfile = layer(scapy_aoe, exchange("not-found").reply).i_ata_cmd
    assert (taskfile.cmd_status, taskfile.err_feature) == (0x41, 0x10)


@pytest.mark.parametrize(("name", "ccmd"), [("config", 0), ("config-present", 3)])
def test_scapy_reads_a_config_reply(scapy_aoe: Any, name: str, ccmd: int) -> None:
    config = layer(scapy_aoe, exchange(name).reply).q_conf_info
    assert (config.buffer_count, config.firmware, config.sector_count) == (64, 1, 2)
    assert (config.aoe, config.ccmd) == (1, ccmd)
    assert config.config == b"label"


def test_scapy_builds_the_requests_that_we_build(scapy_aoe: Any) -> None:
    """From integers, field by field."""
    registers = {f"lba{index}": index + 1 for index in range(6)}
    read = scapy_aoe.IssueATACommand(flags=0x40, sector_count=2, cmd_status=0x24, **registers)
    preset = scapy_aoe.QueryConfigInformation(aoe=1, ccmd=3, config=b"other")
    for name, argument in (
        ("read", {"i_ata_cmd": read}),
        ("config-present", {"q_conf_info": preset}),
    ):
        ether = scapy_aoe.Ether(dst=MAC_TARGET.hex(":"), src=MAC_A.hex(":"), type=0x88A2)
        command, _ = ARGUMENTS[name]
        tag = TAG + list(ARGUMENTS).index(name)
        aoe = scapy_aoe.AOE(major=SHELF, minor=SLOT, cmd=int(command), tag=tag, **argument)
        assert bytes(ether / aoe) == exchange(name).request, name


# --- every error reply ----------------------------------------------------------------------------

EXPERT_FIELDS = ("_ws.malformed", "_ws.short", "_ws.expert.message", "aoe.response", "aoe.error")


def expert_findings(path: Path) -> list[list[str]]:
    """What tshark finds fault with in each frame, and whether it is a response, and its error."""
    wanted = [word for field in EXPERT_FIELDS for word in ("-e", field)]
    command = ["tshark", "-n", "-r", str(path), "-T", "fields", "-E", "separator=|", *wanted]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return [line.split("|") for line in done.stdout.splitlines()]


@pytest.mark.parametrize("engine_class", ENGINES_ON_MEMORY.values(), ids=ENGINES_ON_MEMORY)
async def test_tshark_and_scapy_read_every_error_reply(
    scapy_aoe: Any, tmp_path: Path, engine_class: type[Engine]
) -> None:
    requires_program("tshark")
    replies = await error_replies(engine_class)
    write_pcap(tmp_path / "capture.pcap", list(replies.values()))
    found = expert_findings(tmp_path / "capture.pcap")
    for (name, frame), (*faults, response, code) in zip(replies.items(), found, strict=True):
        assert faults == ["", "", ""], name
        assert response in ("1", "True"), name
        assert code == (str(frame[15]) if frame[14] & 4 else ""), name
        packet = layer(scapy_aoe, frame)
        assert (packet.version, packet.error) == (1, frame[15]), name
        assert bytes(packet) == frame[14:], name
