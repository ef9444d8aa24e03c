"""The end of a daemon, asked for or not, in the middle of I/O."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from ggaoe.engine.select import ENGINES
from ggaoe.proto.frame import SECTOR_BYTES
from helpers.netns import wait_until
from helpers.targets import REPOSITORY
from integration.load import Load, running
from integration.scene import DEADLINE_S, GGAOE, USUAL, Daemon, Scene, device


def end_by_sigterm(daemon: Daemon) -> None:
    assert daemon.stop() == 0


def end_by_sigkill(daemon: Daemon) -> None:
    daemon.kill()


ends = pytest.mark.parametrize("end", [end_by_sigterm, end_by_sigkill])


@ends
@pytest.mark.parametrize("direct_io", [True, False], ids=["direct", "buffered"])
async def test_what_was_acknowledged_is_in_the_file(
    scene: Scene, end: Callable[[Daemon], None], direct_io: bool
) -> None:
    disk = scene.disk()
    daemon = scene.daemon(device(direct_io=direct_io))
    daemon.start()
    async with scene.initiator() as initiator:
        load = Load(await initiator.open(0, 1), disk)
        load.start()
        await load.more()
        await asyncio.to_thread(end, daemon)
        # What it sent before its end may still be on the way to us.
        await initiator.discover(0.1)
        await load.abandon()
    load.check_file()


@ends
async def test_io_goes_on_after_a_restart(scene: Scene, end: Callable[[Daemon], None]) -> None:
    disk = scene.disk()
    daemon = scene.daemon(device())
    daemon.start()
    async with scene.initiator(timing=USUAL) as initiator:
        load = Load(await initiator.open(0, 1), disk)
        async with running(load):
            for _ in range(2):
                await asyncio.to_thread(end, daemon)
                await asyncio.to_thread(daemon.start)
                await load.more()
    assert daemon.stop() == 0


def test_started_writes_are_finished_and_the_others_dropped(scene: Scene) -> None:
    def content(number: int) -> bytes:
        return bytes([number]) * SECTOR_BYTES

    with scene.slow_disk() as slow, scene.wire() as wire:
        daemon = scene.daemon(device(path="slow/disk", direct_io=False, queue_length=2))
        daemon.start()
        slow.hold()
        wire.send(*(wire.write(8 * number, content(number), tag=number) for number in range(1, 6)))
        wait_until(lambda: daemon.counters()["waiting"] == 3, DEADLINE_S, "writes that wait")
        daemon.running.signal(signal.SIGTERM)
        daemon.wait_for_log("finishing requests")
        assert daemon.running.poll() is None
        slow.release()
        assert daemon.running.wait() == 0
        tags = [got.header.tag for got in wire.pending() if not got.is_advertisement]
        assert sorted(tags) == [1, 2]
        found = slow.path.read_bytes()
        for number in range(1, 6):
            expected = content(number) if number <= 2 else bytes(SECTOR_BYTES)
            assert found[8 * number * SECTOR_BYTES :][:SECTOR_BYTES] == expected


def test_a_second_signal_does_not_wait_for_the_disk(scene: Scene) -> None:
    with scene.slow_disk() as slow, scene.wire() as wire:
        daemon = scene.daemon(device(path="slow/disk", direct_io=False))
        daemon.start()
        slow.hold()
        wire.send(wire.write(0, bytes(SECTOR_BYTES), tag=1))
        wait_until(lambda: daemon.counters()["in_flight"] == 1, DEADLINE_S, "a write that hangs")
        daemon.running.signal(signal.SIGTERM)
        daemon.wait_for_log("finishing requests")
        daemon.running.signal(signal.SIGTERM)
        daemon.wait_for_log("leaving at once")
        daemon.wait_for_log("stopped")
        wait_until(lambda: not (scene.directory / "pid").exists(), DEADLINE_S, "no pid file")
        # Its thread is in the kernel, which lets no process go before the disk has answered.
        slow.release()
        daemon.running.wait()


def test_a_signal_during_the_start_is_not_lost(scene: Scene) -> None:
    """SIGTERM and SIGHUP, as soon as it can be found."""
    for number in range(1, 4):
        scene.disk(f"disk{number}")
    daemon = scene.daemon(*(device(f"disk{number}", number) for number in range(1, 4)))
    for numbers in ((signal.SIGTERM,), (signal.SIGHUP, signal.SIGTERM)):
        with daemon.log.open("wb") as log:
            process = scene.target.spawn(
                *GGAOE, "-c", daemon.config, stdout=log, stderr=log, cwd=REPOSITORY
            )
        wait_until((scene.directory / "ctl").exists, DEADLINE_S, "the control socket")
        for one in numbers:
            process.signal(one)
        assert process.wait() == 0
        text = daemon.log.read_text()
        assert "stopped" in text
        assert "Traceback" not in text


@pytest.mark.one_engine
def test_the_native_engine_ends_while_a_store_keeps_its_leader(scene: Scene) -> None:
    """Also where the call has begun too late for the watcher to notice."""
    if "native" not in ENGINES:
        pytest.skip("needs the native engine: install with a C compiler")
    with scene.slow_disk() as disk:
        disk.hold()
        child = subprocess.Popen(
            [sys.executable, "-m", "integration.hung_end", disk.path],
            cwd=REPOSITORY / "tests",
            stdout=subprocess.PIPE,
        )
        with child:
            assert child.stdout is not None
            os.set_blocking(child.stdout.fileno(), False)
            text = b""

            def has_ended() -> bool:
                nonlocal text
                text += child.stdout.read() or b""  # type: ignore[union-attr]
                return b"ended" in text

            try:
                wait_until(has_ended, DEADLINE_S, "end of the engine")
            finally:
                disk.release()
        assert child.returncode == 0
