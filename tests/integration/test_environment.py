"""Starts in an unusual process environment: they serve, or end with one clear line."""

from __future__ import annotations

import fcntl
import os
import pty
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from ggaoe.engine.select import ENGINES
from helpers.needs import requires_program
from helpers.netns import Process, wait_until
from helpers.targets import REPOSITORY
from integration.scene import DEADLINE_S, GGAOE, Daemon, Scene, device, round_trip

pytestmark = pytest.mark.one_engine

SHELL = ("sh", "-c")
MAIN = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); from ggaoe.cli.ggaoe import main; "
ELSEWHERE = (sys.executable, "-c", f"{MAIN}sys.exit(main())")
"""The command, in any working directory."""
HEARS = ("env", "--default-signal=HUP")  # a test run may ignore it


def spawn_export(scene: Scene, *argv: str, wrapper: Sequence[str] = ()) -> tuple[Process, Path]:
    """`ggaoe export` of the disk, which serves; and its log."""
    log = scene.directory / "export.log"
    scene.logs.append(log)
    command = (*GGAOE, "export", scene.disk(), "--interface", "far0", "--slot", "1", *argv)
    with log.open("wb") as file:
        process = scene.target.spawn(*wrapper, *command, stderr=file, cwd=REPOSITORY)
    wait_until(lambda: "ready: " in log.read_text(), DEADLINE_S, "its start")
    return process, log


# --- descriptors -------------------------------------------------------------------------------


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
async def test_closed_standard_streams_are_not_the_disks(scene: Scene, closed: str) -> None:
    """What is logged would otherwise be written into whatever has taken their numbers."""
    disk = scene.disk()
    daemon = scene.daemon(device(trace_io=True))
    daemon.wrapper = (*SHELL, f'exec "$@" {closed}', "sh")
    daemon.launch()
    wait_until(lambda: daemon.ctl("list").status == 0, DEADLINE_S, "the control socket")
    daemon.wait_for_state("disk", "serving")
    files = Path(f"/proc/{daemon.running.pid}/fd")
    opened = [(files / str(fd)).readlink() for fd in range(3)]
    for fd, name in enumerate(("<", ">", "2>")):
        assert (opened[fd] == Path("/dev/null")) == (fd == 0 or f"{name}&-" in closed.split())
    async with scene.initiator() as initiator:
        await round_trip(initiator, disk)
    assert daemon.stop() == 0


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_commands_do_without_standard_streams(scene: Scene, closed: str) -> None:
    daemon = scene.daemon(device())
    for command in ((*GGAOE, "check", "-c"), (*GGAOE[:2], "ggaoe.cli.ggaoectl", "list", "-c")):
        ran = scene.run(*SHELL, f'exec "$@" {closed}', "sh", *command, daemon.config)
        assert ran.status == (0 if "check" in command else 3)
        assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("options", [(), ("-d",)], ids=["foreground", "background"])
def test_what_is_inherited_is_closed(scene: Scene, options: tuple[str, ...]) -> None:
    """A lock of the script that starts it is free again when the script has ended."""
    scene.disk()
    daemon = scene.daemon(device())
    lock = scene.directory / "lock"
    script = f'exec 9>{lock}; flock 9; "$@" & wait_for=$!; [ -n "$WAIT" ] && wait $wait_for; exit 0'
    wait = "1" if options else ""
    daemon.wrapper = ("env", f"WAIT={wait}", "LISTEN_FDS=1", *SHELL, script, "sh")
    with daemon.log.open("ab") as log:
        command = (*daemon.wrapper, *GGAOE, "-c", daemon.config, *options)
        started = scene.target.spawn(*command, stdout=log, stderr=log, cwd=REPOSITORY)
    wait_until((scene.directory / "ctl").exists, DEADLINE_S, "the control socket")
    assert started.wait() == 0
    daemon.wait_for_state("disk", "serving")
    pid = pid_of(scene, daemon)
    with lock.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not (scene.directory / "pid").exists(), DEADLINE_S, "its end")


