"""Reloads, signals, state files and control connections in whatever number and condition: verified
I/O does not notice, nothing leaks, and afterwards the daemon does as it is told.

Steps of the wall clock are not here: it is the same in every namespace, so the daemon cannot have
one of its own. `unit/engine/test_order.py` gives frames stamps from before and after such a step.
"""

from __future__ import annotations

import asyncio
import errno
import random
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest

from ggaoe.client import RefusedError
from ggaoe.proto.frame import SECTOR_BYTES, Error
from ggaoe.proto.query import Ccmd
from ggaoe.proto.target import TargetState
from ggaoe.server.control import BUSY, CONFIG_INVALID, CONNECTIONS_MAX
from ggaoe.server.state import encode
from helpers.netns import veth, wait_until
from integration.load import Load, running
from integration.scene import DEADLINE_S, Daemon, Scene, device
from torture.budget import OVERHEAD_S, seeded, torture_s
from torture.faulty import fill
from torture.vitals import Control, Refusal, Vitals

SECONDS = 3.0
pytestmark = pytest.mark.timeout(torture_s(SECONDS) + OVERHEAD_S)

STEADY = device("steady", 9, interfaces="far0")
RELOADS_MIN = 100
SIGNALS = 300
CONNECTIONS = 300
QUESTIONS_UNREAD = 2000
TEXT = b"some config string"


@asynccontextmanager
async def undisturbed(scene: Scene, *sections: str) -> AsyncIterator[Daemon]:
    """A daemon with `sections`, and one more device with verified load that must not notice
    anything."""
    scene.disk("steady")
    with scene.serving(*sections, STEADY) as daemon:
        async with scene.initiator() as initiator:
            load = Load(await initiator.open(0, 9), scene.directory / "steady")
            async with running(load):
                yield daemon
            assert load.remote.counters.resent == 0
            assert load.unavailable == 0
        assert "Traceback" not in daemon.log_text()


def connect(scene: Scene) -> Control:
    return Control(scene.directory / "ctl")


# --- reloads -----------------------------------------------------------------------------------


def some_configuration(rng: random.Random) -> list[str]:
    """`disk` always, others by chance, each with other options than before."""
    sections = [f"[far1]\nmtu = {rng.choice((0, 1500, 1400))}\n"]
    for name, slot in (("disk", 1), ("second", 2), ("third", 3), ("absent", 4)):
        if name == "disk" or rng.random() < 0.6:
            options: dict[str, object] = {
                "path": "absent" if name == "absent" else rng.choice((name, f"{name}-other")),
                "queue_length": rng.choice((2, 64, 500)),
                "direct_io": rng.random() < 0.5,
                "write_cache": rng.random() < 0.5,
                "read_only": rng.random() < 0.2,
                "broadcast": rng.random() < 0.5,
                "merge_delay": rng.choice((0, "1ms")),
                "interfaces": rng.choice(("far0", "far1", "far*")),
                "accept": rng.choice((None, "hosts")),
            }
            sections.append(device(name, slot + rng.choice((0, 10)), **options))
    return [*sections, "[acls]\nhosts = 02:00:00:00:00:07\n"]


def spoiled(text: str, rng: random.Random) -> str:
    """A file with an error in it: cut, garbled, or with something that means nothing."""
    lines = text.splitlines()
    lines.insert(
        rng.randrange(len(lines)),
        rng.choice(("[unfinished", "queue-lenght = 3", "nonsense")),
    )
    return "\n".join(lines)


def prepare(scene: Scene) -> None:
    veth(scene.host, "near1", scene.target, "far1")
    for name in ("disk", "second", "third"):
        scene.disk(name)
        scene.disk(f"{name}-other")


def told(control: Control) -> list[tuple[object, ...]]:
    """What the daemon says of its devices' options."""
    keys = ("name", "address", "path", "queue_length", "read_only", "accept", "write_cache")
    return [tuple(row[key] for key in keys) for row in control.ask("show")["devices"]]


PLAIN = (device(queue_length=33), STEADY)
"""With which vitals are compared: how many links and stores are open depends on the file."""


