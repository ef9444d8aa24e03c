"""Starts that fail say why in one line; those that succeed serve, in the foreground or behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from helpers.needs import requires_program
from helpers.netns import wait_until
from integration.scene import (
    DEADLINE_S,
    DISK_BYTES,
    GGAOE,
    GGAOECTL,
    Daemon,
    Outcome,
    Received,
    Scene,
    device,
)

SLOW_OPEN_US = 300_000

DISK = device()


def errors_of(outcome: Outcome) -> list[str]:
    """The lines on stderr, but for the one that a machine without syslog causes."""
    return [line for line in outcome.stderr.splitlines() if "no syslog listens" not in line]


def is_running(pid: int) -> bool:
    """Whether a process, which need not be our child, has not ended."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


# --- starts that fail --------------------------------------------------------------------------


def no_such_interface(scene: Scene) -> tuple[Daemon, str]:
    daemon = scene.daemon(device(interfaces="far0, eth9"))
    return daemon, "ggaoe: interface eth9 does not exist (there are: far0, lo): "


def missing_state_directory(scene: Scene) -> tuple[Daemon, str]:
    daemon = scene.daemon("[defaults]\nstate-directory = nowhere\n", DISK)
    return daemon, f"ggaoe: state directory {scene.directory}/nowhere does not exist: create it, "


def file_as_control_socket(scene: Scene) -> tuple[Daemon, str]:
    (scene.directory / "ctl").write_text("precious")
    return scene.daemon(DISK), f"ggaoe: control socket {scene.directory}/ctl: a file that is no "


def file_as_pid_file(scene: Scene) -> tuple[Daemon, str]:
    (scene.directory / "pid").write_text("precious")
    return scene.daemon(DISK), f"ggaoe: pid file {scene.directory}/pid: a file that holds no "


def missing_file(scene: Scene) -> tuple[Daemon, str]:
    daemon = scene.daemon()
    daemon.config.unlink()
    return daemon, f"ggaoe: {daemon.config}: cannot be read: No such file or directory; name "


def one_address_twice(scene: Scene) -> tuple[Daemon, str]:
    daemon = scene.daemon(device("one"), device("two"))
    return daemon, "e0.1"


FAILURES: list[Callable[[Scene], tuple[Daemon, str]]] = [
    no_such_interface,
    missing_state_directory,
    file_as_control_socket,
    file_as_pid_file,
    missing_file,
    one_address_twice,
]


@pytest.mark.one_engine
@pytest.mark.parametrize("background", [False, True], ids=["foreground", "background"])
@pytest.mark.parametrize("failure", FAILURES)
def test_a_start_that_fails_is_one_clear_line(
    scene: Scene, failure: Callable[[Scene], tuple[Daemon, str]], background: bool
) -> None:
    scene.disk()
    daemon, expected = failure(scene)
    outcome = scene.ggaoe("-c", daemon.config, *(["-d"] if background else []))
    assert outcome.status == 1
    (line,) = errors_of(outcome)
    assert expected in line
    for name in ("ctl", "pid"):
        path = scene.directory / name
        assert not path.exists() or path.read_text() == "precious"


@pytest.mark.one_engine
@pytest.mark.parametrize("background", [False, True], ids=["foreground", "background"])
def test_without_the_privilege_it_asks_for_it(scene: Scene, background: bool) -> None:
    requires_program("setpriv")
    scene.disk()
    daemon = scene.daemon(DISK)
    arguments = ["-c", daemon.config, *(["-d"] if background else [])]
    outcome = scene.run("setpriv", "--bounding-set=-all", "--inh-caps=-all", *GGAOE, *arguments)
    assert outcome.status == 1
    (line,) = errors_of(outcome)
    assert line.startswith("ggaoe: needs CAP_NET_RAW ")


@pytest.mark.one_engine
@pytest.mark.parametrize("background", [False, True], ids=["foreground", "background"])
def test_every_problem_of_the_configuration_is_told(scene: Scene, background: bool) -> None:
    daemon = scene.daemon(device(slot=300, patth="x", path=None), "[nothing]\ncolour = blue\n")
    outcome = scene.ggaoe("-c", daemon.config, *(["-d"] if background else []))
    assert outcome.status == 1
    lines = errors_of(outcome)
    assert len(lines) >= 3
    assert all(line.startswith(f"ggaoe: {daemon.config}:") for line in lines)
    assert any("did you mean" in line and "path" in line for line in lines), lines