def pid_of(scene: Scene, daemon: Daemon) -> int:
    """The process that serves, by the number that we know it by."""
    inner = daemon.look("version")["pid"]
    for status in Path("/proc").glob("[0-9]*/status"):
        fields = dict(
            line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line
        )
        same_namespace = status.with_name("ns") / "net"
        if fields.get("NSpid", "").split()[-1:] == [str(inner)] and same_namespace.readlink() == (
            Path(f"/proc/{scene.target.pid}/ns/net").readlink()
        ):
            return int(status.parent.name)
    raise AssertionError(f"no process {inner}")


# --- limits ------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("-d",)], ids=["foreground", "background"])
@pytest.mark.parametrize("files", [16, 32])
def test_too_few_open_files(scene: Scene, files: int, options: tuple[str, ...]) -> None:
    requires_program("prlimit")
    scene.disk()
    limited = ("prlimit", f"--nofile={files}:{files}")
    ran = scene.run(*limited, *GGAOE, "-c", scene.daemon(device()).config, *options)
    text = (
        f"ggaoe: the limit of open files is {files}, and at least 64 are needed: raise it (ulimit "
    )
    assert (ran.status, ran.stderr[: len(text)], ran.stderr.count("\n")) == (1, text, 1)


async def test_the_soft_limit_of_open_files_is_raised(scene: Scene) -> None:
    """As few as a login has are too few for many devices."""
    requires_program("prlimit")
    disk = scene.disk()
    daemon = scene.daemon(device())
    daemon.wrapper = ("prlimit", "--nofile=16:100")
    daemon.start()
    limits = resource.prlimit(daemon.running.pid, resource.RLIMIT_NOFILE)
    assert limits == (100, 100)
    async with scene.initiator() as initiator:
        await round_trip(initiator, disk)
    assert daemon.stop() == 0


def failing(calls: str, error: str, since: int = 1) -> tuple[str, ...]:
    """Runs a program for which these system calls fail from the one of this number on."""
    inject = f"inject={calls}:error={error}:when={since}+"
    return ("strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", inject)


def assert_told(scene: Scene, wrapper: Sequence[str], engine: str, text: str) -> None:
    """In the foreground and behind, the daemon serves, or says in the last line why it ends."""
    daemon = scene.daemon(f"[defaults]\nengine = {engine}\n", device())
    for option in ("-n", "-d"):
        daemon.wrapper, daemon.command = wrapper, (*GGAOE, option)
        daemon.launch()
        wait_until(
            lambda: daemon.running.poll() is not None or "ready: " in daemon.log_text(),
            DEADLINE_S,
            "its start, or its end",
        )
        if daemon.running.poll() is None:
            daemon.stop()
        elif daemon.running.poll() == 0:
            wait_until((scene.directory / "ctl").exists, DEADLINE_S, "the control socket")
            os.kill(pid_of(scene, daemon), signal.SIGTERM)
            wait_until(lambda: not (scene.directory / "pid").exists(), DEADLINE_S, "its end")
        else:
            assert text in daemon.log_text().splitlines()[-1]
        log = daemon.log_text()
        assert "Traceback" not in log
        assert "Warning" not in log


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("since", range(1, 5))
def test_no_more_processes_and_threads(scene: Scene, engine: str, since: int) -> None:
    requires_program("strace")
    scene.disk()
    text = "too many processes or threads: raise their limit (ulimit -u"
    assert_told(
        scene,
        failing("clone,clone3,fork,vfork", "EAGAIN", since),
        engine,
        text,
    )


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("call", ["epoll_create1", "socket", "socketpair", "eventfd2", "pipe2"])
def test_no_more_files(scene: Scene, engine: str, call: str) -> None:
    """All of the system's may be in use, whatever our limit is."""
    requires_program("strace")
    scene.disk()
    text = "oo many open files"
    assert_told(scene, failing(call, "ENFILE"), engine, text)


