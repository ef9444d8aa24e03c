"""What an operator changes while the daemon runs: without the file, with it, and in several."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ggaoe.cli.ggaoectl import ask
from ggaoe.client import Initiator, NoAnswerError
from ggaoe.config import slots
from ggaoe.engine.select import ENGINES
from ggaoe.errors import ControlError
from ggaoe.proto.frame import SECTOR_BYTES
from helpers.netns import wait_until
from integration.load import Load, running
from integration.scene import (
    DEADLINE_S,
    DISK_BYTES,
    DISK_SECTORS,
    GGAOE,
    MIB,
    Daemon,
    Outcome,
    Scene,
    SlowDisk,
    device,
    leased,
    round_trip,
)

pytestmark = pytest.mark.one_engine


@pytest.fixture(params=list(ENGINES))
def engine(request: pytest.FixtureRequest) -> str:
    """[defaults] for each engine that is there."""
    return f"[defaults]\nengine = {request.param}\nshelf = 0\n"


async def hears_nothing(initiator: Initiator, slot: int = 1) -> None:
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(NoAnswerError):
            await (await initiator.open(0, slot, 0.2)).ping(0.2)


def rows(daemon: Daemon) -> dict[str, tuple[str, str]]:
    """State and address of each device in the list."""
    return {row["name"]: (row["state"], row["address"]) for row in daemon.look("list")["devices"]}


# --- start and stop ----------------------------------------------------------------------------


async def test_stop_drains_and_start_serves_again(scene: Scene, engine: str) -> None:
    disk = scene.disk()
    scene.disk("other")
    with scene.serving(engine, device(), device("other", 2)) as daemon:
        async with scene.initiator() as initiator:
            other = Load(await initiator.open(0, 2), scene.directory / "other")
            await round_trip(initiator, disk)
            async with running(other):
                answer = await asyncio.to_thread(daemon.ask, "stop", "disk")
                assert (answer["stopped"], answer["already"]) == (["disk"], [])
                await hears_nothing(initiator)
                with disk.open("rb+") as file:  # nobody has it locked
                    os.lockf(file.fileno(), os.F_TLOCK, 0)
                assert rows(daemon)["disk"] == ("stopped", "e0.1")
                await asyncio.to_thread(daemon.hang_up)
                assert rows(daemon)["disk"][0] == "stopped"
                shown = daemon.ask("show", "disk")["devices"][0]
                assert (shown["state"], shown["reason"]) == ("stopped", "stopped by the operator")
                refused = daemon.ctl("clear-config", "disk")
                assert refused.status == 1
                assert "disk is stopped: 'ggaoectl start disk'" in refused.stderr
                assert daemon.ask("stop", "*k")["already"] == ["disk"]
                answer = await asyncio.to_thread(daemon.ask, "start", "disk")
                assert answer["started"] == ["disk"]
                assert rows(daemon)["disk"][0] == "serving"
                await round_trip(initiator, disk)
            assert other.remote.counters.resent == 0


HANGS: dict[str, Any] = {"path": "slow/disk", "direct_io": False, "write_cache": True}
UNFINISHED = "its store has not finished 1 request: do not take it away yet; "


@contextmanager
def hanging(scene: Scene, engine: str) -> Iterator[tuple[Daemon, SlowDisk]]:
    """A device with a write that its store does not finish."""
    with (
        scene.slow_disk() as slow,
        scene.serving(engine, device(**HANGS)) as daemon,
        scene.wire() as wire,
    ):
        slow.hold()
        wire.send(wire.write(8, b"w" * SECTOR_BYTES, tag=1))
        wait_until(lambda: daemon.counters()["in_flight"] == 1, DEADLINE_S, "a write that hangs")
        yield daemon, slow


def test_stop_says_whether_the_disk_may_be_taken_away(scene: Scene, engine: str) -> None:
    with hanging(scene, engine) as (daemon, slow):
        stopped = daemon.ctl("--json", "stop", "disk")
        assert (stopped.status, stopped.json["stopped"]) == (4, [])
        assert "disk: its store has not finished 1 request: do not take it" in stopped.stderr
        row = daemon.listed("disk")
        assert (row["state"], row["reason"]) == ("stopped", stopped.json["unfinished"]["disk"])
        assert daemon.ctl("reload").status == 0  # nobody else has to wait
        slow.release()
        assert daemon.ask("stop", "disk")["already"] == ["disk"]
        assert slow.path.read_bytes()[8 * SECTOR_BYTES :][:SECTOR_BYTES] == b"w" * SECTOR_BYTES
        with slow.path.open("rb+") as file:  # nobody has it open
            os.lockf(file.fileno(), os.F_TLOCK, 0)
        assert daemon.listed("disk")["reason"] == "stopped by the operator"


@contextmanager
def stopping(daemon: Daemon) -> Iterator[Future[Outcome]]:
    """Somebody stops the device, and waits."""
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(daemon.ctl, "--json", "stop", "disk")
        wait_until(lambda: rows(daemon)["disk"][0] == "stopped", DEADLINE_S, "a stop that waits")
        yield answer


def test_a_start_does_not_make_a_stop_forget_what_is_unfinished(scene: Scene, engine: str) -> None:
    with hanging(scene, engine) as (daemon, slow), stopping(daemon):
        started = daemon.ctl("start", "disk")
        assert (started.status, rows(daemon)["disk"][0]) == (4, "waiting")
        assert f"disk waits: {daemon.listed('disk')['reason']}\n" in started.stderr
        with stopping(daemon) as second:
            assert daemon.listed("disk")["reason"].startswith(UNFINISHED)
            slow.release()
            assert second.result().json["stopped"] == ["disk"]
        assert slow.path.read_bytes()[8 * SECTOR_BYTES :][:SECTOR_BYTES] == b"w" * SECTOR_BYTES
        with slow.path.open("rb+") as file:  # nobody has it open
            os.lockf(file.fileno(), os.F_TLOCK, 0)


def test_who_stops_is_told_that_somebody_has_started_again(scene: Scene, engine: str) -> None:
    with hanging(scene, engine) as (daemon, slow):
        with stopping(daemon) as stopped:
            daemon.ctl("start", "disk")
            slow.release()
        assert (stopped.result().status, stopped.result().json["stopped"]) == (4, [])
        assert "disk: was started again meanwhile" in stopped.result().stderr
        daemon.wait_for_state("disk", "serving")


def test_what_a_removed_device_has_not_finished_is_said(scene: Scene, engine: str) -> None:
    with hanging(scene, engine) as (daemon, slow):
        with stopping(daemon) as stopped:
            removed = daemon.ctl("remove", "disk")
            assert removed.status == 0
            assert f"disk: {UNFINISHED}the log says when it has\n" in removed.stderr
        assert (stopped.result().status, stopped.result().json["stopped"]) == (4, [])
        assert UNFINISHED in stopped.result().stderr
        slow.release()
        daemon.wait_for_log("disk: not served any more")


def test_what_a_replaced_device_has_not_finished_is_said(scene: Scene, engine: str) -> None:
    """Its old address goes on draining behind the reload, and the new one has no store yet."""
    with hanging(scene, engine) as (daemon, slow):
        daemon.reconfigure(engine, device(slot=2, **HANGS))
        assert rows(daemon)["disk"] == ("waiting", "e0.2")
        daemon.configure(engine)
        forced = daemon.ctl("reload", "--force")
        assert f"disk: {UNFINISHED}the log says when it has\n" in forced.stderr
        daemon.reconfigure(engine, device(slot=2, **HANGS))
        with stopping(daemon) as stopped:
            assert daemon.listed("disk")["reason"].startswith(UNFINISHED)
            slow.release()
        assert stopped.result().json["stopped"] == ["disk"]


async def test_auto_decides_when_a_device_is_added(scene: Scene, engine: str) -> None:
    for name in ("disk", "later"):
        scene.disk(name)
    with scene.serving(engine, device(auto=False)) as daemon:
        assert rows(daemon) == {"disk": ("stopped", "e0.1")}
        (shown,) = daemon.ask("show", "disk")["devices"]
        assert shown["reason"] == "not started, because auto = false"
        async with scene.initiator() as initiator:
            await hears_nothing(initiator)
            await asyncio.to_thread(daemon.ask, "start", "disk")
            await initiator.open(0, 1)
        daemon.reconfigure(engine, device(auto=False), device("later", 2, auto=False))
        assert {name: row[0] for name, row in rows(daemon).items()} == {
            "disk": "serving",
            "later": "stopped",
        }
        daemon.reconfigure(engine, device(auto=False), device("later", 3, auto=True))
        assert rows(daemon)["later"] == ("stopped", "e0.3")
        daemon.reconfigure(engine, device(auto=False))
        assert list(rows(daemon)) == ["disk"]
    text = daemon.config.read_text()
    daemon.start()
    assert rows(daemon)["disk"][0] == "stopped"
    assert daemon.ask("start", "disk", "--persist")["files"] == [str(daemon.config)]
    assert daemon.config.read_text() == text.replace("auto = false", "auto = true")
    assert daemon.ask("reload")["changes"] == []
    assert daemon.stop() == 0


# --- options, devices --------------------------------------------------------------------------


async def test_set_is_in_force_until_a_reload(scene: Scene, engine: str) -> None:
    scene.disk()
    with scene.serving(engine, device(queue_length=7)) as daemon:
        text = daemon.config.read_text()
        async with scene.initiator() as initiator:
            load = Load(await initiator.open(0, 1), scene.directory / "disk")
            async with running(load):
                dry = daemon.ask("set", "disk", "queue-length=9", "--dry-run")
                assert not dry["applied"]
                real = await asyncio.to_thread(daemon.ask, "set", "disk", "queue-length=9")
                assert (
                    real["changes"] == dry["changes"] == ["change disk (e0.1): queue-length 7 → 9"]
                )
                await load.more()
            assert load.remote.counters.resent == 0
        assert daemon.ask("show", "disk")["devices"][0]["queue_length"] == 9
        daemon.ask("set", "defaults", "max-delay=2ms", "advertise-interval=5")
        daemon.ask("set", "far0", "mtu=1400")
        interface = daemon.interface("far0")
        assert interface is not None
        assert interface["mtu_bytes"] == 1400
        daemon.ask("set", "disk", "--unset", "queue-length")
        listed = daemon.ask("list")
        assert listed["unsaved_devices"] == ["disk"]
        table = daemon.ctl("list").stdout
        assert "disk*" in table
        assert "not in the configuration file" in table
        assert "queue-length 7 → 64" in table
        assert daemon.config.read_text() == text
        assert any("queue-length 64 → 7" in line for line in daemon.ask("reload")["changes"])
        listed = daemon.ask("list")
        assert (listed["unsaved"], listed["unsaved_devices"]) == ([], [])


async def test_devices_are_added_and_removed(scene: Scene, engine: str) -> None:
    scene.disk()
    more = scene.disk("more disk")
    with scene.serving(engine, device()) as daemon:
        answer = daemon.ask("add", "more", f"path={more}", "slot=auto")
        assert answer["changes"] == ["add more (e0.0)"]
        async with scene.initiator() as initiator:
            await round_trip(initiator, more, slot=0)
            assert daemon.ask("remove", "d*")["changes"] == ["remove disk (e0.1)"]
            await hears_nothing(initiator)
            assert list(rows(daemon)) == ["more"]
            changes = daemon.ask("reload", "--force")["changes"]
            assert set(changes) == {"remove more (e0.0)", "add disk (e0.1)"}
            await hears_nothing(initiator, slot=0)
            await initiator.open(0, 1)


def test_relative_path_starts_where_ggaoectl_runs(scene: Scene) -> None:
    scene.disk()
    with scene.serving(device()) as daemon:
        refused = daemon.ctl("add", "more", "path=nothing here", "shelf=0", "slot=2", "--dry-run")
        assert refused.status == 0
        added = daemon.ctl("add", "more", "path=nothing here", "shelf=0", "slot=2")
        assert added.status == 0
        assert added.stdout.startswith("add more (e0.2)\nnot saved: ")
        assert "more waits: " in added.stderr
        row = daemon.listed("more")
        assert row["path"] == f"{Path(__file__).parents[2]}/nothing here"
        assert row["state"] == "waiting"


REFUSALS = [
    (("set", "dsk", "queue-length=3"), 1, "no such device or interface: did you mean 'disk'?"),
    (("set", "disk", "queue-lenght=3"), 1, "did you mean 'queue-length'?"),
    (("set", "disk", "queue-length=many"), 1, "'many' is no whole number: queue-length can be"),
    (("set", "disk", "queue-length"), 2, "is no option with a value: write it as"),
    (("set", "disk"), 2, "name what to set"),
    (("set", "disk", "slot=2"), 1, "address e0.2 of device"),
    (("add", "disk", "path=/x", "shelf=1", "slot=1"), 1, "there is one of that name"),
    (("add", "new", "path=/x", "shelf=1"), 1, "device [new] has no slot: add it"),
    (("remove", "nothing*"), 1, "nothing matches 'nothing*'"),
    (("swap", "dsk", "/x"), 1, "there is no device 'dsk': did you mean 'disk'?"),
    (("swap", "disk", "/nowhere"), 1, "nothing was changed: /nowhere: No such file"),
]
"""What is asked for, the exit status, and a part of what is said."""


def test_refusals_say_what_to_do_and_change_nothing(scene: Scene) -> None:
    scene.disk()
    with scene.serving(device(), device("other", 2)) as daemon:
        before, text = daemon.look("list"), daemon.config.read_text()
        for words, status, said in REFUSALS:
            refused = daemon.ctl(*words)
            assert (refused.status, said in refused.stderr) == (status, True), refused
            if status == 1:
                persisted = daemon.ctl(*words, "--persist")
                assert (persisted.status, said in persisted.stderr) == (status, True), persisted
                assert "error" in daemon.ctl("--json", *words).json
            assert (daemon.look("list"), daemon.config.read_text()) == (before, text), words


# --- swap --------------------------------------------------------------------------------------


async def test_swap_exchanges_the_backing_of_a_live_export(scene: Scene, engine: str) -> None:
    disk = scene.disk()
    larger, smaller = scene.disk("larger", 2 * DISK_BYTES), scene.disk("smaller", DISK_BYTES // 2)
    larger.write_bytes(b"L" * 2 * DISK_BYTES)
    with scene.serving(engine, device()) as daemon:
        async with scene.initiator() as initiator:
            remote = await initiator.open(0, 1)
            await round_trip(initiator, disk)
            refused = daemon.ctl("swap", "disk", str(smaller))
            assert refused.status == 1
            assert "2 MiB" in refused.stderr
            assert "--force" in refused.stderr
            await asyncio.to_thread(daemon.ask, "swap", "disk", str(larger))
            assert await remote.read(DISK_SECTORS - 1, 1) == b"L" * SECTOR_BYTES
            assert (await remote.identify()).size_sectors == 2 * DISK_SECTORS
            await round_trip(initiator, larger)
            assert daemon.listed("disk")["path"] == str(larger)
            await asyncio.to_thread(daemon.ask, "swap", "disk", str(smaller), "--force")
            assert (await remote.identify()).size_sectors == DISK_SECTORS // 2
            new = scene.disk("new")
            new.write_bytes(b"N" * DISK_BYTES)
            new.replace(smaller)  # another file with the same name
            await asyncio.to_thread(daemon.ask, "swap", "disk", str(smaller))
            assert await remote.read(0, 1) == b"N" * SECTOR_BYTES


async def test_swap_to_another_name_of_what_is_served(scene: Scene) -> None:
    """As by `set` and by a reload; another device cannot have the same file for all that."""
    disk = scene.disk()
    names = [scene.directory / name for name in ("symbolic", "hard")]
    names[0].symlink_to(disk)
    names[1].hardlink_to(disk)
    with scene.serving(device()) as daemon:
        async with scene.initiator() as initiator:
            for name in (*names, disk, disk):
                await asyncio.to_thread(daemon.ask, "swap", "disk", str(name))
                row = daemon.listed("disk")
                assert (row["state"], row["path"]) == ("serving", str(name))
                await round_trip(initiator, disk)
        assert daemon.ask("set", "disk", f"path={names[0]}")["warnings"] == []
        assert daemon.listed("disk")["state"] == "serving"
        assert daemon.ask("reload")["applied"]
        assert daemon.listed("disk")["state"] == "serving"
        scene.disk("other")
        assert daemon.ask("add", "other", "path=other", "shelf=0", "slot=2")["applied"]
        refused = daemon.ctl("swap", "other", str(names[1]))
        assert refused.status == 1
        assert f"nothing was changed: {names[1]}: locked" in refused.stderr


def test_swap_to_a_store_that_does_not_answer(scene: Scene) -> None:
    """It is refused, and others can change something again."""
    scene.disk()
    new = scene.disk("new")
    with scene.serving(device()) as daemon:
        with leased(new):
            refused = daemon.ctl("swap", "disk", str(new))
            assert refused.status == 1
            assert f"nothing was changed: {new}: the store does not answer" in refused.stderr
            assert daemon.ask("set", "disk", "queue-length=9")["applied"]
        assert daemon.listed("disk")["path"] == f"{scene.directory}/disk"


def test_swap_persisted_takes_the_place_of_a_uuid(scene: Scene) -> None:
    disk = scene.disk()
    free = "[defaults]\nlandlock = false\n"
    with scene.serving(free, device(path=None, uuid="1234-ABCD")) as daemon:
        daemon.ask("swap", "disk", str(disk), "--persist")
        assert daemon.listed("disk")["state"] == "serving"
        text = daemon.config.read_text()
        assert "uuid" not in text
        assert f"path = {disk}\n" in text
        assert daemon.ask("reload")["changes"] == []


# --- with the file -----------------------------------------------------------------------------


def test_persisted_changes_are_in_the_file_and_in_force(scene: Scene, engine: str) -> None:
    for name in ("disk", "more"):
        scene.disk(name)
    with scene.serving(engine, "# the disk\n", device(), "# the end\n") as daemon:
        before = daemon.config.read_text()
        answer = daemon.ask("set", "disk", "queue-length=9", "--persist")
        assert answer["files"] == [str(daemon.config)]
        assert daemon.config.read_text() == before.replace(
            "slot = 1\n", "slot = 1\nqueue-length = 9\n"
        )
        daemon.ask("set", "disk", "trace-io=true")
        path = f"path={scene.directory}/more"
        assert "written to" in daemon.ctl("add", "more", path, "slot=2", "--persist").stdout
        assert daemon.ask("list")["unsaved"] == ["change disk (e0.1): trace-io false → true"]
        assert daemon.ask("reload")["changes"] == ["change disk (e0.1): trace-io true → false"]
        assert set(rows(daemon)) == {"disk", "more"}
        daemon.ask("remove", "more", "--persist")
        daemon.ask("set", "disk", "--unset", "queue-length", "--persist")
        assert daemon.config.read_text().rstrip() == before.rstrip()
        assert daemon.ask("reload")["changes"] == []


def test_what_needs_a_restart_is_written_and_said(scene: Scene, engine: str) -> None:
    scene.disk()
    with scene.serving(engine, device()) as daemon:
        text = daemon.config.read_text()
        words = ("set", "defaults", "seccomp=false", "mtu=1400")
        refused = daemon.ctl(*words)
        assert refused.status == 1
        assert (
            "seccomp is changed only by a restart: write it into the file (--pe" in refused.stderr
        )
        assert daemon.config.read_text() == text
        waits = "needs a restart: seccomp true → false; true stays"
        answer = daemon.ask(*words, "--persist")
        assert answer["changes"][-1] == waits
        assert "\nseccomp = false\n" in daemon.config.read_text()
        assert daemon.ask("set", "disk", "queue-length=9")["changes"][-1] == waits
        assert daemon.ask("show", "daemon")["daemon"]["seccomp"]["calls"]
        assert daemon.ask("list")["unsaved"] == ["change disk (e0.1): queue-length 64 → 9"]
        assert daemon.ask("reload")["changes"][-1] == waits
    daemon.start()
    assert not daemon.ask("show", "daemon")["daemon"]["seccomp"]["calls"]
    assert daemon.stop() == 0


def test_persisted_in_toml(scene: Scene) -> None:
    scene.disk()
    daemon = scene.daemon()
    daemon.config = daemon.config.with_suffix(".toml")
    text = (
        '[defaults]\ninterfaces = ["far*"]\nstate-directory = "state"\n'
        'control-socket = "ctl"\npid-file = "pid"\n\n'
        '[devices.disk] # mine\npath = "disk"\nshelf = 0\nslot = 1\n'
    )
    daemon.config.write_text(text)
    daemon.start()
    daemon.ask("set", "disk", "queue-length=9", "--persist")
    assert daemon.config.read_text() == f"{text}queue-length = 9\n"
    assert daemon.ask("reload")["changes"] == []
    assert daemon.stop() == 0


def test_a_reload_is_quicker_than_the_daemon_is_told(scene: Scene) -> None:
    """What is in the file by then is no reason to take it out of the file again."""
    for name in ("disk", "more"):
        scene.disk(name)
    with scene.serving(device()) as daemon:
        socket = scene.directory / "ctl"
        text = daemon.config.read_text()
        options = {"path": f"{scene.directory}/more", "shelf": "0", "slot": "2"}
        for verb, params in (
            ("add", {"name": "more", "options": options}),
            ("remove", {"names": ["more"]}),
        ):
            asked: dict[str, Any] = {**params, "persisted": True}
            planned = ask(socket, verb, {**asked, "dry_run": True})
            assert len(planned["changes"]) == 1
            daemon.configure(device(), device("more", 2) if verb == "add" else "")
            assert daemon.ask("reload")["changes"] == planned["changes"]
            with pytest.raises(ControlError):
                ask(socket, verb, asked)
            with pytest.raises(ControlError):
                ask(socket, verb, {**asked, "reads": planned["reads"], "dry_run": True})
            again = ask(socket, verb, {**asked, "reads": planned["reads"]})
            assert (again["applied"], again["changes"]) == (True, [])
        assert daemon.config.read_text() == text
        assert list(rows(daemon)) == ["disk"]


def test_file_that_cannot_have_it_keeps_all_as_it_is(scene: Scene) -> None:
    scene.disk()
    with scene.serving(device()) as daemon:
        broken = daemon.config.read_text() + "nonsense\n"
        daemon.config.write_text(broken)
        refused = daemon.ctl("set", "disk", "queue-length=9", "--persist")
        assert refused.status == 1
        assert "nonsense" in refused.stderr
        assert "nothing was changed: the file cannot have it" in refused.stderr
        assert daemon.config.read_text() == broken
        assert daemon.ask("show", "disk")["devices"][0]["queue_length"] == 64


def test_export_without_a_file_can_be_changed_but_not_persisted(scene: Scene) -> None:
    disk, socket = scene.disk(), str(scene.directory / "socket")
    argv = ("export", str(disk), "--interface", "far0", "--slot", "1", "--control-socket", socket)
    daemon = scene.daemon()
    with daemon.log.open("ab") as log:
        daemon.process = scene.target.spawn(*GGAOE, *argv, stdout=log, stderr=log)
    daemon.wait_for_log("ready: ")
    assert daemon.ctl("--socket", socket, "set", "disk", "queue-length=9").status == 0
    refused = daemon.ctl("--socket", socket, "set", "disk", "queue-length=9", "--persist")
    assert refused.status == 1
    assert "no configuration file" in refused.stderr
    assert daemon.stop() == 0


# --- check --diff ------------------------------------------------------------------------------


def test_check_tells_what_a_reload_would_do(scene: Scene) -> None:
    scene.disk()
    with scene.serving(device()) as daemon:
        same = scene.ggaoe("check", "-c", str(daemon.config), "--diff")
        assert (same.status, same.stdout) == (0, "no changes\n")
        daemon.ask("set", "disk", "queue-length=9")
        daemon.configure(device(read_only=True), device("new", 2), "[defaults]\npid-file = pid2\n")
        told = scene.ggaoe("check", "-c", str(daemon.config), "--diff")
        assert told.stdout.splitlines() == daemon.ask("reload", "--dry-run")["changes"]
        pid = scene.directory / "pid"
        assert told.stdout.splitlines() == [
            "reopen disk (e0.1): read-only false → true, queue-length 9 → 64",
            "add new (e0.2)",
            f"needs a restart: pid-file {pid} → {pid}2; {pid} stays",
        ]
        plan = scene.ggaoe("check", "-c", str(daemon.config), "--diff", "--json").json["plan"]
        assert plan["added"] == [{"name": "new", "address": "e0.2"}]
        assert plan["changed"][0]["how"] == "reopen"
        assert {"key": "queue-length", "old": "9", "new": "64"} in plan["changed"][0]["options"]
        assert plan == daemon.ask("reload", "--dry-run")["plan"]
        daemon.configure(device())
        daemon.ask("reload")
        scene.disk("new").replace(scene.directory / "disk")
        automatic = device("x", slot="auto") + device("y", slot="auto")
        daemon.configure(device(), automatic, "[defaults]\nstate-directory = .\n")
        scene.directory.joinpath("slots.map").write_bytes(slots.encode({0: {"y": 7}}))
        plan = scene.ggaoe("check", "-c", str(daemon.config), "--diff", "--json").json["plan"]
        assert plan == daemon.ask("reload", "--dry-run")["plan"]
        assert [one["how"] for one in plan["changed"]] == ["reopen"]
        assert [one["address"] for one in plan["added"]] == ["e0.0", "e0.2"]
    alone = scene.ggaoe("check", "-c", str(daemon.config), "--diff")
    assert alone.status == 1
    assert "cannot reach the daemon" in alone.stderr


# --- several files, templates, automatic slots -------------------------------------------------


def test_included_files_are_read_by_a_confined_daemon(scene: Scene, engine: str) -> None:
    for name in ("a", "b"):
        scene.disk(name)
    files, main = scene.directory / "files", "[defaults]\ninclude = files/*.conf\n"
    files.mkdir()
    (files / "a.conf").write_text(device("a", 1, path="../a"))
    with scene.serving(engine, main) as daemon:
        assert rows(daemon) == {"a": ("serving", "e0.1")}
        (files / "b.conf").write_text(device("b", 2, path="../b"))
        assert daemon.ask("reload")["changes"] == ["add b (e0.2)"]
        assert rows(daemon)["b"] == ("serving", "e0.2")
        (files / "b.conf").write_text(device("b", 2, path="../b") + "queue-lenght = 3\n")
        refused = daemon.ctl("reload")
        assert refused.status == 1
        assert f"{files}/b.conf:5:1: unknown option 'queue-lenght'" in refused.stderr
        (files / "b.conf").unlink()
        daemon.ask("set", "a", "queue-length=3", "--persist")
        assert (files / "a.conf").read_text().endswith("queue-length = 3\n")
        assert daemon.ask("reload")["changes"] == ["remove b (e0.2)"]


def test_what_landlock_keeps_from_a_reload_is_said(scene: Scene, tmp_path_factory: Any) -> None:
    scene.disk()
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "more.conf").write_text("")
    with scene.serving(device()) as daemon:
        if daemon.ask("show", "daemon")["daemon"]["landlock"]["reason"] is not None:
            pytest.skip("no Landlock here")
        for name in ("more.conf", "*.conf"):
            daemon.configure(device(), f"[defaults]\ninclude = {elsewhere}/{name}\n")
            refused = daemon.ctl("reload")
            assert refused.status == 1
            assert "Permission denied; " in refused.stderr
            assert "restart" in refused.stderr
            for told in (daemon.ctl("reload", "--dry-run"), check_diff(scene, daemon)):
                assert (told.status, told.stdout) == (1, "")
                assert refused.stderr.splitlines()[0] in told.stderr
        assert list(rows(daemon)) == ["disk"]


def check_diff(scene: Scene, daemon: Daemon, *options: str) -> Outcome:
    return scene.ggaoe("check", "-c", str(daemon.config), "--diff", *options)


def test_a_dry_run_tells_what_the_confined_daemon_cannot_reach(
    scene: Scene, engine: str, tmp_path_factory: Any
) -> None:
    """So does `check --diff`, of the daemon's file and of another one."""
    disk = scene.disk()
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shutil.copy(disk, elsewhere / "disk")
    with scene.serving(engine, device()) as daemon:
        if daemon.ask("show", "daemon")["daemon"]["landlock"]["reason"] is not None:
            pytest.skip("no Landlock here")
        outside = (device("outside", 2, path=elsewhere / "disk"), device("missing", 3))
        template = f"[template vms]\npath = {elsewhere}/d*\nshelf = 1\n"
        other = daemon.config.with_name("other.conf")
        daemon.configure(engine, device(), *outside, template)
        other.write_text(daemon.config.read_text())
        told = scene.ggaoe("check", "-c", other, "--diff", "--socket", scene.directory / "ctl")
        assert "add outside (e0.2)" in told.stdout
        assert f"a reload would be refused: {elsewhere} cannot be searched: " in told.stderr
        daemon.configure(engine, device(), *outside)
        reload = daemon.ctl("reload", "--dry-run")
        for seen in (told, reload, check_diff(scene, daemon)):
            assert "outside would wait: " in seen.stderr
            assert f"Landlock was set up at the start without {elsewhere}: restart" in seen.stderr
            assert "missing would wait: " in seen.stderr
        assert daemon.ask("reload")["applied"]
        reasons = {name: daemon.listed(name)["reason"] for name in ("outside", "missing")}
        for name, reason in reasons.items():
            assert f"{name} would wait: {reason}\n" in reload.stderr


