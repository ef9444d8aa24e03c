"""Power returns, and every host asks for every disk at once: all of them are told, though answers
have a rate."""

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

HOSTS, DEVICES = (250, 200) if os.environ.get("GGAOE_TORTURE") else (60, 40)
"""What the rates are made for, and so many that nobody has to ask twice."""
PATIENCE_S = 1.0
"""Hosts ask again for what they miss when so long nothing has come."""
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
        self.resent = 0

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
            self._identify(host, slot, frame[6:12])
        else:
            self.identified[host, slot] += frame[HEADER_BYTES + 3] & 1 == 0

    def _identify(self, host: int, slot: int, target: bytes) -> None:
        head = pack_request(target, mac_of(host), 0, slot, Command.ATA, TAG)
        taskfile = pack_taskfile(0, 0, 1, Opcode.IDENTIFY_DEVICE, bytes(6))
        self._raw.send(padded(head + taskfile))

    def ask_again(self) -> None:
        for host, slot in list(self.told):
            if not self.identified[host, slot]:
                self._identify(host, slot, BROADCAST)
                self.resent += 1


@pytest.mark.usefixtures("engine")
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
        last_s = began_s
        while len(+hosts.identified) < len(everything):
            if poll.poll(PATIENCE_S * 1000):
                last_s = time.monotonic()
                hosts.listen()
                continue
            assert time.monotonic() < last_s + DEADLINE_S, (
                f"{len(hosts.told)} told, {len(+hosts.identified)} identified,"
                f" {daemon.ask('stats', 'far0')}"
            )
            hosts.ask_again()
        answers = hosts.told.total() + hosts.identified.total()
        print(
            f"{HOSTS} hosts, {DEVICES} devices: {answers} answers in"
            f" {time.monotonic() - began_s:.1f} s, {hosts.resent} questions asked again"
        )
        assert hosts.told == everything
        assert hosts.refused == 0
        for name in names[:: DEVICES // 5]:  # of all it is too much for one answer
            assert not daemon.counters(name)["drops"]
        link = daemon.ask("stats", "far0")["interfaces"]["far0"]
        assert (link["dropped_by_kernel"], link["narrowed"]) == (0, 0)
        assert not link["drops"].get("rate_limited")
        if not os.environ.get("GGAOE_TORTURE"):
            assert link["drops"] == {}