@pytest.mark.one_engine
def test_a_second_daemon_is_refused_and_the_first_goes_on(scene: Scene) -> None:
    scene.disk()
    scene.disk("other")
    with scene.serving(DISK) as first:
        pid = (scene.directory / "pid").read_text().strip()
        second = scene.daemon(device("other", 2), name="second")
        outcome = scene.ggaoe("-c", second.config)
        assert outcome.status == 1
        (line,) = errors_of(outcome)
        assert line.startswith(f"ggaoe: pid file {scene.directory}/pid: ggaoe runs already, ")

        (scene.directory / "state2").mkdir()
        second.configure(
            "[defaults]\npid-file = pid2\nstate-directory = state2\n", device("other", 2)
        )
        outcome = scene.ggaoe("-c", second.config)
        assert outcome.status == 1
        (line,) = errors_of(outcome)
        assert line.startswith(f"ggaoe: control socket {scene.directory}/ctl is in use by another")
        assert not (scene.directory / "pid2").exists()

        second.configure("[defaults]\npid-file = p2\ncontrol-socket = c2\n", device("other", 2))
        outcome = scene.ggaoe("-c", second.config)
        assert outcome.status == 1
        (line,) = errors_of(outcome)
        owner = f"in use by process {first.running.pid}; stop it, or set another state-directory"
        assert line == f"ggaoe: state directory {scene.directory}/state: {owner}"

        assert first.listed("disk")["state"] == "serving"
        assert (scene.directory / "pid").read_text().strip() == pid


def test_what_a_killed_daemon_left_does_not_matter(scene: Scene) -> None:
    scene.disk()
    daemon = scene.daemon(DISK)
    daemon.start()
    daemon.kill()
    assert (scene.directory / "ctl").exists()
    assert (scene.directory / "pid").exists()
    daemon.start()
    assert daemon.listed("disk")["state"] == "serving"
    assert daemon.stop() == 0
    assert not (scene.directory / "ctl").exists()
    assert not (scene.directory / "pid").exists()


# --- starts that succeed -----------------------------------------------------------------------


@pytest.mark.one_engine
def test_in_the_background_it_is_detached_and_stops_on_sigterm(scene: Scene) -> None:
    scene.disk()
    daemon = scene.daemon(DISK)
    outcome = scene.ggaoe("-c", os.path.relpath(daemon.config), "-d")
    pid = int((scene.directory / "pid").read_text())
    try:
        assert outcome.status == 0
        assert not [line for line in errors_of(outcome) if " info: " not in line]
        assert daemon.listed("disk")["state"] == "serving"
        assert daemon.ask("version")["pid"] == pid
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        parent, session, terminal = int(fields[1]), int(fields[3]), int(fields[4])
        assert parent != os.getpid()
        assert session not in (pid, os.getsid(0))
        assert terminal == 0
        assert Path(f"/proc/{pid}/cwd").readlink() == Path("/")
        opened = {Path(f"/proc/{pid}/fd/{fd}").readlink() for fd in (0, 1, 2)}
        assert opened == {Path("/dev/null")}
    finally:
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not is_running(pid), DEADLINE_S, "end of the daemon")
    assert not (scene.directory / "pid").exists()
    assert not (scene.directory / "ctl").exists()


@pytest.mark.one_engine
def test_sigint_stops_it_like_sigterm(scene: Scene) -> None:
    scene.disk()
    daemon = scene.daemon(DISK)
    daemon.wrapper = ("env", "--default-signal=INT")  # a test run in the background ignores it
    daemon.start()
    daemon.running.signal(signal.SIGINT)
    assert daemon.running.wait() == 0
    assert "stopped" in daemon.log_text()


