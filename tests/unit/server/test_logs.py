"""Log lines as their readers get them: stderr, the journal and syslog of a real process."""

from __future__ import annotations

import io
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ggaoe.errors import StartError
from ggaoe.server import logs

TIMEOUT_S = 20.0
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
FORGED = "host says \x1b[2Jhi\n2026-01-01 00:00:00.000 error: forged\u2028x"


def run(code: str, directory: Path, **environment: str) -> list[str]:
    """Lines of stderr of a program that begins with `log` and `logs` at hand."""
    head = "import logging, sys\nfrom ggaoe.server import logs\nlog = logging.getLogger('t')\n"
    file = directory / "stderr"
    with file.open("wb") as stderr:
        status = os.fstat(stderr.fileno())
        variables = {
            name: value.format(journal=f"{status.st_dev}:{status.st_ino}")
            for name, value in environment.items()
        }
        subprocess.run(
            [sys.executable, "-c", head + code],
            stderr=stderr,
            env={**ENVIRONMENT, **variables},
            timeout=TIMEOUT_S,
            check=True,
        )
    return file.read_text().splitlines()


def test_stderr_has_time_level_and_one_line_an_event(tmp_path: Path) -> None:
    lines = run(
        f"logs.configure('stderr')\nlog.debug('no')\nlog.warning('%s', {FORGED!r})", tmp_path
    )
    (line,) = lines
    _, _, level, text = line.split(" ", 3)
    assert level == "warning:"
    assert text == "host says \\x1b[2Jhi\\n2026-01-01 00:00:00.000 error: forged\\u2028x"


def test_the_journal_gets_priorities(tmp_path: Path) -> None:
    levels = "for level in (10, 20, 30, 40, 50): log.log(level, 'at %d', level)"
    code = f"logs.configure('stderr', level=10, journal_socket='/nonexistent')\n{levels}"
    lines = run(code, tmp_path, JOURNAL_STREAM="{journal}")
    assert lines == ["<7>at 10", "<6>at 20", "<4>at 30", "<3>at 40", "<2>at 50"]