def test_a_directory_of_includes_may_be_made_after_the_start(scene: Scene, engine: str) -> None:
    for name in ("a", "b"):
        scene.disk(name)
    main = "[defaults]\ninclude = files/more/*.conf\n"
    with scene.serving(engine, main, device("a")) as daemon:
        assert daemon.ask("reload")["changes"] == []
        files = scene.directory / "files" / "more"
        files.mkdir(parents=True)
        (files / "b.conf").write_text(device("b", 2, path="../../b"))
        assert daemon.ask("reload")["changes"] == ["add b (e0.2)"]
        assert rows(daemon)["b"] == ("serving", "e0.2")


# --- what initiators would miss ----------------------------------------------------------------


async def test_a_reload_that_takes_a_used_disk_away_has_to_be_forced(
    scene: Scene, engine: str
) -> None:
    for name in ("disk", "idle", "more"):
        scene.disk(name)
    host = scene.host.mac("near0").hex(":")
    filed = (engine, device(), device("idle", 2))
    with scene.serving(*filed) as daemon:
        added = daemon.ctl(
            "add", "more", f"path={scene.directory}/more", "shelf=0", "slot=3", "queue-length=8"
        )
        assert added.stdout.endswith(
            "not saved: the next reload takes it back (--persist saves it)\n"
        )
        async with scene.initiator() as initiator:
            await (await initiator.open(0, 3)).write(0, b"x" * SECTOR_BYTES)
            used = f"{host} has used more (e0.3), was heard "
            assert f"needs --force: {used}" in daemon.ctl("reload", "--dry-run").stderr
            assert f"needs --force: {used}" in check_diff(scene, daemon).stderr
            refused = daemon.ctl("reload")
            assert (refused.status, refused.stdout) == (1, "")
            assert used in refused.stderr
            assert "ggaoectl reload --force" in refused.stderr
            daemon.hang_up()
            assert f"reload refused: {used}" in daemon.log_text()
            assert daemon.listed("more")["state"] == "serving"
            daemon.configure(engine, device(), device("more", 4, queue_length=8))
            moved = daemon.ctl("reload")
            assert (moved.status, "its address would become e0.4" in moved.stderr) == (1, True)
            daemon.configure(engine, device())  # nobody uses the other one
            assert daemon.ask("remove", "more")["applied"]
            assert daemon.ask("reload")["changes"] == ["remove idle (e0.2)"]