async def test_export_serves_a_file_without_configuration(scene: Scene) -> None:
    disk = scene.disk().relative_to(Path("/"))
    control = scene.directory / "ctl"
    log = scene.directory / "export.log"
    scene.logs.append(log)
    options = ("--interface", "far0", "--shelf", "7", "--slot", "3", "--read-only")
    with log.open("wb") as file:
        process = scene.target.spawn(
            *(*GGAOE, "export", disk, *options, "--control-socket", control),
            cwd=Path("/"),
            stdout=file,
            stderr=file,
        )
    wait_until(lambda: b"ready: " in log.read_bytes(), DEADLINE_S, "ready")
    async with scene.initiator() as initiator:
        (found,) = await initiator.discover(1.0)
        assert (found.shelf, found.slot) == (7, 3)
        remote = await initiator.open(7, 3)
        assert (await remote.identify()).size_sectors * 512 == DISK_BYTES
    assert control.exists()
    assert process.stop() == 0
    assert not control.exists()


@pytest.mark.one_engine
def test_export_refuses_what_it_cannot_do(scene: Scene) -> None:
    disk = scene.disk()
    outcome = scene.ggaoe("export", disk, "--interface", "eth9")
    assert outcome.status == 1
    (line,) = errors_of(outcome)  # and no free address on it
    assert "interface eth9 does not exist" in line
    outcome = scene.ggaoe("export", disk, "--interface", "far0", "--shelf", "70000")
    (line,) = errors_of(outcome)
    assert "shelf can be 0 to 65534" in line
    outcome = scene.ggaoe("export", disk, "--interface", "far0", "--slot", "255")
    assert outcome.status == 1
    (line,) = errors_of(outcome)
    assert "slot" in line
    outcome = scene.ggaoe("export", disk)
    assert outcome.status == 2
    assert "--interface is missing; there are far0; --interface '*' is every" in outcome.stderr
    outcome = scene.ggaoe("export", "/nowhere/disk", "--interface", "far0")
    assert outcome.status == 1
    assert "No such file" in errors_of(outcome)[-1]
    assert "--wait" in errors_of(outcome)[-1]


@contextmanager
def background(scene: Scene, *argv: str | os.PathLike[str]) -> Iterator[Callable[[], str]]:
    """An export in the background, stopped as it says at the end; gives what lists it."""
    outcome = scene.ggaoe("export", "-d", *argv, "--interface", "far0", "--slot", "3")
    assert outcome.status == 0, outcome
    does = "waits for" if "--wait" in argv else "serves"
    process = re.search(rf"^process (\d+) {does} ", outcome.stdout)
    control = re.search(r"ggaoectl -s (\S+) list", outcome.stdout)
    assert process is not None
    assert control is not None
    try:
        yield lambda: scene.run(*GGAOECTL, "-s", control[1], "list").stdout
    finally:
        os.kill(int(process[1]), signal.SIGTERM)
        wait_until(lambda: not is_running(int(process[1])), DEADLINE_S, "stopped")
    assert not Path(control[1]).parent.exists()


@pytest.mark.one_engine
@pytest.mark.parametrize("name", ["disk", "defaults", "acls", "a=[b]\nc"])
def test_an_export_in_the_background_is_listed_and_stopped(scene: Scene, name: str) -> None:
    with background(scene, scene.disk(name)) as listed:
        assert re.search(r"e0\.3 +serving", listed())


@pytest.mark.one_engine
def test_an_export_waits_for_its_file_when_told_to(scene: Scene) -> None:
    with background(scene, "--wait", scene.directory / "later") as listed:
        assert re.search(r"e0\.3 +waiting", listed())
        scene.disk("later")
        wait_until(lambda: re.search(r"e0\.3 +serving", listed()), DEADLINE_S, "served")


# --- check -------------------------------------------------------------------------------------


@pytest.mark.one_engine
def test_check_of_a_good_file_is_one_line(scene: Scene) -> None:
    scene.disk()
    daemon = scene.daemon(DISK)
    outcome = scene.ggaoe("check", "-c", daemon.config)
    assert outcome == Outcome(0, "ok: 1 device on 1 interface\n", "")
    found = scene.ggaoe("check", "-c", daemon.config, "--json").json
    assert found == {"version": 1, "devices": 1, "interfaces": 1, "ok": True, "problems": []}


def nothing(scene: Scene) -> tuple[str, str]:
    return "", "warning: no device is configured: nothing is exported"