def reload_again_and_again(
    scene: Scene, daemon: Daemon, rng: random.Random, stop: asyncio.Event
) -> tuple[int, int, Vitals]:
    """How many reloads were done and refused, and the daemon as `PLAIN` has it after a few."""
    done = refused = 0
    early = None
    end_s = time.monotonic() + torture_s(SECONDS)
    with connect(scene) as control:
        while (done < RELOADS_MIN or time.monotonic() < end_s) and not stop.is_set():
            daemon.configure(*some_configuration(rng), STEADY)
            if rng.random() < 0.2:
                daemon.config.write_text(spoiled(daemon.config.read_text(), rng))
                before = told(control)
                with pytest.raises(Refusal) as refusal:
                    control.ask("reload")
                assert refusal.value.code == CONFIG_INVALID
                assert told(control) == before
                refused += 1
            else:
                control.ask("reload")
                done += 1
            if early is None and done >= RELOADS_MIN // 3:
                daemon.configure(*PLAIN)
                control.ask("reload")
                early = Vitals.of(daemon.running.pid)
    assert early is not None
    return done, refused, early


async def test_a_storm_of_reloads(scene: Scene) -> None:
    rng, stop = seeded(), asyncio.Event()
    prepare(scene)
    async with undisturbed(scene, *some_configuration(rng)) as daemon:
        try:
            done, refused, early = await asyncio.to_thread(
                reload_again_and_again, scene, daemon, rng, stop
            )
        finally:
            stop.set()
        print(f"{done} reloads, {refused} refused")
        daemon.configure(*PLAIN)
        with connect(scene) as control:
            await asyncio.to_thread(control.ask, "reload")
            shown = await asyncio.to_thread(control.ask, "show")
        assert {row["name"]: row["queue_length"] for row in shown["devices"]} == {
            "disk": 33,
            "steady": 64,
        }
        await asyncio.to_thread(daemon.wait_for_state, "disk", "serving")
        Vitals.of(daemon.running.pid).assert_no_leak_since(early)


async def test_a_storm_of_hangups(scene: Scene) -> None:
    """Signals that come faster than reloads are done: the last file is what counts."""
    rng = seeded()
    prepare(scene)
    async with undisturbed(scene, *some_configuration(rng)) as daemon:
        for _ in range(SIGNALS):
            daemon.configure(*some_configuration(rng), STEADY)
            daemon.running.signal(signal.SIGHUP)
            await asyncio.sleep(0)
        daemon.configure(device(queue_length=33), STEADY)
        daemon.running.signal(signal.SIGHUP)

        def is_in_force() -> bool:
            rows = daemon.ask("show", "*")["devices"]
            return {row["name"]: row["queue_length"] for row in rows} == {"disk": 33, "steady": 64}

        await asyncio.to_thread(wait_until, is_in_force, DEADLINE_S, "the last file in force")
        await asyncio.to_thread(daemon.wait_for_state, "disk", "serving")


# --- state -------------------------------------------------------------------------------------


@pytest.mark.one_engine
@pytest.mark.parametrize("why", ["full", "read-only"])
async def test_a_state_directory_that_takes_nothing(scene: Scene, why: str) -> None:
    """What cannot be stored is not in force, I/O goes on, and nothing that was stored suffers."""
    scene.disk()
    scene.disk("steady")
    daemon = scene.daemon(device(), STEADY)
    state = scene.directory / "state"
    try:
        scene.target.run("mount", "-t", "tmpfs", "-o", "size=64k", "none", state)
    except subprocess.CalledProcessError:
        pytest.skip("needs tmpfs")
    filler = Path(f"/proc/{scene.target.pid}/root{state}/filler")
    daemon.start()
    async with scene.initiator() as initiator:
        load = Load(await initiator.open(0, 9), scene.directory / "steady")
        remote = await initiator.open(0, 1)
        async with running(load):
            for text in (TEXT, TEXT * 2, TEXT * 3):
                await remote.query(Ccmd.FORCE, text)
                if why == "full":
                    fill(filler)
                else:
                    scene.target.run("mount", "-o", "remount,ro", state)
                for refused in (
                    remote.query(Ccmd.FORCE, b"other"),
                    remote.reserve([scene.host.mac("near0")]),
                ):
                    with pytest.raises(RefusedError) as refusal:
                        await refused
                    assert refusal.value.code == Error.UNAVAILABLE
                cleared = await asyncio.to_thread(daemon.ctl, "clear-config", "disk")
                assert cleared.status == 1
                assert str(state) in cleared.stderr
                config = await remote.query()
                assert config is not None
                assert config.text == text
                await remote.write(0, bytes(SECTOR_BYTES))
                if why == "full":
                    await asyncio.to_thread(filler.unlink)
                else:
                    scene.target.run("mount", "-o", "remount,rw", state)
        assert load.remote.counters.resent == 0
        daemon.kill()
        await asyncio.to_thread(daemon.start)
        config = await remote.query()
        assert config is not None
        assert config.text == TEXT * 3
        assert await remote.read_reservation() == ()
    assert daemon.stop() == 0


