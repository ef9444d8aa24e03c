"""Forks, pid files and privileges of real processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ggaoe.errors import StartError
from ggaoe.server.process import (
    PidFile,
    Readiness,
    make_directory,
    require_capability_net_raw,
)
from helpers.needs import requires_program
from helpers.netns import wait_until

TIMEOUT_S = 20.0
REPOSITORY = Path(__file__).parents[3]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY)}


HEAD = """
import os, sys
from pathlib import Path
from ggaoe.errors import StartError
from ggaoe.server.process import *
"""


def command(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", HEAD + code, *arguments]


def run(argv: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


SERVE = """
readiness = daemonise()
print("nobody reads this")
print("early words", file=sys.stderr, flush=True)
fifo, report = sys.argv[1:]
facts = [os.getcwd(), os.getpid() == os.getsid(0), os.readlink("/proc/self/fd/0")]
readiness.ready()
readiness.failed("no longer of interest")
print("late words", file=sys.stderr, flush=True)
facts += [os.readlink(f"/proc/self/fd/{fd}") for fd in (1, 2)]
with open(report, "w") as file:
    print(os.getpid(), os.getsid(0), *facts, file=file)
open(fifo).read()
"""


def test_the_command_ends_when_the_daemon_is_ready(tmp_path: Path) -> None:
    fifo, report = tmp_path / "fifo", tmp_path / "report"
    os.mkfifo(fifo)
    ran = run(command(SERVE, str(fifo), str(report)))
    # All output has come to its end although the daemon lives: it holds none of our pipes.
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "early words\n")
    with fifo.open("w"):
        wait_until(lambda: report.exists() and "\n" in report.read_text(), TIMEOUT_S, "its report")
        pid, session, *facts = report.read_text().split()
        assert facts == ["/", "False", *["/dev/null"] * 3]
        assert int(session) != os.getsid(0)
        assert Path(f"/proc/{pid}").exists()
    wait_until(lambda: not _runs(int(pid)), TIMEOUT_S, "its end")


def _runs(pid: int) -> bool:
    """Whether the process lives; nobody might collect the exit status of an orphan."""
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("daemonise().failed('no eth9: check\\nsecond')", "ggaoe: no eth9: check\nggaoe: second\n"),
        ("daemonise(); os.kill(os.getpid(), 9)", None),
        ("daemonise(); os._exit(0)", None),
        ("daemonise().failed('x' * 1000000)", f"ggaoe: {'x' * 65535}\n"),
    ],
    ids=["told", "killed", "left", "long"],
)
def test_a_start_that_fails_is_told_by_the_command(code: str, message: str | None) -> None:
    ran = run(command(code))
    assert ran.returncode == 1
    assert ran.stderr == (
        message or "ggaoe: ended in the middle of its start: try it in the foreground\n"
    )


def test_a_start_that_was_interrupted_is_given_up(tmp_path: Path) -> None:
    fifo, report = tmp_path / "fifo", tmp_path / "report"
    os.mkfifo(fifo)
    code = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a test run behind a script
readiness = daemonise()
open(sys.argv[1]).read()
try:
    readiness.ready()
except StartError as error:
    with open(sys.argv[2], "w") as file:
        print(error, file=file)
"""
    starting = subprocess.Popen(command(code, str(fifo), str(report)), env=ENVIRONMENT)
    with fifo.open("w"):  # opens once the daemon has come so far
        starting.send_signal(signal.SIGINT)
        assert starting.wait(TIMEOUT_S) in (130, -signal.SIGINT)
    wait_until(lambda: report.exists() and "\n" in report.read_text(), TIMEOUT_S, "its report")
    assert report.read_text() == "the command that starts ggaoe was interrupted\n"


def test_in_the_foreground_stderr_tells(capsys: pytest.CaptureFixture[str]) -> None:
    readiness = Readiness()
    readiness.ready()
    assert capsys.readouterr() == ("", "")
    readiness.failed("no eth9")
    assert capsys.readouterr() == ("", "ggaoe: no eth9\n")


def test_a_pid_file_lives_as_long_as_its_context(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with PidFile(path):
        assert path.read_text() == f"{os.getpid()}\n"
    assert not path.exists()


@pytest.mark.parametrize("left", ["", "1\n", "999999999\n"])
def test_a_stale_pid_file_is_replaced(tmp_path: Path, left: str) -> None:
    path = tmp_path / "pid"
    path.write_text(left)
    with PidFile(path):
        assert path.read_text() == f"{os.getpid()}\n"


def test_a_second_daemon_is_refused_by_the_pid_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with PidFile(path):
        with pytest.raises(StartError, match=rf"runs already, as process {os.getpid()}: stop it"):
            PidFile(path).__enter__()
        assert path.read_text() == f"{os.getpid()}\n"


def test_the_pid_file_of_a_killed_daemon_is_free(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    run(command("PidFile(Path(sys.argv[1])).__enter__(); os._exit(0)", str(path)))
    assert path.exists()
    with PidFile(path):
        assert path.read_text() == f"{os.getpid()}\n"


def test_a_pid_file_that_became_somebody_elses_stays(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with PidFile(path):
        path.unlink()
        path.write_text("7\n")
    assert path.read_text() == "7\n"


def _precious(path: Path) -> None:
    path.write_text("root:x:0:0\n")


def _link(path: Path) -> None:
    path.with_name("target").write_text("")
    path.symlink_to("target")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_precious, "holds no process id is in its place: remove it, or set another pid-file"),
        (_link, "Too many levels of symbolic links: set another pid-file"),
        (Path.mkdir, "Is a directory: set another pid-file"),
        (os.mkfifo, "Illegal seek"),
    ],
)
def test_what_is_no_pid_file_is_left_alone(
    tmp_path: Path, make: Callable[[Path], None], message: str
) -> None:
    path = tmp_path / "pid"
    make(path)
    before = path.lstat()
    with pytest.raises(StartError, match=rf"pid file {re.escape(str(path))}: .*{message}"):
        PidFile(path).__enter__()
    assert (path.lstat().st_ino, path.lstat().st_size) == (before.st_ino, before.st_size)


def test_a_pid_file_without_directory_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="No such file or directory: set another pid-file"):
        PidFile(tmp_path / "missing" / "pid").__enter__()


def test_the_privilege_is_there_or_asked_for() -> None:
    code = """
try:
    require_capability_net_raw()
except StartError as error:
    print(error)
"""
    if os.geteuid() != 0:
        with pytest.raises(StartError, match="needs CAP_NET_RAW"):
            require_capability_net_raw()
        return
    require_capability_net_raw()
    requires_program("setpriv")
    drop = ["setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw"]
    ran = run([*drop, *command(code)])
    assert ran.stdout.startswith("needs CAP_NET_RAW to send and receive Ethernet frames: run it as")


def test_one_missing_directory_is_made(tmp_path: Path) -> None:
    make_directory(tmp_path / "run" / "pid")
    make_directory(tmp_path / "run" / "pid")
    assert list(tmp_path.iterdir()) == [tmp_path / "run"]
    make_directory(tmp_path / "not" / "there" / "pid")
    assert list(tmp_path.iterdir()) == [tmp_path / "run"]
