"""Two targets do not serve one address on one interface, whatever they are, and both say so."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ggaoe.cli import ggaoectl
from ggaoe.proto.frame import SECTOR_BYTES
from helpers.needs import requires_program
from helpers.netns import Namespace, Process, veth, wait_until
from helpers.targets import REPOSITORY, Vblade
from integration.scene import DEADLINE_S, GGAOE, Daemon, Scene, device

pytestmark = pytest.mark.one_engine

DATA = b"once".ljust(SECTOR_BYTES, b".")


def second(scene: Scene, *sections: str, namespace: Namespace | None = None) -> Daemon:
    """Another daemon, with files of its own; on the host's side where its namespace is given."""
    scene.directory.joinpath("state2").mkdir()
    lines = ["state-directory = state2", "pid-file = pid2", "control-socket = ctl2"]
    if namespace is not None:
        lines.append("interfaces = near0")
    daemon = Daemon(namespace or scene.target, scene.directory, "second")
    scene.logs.append(daemon.log)
    daemon.configure("\n".join(["[defaults]", *lines, ""]), *sections)
    return daemon


def launch(scene: Scene, name: str, *arguments: str | Path) -> Process:
    """`ggaoe ARGUMENTS` in the target's network, with a log of that name."""
    log = scene.directory / f"{name}.log"
    scene.logs.append(log)
    with log.open("wb") as file:
        return scene.target.spawn(*GGAOE, *arguments, stdout=file, stderr=file, cwd=REPOSITORY)


def logged(scene: Scene, name: str, text: str) -> None:
    log = scene.directory / f"{name}.log"
    wait_until(lambda: text in log.read_text(), DEADLINE_S, f"{text!r} in {log}")


@contextmanager
def holding(scene: Scene, kind: str, disk: Path) -> Iterator[Process]:
    """A target that has e0.1 on far0, and can be killed."""
    if kind == "daemon":
        daemon = scene.daemon(device(path=disk))
        daemon.start()
        process = daemon.running
    elif kind == "export":
        options = ("--interface", "far0", "--slot", "1", "--no-seccomp", "--no-landlock")
        process = launch(scene, "first", "export", disk, *options)
        logged(scene, "first", "ready: ")
    else:
        process = launch(scene, "first", "vblade", "0", "1", "far0", disk)
        logged(scene, "first", "e0.1, ")
    yield process
    process.kill()


async def write(scene: Scene, data: bytes) -> None:
    async with scene.initiator() as initiator:
        remote = await initiator.open(0, 1)
        await remote.write(0, data)
        await remote.flush()


def start_of(disk: Path) -> bytes:
    with disk.open("rb") as file:
        return file.read(SECTOR_BYTES)


# --- on one interface of one machine -----------------------------------------------------------


@pytest.mark.parametrize("kind", ["daemon", "export", "vblade"])
async def test_a_daemon_waits_for_the_address(open_scene: Scene, kind: str) -> None:
    """However the other one ends: nothing is left of it that would have to be removed."""
    scene = open_scene
    first, other = scene.disk(), scene.disk("other")
    other.chmod(0o666)
    daemon = second(scene, "[defaults]\nuser = nobody\n", device(path=other))
    shutil.chown(scene.directory / "state2", "nobody")
    with holding(scene, kind, first) as holder:
        daemon.start()
        row = daemon.listed("disk")
        assert (row["state"], row["interfaces"]) == ("conflict", [])
        assert re.fullmatch(r"not served on far0 because ggaoe, process \d+ has it", row["reason"])
        await write(scene, DATA)
        holder.kill()
        daemon.wait_for_state("disk", "serving")
    assert (start_of(first), start_of(other)) == (DATA, bytes(SECTOR_BYTES))
    assert daemon.listed("disk")["reason"] is None
    assert "address conflict on far0 has ended" in daemon.log_text()
    await write(scene, DATA)
    assert start_of(other) == DATA
    assert daemon.stop() == 0


@pytest.mark.parametrize("kind", ["export", "vblade"])
def test_a_command_does_not_take_the_address_of_a_daemon(scene: Scene, kind: str) -> None:
    scene.disk()
    other = scene.disk("other")
    arguments: list[str | Path] = ["vblade", "0", "1", "far0", other]
    if kind == "export":
        arguments = ["export", other, "--interface", "far0", "--slot", "1"]
    with scene.serving(device()) as daemon:
        outcome = scene.ggaoe(*arguments)
        assert outcome.status == 1
        text = rf"not served on far0 because ggaoe, process {daemon.running.pid} has it"
        assert re.search(text, outcome.stderr), outcome.stderr
        assert daemon.listed("disk")["interfaces"] == ["far0"]


def test_an_export_waits_for_the_address_when_told_to(scene: Scene) -> None:
    """As its unit does, so that a restart of the one that serves is not its chance."""
    scene.disk()
    other = scene.disk("other")
    control = scene.directory / "control"
    with scene.serving(device()):
        options = ("--interface", "far0", "--slot", "1", "--wait", "--control-socket", control)
        process = launch(scene, "waiting", "export", other, *options)
        logged(scene, "waiting", "ready: ")
        listed = ggaoectl.ask(control, "list", {})["devices"]
        assert [row["state"] for row in listed] == ["conflict"]
    logged(scene, "waiting", "has ended")
    assert process.stop() == 0