# --- directories -------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["export", "vblade"])
def test_no_temporary_directory(scene: Scene, command: str) -> None:
    disk = REPOSITORY / "README.md"  # which is not opened
    argv = {
        "export": ("export", disk, "--interface", "far0"),
        "vblade": ("vblade", "0", "1", "far0", disk),
    }
    # The checkout itself may lie there, so everything stays to be read.
    hidden = (
        "for place in /tmp /var/tmp; do mount --rbind $place $place &&"
        " mount -o remount,bind,ro $place; done; unset TMPDIR"
    )
    script = f'cd /proc; {hidden}; exec "$@"'
    ran = scene.run("unshare", "--mount", *SHELL, script, "sh", *ELSEWHERE, *argv[command])
    assert ran.status == 1, ran
    line = ran.stderr.splitlines()[-1]
    assert line.startswith("ggaoe: no temporary directory can be made: ")
    assert "set TMPDIR" in line


def test_a_working_directory_that_is_gone(scene: Scene) -> None:
    gone = scene.directory / "gone"
    script = f'mkdir {gone}; cd {gone}; rmdir {gone}; exec "$@"'
    ran = scene.run(*SHELL, script, "sh", *ELSEWHERE, "-c", "relative.conf")
    assert (ran.status, ran.stderr) == (1, "ggaoe: No such file or directory\n")


# --- signals -----------------------------------------------------------------------------------


def test_an_export_ends_with_its_terminal(scene: Scene) -> None:
    process, log = spawn_export(scene, wrapper=HEARS)
    process.signal(signal.SIGHUP)
    assert process.wait() == 0
    assert "SIGHUP: finishing requests" in log.read_text()


def test_an_export_on_a_terminal_that_closes(scene: Scene) -> None:
    """The kernel sends SIGHUP, and whatever is logged then comes to nobody."""
    outer, inner = pty.openpty()
    disk = scene.disk()
    become = (
        "import fcntl, os, sys, termios\n"
        "os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
    )
    command = (*GGAOE, "export", disk, "--interface", "far0", "--control-socket")
    process = scene.target.spawn(
        *(*HEARS, sys.executable, "-c", become, *command, scene.directory / "ctl"),
        stdin=inner,
        stdout=inner,
        stderr=inner,
        cwd=REPOSITORY,
    )
    os.close(inner)
    wait_until((scene.directory / "ctl").exists, DEADLINE_S, "the control socket")
    read = b""
    while b"ready: " not in read:
        read += os.read(outer, 4096)
    os.close(outer)
    assert process.wait() == 0


def test_signals_that_are_ignored_stay_so(scene: Scene) -> None:
    """As under nohup, and for what a script has put in the background."""
    ignoring = (*SHELL, """trap '' HUP INT QUIT; exec "$@" """, "sh")
    process, log = spawn_export(scene, wrapper=ignoring)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        process.signal(number)
    assert process.stop() == 0
    assert log.read_text().count("finishing requests") == 1
    assert "SIGTERM: finishing requests" in log.read_text()


def test_signals_that_were_blocked_or_ignored_are_heard(scene: Scene) -> None:
    scene.disk()
    daemon = scene.daemon(device())
    block = (
        "import os, signal, sys\n"
        "signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())\n"
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    daemon.wrapper = (sys.executable, "-c", block)
    daemon.start()
    daemon.hang_up()
    assert daemon.stop() == 0
    ran = scene.run(*daemon.wrapper, *GGAOE, "-c", daemon.config, "-d")
    assert ran.status == 0, ran
    os.kill(int((scene.directory / "pid").read_text()), signal.SIGTERM)
    wait_until(lambda: not (scene.directory / "pid").exists(), DEADLINE_S, "its end")


def test_two_signals_at_once_are_no_error(scene: Scene) -> None:
    with scene.slow_disk() as slow:
        daemon = scene.daemon(device(path="slow/disk", direct_io=False))
        daemon.start()
        slow.hold()
        for _ in range(2):
            daemon.running.signal(signal.SIGTERM)
        daemon.wait_for_log("stopped")
        slow.release()
        assert daemon.running.wait() == 0
        assert "exception" not in daemon.log_text()
