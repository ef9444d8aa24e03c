"""ggaoectl as a process against a control server: what it prints, and how it ends."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from unit.cli.answering import (
    HOST,
    REPOSITORY,
    TIMEOUT_S,
    Daemon,
    answering,
    before_operations,
    broken,
    ggaoectl,
    invalid,
    refused,
)

DONE, REFUSED, USAGE, UNREACHABLE, PARTLY = range(5)


@pytest.fixture
def daemon(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """Parametrised indirectly, with other handlers than usual for some methods."""
    with answering(tmp_path / "ctl", getattr(request, "param", {})) as daemon:
        yield daemon


def columns(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_list(daemon: Daemon) -> None:
    ran = ggaoectl("--socket", daemon.path, "list")
    assert (ran.status, ran.err) == (DONE, "")
    assert ran.out == (
        "DEVICE  ADDRESS  STATE       SIZE  MODE  INTERFACES  PATH       REASON\n"
        "disk    e0.1     serving  1.5 GiB  rw    eth0        /srv/disk  -\n"
        "late    e0.2     waiting        -  ro    -           /srv/late"
        "  No such file\\nor directory\n"
        "\n"
        "INTERFACE  MAC                LINK  SERVES   MTU  SECTORS  REASON\n"
        "eth0       02:00:00:00:00:aa  up    yes     9000       17  -\n"
    )


LIMITS = (
    "  limits         500 requests per second, 50 at once; "
    "10 MiB per second of each initiator, 1 MiB at once"
)


def test_show(daemon: Daemon) -> None:
    ran = ggaoectl("--socket", daemon.path, "show", "disk", "l*")
    assert (ran.status, ran.err) == (DONE, "")
    lines = ran.out.splitlines()
    assert [line for line in lines if line and not line.startswith(" ")] == ["disk", "late"]
    for expected in (
        "  address        e0.1",
        "  state          waiting: No such file\\nor directory",
        "  size           1.5 GiB (1610612736 bytes)",
        "  size           -",
        "  accept         everybody",
        f"  deny           {HOST}",
        "  discover       everybody",
        "  read           nobody",
        "  write          !guests, lab",
        LIMITS,
        "  mask list      -",
        "  config string  host\\\\\\\\ \\\\xff\\\\x0a".replace("\\\\", "\\"),
        "  warning        no O_DIRECT: buffered",
    ):
        assert expected in lines
    assert ["read", "requests", "12"] in columns(ran.out)
    assert ["dropped:", "mask", "3"] in columns(ran.out)
    assert [HOST, "eth0", "0", "0", "B", "5", "5", "KiB"] in [row[:8] for row in columns(ran.out)]


@pytest.mark.parametrize("daemon", [{"show": before_operations}], indirect=True)
def test_show_of_an_older_daemon(daemon: Daemon) -> None:
    ran = ggaoectl("--socket", daemon.path, "show", "disk")
    assert (ran.status, ran.err) == (DONE, "")
    assert ["write", "everybody"] in columns(ran.out)


MAY = (
    "OPERATION  MAY  BECAUSE\n"
    "discover   yes  accept: lab\\n\n"
    "read       yes  nothing restricts it\n"
    "write      no   write: !guests\n"
    "change     no   interfaces: none serves it\n"
)
CHECKED = (
    "CHECK  FOUND   WHAT\nVLAN   ok      untagged\nMTU    not ok  small\n\n"
    "to do, MTU: more\\x1b of it\n"
)


def test_why(daemon: Daemon) -> None:
    ran = ggaoectl("--socket", daemon.path, "why", "2:0:0:0:0:1")
    assert (ran.status, ran.err) == (DONE, "")
    assert ran.out == (
        f"{HOST} heard 00:01:01 ago on eth0; interfaces: eth0, eth1; other hosts: 3 on eth1\n"
        "its last frames for no device here:\n"
        "AGO/s  INTERFACE  BYTES  TO  ASKS                   BECAME         TIMES\n"
        " 61.5  eth0          60  -   READ_SECTORS_EXT 0+20  dropped: vlan      1\n\n"
        f"{HOST} at disk (e0.1, serving), seen 00:01:01 ago on eth0\n"
        "AGO/s  INTERFACE  BYTES  TO    ASKS                   BECAME              TIMES\n"
        " 61.5  eth0          60  e0.1  READ_SECTORS_EXT 0+20  refused: too\\nmuch      3\n\n"
        f"{CHECKED}\n{MAY}\n"
        f"{HOST} at late (e0.2, waiting: No such file\\nor directory), never seen\n\n"
        f"{CHECKED}\n{MAY}"
    )
    assert daemon.calls == [("why", {"host": HOST, "names": []})]


@pytest.mark.parametrize(
    "daemon", [{"why": Daemon(Path()).why_before_checks}], indirect=True, ids=["older"]
)
def test_why_of_an_older_daemon(daemon: Daemon) -> None:
    ran = ggaoectl("--socket", daemon.path, "why", "2:0:0:0:0:1", "disk", "late")
    assert (ran.status, ran.err) == (DONE, "")
    assert ran.out == (
        f"{HOST} at disk (e0.1, serving), seen 00:01:01 ago on eth0\n\n{MAY}\n"
        f"{HOST} at late (e0.2, waiting: No such file\\nor directory), never seen\n\n{MAY}"
    )


@pytest.mark.parametrize("words", [(), ("disk", "disk"), ("02:00:00:00:00", "disk")])
def test_why_needs_a_host(daemon: Daemon, words: tuple[str, ...]) -> None:
    ran = ggaoectl("--socket", daemon.path, "why", *words)
    assert (ran.status, ran.out) == (USAGE, "")


def test_stats(daemon: Daemon) -> None:
    ran = ggaoectl("--socket", daemon.path, "stats")
    assert (ran.status, ran.err) == (DONE, "")
    rows = columns(ran.out)
    assert rows[1][:7] == ["disk", "100", "800", "KiB", "0", "0", "B"]
    assert rows[1][-1] == "4"
    assert rows[5][:2] == ["eth0", "60"]
    assert rows[8][:3] == ["disk", HOST, "eth0"]


def test_stats_of_some(daemon: Daemon) -> None:
    ran = ggaoectl("--socket", daemon.path, "stats", "late")
    assert [row[0] for row in columns(ran.out)] == ["DEVICE", "late"]


def test_config_strings_cannot_write_to_the_terminal(daemon: Daemon) -> None:
    ran = ggaoectl("--socket", daemon.path, "show-config")
    assert ran.out == "DEVICE  CONFIG-STRING\ndisk    \\x1b[2Jrack 3\nlate    -\n"


@pytest.mark.parametrize(
    ("verb", "head"), [("show-macmask", "MASK-LIST"), ("show-reserve", "RESERVED-FOR")]
)
def test_hosts(daemon: Daemon, verb: str, head: str) -> None:
    ran = ggaoectl("--socket", daemon.path, verb)
    assert ran.out == f"DEVICE  {head}\ndisk    {HOST}, 02:00:00:00:00:02\nlate    -\n"


def test_version(daemon: Daemon) -> None:
    ran = ggaoectl("--socket", daemon.path, "version")
    assert "version        ggaoe 0.1.0" in ran.out.splitlines()
    assert "uptime         1 d 02:03:04" in ran.out.splitlines()


@pytest.mark.parametrize("verb", ["clear-stats", "clear-config", "clear-macmask", "clear-reserve"])
def test_clearing(daemon: Daemon, verb: str) -> None:
    ran = ggaoectl("--socket", daemon.path, verb, "disk", "la?e")
    assert (ran.status, ran.out, ran.err) == (DONE, "cleared: disk, late\n", "")
    assert daemon.calls == [("clear", {"names": ["disk", "la?e"]})]


def test_clear_stats_takes_all_without_names(daemon: Daemon) -> None:
    assert ggaoectl("--socket", daemon.path, "clear-stats").out == "cleared: disk, late\n"


WARNING = "ggaoed.conf:3:1: warning: option 'buffers' is obsolete\n"


def test_reload(daemon: Daemon) -> None:
    ran = ggaoectl("--socket", daemon.path, "reload")
    changes = "add device new\ndevice disk: queue-length 64 to 32, in place\n"
    assert (ran.status, ran.out, ran.err) == (DONE, changes, WARNING)
    ran = ggaoectl("--socket", daemon.path, "reload", "--dry-run")
    assert ran.out == changes + "nothing of this was applied\n"
    ggaoectl("--socket", daemon.path, "reload", "--force")
    options = [{"dry_run": False, "force": False}, {"dry_run": True, "force": False}]
    options.append({"dry_run": False, "force": True})
    assert daemon.calls == [("reload", one) for one in options]


@pytest.mark.parametrize("daemon", [{"reload": invalid}], indirect=True)
def test_reload_of_a_configuration_with_errors(daemon: Daemon) -> None:
    ran = ggaoectl("--socket", daemon.path, "reload")
    assert (ran.status, ran.out) == (REFUSED, "")
    assert ran.err == (
        "/etc/ggaoed.conf:3:1: unknown option 'pth': did you mean 'path'?\n"
        "/etc/ggaoed.conf: warning: nothing is exported\n"
        "ggaoectl: the configuration has errors\n"
    )
    problems = ggaoectl("--socket", daemon.path, "reload", "--json").json["error"]["data"]
    assert problems["problems"][0]["line"] == 3


@pytest.mark.parametrize(
    "words",
    [
        ["list"],
        ["show", "disk"],
        ["stats"],
        ["show-config"],
        ["show-macmask"],
        ["show-reserve"],
        ["clear-stats"],
        ["clear-config", "disk"],
        ["reload"],
        ["version"],
    ],
    ids=lambda words: words[0],
)
def test_json_is_the_result_as_it_is(daemon: Daemon, words: list[str]) -> None:
    ran = ggaoectl("--json", "--socket", daemon.path, *words)
    assert ran.status == DONE
    request = {"jsonrpc": "2.0", "id": 1, "method": words[0], "params": {"names": words[1:]}}
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(TIMEOUT_S)
        raw.connect(str(daemon.path))
        raw.sendall(json.dumps(request).encode() + b"\n")
        with raw.makefile("rb") as lines:
            expected = json.loads(lines.readline())["result"]
    if words[0] == "stats":  # its counters move with every request
        assert ran.json.keys() == expected.keys()
    else:
        assert ran.json == expected


def test_a_name_that_matches_nothing_is_refused(daemon: Daemon) -> None:
    ran = ggaoectl("--socket", daemon.path, "show", "tape*")
    assert (ran.status, ran.out) == (REFUSED, "")
    assert ran.err == "ggaoectl: nothing matches 'tape*': the list verb shows the names\n"


def test_names_that_match_in_part_are_partly_done(daemon: Daemon) -> None:
    ran = ggaoectl("--socket", daemon.path, "clear-config", "disk", "tape*")
    assert (ran.status, ran.out) == (PARTLY, "cleared: disk\n")
    assert ran.err == "ggaoectl: nothing matches 'tape*': the list verb shows the names\n"
    ran = ggaoectl("--socket", daemon.path, "show-config", "disk", "tape*", "--json")
    assert (ran.status, ran.json["missing"]) == (PARTLY, ["tape*"])


@pytest.mark.parametrize("daemon", [{"list": refused}], indirect=True)
def test_a_refusal_is_one_line(daemon: Daemon) -> None:
    ran = ggaoectl("--socket", daemon.path, "list")
    assert (ran.status, ran.out, ran.err) == (REFUSED, "", "ggaoectl: cannot now:\\nbusy\n")


@pytest.mark.parametrize("daemon", [{"list": broken}], indirect=True)
def test_a_traceback_is_for_debugging_only(daemon: Daemon) -> None:
    ran = ggaoectl("--socket", daemon.path, "list")
    assert (ran.status, ran.out) == (REFUSED, "")
    assert ran.err == "ggaoectl: failed, KeyError: 'devices': --debug shows where\n"
    ran = ggaoectl("--socket", daemon.path, "list", "--debug")
    assert ran.status == REFUSED
    assert ran.err.startswith("Traceback")


def test_monitor_prints_rates(daemon: Daemon) -> None:
    ran = ggaoectl("--socket", daemon.path, "monitor", "100ms", "--count", "2")
    assert (ran.status, ran.err) == (DONE, "")
    blocks = ran.out.rstrip().split("\n\n")
    assert len(blocks) == 4  # devices, then interfaces, twice
    rows = columns(blocks[2])
    assert rows[0][2:] == ["2.0", "s"]
    assert " ".join(rows[2]) == "disk 50 400 250 us 0 0 - 0 0 4.0 0 0 0 2.0"
    assert columns(blocks[3])[1][:4] == ["eth0", "30", "0", "3.0"]


def test_monitor_as_json_is_an_object_per_interval(daemon: Daemon) -> None:
    words = ["monitor", "0.1", "disk", "tape", "--count", "2", "--json"]
    ran = ggaoectl("--socket", daemon.path, *words)
    assert ran.status == PARTLY
    assert ran.err.count("\n") == 1
    first, second = map(json.loads, ran.out.splitlines())
    assert list(first["devices"]) == ["disk"]
    assert first["devices"]["disk"]["read_iops"] == 50
    assert second["monotonic_s"] == first["monotonic_s"] + 2


def test_top_prints_hosts_too(daemon: Daemon) -> None:
    ran = ggaoectl("--socket", daemon.path, "top", "100ms", "--count", "1")
    assert (ran.status, ran.err) == (DONE, "")
    rows = [" ".join(row) for row in columns(ran.out)]
    assert "disk e0.1 serving 400 KiB/s 50 - - 0 B/s 0 - - 4.0 0 0 0 2.0" in rows
    assert f"{HOST} disk eth0 0 B/s 0 0 B/s 0 0 0 0 0 00:00:05 ago" in rows
    ran = ggaoectl("--socket", daemon.path, "top", "0.1", "disk", "--count", "1", "--json")
    found = json.loads(ran.out)
    assert (list(found["devices"]), found["interfaces"]) == (["disk"], {})
    assert found["devices"]["disk"]["state"] == "serving"


def test_monitor_ends_in_silence_when_nobody_reads(daemon: Daemon) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "ggaoe.cli.ggaoectl", "--socket", daemon.path, "monitor", "0.1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    process.wait(TIMEOUT_S)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "required: VERB"),
        (["nonsense"], "invalid choice: 'nonsense'"),
        (["show"], "required: NAMES"),
        (["clear-config"], "required: NAMES"),
        (["list", "disk"], "unrecognized arguments: disk"),
        (["monitor", "--count", "0"], "argument --count: at least one"),
        (["monitor", "0.01"], "interval 0.01 is out of range: 0.1 to 86400 s"),
    ],
)
def test_wrong_usage(daemon: Daemon, words: list[str], message: str) -> None:
    ran = ggaoectl("--socket", daemon.path, *words)
    assert (ran.status, ran.out) == (USAGE, "")
    assert message in ran.err


def test_nobody_there(tmp_path: Path) -> None:
    path = tmp_path / "ctl"
    ran = ggaoectl("--socket", path, "list")
    assert (ran.status, ran.out) == (UNREACHABLE, "")
    assert ran.err == (
        f"ggaoectl: {path}: cannot reach the daemon: No such file or directory: "
        f"does the daemon run, and with this control-socket?\n"
    )
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    ran = ggaoectl("--socket", path, "list")
    assert ran.status == UNREACHABLE
    assert "Connection refused: the daemon has ended" in ran.err
    path.unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as original:
        original.bind(str(path))
        ran = ggaoectl("--socket", path, "list")
    assert ran.status == UNREACHABLE
    assert "maybe of the original ggaoed" in ran.err


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "it hung up without an answer"),
        (b"220 mail ready\n", "the answer is no JSON-RPC"),
        (b"[]\n", "the answer is no JSON-RPC"),
        (b'{"error": 1}\n', "the answer is no JSON-RPC"),
        (b"x" * (2 << 20), "its answer is longer than 1048576 bytes"),
    ],
    ids=["none", "text", "list", "shape", "long"],
)
def test_somebody_else_there(tmp_path: Path, answer: bytes, message: str) -> None:
    path = tmp_path / "ctl"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(TIMEOUT_S)
        process = subprocess.Popen(
            [sys.executable, "-m", "ggaoe.cli.ggaoectl", "--socket", str(path), "list"],
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(TIMEOUT_S)
            assert connection.recv(1 << 16).endswith(b"\n")
            try:
                connection.sendall(answer)
            except (BrokenPipeError, ConnectionResetError):
                assert len(answer) > 1 << 20  # it has read enough
        _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == UNREACHABLE
    assert err.startswith(f"ggaoectl: {path}: ".encode())
    assert message.encode() in err


KEYFILE = "[defaults]\ncontrol-socket = {socket}\n[disk]\nthis line is broken\nshelf = 70000\n"
TOML = '[defaults]\ncontrol-socket = "{socket}"\n[devices.disk]\nshelf = 70000\n'


@pytest.mark.parametrize(("name", "text"), [("a.conf", KEYFILE), ("a.toml", TOML), ("b", TOML)])
def test_the_socket_is_found_in_a_configuration_with_errors(
    daemon: Daemon, name: str, text: str
) -> None:
    config = daemon.path.with_name(name)
    config.write_text(text.format(socket=daemon.path))
    assert ggaoectl("-c", config, "clear-stats").status == DONE
    config.write_text("\ufeff" + text.format(socket=daemon.path.name))  # relative to the file
    assert ggaoectl("clear-stats", "--config", config).status == DONE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file or directory: name the file with -c, or the socket with --socket"),
        ("[defaults\n[devices.x]\n", "a.toml:1:10: not TOML"),
        (
            "[defaults]\ncontrol-socket = 7\n",
            "a.toml:2:1: 7 cannot be used: control-socket is a path",
        ),
    ],
    ids=["missing", "syntax", "value"],
)
def test_a_configuration_that_tells_no_socket(
    tmp_path: Path, text: str | None, message: str
) -> None:
    config = tmp_path / "a.toml"
    if text is not None:
        config.write_text(text)
    ran = ggaoectl("-c", config, "list")
    assert (ran.status, ran.out, ran.err.count("\n")) == (USAGE, "", 1)
    assert message in ran.err


def test_version_and_help() -> None:
    assert ggaoectl("-V").out.startswith("ggaoectl ")
    ran = ggaoectl("-h")
    assert ran.status == DONE
    assert "4 partly done" in " ".join(ran.out.split())


def test_it_starts_without_asyncio_and_without_the_daemon(daemon: Daemon) -> None:
    code = (
        "import sys\nfrom ggaoe.cli.ggaoectl import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "print(*(name for name in sys.modules if name.startswith('ggaoe.') or "
        "name.partition('.')[0] in ('asyncio', 'uvloop', 'concurrent', 'logging')))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, "--socket", str(daemon.path), "clear-stats"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    assert sorted(ran.stdout.splitlines()[-1].split()) == [
        "ggaoe.cli",
        "ggaoe.cli.changing",
        "ggaoe.cli.ggaoectl",
        "ggaoe.cli.output",
        "ggaoe.cli.rates",
        "ggaoe.cli.render",
        "ggaoe.errors",
        "ggaoe.parts",
        "ggaoe.units",
    ]