def nobodys_user(scene: Scene) -> tuple[str, str]:
    return f"[defaults]\nuser = nosuch\n{DISK}", ": user nosuch does not exist: create it ("


def no_state_directory(scene: Scene) -> tuple[str, str]:
    text = f"directory {scene.directory}/state does not exist: create it"
    (scene.directory / "state").rmdir()
    return DISK, f": {text}"


def no_file(scene: Scene) -> tuple[str, str]:
    text = f"warning: {scene.directory}/none does not exist now: device [disk] waits for it"
    return device(path="none"), f": {text}"


def directory(scene: Scene) -> tuple[str, str]:
    return device(path="state"), f"{scene.directory}/state is a directory: name a file or"


def character_device(scene: Scene) -> tuple[str, str]:
    return device(path="/dev/null"), "/dev/null is a character device: name a file or"


def empty_file(scene: Scene) -> tuple[str, str]:
    scene.disk("empty", 0)
    text = f"warning: {scene.directory}/empty has 0 bytes: device [disk] waits for more"
    return device(path="empty"), f": {text}"


def no_interface(scene: Scene) -> tuple[str, str]:
    text = "warning: interface eth9 does not exist now: the daemon needs it to start"
    return device(interfaces="eth9"), text


def no_match(scene: Scene) -> tuple[str, str]:
    text = "warning: no interface matches l* now: device [disk] waits for one"
    return device(interfaces="l*"), text  # lo is no Ethernet interface


@pytest.mark.one_engine
@pytest.mark.parametrize(
    "lack",
    [
        *(nothing, nobodys_user, no_state_directory, no_file),
        *(directory, character_device, empty_file, no_interface, no_match),
    ],
)
def test_check_tells_what_this_machine_lacks(
    scene: Scene, lack: Callable[[Scene], tuple[str, str]]
) -> None:
    """With its place; what may be there later is a warning."""
    scene.disk()
    daemon = scene.daemon()
    sections, text = lack(scene)
    daemon.configure(sections)
    outcome = scene.ggaoe("check", "-c", daemon.config)
    (line,) = outcome.stderr.splitlines()
    assert line.startswith(f"{daemon.config}:")
    assert text in line
    is_warning = "warning: " in text
    assert (outcome.status, outcome.stdout.startswith("ok: ")) == (int(not is_warning), is_warning)
    shown = scene.ggaoe("check", "-c", daemon.config, "--json").json
    (problem,) = shown["problems"]
    assert (shown["ok"], problem["warning"]) == (is_warning, is_warning)
    assert problem["message"] in line


@pytest.mark.one_engine
def test_check_is_json_whatever_it_finds(scene: Scene) -> None:
    scene.disk()
    daemon = scene.daemon(device(slot=300))
    wrong = scene.ggaoe("check", "-c", daemon.config, "--json")
    assert (wrong.status, wrong.stderr) == (1, "")
    (problem,) = wrong.json["problems"]
    assert (problem["file"], problem["warning"]) == (str(daemon.config), False)
    assert "300 is out of range" in problem["message"]
    daemon.configure(DISK)
    alone = scene.ggaoe("check", "-c", daemon.config, "--diff", "--effective", "--json")
    assert (alone.status, alone.json["ok"], alone.json["problems"]) == (1, False, [])
    assert "cannot reach the daemon" in alone.json["error"]
    rows = {(row["section"], row["key"]): row["value"] for row in alone.json["effective"]}
    assert rows["devices.disk", "slot"] == "1"


@pytest.mark.one_engine
def test_check_prints_what_is_in_force_and_why(scene: Scene) -> None:
    daemon = scene.daemon("[defaults]\nqueue-length = 99\n", DISK)
    outcome = scene.ggaoe("check", "--effective", "-c", daemon.config)
    assert outcome.status == 0
    _, _, section = outcome.stdout.partition("[devices.disk]\n")
    rows = dict(line.split(" = ", 1) for line in section.splitlines() if " = " in line)
    number = daemon.config.read_text().splitlines().index("queue-length = 99") + 1
    assert rows["queue-length"].startswith("99  # ")
    assert f":{number}" in rows["queue-length"]
    assert "default" in rows["direct-io"]