def test_both_sides_say_it(scene: Scene) -> None:
    scene.disk()
    scene.disk("other")
    daemon = second(scene, device(path="other"))
    with scene.serving(device()) as first:
        daemon.start()
        pid = daemon.ask("version")["pid"]
        first.wait_for_state("disk", "conflict")
        row = first.listed("disk")
        assert row["interfaces"] == ["far0"]
        text = f"served on far0, but process {pid} of this machine waits to serve it"
        assert row["reason"] == text
        states = re.findall(r'state="(\w+)"} 1', first.ctl("metrics").stdout)
        assert states == ["conflict"]
        events = [one["event"] for one in first.ask("events", "--recent")["events"]]
        assert "conflict" in events
        assert daemon.stop() == 0
        first.wait_for_state("disk", "serving")
        events = [one["event"] for one in first.ask("events", "--recent")["events"]]
        assert "conflict-ended" in events


def test_what_is_stopped_or_removed_leaves_its_address(scene: Scene) -> None:
    for name in ("disk", "more", "other"):
        scene.disk(name)
    daemon = second(scene, device(path="other"), device("next", 2, path="more"))
    with scene.serving(device()) as first:
        daemon.start()
        assert daemon.listed("next")["state"] == "serving"
        assert first.ctl("stop", "disk").status == 0
        daemon.wait_for_state("disk", "serving")
        started = first.ctl("start", "disk")
        assert (started.status, "disk waits: not served on far0" in started.stderr) == (4, True)
        assert first.listed("disk")["state"] == "conflict"
        # An address that is new after the confinement is claimed, too.
        assert first.ctl("set", "disk", "slot=2").status == 0
        assert first.listed("disk")["state"] == "conflict"
        assert daemon.ctl("remove", "next").status == 0
        first.wait_for_state("disk", "serving")
        assert daemon.listed("disk")["state"] == "serving"
    assert daemon.stop() == 0


def test_another_interface_is_not_concerned(scene: Scene) -> None:
    scene.disk()
    scene.disk("other")
    veth(scene.host, "near1", scene.target, "apart0")
    daemon = second(scene, "[defaults]\ninterfaces = apart0\n", device(path="other"))
    with scene.serving(device()) as first:
        daemon.start()
        assert daemon.listed("disk")["state"] == "serving"
        assert first.listed("disk")["state"] == "serving"
        assert daemon.stop() == 0


def test_exports_without_a_slot_get_different_ones(scene: Scene) -> None:
    requires_program("vblade")
    there = Vblade(scene.target, ["far0"], scene.disk("there"), scene.directory, 0, 1)
    remote = Vblade(scene.host, ["near0"], scene.disk("remote"), scene.directory, 0, 2)
    there.start()
    remote.start()
    processes = []
    scene.target.ip("link set lo up")  # which no pattern means
    for number, slot, pattern in ((1, 0, "far0"), (2, 3, "far*"), (3, 4, "*")):
        disk = scene.disk(f"disk{number}")
        processes.append(launch(scene, disk.name, "export", disk, "--interface", pattern))
        logged(scene, disk.name, "ready: ")
        text = (scene.directory / f"{disk.name}.log").read_text()
        assert f"ggaoe: e0.{slot} is the first free address on far0\n" in text
        assert f"(e0.{slot}): opened " in text
    for process in processes:
        assert process.stop() == 0
    there.stop()
    remote.stop()


# --- on the network ----------------------------------------------------------------------------


async def test_the_network_is_asked_first(scene: Scene) -> None:
    requires_program("vblade")
    disk = scene.disk()
    other = Vblade(scene.host, ["near0"], scene.disk("other"), scene.directory, 0, 1)
    other.start()
    mac = scene.host.mac("near0").hex(":")
    daemon = scene.daemon(device(), device("free", 2, path="free"))
    scene.disk("free")
    daemon.start()
    row = daemon.listed("disk")
    assert (row["state"], row["interfaces"]) == ("conflict", [])
    assert row["reason"] == f"not served on far0 because {mac} replies for it"
    assert daemon.listed("free")["state"] == "serving"
    other.stop()
    daemon.wait_for_state("disk", "serving")
    await write(scene, DATA)
    assert start_of(disk) == DATA
    other.start()  # the daemon has the initiators now, and goes on
    daemon.wait_for_state("disk", "conflict")
    row = daemon.listed("disk")
    assert row["interfaces"] == ["far0"]
    assert row["reason"] == f"served on far0, but {mac} replies for it"
    other.stop()
    daemon.wait_for_state("disk", "serving")
    assert daemon.stop() == 0