@pytest.mark.one_engine
async def test_torn_and_foreign_state_files(scene: Scene) -> None:
    """Each keeps its own device waiting, with a reason that names the file, and no other."""
    rng = seeded()
    good = encode(TargetState(config_string=TEXT, reserved=(b"\x02\0\0\0\0\1",)))
    contents = [good[: rng.randrange(len(good) - 1)] for _ in range(12)]
    contents += [
        good.replace(b'"version": 1', b'"version": 2'),
        good.replace(b"ggaoe-state", b"another"),
        good + b"}",
        b"[" * 100_000,
        bytes(4096),
        rng.randbytes(4096),
        b"\xff\xfe" + good,
        good.replace(b"02:00", b"zz:00"),
        b"null",
        b"{}",
    ]
    sections = []
    for number, content in enumerate(contents):
        scene.disk(f"disk{number}", 1 << 16)
        sections.append(device(f"disk{number}", 10 + number))
        state = scene.directory / "state" / f"disk{number}.json"
        state.parent.mkdir(exist_ok=True)
        state.write_bytes(content)
    scene.disk("aside", 1 << 16)
    (scene.directory / "state" / "aside.json").mkdir()
    sections.append(device("aside", 100))
    async with undisturbed(scene, *sections) as daemon:
        rows = (await asyncio.to_thread(daemon.ask, "list"))["devices"]
        for row in rows:
            if row["name"] != "steady":
                assert row["state"] == "waiting", row
                assert f"state/{row['name']}.json" in row["reason"]
        (scene.directory / "state" / "aside.json").rmdir()
        for number in range(len(contents)):
            (scene.directory / "state" / f"disk{number}.json").unlink()

        def all_serve() -> bool:
            return all(row["state"] == "serving" for row in daemon.ask("list")["devices"])

        await asyncio.to_thread(wait_until, all_serve, DEADLINE_S, "all devices serving")


# --- connections -------------------------------------------------------------------------------


@pytest.mark.one_engine
async def test_hundreds_of_connections(scene: Scene) -> None:
    """Half a line each, and silence: those beyond the bound are told, and all are forgotten."""
    async with undisturbed(scene) as daemon:
        before = Vitals.of(daemon.running.pid)
        with ExitStack() as stack:
            refusals = 0
            for number in range(CONNECTIONS):
                control = stack.enter_context(await asyncio.to_thread(connect, scene))
                if number < CONNECTIONS_MAX:
                    control.socket.send(b'{"jsonrpc": "2.0", "id": 1, "meth')
                    continue
                with pytest.raises(Refusal) as refusal:
                    await asyncio.to_thread(control.ask, "list")
                assert refusal.value.code == BUSY
                refusals += 1
            assert refusals == CONNECTIONS - CONNECTIONS_MAX
            outcome = await asyncio.to_thread(daemon.ctl, "list")
            assert outcome.status != 0
            assert f"{CONNECTIONS_MAX} control connections" in outcome.stderr
        pid = daemon.running.pid
        await asyncio.to_thread(
            wait_until,
            lambda: Vitals.of(pid).descriptors <= before.descriptors,
            DEADLINE_S,
            "connections closed",
        )
        assert (await asyncio.to_thread(daemon.ctl, "list")).status == 0
        Vitals.of(pid).assert_no_leak_since(before)


@pytest.mark.one_engine
async def test_answers_that_nobody_reads(scene: Scene) -> None:
    """As many questions as fit, of which no answer is read, on all connections but one."""
    many = [device(f"absent{number}", 100 + number) for number in range(100)]
    async with undisturbed(scene, *many) as daemon:
        before = Vitals.of(daemon.running.pid)
        question = b'{"jsonrpc": "2.0", "id": 1, "method": "show"}\n'
        with ExitStack() as stack:
            for _ in range(CONNECTIONS_MAX - 1):
                one = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                one.setblocking(False)
                one.connect(str(scene.directory / "ctl"))
                for _ in range(QUESTIONS_UNREAD):
                    try:
                        one.send(question)
                    except OSError as error:
                        if error.errno != errno.EAGAIN:
                            raise
                        break
            for _ in range(5):
                assert (await asyncio.to_thread(daemon.ctl, "list")).status == 0
        pid = daemon.running.pid
        await asyncio.to_thread(
            wait_until,
            lambda: Vitals.of(pid).descriptors <= before.descriptors,
            DEADLINE_S,
            "connections closed",
        )
        Vitals.of(pid).assert_no_leak_since(before)