def test_the_journal_gets_fields_where_it_listens(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.settimeout(TIMEOUT_S)
        journal.bind(str(path))
        code = (
            f"logs.configure('stderr', journal_socket={str(path)!r})\n"
            "from ggaoe.events import Event, about\n"
            "log.error('a\\nb', extra=about(Event.HOST_SEEN, device='x\\ny', peer='02:0a'))"
        )
        assert run(code, tmp_path, JOURNAL_STREAM="{journal}") == []
        lines = journal.recv(1 << 16).decode().splitlines()
    assert lines == [
        "MESSAGE=a\\nb",
        "PRIORITY=3",
        "SYSLOG_IDENTIFIER=ggaoe",
        "GGAOE_EVENT=host-seen",
        "GGAOE_DEVICE=x\\ny",
        "GGAOE_PEER=02:0a",
    ]


def test_a_journal_that_reads_something_else_does_not_count(tmp_path: Path) -> None:
    (line,) = run("logs.configure('stderr')\nlog.info('x')", tmp_path, JOURNAL_STREAM="1:2")
    assert line.endswith(" info: x")


FAIL = """
try:
    raise ValueError("with\\nnewline")
except ValueError:
    log.exception("failed")
"""


def test_a_traceback_is_part_of_the_line(tmp_path: Path) -> None:
    (line,) = run(f"logs.configure('stderr'){FAIL}", tmp_path)
    assert "failed\\nTraceback (most recent call last)" in line
    assert line.endswith("ValueError: with\\nnewline")


def test_a_traceback_is_indented_for_debugging(tmp_path: Path) -> None:
    first, *rest = run(f"logs.configure('stderr', debug=True){FAIL}", tmp_path)
    assert first.endswith("failed")
    assert rest[0] == "    Traceback (most recent call last):"
    assert rest[-2:] == ["    ValueError: with", "    newline"]


def test_warnings_of_python_are_log_lines(tmp_path: Path) -> None:
    code = "logs.configure('stderr')\nimport warnings\nwarnings.warn('careful')"
    (line,) = run(code, tmp_path)
    assert "warning: " in line
    assert "careful" in line


IN_THE_BACKGROUND = """
import os, pty, termios
outer, inner = pty.openpty()
os.setsid()
os.close(os.open(os.ttyname(inner), os.O_RDWR))  # becomes the terminal of the session
modes = termios.tcgetattr(inner)
modes[3] |= termios.TOSTOP
termios.tcsetattr(inner, termios.TCSANOW, modes)
os.dup2(inner, 2)
if not os.fork():
    os.setpgid(0, 0)
    logs.configure('stderr')
    log.warning('in the background')
    os._exit(0)
_, status = os.waitpid(-1, os.WUNTRACED)
assert os.WIFEXITED(status), status
assert os.read(outer, 1000).endswith(b'in the background\\r\\n')
"""


def test_a_terminal_that_stops_background_processes_does_not_stop_it(tmp_path: Path) -> None:
    assert run(IN_THE_BACKGROUND, tmp_path) == []


def test_a_long_line_is_cut(tmp_path: Path) -> None:
    (line,) = run("logs.configure('stderr')\nlog.error('x' * 100_000)", tmp_path)
    assert len(line) < logs.LINE_CHARACTERS_MAX + 100


@contextmanager
def program(code: str, syslog: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program that logs to a syslog socket; it reads its stdin between its steps."""
    head = "import logging, sys\nfrom ggaoe.server import logs\nlog = logging.getLogger('t')\n"
    process = subprocess.Popen(
        [sys.executable, "-c", head + code, str(syslog)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=ENVIRONMENT,
    )
    try:
        yield process
    finally:
        process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0


def step(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.write(b"\n")
    process.stdin.flush()


def bound(path: Path) -> socket.socket:
    syslog = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    syslog.bind(str(path))
    syslog.settimeout(TIMEOUT_S)
    return syslog


def test_syslog_gets_facility_and_tag_and_may_be_restarted(tmp_path: Path) -> None:
    code = """
logs.configure('syslog', syslog_socket=sys.argv[1])
log.warning('eth0 is %s', 'do\\nwn')
sys.stdin.readline()
log.error('after')
sys.stdin.readline()
log.info('again')
"""
    path = tmp_path / "log"
    with bound(path) as syslog, program(code, path) as process:
        tag = f"ggaoe[{process.pid}]"
        assert syslog.recv(1 << 16).decode() == f"<28>{tag}: eth0 is do\\nwn"
        path.unlink()
        with bound(path) as restarted:
            syslog.close()
            step(process)
            assert restarted.recv(1 << 16).decode() == f"<27>{tag}: after"
            step(process)
            assert restarted.recv(1 << 16).decode() == f"<30>{tag}: again"


def test_a_syslog_that_does_not_keep_up_stops_nobody(tmp_path: Path) -> None:
    code = """
logs.configure('syslog', syslog_socket=sys.argv[1], debug=True)
for number in range(5000):
    log.debug('%d', number)
print('done', flush=True)
sys.stdin.readline()
log.error('last')
"""
    path = tmp_path / "log"
    with bound(path) as syslog, program(code, path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"done\n"
        taken = len(waiting(syslog))
        assert 0 < taken < 5000
        step(process)
        lost = f"last (lost before this one: {5000 - taken} lines)"
        assert syslog.recv(1 << 16).decode().endswith(lost)


def waiting(syslog: socket.socket) -> list[bytes]:
    """What can be read at once."""
    found = []
    syslog.setblocking(False)
    try:
        while True:
            found.append(syslog.recv(1 << 16))
    except BlockingIOError:
        return found
    finally:
        syslog.settimeout(TIMEOUT_S)


def test_whether_a_syslog_listens(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert not logs.has_syslog(str(path))
    with bound(path):
        assert logs.has_syslog(str(path))
    assert not logs.has_syslog(str(path))


def test_no_syslog_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"no syslog at .*/log: No such file.*: start one, or"):
        logs.configure("syslog", syslog_socket=str(tmp_path / "log"))


class Limited:
    """A logger of its own behind a RateLimit of 3 lines per 10 s, at `now_s`."""

    def __init__(self, name: str) -> None:
        self.now_s = 100.0
        self._stream = io.StringIO()
        handler = logging.StreamHandler(self._stream)
        handler.addFilter(logs.RateLimit(3, 10.0, lambda: self.now_s))
        self.log = logging.Logger(name)
        self.log.addHandler(handler)

    def lines(self) -> list[str]:
        lines = self._stream.getvalue().splitlines()
        self._stream.seek(0)
        self._stream.truncate()
        return lines


def test_repetition_is_limited_by_template_and_counted() -> None:
    limited = Limited("peer")
    for number in range(8):
        limited.log.warning("bad frame of %s", number)
    limited.log.warning("another thing")
    assert limited.lines() == [
        "bad frame of 0",
        "bad frame of 1",
        "bad frame of 2 (more of these are suppressed for 10 s)",
        "another thing",
    ]
    limited.now_s += 9.9
    limited.log.warning("bad frame of %s", 8)
    assert limited.lines() == []
    limited.now_s += 0.1
    limited.log.warning("bad frame of %s", "100 %")
    limited.log.warning("bad frame of %s", 10)
    assert limited.lines() == ["bad frame of 100 % (suppressed 6 more)", "bad frame of 10"]


def test_debug_and_trace_lines_are_not_limited() -> None:
    limited = Limited("peer")
    traced = Limited(logs.TRACE_LOGGER)
    for _ in range(8):
        limited.log.debug("detail")
        traced.log.info("read")
    assert limited.lines() == ["detail"] * 8
    assert traced.lines() == ["read"] * 8


def test_the_limit_remembers_a_bounded_number_of_templates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logs, "LIMIT_TEMPLATES_MAX", 2)
    limited = Limited("peer")
    for text in ("a", "b", "c"):
        for _ in range(5):
            limited.log.warning(text)
    limited.lines()
    limited.log.warning("c")
    assert limited.lines() == []
    limited.log.warning("a")  # forgotten for c: counted from the start again
    assert limited.lines() == ["a"]