def test_a_reload_that_takes_all_disks_away_has_to_be_forced(scene: Scene, engine: str) -> None:
    for name in ("disk", "other"):
        scene.disk(name)
    with scene.serving(engine, device(), device("other", 2)) as daemon:
        daemon.configure(engine)
        text = "every device would be removed (2)"
        for refused in (daemon.ctl("reload"), daemon.ctl("reload", "--dry-run")):
            assert text in refused.stderr
        daemon.hang_up()
        assert f"reload refused: {text}: 'ggaoectl reload --force'" in daemon.log_text()
        assert len(rows(daemon)) == 2
        assert len(daemon.ask("reload", "--force")["changes"]) == 2
        assert rows(daemon) == {}


def test_what_is_saved_and_what_is_not_is_said(scene: Scene, engine: str) -> None:
    scene.disk()
    with scene.serving(engine, device(queue_length=8)) as daemon:
        for options, saved in (
            (["queue-length=9"], False),
            (["queue-length=9", "--persist"], True),
            (["queue-length=8"], False),
            (["queue-length=9"], True),  # as the file has it
        ):
            told = daemon.ctl("set", "disk", *options).stdout
            assert ("not saved: " in told) != saved, (options, told)
        told = daemon.ctl("set", "defaults", "advertise-interval=5").stdout
        assert "not saved: " in told


