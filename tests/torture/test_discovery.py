"""Power returns, and every host asks for every disk at once: all of them are told, at the first
asking, though answers have a rate."""

from __future__ import annotations

import os
import select
import socket
import time
from collections import Counter

import pytest

from ggaoe.proto.ata import Opcode
from ggaoe.proto.frame import (
    BROADCAST,
    ETHERTYPE,
    FLAG_ERROR,
    FLAG_RESPONSE,
    HEADER_BYTES,
    Command,
    pack_request,
    pack_taskfile,
    padded,
)
from ggaoe.proto.query import Ccmd, pack_config
from integration.scene import DEADLINE_S, MIB, Scene, device
from torture.budget import OVERHEAD_S, torture_s

pytestmark = pytest.mark.timeout(torture_s(0) + OVERHEAD_S)

HOSTS, DEVICES = (250, 200) if os.environ.get("GGAOE_TORTURE") else (40, 25)
"""What the rates are made for, and a moment's worth of it."""
TAG = 0x1234
SO_RCVBUFFORCE = 33  # asm-generic/socket.h
FRAME_BYTES_MAX = 2048


def mac_of(host: int) -> bytes:
    return bytes([2, 0, 0, 0, 1, host])


class Hosts:
    """All of them on one wire, doing what Linux does: ask for all targets, then for the identity of
    each that has answered. `told` and `identified` count answers by (host, slot)."""

    def __init__(self, raw: socket.socket) -> None:
        self._raw = raw
        self.told: Counter[tuple[int, int]] = Counter()
        self.identified: Counter[tuple[int, int]] = Counter()
        self.refused = 0

    def ask(self) -> None:
        for host in range(HOSTS):
            head = pack_request(BROADCAST, mac_of(host), 0xFFFF, 0xFF, Command.CONFIG, TAG)
            self._raw.send(padded(head + pack_config(Ccmd.READ)))

    def listen(self) -> None:
        """Take what has come, and ask on."""
        try:
            while True:
                self._take(self._raw.recv(FRAME_BYTES_MAX))
        except BlockingIOError:
            pass

    def _take(self, frame: bytes) -> None:
        is_answer = frame[14] & FLAG_RESPONSE and frame[20:24] == TAG.to_bytes(4)
        if not is_answer or frame[:5] != mac_of(0)[:5]:
            return  # an advertisement, or a question of ours
        host, slot, command = frame[5], frame[18], frame[19]
        self.refused += bool(frame[14] & FLAG_ERROR)
        if command == Command.CONFIG:
            self.told[host, slot] += 1
            head = pack_request(frame[6:12], mac_of(host), 0, slot, Command.ATA, TAG)
            taskfile = pack_taskfile(0, 0, 1, Opcode.IDENTIFY_DEVICE, bytes(6))
            self._raw.send(padded(head + taskfile))
        else:
            self.identified[host, slot] += frame[HEADER_BYTES + 3] & 1 == 0


def test_all_hosts_find_all_devices_at_once(scene: Scene) -> None:
    names = [f"disk{slot}" for slot in range(DEVICES)]
    for name in names:
        scene.disk(name, MIB)
    sections = [device(name, slot, direct_io=False) for slot, name in enumerate(names)]
    everything = {(host, slot): 1 for host in range(HOSTS) for slot in range(DEVICES)}
    with (
        scene.serving(*sections) as daemon,
        scene.host.entered(),
        socket.socket(
            socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(ETHERTYPE)
        ) as raw,
    ):
        raw.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 * MIB)
        raw.bind(("near0", ETHERTYPE))
        hosts = Hosts(raw)
        poll = select.poll()
        poll.register(raw, select.POLLIN)
        began_s = time.monotonic()
        hosts.ask()
        while hosts.identified.total() < len(everything):
            assert poll.poll(DEADLINE_S * 1000), (
                f"{hosts.told.total()} told, {hosts.identified.total()} identified,"
                f" {daemon.ask('stats', 'far0')}"
            )
            hosts.listen()
        print(
            f"{HOSTS} hosts and {DEVICES} devices:"
            f" {2 * len(everything)} answers in {time.monotonic() - began_s:.1f} s"
        )
        assert hosts.told == everything
        assert hosts.identified == everything
        assert hosts.refused == 0
        for name in names[:: DEVICES // 5]:  # of all it is too much for one answer
            assert not daemon.counters(name)["drops"]
        link = daemon.ask("stats", "far0")["interfaces"]["far0"]
        assert (link["drops"], link["dropped_by_kernel"], link["narrowed"]) == ({}, 0, 0)
