"""Exact frames: twins, overlaps, a full queue, fences, and what no host should send."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator

import pytest

from ggaoe.proto import access
from ggaoe.proto.frame import (
    SECTOR_BYTES,
    Command,
    Error,
    pack_advertisement,
    padded,
)
from ggaoe.proto.query import Ccmd, pack_config
from helpers.netns import wait_until
from integration.scene import DEADLINE_S, Daemon, Received, Scene, SlowDisk, Wire, device

DISK = device()
QUERY = pack_config(Ccmd.READ)
OTHER_HOST = bytes.fromhex("020000000001")
SUCCESS = 0x40


def sector(fill: bytes) -> bytes:
    return fill * SECTOR_BYTES


def tags_of(frames: list[Received]) -> list[int]:
    return [got.header.tag for got in frames if not got.is_advertisement]


def wait_for_counter(daemon: Daemon, name: str, value: int) -> None:
    wait_until(lambda: daemon.counters()[name] == value, DEADLINE_S, f"{name} is {value}")


@pytest.fixture
def slow(scene: Scene) -> Iterator[SlowDisk]:
    with scene.slow_disk() as disk:
        yield disk


@pytest.fixture
def wire(scene: Scene) -> Iterator[Wire]:
    with scene.wire() as wire:
        yield wire


def slow_device(**options: object) -> str:
    return device(path="slow/disk", direct_io=False, **options)


# --- requests that are under way ---------------------------------------------------------------


def test_a_twin_of_a_request_under_way_is_absorbed(
    scene: Scene, slow: SlowDisk, wire: Wire
) -> None:
    with scene.serving(slow_device()) as daemon:
        slow.hold()
        writes = [wire.write(number, sector(b"x"), tag=number) for number in (1, 2, 3)]
        wire.send(*writes, *writes, *writes)
        wait_for_counter(daemon, "absorbed", 6)
        assert daemon.counters()["in_flight"] == 3
        slow.release()
        wire.send(wire.request(Command.CONFIG, QUERY, 9))
        frames = wire.collect(lambda got: {1, 2, 3, 9} <= set(tags_of(got)))
        assert sorted(tags_of(frames)) == [1, 2, 3, 9]
        assert daemon.ask("stats")["initiators"]["disk"][wire.mac.hex(":")]["absorbed"] == 6

        # The reply may have been lost: what comes after it is executed and answered again.
        wire.send(writes[0])
        assert wire.wait_for_reply(1).frame[27] == SUCCESS
        assert daemon.counters()["write_requests"] == 4


def test_bursts_of_twins_are_answered_and_harmless(scene: Scene, wire: Wire) -> None:
    disk = scene.disk()
    with scene.serving(DISK) as daemon:
        count = 200
        for number in range(count):
            fill = bytes([number % 255 + 1])
            frame = wire.write(number, sector(fill), tag=number + 1)
            wire.send(frame, frame)
        frames = wire.collect(lambda got: len(set(tags_of(got))) == count)
        frames += wire.pending()
        assert all(got.frame[27] == SUCCESS for got in frames if not got.is_advertisement)
        counters = daemon.counters()
        assert counters["absorbed"] > 0
        assert counters["absorbed"] + counters["write_requests"] == 2 * count
    with disk.open("rb") as file:
        for number in range(count):
            assert file.read(SECTOR_BYTES) == sector(bytes([number % 255 + 1]))


def test_overlapping_requests_keep_their_order(scene: Scene, slow: SlowDisk, wire: Wire) -> None:
    with scene.serving(slow_device()) as daemon:
        slow.hold()
        wire.send(
            wire.write(0, sector(b"1"), tag=1),
            wire.read(0, 1, tag=2),
            wire.write(0, sector(b"3"), tag=3),
            wire.read(0, 1, tag=4),
            wire.read(100, 1, tag=5),
        )
        wait_for_counter(daemon, "overlaps", 3)
        assert wire.wait_for_reply(5).frame[27] == SUCCESS  # it overlaps nothing
        assert tags_of(wire.pending()) == []
        slow.release()
        frames = wire.collect(lambda got: {1, 2, 3, 4} <= set(tags_of(got)))
        replies = {got.header.tag: got.frame for got in frames}
        assert tags_of(frames) == [1, 2, 3, 4]
        assert replies[2][36:] == sector(b"1")
        assert replies[4][36:] == sector(b"3")


def test_no_more_than_the_queue_length_is_in_flight(
    scene: Scene, slow: SlowDisk, wire: Wire
) -> None:
    with scene.serving(slow_device(queue_length=2)) as daemon:
        slow.hold()
        tags = range(1, 8)
        wire.send(*(wire.write(8 * tag, sector(b"x"), tag=tag) for tag in tags))
        wait_for_counter(daemon, "waiting", 5)
        counters = daemon.counters()
        assert (counters["in_flight"], counters["waits"]) == (2, 5)
        slow.release()
        frames = wire.collect(lambda got: set(tags) <= set(tags_of(got)))
        assert sorted(tags_of(frames)) == list(tags)


def test_a_reservation_is_a_fence(scene: Scene, slow: SlowDisk, wire: Wire) -> None:
    """It is acknowledged after the last write of the host that it locks out."""
    with scene.serving(slow_device()) as daemon:
        slow.hold()
        wire.send(wire.write(0, sector(b"x"), tag=1, source=OTHER_HOST))
        wait_for_counter(daemon, "in_flight", 1)
        reserve = access.pack_reserve(access.Rcmd.SET, (wire.mac,))
        wire.send(wire.request(Command.RESERVE, reserve, tag=2))
        held = [wire.mac.hex(":")]
        wait_until(
            lambda: daemon.ask("show-reserve", "disk")["devices"]["disk"] == held,
            DEADLINE_S,
            "the reservation is in force",
        )
        wire.send(wire.write(0, sector(b"y"), tag=3, source=OTHER_HOST))
        refused = wire.collect(lambda got: 3 in tags_of(got))
        assert tags_of(refused) == [3]
        assert refused[-1].header.error == Error.RESERVED
        slow.release()
        frames = wire.collect(lambda got: 2 in tags_of(got))
        assert tags_of(frames) == [1, 2]
    assert slow.path.read_bytes()[:SECTOR_BYTES] == sector(b"x")


def test_what_waited_in_the_socket_is_executed_in_order(scene: Scene, wire: Wire) -> None:
    disk = scene.disk()
    with scene.serving(DISK) as daemon:
        daemon.running.signal(signal.SIGSTOP)
        count = 250
        for number in range(count):
            wire.send(wire.write(0, sector(bytes([number])), tag=number + 1))
        daemon.running.signal(signal.SIGCONT)
        frames = wire.collect(lambda got: len(tags_of(got)) == count)
        assert tags_of(frames) == list(range(1, count + 1))
    with disk.open("rb") as file:
        assert file.read(SECTOR_BYTES) == sector(bytes([count - 1]))


# --- what no host should send ------------------------------------------------------------------


def test_another_target_at_our_address_is_told_once(scene: Scene, wire: Wire) -> None:
    scene.disk()
    with scene.serving(DISK) as daemon:
        for address in ((0, 1), (0, 1), (0, 2)):
            head = pack_advertisement(b"\xff" * 6, OTHER_HOST, *address)
            wire.send(padded(head + pack_config(Ccmd.READ, b"", 16, 1, 2)))
        wire.send(wire.request(Command.CONFIG, QUERY, 1))
        wire.wait_for_reply(1)
        assert daemon.drops()["conflict"] == 2
        lines = [line for line in daemon.log_text().splitlines() if " critical: " in line]
        assert len(lines) == 1
        assert OTHER_HOST.hex(":") in lines[0]
        assert "e0.1" in lines[0]


def test_nothing_that_arrives_ends_it(scene: Scene, wire: Wire) -> None:
    disk = scene.disk()
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    requests = [
        wire.read(0, 2, tag=2),
        wire.request(Command.CONFIG, pack_config(Ccmd.PREFIX, b"text"), tag=3),
        wire.request(Command.MASK, access.pack_mask(access.Mcmd.READ), tag=4),
        wire.request(Command.RESERVE, access.pack_reserve(access.Rcmd.READ), tag=5),
        wire.request(7, bytes(20), tag=6),
    ]
    with scene.serving(DISK) as daemon:
        for _ in range(2000):
            frame = bytearray(rng.choice(requests))
            for _ in range(rng.randint(1, 6)):
                # Not the source, which replies go to, nor what makes it an AoE frame, a write or
                # a change of the lists.
                at = rng.choice([*range(14, 24), *range(25, 27), *range(28, len(frame))])
                if at != 19:
                    frame[at] = rng.randrange(256)
            wire.send(bytes(frame[: rng.randint(14, len(frame))]))
        wire.send(wire.read(0, 2, tag=0x77777777))
        assert wire.wait_for_reply(0x77777777).frame[27] == SUCCESS
        log = daemon.log_text()
        assert "Traceback" not in log
        assert " error: " not in log
        assert daemon.drops()["malformed"] > 0
    assert not any(disk.read_bytes())