@pytest.mark.one_engine
def test_check_tells_every_problem(scene: Scene) -> None:
    daemon = scene.daemon(device(slot=300), device("two", shelf="x"))
    outcome = scene.ggaoe("check", "-c", daemon.config)
    assert outcome.status == 1
    assert outcome.stdout == ""
    lines = outcome.stderr.splitlines()
    text = daemon.config.read_text().splitlines()
    for wrong in ("slot = 300", "shelf = x"):
        place = f"{daemon.config}:{text.index(wrong) + 1}:"
        assert any(line.startswith(place) for line in lines), lines


@pytest.mark.one_engine
def test_check_needs_no_privilege_and_touches_nothing(scene: Scene) -> None:
    requires_program("setpriv")
    scene.disk()
    daemon = scene.daemon(device(interfaces="eth9"))
    before = sorted(scene.directory.iterdir())
    done = subprocess.run(
        ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *GGAOE, "check", "-c", daemon.config],
        check=False,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0
    assert sorted(scene.directory.iterdir()) == before


# --- the original's configuration --------------------------------------------------------------

ORIGINAL = """\
# Every option that the original daemon knows.
[defaults]
queue-length = 16
direct-io = true
trace-io = false
interfaces = far0
mtu = 1400
ring-buffer-size = 4096
send-buffer-size = 256
receive-buffer-size = 256
tx-ring-bug = true
max-delay = 0.001
merge-delay = 0.0
pid-file = {directory}/pid
control-socket = {directory}/ctl
state-directory = {directory}/state
buffers = 64

[acls]
alice = 02:00:00:00:00:01
both = alice, 02:00:00:00:00:02
host = {host}

[far0]
mtu = 1500
ring-buffer-size = 0
send-buffer-size = 128
receive-buffer-size = 128

[disk0]
path = {directory}/disk
shelf = 1
slot = 0
queue-length = 32
direct-io = false
trace-io = true
interfaces = far*
max-delay = 0.002
merge-delay = 0.001
read-only = false
broadcast = true
accept = both, host
deny = alice

[disk1]
uuid = {uuid}
shelf = 1
slot = 1
"""


async def test_a_configuration_of_the_original_starts_unchanged(scene: Scene) -> None:
    scene.disk()
    host = scene.host.mac("near0").hex(":")
    daemon = scene.daemon()
    daemon.config.write_text(
        ORIGINAL.format(
            directory=scene.directory, host=host, uuid="0a3407de-014b-458b-b5c1-848e92a327a3"
        )
    )
    daemon.start()
    async with scene.initiator() as initiator:
        remote = await initiator.open(1, 0)
        await remote.write(0, b"original" * 64)
        assert await remote.read(0, 1) == b"original" * 64
    shown = daemon.ask("show", "disk0")["devices"][0]
    assert (shown["queue_length"], shown["interfaces"]) == (32, ["far0"])
    assert "direct" not in shown["backend"]
    assert daemon.listed("disk1")["state"] == "waiting"
    assert "0a3407de" in daemon.listed("disk1")["reason"]
    log = daemon.log_text()
    assert "disk0: WRITE sector 0+1" in log
    for obsolete in ("tx-ring-bug", "buffers"):
        assert any("warning" in line and obsolete in line for line in log.splitlines())
    assert daemon.stop() == 0


def test_a_start_answers_as_usual_or_not_at_all(scene: Scene) -> None:
    """Hosts ask again and again meanwhile: an error would look like trouble where there is none."""
    requires_program("strace")
    disk = scene.disk()
    daemon = scene.daemon(device())
    daemon.wrapper = (
        *("strace", "-D", "-f", "-qq", "-o", "/dev/null", "-P", str(disk)),
        *("-e", "trace=openat", "-e", f"inject=openat:delay_enter={SLOW_OPEN_US}"),
    )
    with scene.wire() as wire:
        replies: list[Received] = []

        def is_answered() -> bool:
            wire.send(wire.read(0, 1, tag=1))
            replies.extend(got for got in wire.pending() if not got.is_advertisement)
            return bool(replies)

        daemon.launch()
        wait_until(is_answered, DEADLINE_S, "an answer")
        assert not replies[0].header.is_error
    assert daemon.stop() == 0