def test_a_pair_of_machines_fails_over(scene: Scene) -> None:
    scene.disk()
    scene.disk("other")
    one = scene.daemon(device())
    two = second(scene, device(path="other"), namespace=scene.host)
    one.start()
    two.start()
    assert two.listed("disk")["state"] == "conflict"
    one.wait_for_state("disk", "conflict")
    assert one.listed("disk")["interfaces"] == ["far0"]
    assert "waits to serve it" in one.listed("disk")["reason"]
    assert not one.look("stats", "disk")["initiators"]["disk"]  # a target is no initiator
    one.kill()
    two.wait_for_state("disk", "serving")
    one.start()
    assert one.listed("disk")["state"] == "conflict"
    assert two.stop() == 0
    one.wait_for_state("disk", "serving")
    assert one.stop() == 0


def test_a_device_that_comes_late_asks_again(scene: Scene) -> None:
    """While nothing was known of it, another target has found the address free."""
    scene.disk()
    scene.disk("other")
    one = scene.daemon(device())
    saved = scene.directory / "state" / "disk.json"
    saved.write_text("damaged")
    two = second(scene, device(path="other"), namespace=scene.host)
    one.start()
    assert one.listed("disk")["state"] == "waiting"
    two.start()
    assert two.listed("disk")["state"] == "serving"
    saved.unlink()
    one.wait_for_state("disk", "conflict")
    row = one.listed("disk")
    mac = scene.host.mac("near0").hex(":")
    assert (row["interfaces"], row["reason"]) == (
        [],
        f"not served on far0 because {mac} replies for it",
    )
    assert two.stop() == 0
    one.wait_for_state("disk", "serving")
    assert one.stop() == 0


# --- other programs on the same interface ------------------------------------------------------


def findings(scene: Scene, daemon: Daemon) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = scene.ggaoe("doctor", "--json", "-c", daemon.config).json[
        "findings"
    ]
    return [row for row in rows if row["check"] == "addresses"]


def test_a_forgotten_vblade_on_the_same_interface(scene: Scene) -> None:
    """Neither hears the other; the kernel's table of sockets shows it."""
    requires_program("vblade")
    scene.disk()
    scene.disk("free")
    other = Vblade(scene.target, ["far0"], scene.disk("other"), scene.directory, 0, 1)
    other.start()
    who = rf"vblade, process {other.processes[0].pid}"
    daemon = scene.daemon(device(), device("free", 2))
    (row,) = findings(scene, daemon)
    assert (row["severity"], row["where"]) == ("error", "disk")
    assert row["what"] == f"e0.1 is served on far0 by {who} as well"
    daemon.start()
    row = daemon.listed("disk")
    assert (row["state"], row["interfaces"]) == ("conflict", [])
    assert re.fullmatch(r"not served on far0 because vblade, process \d+ serves it", row["reason"])
    assert daemon.listed("free")["state"] == "serving"
    other.stop()
    daemon.wait_for_state("disk", "serving")
    other.start()  # which the confined daemon sees, and cannot look into
    daemon.wait_for_log("far0: another program (user 0, socket ")
    assert "another program" in (daemon.interface("far0") or {})["reason"]
    who = rf"vblade, process {other.processes[0].pid}"
    texts = [row["what"] for row in findings(scene, daemon) if row["severity"] == "error"]
    assert texts == [f"e0.1 is served on far0 by {who} as well"]
    other.stop()
    wait_until(
        lambda: (daemon.interface("far0") or {})["reason"] is None, DEADLINE_S, "no other program"
    )
    assert daemon.stop() == 0


def test_what_is_no_rival_raises_no_alarm(scene: Scene) -> None:
    """A target of other addresses, a daemon of other addresses, and tools."""
    requires_program("vblade")
    scene.disk()
    scene.disk("other")
    other = Vblade(scene.target, ["far0"], scene.disk("third"), scene.directory, 7, 1)
    daemon = second(scene, device("other", 2))
    with scene.serving(device()) as first:
        other.start()
        daemon.start()
        tool = scene.target.spawn(
            *GGAOE, "ping", "e0.1", "-i", "far0", stdout=subprocess.DEVNULL, cwd=REPOSITORY
        )
        assert [row["severity"] for row in findings(scene, first)] == ["ok"]
        for one, name in ((first, "disk"), (daemon, "other")):
            assert one.listed(name)["state"] == "serving"
        tool.kill()
        assert daemon.stop() == 0
        other.stop()
        assert " critical: " not in first.log_text()


def test_a_program_that_cannot_be_told_is_a_warning(scene: Scene) -> None:
    """Its socket says that it hears AoE, and nothing else of it is known."""
    scene.disk()
    code = (
        "import socket, time; s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, "
        "socket.htons(0x88A2)); s.bind(('far0', 0x88A2)); "
        "print('ready', flush=True); time.sleep(600)"
    )
    program = scene.target.spawn(sys.executable, "-c", code, stdout=subprocess.PIPE)
    assert program.stdout is not None
    assert program.stdout.readline() == b"ready\n"
    daemon = scene.daemon(device())
    rows = findings(scene, daemon)
    assert [(row["severity"], row["where"]) for row in rows] == [("warning", "far0")]
    assert f"process {program.pid} receives AoE here" in rows[0]["what"]
    daemon.start()
    assert daemon.listed("disk")["state"] == "serving"
    daemon.wait_for_log("far0: another program (user 0, socket ")
    program.kill()
    assert daemon.stop() == 0
