"""Programs of classic BPF, as the kernel carries them out on a pair of sockets."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from ggaoe.net import filters
from ggaoe.proto.frame import (
    BROADCAST,
    ETHERTYPE,
    FLAG_RESPONSE,
    Command,
    pack_request,
    pack_taskfile,
    padded,
)

OURS, OTHER = (1, 2), (0x1234, 0x56)
HOST, FLOODER = (bytes.fromhex(f"02000000000{number}") for number in (1, 2))
NEIGHBOUR = FLOODER[:5] + b"\x03"
READ_EXT, IDENTIFY = 0x24, 0xEC


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A filter sees what is sent to a Unix socket as it sees a frame."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with near, far:
        far.setblocking(False)
        yield near, far


def ata(opcode: int, address: tuple[int, int], source: bytes = HOST) -> bytes:
    head = pack_request(BROADCAST, source, *address, Command.ATA, 7)
    return padded(head + pack_taskfile(0x40, 0, 1, opcode, bytes(6)))


def query(address: tuple[int, int], source: bytes = HOST) -> bytes:
    return padded(pack_request(BROADCAST, source, *address, Command.CONFIG, 7) + bytes(8))


def response(frame: bytes) -> bytes:
    return frame[:14] + bytes([frame[14] | FLAG_RESPONSE]) + frame[15:]


def passes(ends: tuple[socket.socket, socket.socket], frame: bytes) -> bool:
    near, far = ends
    near.send(frame)
    try:
        return far.recv(len(frame) + 1) == frame
    except BlockingIOError:
        return False


FRAMES = {
    "read": (ata(READ_EXT, OURS), True),
    "identify": (ata(IDENTIFY, OURS), True),
    "query": (query(OURS), True),
    "query of all": (query((0xFFFF, 0xFF)), True),
    "query of a shelf": (query((1, 0xFF)), True),
    "query of a slot": (query((0xFFFF, 9)), True),
    "other address": (ata(READ_EXT, OTHER), False),
    "query of another": (query(OTHER), False),
    "our shelf": (query((OURS[0], 3)), False),
    "our slot": (query((3, OURS[1])), False),
    "claim": (response(query(OURS)), True),
    "claim to another": (response(query(OTHER)), False),
    "response": (response(ata(READ_EXT, OURS)), False),
    "runt": (ata(READ_EXT, OURS)[:35], False),
    "shortest": (ata(READ_EXT, OURS)[:36], True),
    "no header": (ata(READ_EXT, OURS)[:18], False),
    "other protocol": (ata(READ_EXT, OURS).replace(ETHERTYPE.to_bytes(2), b"\x08\x00"), False),
    "flooder's read": (ata(READ_EXT, OURS, FLOODER), True),
    "flooder's read of another": (ata(READ_EXT, OTHER, FLOODER), False),
    "flooder's identify": (ata(IDENTIFY, OURS, FLOODER), False),
    "flooder's query": (query((0xFFFF, 0xFF), FLOODER), False),
    "neighbour's query": (query(OURS, NEIGHBOUR), True),
}


@pytest.mark.parametrize("kind", FRAMES)
def test_narrow(ends: tuple[socket.socket, socket.socket], kind: str) -> None:
    frame, expected = FRAMES[kind]
    filters.attach(ends[1], filters.narrow([(5, 5), OURS], [FLOODER]))
    assert passes(ends, frame) == expected


def test_the_largest_program_fits(ends: tuple[socket.socket, socket.socket]) -> None:
    """Also while one that is as large is still in force."""
    shed = [bytes([2, 0, 0, 0, 1, number]) for number in range(8)]
    addresses = [(shelf, 0) for shelf in range(filters.ADDRESSES_MAX)]
    for _ in range(2):
        filters.attach(ends[1], filters.narrow(addresses, shed))
    assert passes(ends, query(addresses[-1]))
    assert not passes(ends, query(OTHER))
    assert not passes(ends, query(addresses[-1], shed[-1]))
    assert passes(ends, ata(READ_EXT, addresses[-1], shed[-1]))


def test_a_list_that_is_too_long_lets_every_address_pass(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    addresses = [(shelf, 0) for shelf in range(filters.ADDRESSES_MAX + 1)]
    filters.attach(ends[1], filters.narrow(addresses, [FLOODER]))
    assert passes(ends, query(OTHER))
    assert not passes(ends, query(OTHER, FLOODER))


def test_everything_passes_again(ends: tuple[socket.socket, socket.socket]) -> None:
    filters.attach(ends[1], filters.narrow([OURS], []))
    assert not passes(ends, query(OTHER))
    filters.attach(ends[1], filters.for_role(filters.Role.TARGET))
    assert passes(ends, query(OTHER))
