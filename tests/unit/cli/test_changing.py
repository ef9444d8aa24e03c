"""The verbs that change something: what reaches the daemon, and the order with --persist."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ggaoe.errors import ControlError
from ggaoe.server.control import REFUSED, Params
from unit.cli.answering import TIMEOUT_S, answering, asked, ggaoectl

CONFIG = "# mine\n[disk]\npath = /x\nshelf = 0\nslot = 1\n"


def _can_lock(config: Path | None) -> bool:
    """Whether somebody else could rewrite the file now."""
    assert config is not None
    directory = os.open(config.parent, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(directory)
    return True


class Asked:
    """A daemon that takes every change, and what it was asked; `refuse` says no to the last one."""

    def __init__(self, config: Path | None, refuse: bool = False) -> None:
        self.config = config
        self.refuse = refuse
        self.calls: list[tuple[str, Params]] = []
        self.file_then = ""
        self.edit = ""
        self.is_alone = False

    async def version(self, params: Params) -> object:
        return {"config": str(self.config) if self.config else None}

    def verb(self, name: str) -> Callable[[Params], Awaitable[object]]:
        async def called(params: Params) -> object:
            self.calls.append((name, asked(params)))
            if not params.get("dry_run"):
                self.file_then = self.config.read_text() if self.config else ""
                if params.get("persisted"):
                    self.is_alone = not _can_lock(self.config)
                if self.edit and self.config:
                    self.config.write_text(self.file_then + self.edit)
                if self.refuse:
                    raise ControlError(REFUSED, "not now")
            plan = {"removed": [{"name": "disk", "address": "e0.1"}]}
            applied = not params.get("dry_run", False)
            names = {"started": ["disk"], "stopped": ["disk"], "already": []}
            return {"applied": applied, "changes": ["done"], "plan": plan, **names}

        return called

    @contextmanager
    def listening(self, socket: Path) -> Iterator[None]:
        verbs = ("add", "remove", "set", "swap", "start", "stop")
        with answering(socket, {"version": self.version, **{v: self.verb(v) for v in verbs}}):
            yield


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "f.conf"
    path.write_text(CONFIG)
    return path


@pytest.mark.parametrize(
    ("words", "params"),
    [
        (
            ("set", "disk", "queue-length = 3", "accept=a, b", "--unset", "slot"),
            {"name": "disk", "options": {"queue-length": "3", "accept": "a, b", "slot": None}},
        ),
        (
            ("add", "new", "path=/x y", "slot=auto"),
            {"name": "new", "options": {"path": "/x y", "slot": "auto"}},
        ),
        (("remove", "d*", "e"), {"names": ["d*", "e"]}),
        (("stop", "disk"), {"names": ["disk"]}),
        (("swap", "disk", "/y"), {"name": "disk", "path": "/y", "force": False}),
        (("swap", "disk", "/y", "--force"), {"name": "disk", "path": "/y", "force": True}),
    ],
)
def test_what_the_daemon_is_asked(tmp_path: Path, words: tuple[str, ...], params: Params) -> None:
    asked = Asked(None)
    with asked.listening(tmp_path / "ctl"):
        assert ggaoectl("--socket", tmp_path / "ctl", *words).status == 0
        assert ggaoectl("--socket", tmp_path / "ctl", *words, "--dry-run").status == 0
    assert asked.calls == [
        (words[0], {**params, "dry_run": False}),
        (words[0], {**params, "dry_run": True}),
    ]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("set", "disk", "slot=3"), CONFIG.replace("slot = 1", "slot = 3")),
        (("remove", "d*"), "# mine\n"),
        (("start", "*"), f"{CONFIG}auto = true\n"),
        (("stop", "*"), f"{CONFIG}auto = false\n"),
        (("swap", "disk", "/y"), CONFIG.replace("/x", "/y")),
        (
            ("add", "new", "path=/y", "shelf=0", "slot=2"),
            f"{CONFIG}\n[new]\npath = /y\nshelf = 0\nslot = 2\n",
        ),
    ],
)
def test_the_file_has_it_before_the_daemon(
    tmp_path: Path, config: Path, words: tuple[str, ...], text: str
) -> None:
    asked = Asked(config)
    with asked.listening(tmp_path / "ctl"):
        ran = ggaoectl("--socket", tmp_path / "ctl", *words, "--persist")
    assert ran.status == 0
    assert asked.is_alone
    assert f"written to {config}" in ran.out
    assert config.read_text() == asked.file_then == text
    assert [(p.get("dry_run", False), p["persisted"]) for _, p in asked.calls] == [
        (True, True),
        (False, True),
    ]


def test_dry_run_tells_what_the_file_cannot_have(tmp_path: Path, config: Path) -> None:
    asked = Asked(config)
    words = "--socket", tmp_path / "ctl", "set", "disk", "slot=3", "--persist", "--dry-run"
    with asked.listening(tmp_path / "ctl"):
        assert ggaoectl(*words).status == 0
        assert config.read_text() == CONFIG
        config.write_text(f"{CONFIG}nonsense\n")
        ran = ggaoectl(*words)
    assert ran.status == 1
    assert "f.conf:6:1: 'nonsense' is no [section]" in ran.err
    assert all(params["dry_run"] for _, params in asked.calls)


def test_what_the_daemon_refuses_after_all_is_put_back(tmp_path: Path, config: Path) -> None:
    asked = Asked(config, refuse=True)
    with asked.listening(tmp_path / "ctl"):
        ran = ggaoectl("--socket", tmp_path / "ctl", "set", "disk", "slot=3", "--persist")
    assert (ran.status, ran.err) == (1, "ggaoectl: not now\n")
    assert "slot = 3" in asked.file_then
    assert config.read_text() == CONFIG


def test_what_somebody_else_has_written_meanwhile_stays(tmp_path: Path, config: Path) -> None:
    asked = Asked(config, refuse=True)
    asked.edit = "# mine\n"
    with asked.listening(tmp_path / "ctl"):
        ran = ggaoectl("--socket", tmp_path / "ctl", "set", "disk", "slot=3", "--persist")
    assert ran.status == 1
    assert ran.err.splitlines() == [
        f"{config}: was changed by somebody else: try again",
        "ggaoectl: not now: the daemon has not changed, but the file has: edit it",
    ]
    assert config.read_text() == asked.file_then + "# mine\n"


def test_daemon_that_ends_in_the_middle(tmp_path: Path, config: Path) -> None:
    """Nobody knows whether it has the change; the file has it."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "ctl"))
        listener.listen()
        listener.settimeout(TIMEOUT_S)
        answers = iter(({"config": str(config)}, {"plan": {}}, None))

        def serve() -> None:
            for answer in answers:
                connection, _ = listener.accept()
                with connection, connection.makefile("rwb") as lines:
                    lines.readline()
                    if answer is not None:
                        result = {"jsonrpc": "2.0", "id": 1, "result": answer}
                        lines.write(json.dumps(result).encode() + b"\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        ran = ggaoectl("--socket", tmp_path / "ctl", "set", "disk", "slot=3", "--persist")
        thread.join(TIMEOUT_S)
    assert ran.status == 3
    assert f"{config} has the change: 'ggaoectl reload' puts it in force" in ran.err
    assert "slot = 3" in config.read_text()


def test_there_has_to_be_a_file(tmp_path: Path) -> None:
    asked = Asked(None)
    with asked.listening(tmp_path / "ctl"):
        ran = ggaoectl("--socket", tmp_path / "ctl", "set", "disk", "slot=3", "--persist")
    assert (ran.status, asked.calls) == (1, [])
    assert "no configuration file: do without --persist" in ran.err


def test_the_daemon_cannot_name_another_file_than_the_command_line(
    tmp_path: Path, config: Path
) -> None:
    other = tmp_path / "other.conf"
    other.write_text(f"[defaults]\ncontrol-socket = {tmp_path}/ctl\n")
    asked = Asked(config)
    for words in (("-c", other), ("-c", other, "--socket", tmp_path / "ctl")):
        with asked.listening(tmp_path / "ctl"):
            ran = ggaoectl(*words, "set", "disk", "slot=3", "--persist")
        assert (ran.status, asked.calls, config.read_text()) == (2, [], CONFIG)
        assert f"the daemon has read {config}, not {other}; to write to that" in ran.err
    (tmp_path / "link").symlink_to(config)
    with asked.listening(tmp_path / "ctl"):
        words = ("-c", tmp_path / "link", "--socket", tmp_path / "ctl")
        assert ggaoectl(*words, "set", "disk", "slot=3", "--persist").status == 0


NOBODY = 65534


@pytest.mark.parametrize(
    ("place", "owner", "group", "mode", "writer"),
    [
        ("f.conf", NOBODY, 0, 0o644, f"user {NOBODY}"),
        ("f.conf", 0, NOBODY, 0o664, f"group {NOBODY}"),
        ("f.conf", 0, 0, 0o666, "everybody"),
        (".", NOBODY, 0, 0o755, f"user {NOBODY}"),
        (".", 0, 0, 0o777, "everybody"),
        (".", 0, 0, 0o1777, None),
        (".", 0, 0, 0o775, None),
    ],
)
def test_what_others_can_replace_is_not_written_by_root(
    tmp_path: Path, place: str, owner: int, group: int, mode: int, writer: str | None
) -> None:
    """The daemon names a link in a place that is safe to a file in one that may not be."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    unsafe, safe = tmp_path / "unsafe", tmp_path / "safe"
    for directory in (unsafe, safe):
        directory.mkdir()
    (unsafe / "f.conf").write_text(CONFIG)
    (safe / "f.conf").symlink_to("../unsafe/f.conf")
    os.chown(unsafe / place, owner, group)
    (unsafe / place).chmod(mode)
    asked = Asked(safe / "f.conf")
    with asked.listening(tmp_path / "ctl"):
        ran = ggaoectl("--socket", tmp_path / "ctl", "set", "disk", "slot=3", "--persist")
    if writer is None:
        assert (ran.status, ran.err) == (0, "")
        return
    assert (ran.status, (unsafe / "f.conf").read_text()) == (1, CONFIG)
    assert f"not written, because {writer} may change {(unsafe / place).resolve()}" in ran.err
    assert all(params["dry_run"] for _, params in asked.calls)