def test_a_disk_is_not_exchanged_for_one_that_is_missing(scene: Scene, engine: str) -> None:
    """By `set` as by `swap`; nothing changes for who uses it."""
    scene.disk()
    small = scene.disk("small", MIB)
    with scene.serving(engine, device()) as daemon:
        for option, why in (
            (f"path={scene.directory}/nothere", "No such file or directory"),
            (f"path={small}", "and hosts know disk with 4 MiB"),
        ):
            for dry_run in ([], ["--dry-run"]):
                refused = daemon.ctl("set", "disk", option, *dry_run)
                assert refused.status == 1
                assert "nothing was changed: " in refused.stderr
                assert why in refused.stderr
        assert daemon.listed("disk")["state"] == "serving"
        assert daemon.ctl("set", "disk", f"path={scene.disk('other')}").status == 0


async def test_template_exports_what_matches_with_stable_slots(scene: Scene, engine: str) -> None:
    volumes = scene.directory / "vg"
    volumes.mkdir()
    for name in ("a", "b"):
        scene.disk(f"vg/{name}")
    template = "[template vms]\npath = vg/*\nshelf = 0\n"
    with scene.serving(engine, template) as daemon:
        assert rows(daemon) == {"vms-a": ("serving", "e0.0"), "vms-b": ("serving", "e0.1")}
        scene.disk("vg/aa")
        assert len(rows(daemon)) == 2  # not before a reload
        assert daemon.ask("reload")["changes"] == ["add vms-aa (e0.2)"]
        async with scene.initiator() as initiator:
            await round_trip(initiator, volumes / "aa", slot=2)
        (volumes / "a").unlink()
        assert daemon.ask("reload")["changes"] == ["remove vms-a (e0.0)"]
        refused = daemon.ctl("remove", "vms-b", "--persist")
        assert refused.status == 1
        assert "vg/b of template [vms]: narrow its pattern, or 'ggaoectl stop" in refused.stderr
        text = daemon.config.read_text()
        daemon.ask("set", "vms-b", "queue-length=3", "--persist")
        daemon.ask("stop", "vms-b", "--persist")
        section = "\n[vms-b]\nqueue-length = 3\nauto = false\n"
        assert daemon.config.read_text() == text + section
        assert daemon.ask("reload")["changes"] == []
    scene.disk("vg/0")
    daemon.start()
    assert {name: row[1] for name, row in rows(daemon).items()} == {
        "vms-0": "e0.3",
        "vms-aa": "e0.2",
        "vms-b": "e0.1",
    }
    assert rows(daemon)["vms-b"][0] == "stopped"
    assert daemon.stop() == 0


def test_damaged_memory_of_slots_is_told(scene: Scene) -> None:
    scene.disk()
    with scene.serving("[defaults]\nshelf = 0\n", device(shelf=None, slot="auto")) as daemon:
        assert rows(daemon) == {"disk": ("serving", "e0.0")}
        memory = scene.directory / "state" / "slots.map"
        good = memory.read_bytes()
        memory.write_bytes(good[:-9])
        refused = daemon.ctl("reload")
        assert refused.status == 1
        assert f"{memory}: is damaged or not ours" in refused.stderr
        assert rows(daemon) == {"disk": ("serving", "e0.0")}
        memory.write_bytes(good)
        assert daemon.ask("reload")["changes"] == []
