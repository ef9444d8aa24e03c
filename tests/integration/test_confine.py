"""What the daemon gives up after its start is gone, in every thread, and nothing is missed."""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from ggaoe.engine.select import ENGINES
from ggaoe.net.plain import RECEIVE_BUFFER_BYTES
from ggaoe.proto.query import Ccmd
from ggaoe.server.changes import Changes
from ggaoe.server.verbs import Verbs
from helpers.needs import requires_program
from helpers.netns import wait_until
from helpers.targets import REPOSITORY
from integration.scene import (
    COMMAND_TIMEOUT_S,
    DEADLINE_S,
    DISK_BYTES,
    GGAOE,
    GGAOECTL,
    Daemon,
    Scene,
    device,
    round_trip,
)

pytestmark = pytest.mark.one_engine

BREAKOUT = Path(__file__).with_name("breakout.py")
NET_RAW = 1 << 13
DAC_OVERRIDE, DAC_READ_SEARCH = 1 << 1, 1 << 2
NOBODY = "nobody"


def defaults(**options: object) -> str:
    lines = [f"{key.replace('_', '-')} = {value}" for key, value in options.items()]
    return "\n".join(["[defaults]", *lines, ""])


@pytest.fixture(params=list(ENGINES))
def engine(request: pytest.FixtureRequest) -> str:
    """A line of [defaults] for each engine that is there."""
    return defaults(engine=request.param)


# --- breaking out ------------------------------------------------------------------------------

OUTSIDE = ("read outside", "write outside", "list the root")
WITHIN = ("read the device", "write the device", "create a state", "packets", "send to a log")
BESIDE = ("truncate the device", "create beside it")
"""What the directory of a device does not permit, either."""
PRIVILEGED = ("bind a low port", "set the host name", "read of another user")
CALLS = (
    *("bpf", "chroot", "execveat", "init_module", "io_uring_setup", "keyctl", "memfd_create"),
    *("mount", "open_by_handle_at", "perf_event_open", "pivot_root", "process_vm_readv"),
    *("ptrace", "setns", "unshare", "userfaultfd", "IPv4", "IPv6", "run a program"),
    "connect to a service",
)


@contextmanager
def listening(path: str, kind: int = socket.SOCK_STREAM) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX, kind) as server:
        server.bind(path)
        if kind == socket.SOCK_STREAM:
            server.listen()
        try:
            yield
        finally:
            Path(path).unlink()


@pytest.fixture
def broken_out(scene: Scene) -> Any:
    """Runs the attempts with some limits; what came of them, by when they were made."""
    images, state = scene.directory / "images", scene.directory / "state"
    for directory in (images, state):
        directory.mkdir()
    (images / "disk").write_bytes(bytes(DISK_BYTES))
    (scene.directory / "outside").write_text("secret")
    foreign = images / "foreign"
    foreign.write_text("of another user")
    foreign.chmod(0o600)
    os.chown(foreign, pwd.getpwnam(NOBODY).pw_uid, -1)
    places = {
        "outside": str(scene.directory / "outside"),
        "directory": str(images),
        "device": str(images / "disk"),
        "state": str(state),
        "foreign": str(foreign),
        "service": str(scene.directory / "service"),
        "log": str(scene.directory / "log"),
    }

    def run(**limits: object) -> dict[str, dict[str, str]]:
        request = {
            "places": places,
            "limits": {"devices": [places["device"]], "state_directory": str(state), **limits},
        }
        with listening(places["service"]), listening(places["log"], socket.SOCK_DGRAM):
            done = subprocess.run(
                ["nsenter", f"--net=/proc/{scene.target.pid}/ns/net", sys.executable, BREAKOUT],
                input=json.dumps(request),
                capture_output=True,
                text=True,
                check=False,
                timeout=COMMAND_TIMEOUT_S,
                cwd=REPOSITORY,
                env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            )
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        facts = answer["facts"]
        for what in ("landlock", "seccomp"):
            if limits[what] and facts[what]["reason"] is not None:
                pytest.skip(f"no {what}: {facts[what]['reason']}")
        outcomes: dict[str, dict[str, str]] = answer["outcomes"]
        return outcomes

    return run


def refused(outcomes: dict[str, dict[str, str]], names: tuple[str, ...], *errors: str) -> None:
    """All of these worked before, and fail now, in the thread that was there and in a new one."""
    assert {name: outcomes["before"][name] for name in names} == dict.fromkeys(names, "done")
    for when in ("after", "in a thread"):
        found = {name: outcomes[when][name] for name in names}
        assert all(error in errors for error in found.values()), (when, found)


def permitted(outcomes: dict[str, dict[str, str]], names: tuple[str, ...]) -> None:
    for when in ("after", "in a thread"):
        assert {name: outcomes[when][name] for name in names} == dict.fromkeys(names, "done")


def test_capabilities_alone(broken_out: Any) -> None:
    outcomes = broken_out(landlock=False, seccomp=False)
    refused(outcomes, PRIVILEGED, "EPERM", "EACCES")
    permitted(outcomes, (*WITHIN, *BESIDE, *OUTSIDE, "run a program", "IPv4"))


def test_landlock_alone(broken_out: Any) -> None:
    outcomes = broken_out(landlock=True, seccomp=False)
    refused(outcomes, (*OUTSIDE, *BESIDE, "run a program", "bind a TCP port"), "EACCES")
    refused(outcomes, ("signal another process",), "EPERM")
    permitted(outcomes, (*WITHIN, "IPv4", "memfd_create"))


def test_seccomp_alone(broken_out: Any) -> None:
    outcomes = broken_out(landlock=False, seccomp=True)
    refused(outcomes, CALLS, "EPERM")
    assert {found["connect an end of a pair"] for found in outcomes.values()} == {"EISCONN"}
    permitted(outcomes, (*WITHIN, *BESIDE, *OUTSIDE))


def test_all_of_it(broken_out: Any) -> None:
    outcomes = broken_out(landlock=True, seccomp=True)
    names = (*OUTSIDE, *BESIDE, *PRIVILEGED, *CALLS, "bind a TCP port", "signal another process")
    refused(outcomes, names, "EPERM", "EACCES")
    permitted(outcomes, WITHIN)


def test_another_user_cannot_come_back(broken_out: Any, open_scene: Scene) -> None:
    """Root's own files are out of reach, too: the outside belongs to root."""
    outcomes = broken_out(landlock=False, seccomp=False, user=NOBODY)
    refused(outcomes, ("read outside", "write outside"), "EACCES")
    refused(outcomes, ("set the host name", "bind a low port"), "EPERM", "EACCES")
    permitted(outcomes, ("packets",))


def test_it_is_too_late_once_there_are_threads() -> None:
    code = (
        "import threading\n"
        "from ggaoe.server.confine import Limits, confine\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "confine(Limits())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=REPOSITORY
    )
    assert done.returncode != 0
    assert "threads that exist already" in done.stderr


# --- the daemon --------------------------------------------------------------------------------


def statuses(daemon: Daemon) -> list[dict[str, str]]:
    """/proc/PID/task/*/status of all threads, the kernel's own for us among them."""
    found = []
    for task in Path(f"/proc/{daemon.running.pid}/task").iterdir():
        text = (task / "status").read_text()
        found.append(dict(re.findall(r"^(\w+):\s*(.*)$", text, re.MULTILINE)))
    return found


def assert_confined(daemon: Daemon, capabilities: int = NET_RAW, seccomp: int = 2) -> None:
    threads = statuses(daemon)
    assert len(threads) > 1
    for status in threads:
        for kind in ("CapPrm", "CapEff"):
            assert int(status[kind], 16) == capabilities, status
        for kind in ("CapInh", "CapAmb", "CapBnd"):
            assert int(status[kind], 16) == 0, status
        assert status["NoNewPrivs"] == "1"
        assert int(status["Seccomp"]) == seccomp, status


def facts(daemon: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = daemon.ask("show", "daemon")["daemon"]
    return found


@pytest.mark.parametrize("io_engine", ["aio", "uring", "threads"])
async def test_every_thread_of_the_daemon(scene: Scene, engine: str, io_engine: str) -> None:
    disk, buffered = scene.disk(), scene.disk("buffered")
    sections = [engine, defaults(io_engine=io_engine), device()]
    with scene.serving(*sections, device("buffered", 2, direct_io=False)) as daemon:
        async with scene.initiator() as initiator:
            await round_trip(initiator, disk)
            await round_trip(initiator, buffered, slot=2)
            assert_confined(daemon)
        shown = facts(daemon)
        assert shown["user"] == "root"
        assert list(shown["capabilities"]) == ["net_raw"]
        assert shown["no_new_privileges"] is True
        assert shown["landlock"]["reason"] is None
        assert shown["seccomp"]["reason"] is None
        text = daemon.ctl("show", "daemon").stdout
        assert re.search(r"landlock +ABI \d+, \d+ rules", text), text
        assert re.search(r"seccomp +\d+ system calls", text), text
        assert "confined: user root, CAP_NET_RAW, Landlock (ABI " in daemon.log_text()
        assert [one["name"] for one in daemon.ask("show", "daemon", "disk")["devices"]] == ["disk"]
        ran = daemon.ctl("show", "daemon", "nosuch", "dis*", "--json")
        shown = json.loads(ran.stdout)
        assert (ran.status, shown["missing"]) == (4, ["nosuch"])
        assert ("daemon" in shown, [one["name"] for one in shown["devices"]]) == (True, ["disk"])
        ran = daemon.ctl("show", "daemon", "nosuch")
        assert (ran.status, "seccomp" in ran.stdout) == (4, True)
        assert "nothing matches 'nosuch'" in ran.stderr
    assert not (scene.directory / "pid").exists()
    assert not (scene.directory / "ctl").exists()


async def test_each_can_be_turned_off(scene: Scene, engine: str) -> None:
    scene.disk()
    with scene.serving(engine, defaults(landlock="false", seccomp="false"), device()) as daemon:
        assert_confined(daemon, seccomp=0)
        shown = facts(daemon)
        for what in ("landlock", "seccomp"):
            assert shown[what]["reason"] == "switched off by the configuration"
            assert f"no {what}" not in daemon.log_text().lower().replace("no landlock, all", "")


async def test_reloads_within_and_outside(scene: Scene, engine: str) -> None:
    """A device in a known directory serves; one elsewhere says why it does not."""
    scene.disk()
    elsewhere = scene.directory.parent / f"{scene.directory.name}-elsewhere"
    elsewhere.mkdir()
    try:
        other = shutil.copy(scene.disk("other"), elsewhere / "other")
        with scene.serving(engine, device()) as daemon:
            daemon.reconfigure(
                engine,
                device(),
                device("other", 2),
                device("outside", 3, path=other),
                device("disk uuid", 4, path=None, uuid="0a3407de-014b-458b-b5c1-848e92a327a3"),
            )
            assert daemon.listed("other")["state"] == "serving"
            for name, place in (("outside", elsewhere), ("disk uuid", "/dev")):
                row = daemon.listed(name)
                assert row["state"] == "waiting"
                assert f"Landlock was set up at the start without {place}: restart" in row["reason"]
            async with scene.initiator() as initiator:
                await round_trip(initiator, scene.directory / "other", slot=2)
            assert daemon.stop() == 0
            daemon.start()
            assert daemon.listed("outside")["state"] == "serving"
    finally:
        shutil.rmtree(elsewhere)


async def test_a_replaced_file_is_opened_again(scene: Scene, engine: str) -> None:
    scene.disk()
    with scene.serving(engine, device()) as daemon:
        replacement = scene.disk("new")
        replacement.rename(scene.directory / "disk")
        daemon.reconfigure(engine, device(exact_size=True))
        async with scene.initiator() as initiator:
            await round_trip(initiator, scene.directory / "disk")


@contextmanager
def mounted(scene: Scene, image: Path, place: Path) -> Iterator[None]:
    """The file system in `image` is at `place` meanwhile."""
    try:
        scene.target.run("mount", "-o", "loop", image, place)
    except subprocess.CalledProcessError:
        pytest.skip("needs loop devices and ext4")
    try:
        yield
    finally:
        scene.target.run("umount", place)


@pytest.fixture
def image(scene: Scene) -> Path:
    """A file system with a file called disk."""
    requires_program("mkfs.ext4")
    image, root = scene.disk("image", 16 << 20), scene.directory / "root"
    root.mkdir()
    with (root / "disk").open("wb") as file:
        file.truncate(DISK_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-d", root, image], check=True)
    return image


async def test_a_file_system_may_be_mounted_again(scene: Scene, engine: str, image: Path) -> None:
    """As for a check of it; and by a daemon that was there before it was mounted at all."""
    place = scene.directory / "a place"
    place.mkdir()
    daemon = scene.daemon(engine, device(path="a place/disk"))
    with mounted(scene, image, place):
        daemon.start()
        assert daemon.ctl("stop", "disk").status == 0
    with mounted(scene, image, place):
        assert daemon.ctl("start", "disk").status == 0
        async with scene.initiator() as initiator:
            await (await initiator.open(0, 1)).read(0, 1)
        assert daemon.stop() == 0
    daemon.start()
    assert daemon.listed("disk")["state"] == "waiting"
    with mounted(scene, image, place):
        daemon.wait_for_state("disk", "serving")
        assert daemon.stop() == 0


def test_what_is_mounted_again_in_a_system_directory_says_why_it_waits(
    scene: Scene, engine: str, image: Path
) -> None:
    """A rule for the directory above would be one for all of the system's."""
    place = Path("/var/lib")
    daemon = scene.daemon(engine, device(path=place / "disk"))
    with mounted(scene, image, place):
        daemon.start()
        assert daemon.ctl("stop", "disk").status == 0
    with mounted(scene, image, place):
        outcome = daemon.ctl("start", "disk")
        reason = daemon.listed("disk")["reason"]
        assert "Landlock was set up at the start for what was mounted there then: rest" in reason
        assert (outcome.status, f"disk waits: {reason}" in outcome.stderr) == (4, True)
        assert daemon.stop() == 0
        daemon.start()
        assert daemon.listed("disk")["state"] == "serving"
        assert daemon.stop() == 0


def test_a_file_that_is_mounted_by_then_is_refused(scene: Scene, engine: str, image: Path) -> None:
    """The confined daemon sees loop devices and mounts that were made after its start."""
    place = scene.directory / "place"
    place.mkdir()
    scene.disk()
    with scene.serving(engine, device()) as daemon:
        with mounted(scene, image, place):
            daemon.reconfigure(engine, device(), device("image", 2))
            row = daemon.listed("image")
            assert row["state"] == "waiting"
            assert re.match(
                rf"{image} is attached as /dev/loop\d+, which is mounted at {place}: unmount it",
                row["reason"],
            )
        daemon.wait_for_state("image", "serving")


async def test_a_linked_file_is_what_the_link_means(scene: Scene, engine: str) -> None:
    (scene.directory / "images").mkdir()
    disk = scene.disk("images/disk")
    (scene.directory / "link").symlink_to("images/disk")
    with scene.serving(engine, device(path="link")):
        async with scene.initiator() as initiator:
            await round_trip(initiator, disk)


@pytest.mark.parametrize(
    ("read_only", "capability"), [(False, DAC_OVERRIDE), (True, DAC_READ_SEARCH)]
)
async def test_root_keeps_what_it_takes_to_open_what_is_configured(
    scene: Scene, engine: str, read_only: bool, capability: int
) -> None:
    disk = scene.disk()
    disk.chmod(0o600)
    os.chown(disk, pwd.getpwnam(NOBODY).pw_uid, -1)
    with scene.serving(engine, device(read_only=read_only)) as daemon:
        assert_confined(daemon, NET_RAW | capability)
        assert daemon.listed("disk")["state"] == "serving"
        _, reason = facts(daemon)["capabilities"].values()
        assert reason == f"to open {disk}"
        assert f"CAP_DAC_{'READ_SEARCH' if read_only else 'OVERRIDE'} (to open {disk})" in (
            daemon.log_text()
        )


async def test_a_device_of_another_user_that_comes_later_waits(scene: Scene, engine: str) -> None:
    scene.disk()
    other = scene.disk("other")
    other.chmod(0o600)
    os.chown(other, pwd.getpwnam(NOBODY).pw_uid, -1)
    with scene.serving(engine, device()) as daemon:
        daemon.configure(engine, device(), device("other", 2))
        outcome = daemon.ctl("reload")
        row = daemon.listed("other")
        assert row["state"] == "waiting"
        assert "CAP_DAC_OVERRIDE was given up at the start" in row["reason"]
        assert outcome.status == 0
        assert f"other waits: {row['reason']}\n" in outcome.stderr


def receive_buffer_limit_bytes() -> int:
    return int(Path("/proc/sys/net/core/rmem_max").read_text())


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_link_that_comes_back_has_what_the_system_gives(scene: Scene, engine: str) -> None:
    """Without CAP_NET_ADMIN, its buffers (for receiving where there is no ring) are the system's,
    and that is told."""
    limit_bytes = receive_buffer_limit_bytes()
    if limit_bytes >= RECEIVE_BUFFER_BYTES:
        pytest.skip("needs a system with net.core.rmem_max below ours")
    disk = scene.disk()
    sections = (defaults(engine=engine), device(), "[far0]\nsend-buffer-size = 32768\n")
    with scene.serving(*sections) as daemon:
        assert " buffer of " not in daemon.log_text()
        scene.target.ip("link set far0 down")
        daemon.wait_for_interface("far0", serving=False)
        scene.target.ip("link set far0 up")
        daemon.wait_for_interface("far0", serving=True)
        told = f"a receive buffer of {limit_bytes >> 10} KiB instead of 32768 KiB"
        assert (told in daemon.log_text()) == (engine == "portable")
        assert "far0: a send buffer of " in daemon.log_text()
        assert "instead of 32768 KiB: raise sysctl net.core.wmem_max" in daemon.log_text()
        async with scene.initiator() as initiator:
            await round_trip(initiator, disk)


# --- what a system does not give ---------------------------------------------------------------


def refusing(call: str, error: str) -> tuple[str, ...]:
    """Runs a program for which the system call `call` fails."""
    return ("strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", f"inject={call}:error={error}")


@pytest.mark.parametrize("call", ["capset", "prctl", "capget"])
def test_privileges_that_cannot_be_given_up(scene: Scene, call: str) -> None:
    requires_program("strace")
    scene.disk()
    outcome = scene.run(*refusing(call, "EPERM"), *GGAOE, "-c", scene.daemon(device()).config)
    assert outcome.status == 1
    assert f"ggaoe: cannot give up privileges: {call}: Operation not permitted" in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_there_is_no_proc(scene: Scene) -> None:
    scene.disk()
    hidden = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /proc && exec "$@"', "sh")
    outcome = scene.run(*hidden, *GGAOE, "-c", scene.daemon(device()).config)
    assert outcome.status == 1
    assert outcome.stderr.endswith("No such file or directory: mount /proc\n")
    assert "Traceback" not in outcome.stderr


def test_a_control_socket_that_has_gone() -> None:
    code = (
        "from pathlib import Path\n"
        "from ggaoe.errors import StartError\n"
        "from ggaoe.server.confine import Limits, confine\n"
        "try:\n"
        f"    confine(Limits(user={NOBODY!r}, control_socket=Path('/nowhere/ctl')))\n"
        "except StartError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=REPOSITORY
    )
    assert "/nowhere/ctl: No such file or directory" in done.stdout, done.stderr


def test_a_kernel_that_cannot_be_asked_what_is_permitted(scene: Scene) -> None:
    """The C library's substitute says that root may open everything, whatever it gives up."""
    requires_program("strace")
    disk = scene.disk()
    disk.chmod(0o600)
    os.chown(disk, pwd.getpwnam(NOBODY).pw_uid, -1)
    daemon = scene.daemon(device())
    daemon.wrapper = refusing("faccessat2", "ENOSYS")
    daemon.start()
    assert daemon.listed("disk")["state"] == "serving"
    assert facts(daemon)["capabilities"]["dac_override"] == f"to open {disk}"
    assert daemon.stop() == 0


# --- without a way to the code -----------------------------------------------------------------

VERBS = (
    *(["version"], ["list"], ["show", "daemon", "disk"], ["stats"], ["show-config"]),
    *(["show-macmask"], ["show-reserve"], ["why", "02:00:00:00:00:01", "disk"], ["clear-stats"]),
    *(["clear-config", "disk"], ["clear-macmask", "disk"], ["clear-reserve", "disk"]),
    *(["events", "--recent"], ["trace", "disk", "--seconds", "0.1"], ["metrics"]),
    *(
        ["set", "buffered", "queue-length=5"],
        ["set", "disk", "read=02:00:00:00:00:01", "--dry-run"],
    ),
    *(["add", "new", "path=missing", "shelf=0", "slot=auto"], ["remove", "new"]),
    *(["stop", "buffered"], ["start", "buffered"]),
    *(["reload", "--dry-run"], ["reload"]),
)
STRICT = Path(__file__).with_name("strict.py")


class StrictDaemon(Daemon):
    """Confined without a way to the code of Python and its own."""

    command = (sys.executable, str(STRICT))


async def test_nothing_is_imported_later(scene: Scene, engine: str) -> None:
    disk = scene.disk()
    scene.disk("buffered")
    sections = (engine, device("buffered", 2, direct_io=False))
    daemon = StrictDaemon(scene.target, scene.directory)
    scene.logs.append(daemon.log)
    daemon.configure(*sections, device(), device("missing", 3))
    daemon.start()
    swap = ["swap", "buffered", str(disk), "--dry-run"]
    diff = scene.ggaoe("check", "-c", daemon.config, "--diff")
    assert diff.status == 0
    asked = {*Verbs(None).handlers(), *Changes(None).handlers()} - {"diff"}  # type: ignore[arg-type]
    assert {verb for verb, *_ in (*VERBS, swap)} == asked
    assert "locked by" in daemon.ctl(*swap).stderr
    for verb in VERBS:
        outcome = daemon.ctl(*verb)
        assert outcome.status == 0, outcome
    async with scene.initiator() as initiator:
        await round_trip(initiator, disk)
        remote = await initiator.open(0, 1)
        await remote.query(Ccmd.SET, b"\0\xff")
        await remote.reserve([scene.host.mac("near0")])
    for broken in (
        *("[disk]\npath = a\u200bb\nslot = no\n", "[d\u200bsk]\nslot = 1\n", "[a\n]\n= 1"),
        *("[devices.a]\npath = 'a\u200bb'\nslot = [", "[acls]\na = b\nb = a, nobody\n"),
    ):
        daemon.config.write_text(broken)
        daemon.hang_up()
    daemon.config.write_bytes(b"\xff\n")
    daemon.hang_up()
    daemon.config.unlink()
    daemon.hang_up()
    daemon.reconfigure(*sections, device(path="missing"), device("uuid", 4, path=None, uuid="1-2"))
    assert daemon.listed("disk")["state"] == "waiting"
    assert daemon.stop() == 0
    assert daemon.log_text().count("reload refused") == 7
    assert "Error" not in daemon.log_text()
    assert "internal error" not in daemon.log_text()


def test_a_replaced_ethers_file_says_what_to_do(scene: Scene, engine: str) -> None:
    scene.disk()
    etc = scene.directory / "etc"
    etc.mkdir()
    for name in ("passwd", "group", "nsswitch.conf", "ld.so.cache", "localtime"):
        with suppress(FileNotFoundError):
            shutil.copy(Path("/etc") / name, etc / name)
    (etc / "ethers").write_text("02:00:00:00:00:01 one\n")
    scene.target.run("mount", "--bind", etc, "/etc")
    with scene.serving(engine, device()) as daemon:
        daemon.reconfigure(engine, device(accept="one"))
        (etc / "new").write_text("02:00:00:00:00:01 one\n02:00:00:00:00:02 two\n")
        (etc / "new").rename(etc / "ethers")
        daemon.configure(engine, device(accept="two"))
        outcome = daemon.ctl("reload")
        assert outcome.status == 1
        assert "(it may not be read; where it has been replaced since the daemon started: " in (
            outcome.stderr
        )
        assert daemon.stop() == 0
        daemon.start()
        assert daemon.ask("show", "disk")["devices"][0]["accept"] == ["02:00:00:00:00:02"]


# --- as another user ---------------------------------------------------------------------------


def give(*paths: Path) -> None:
    user = pwd.getpwnam(NOBODY)
    for path in paths:
        os.chown(path, user.pw_uid, user.pw_gid)


async def test_as_another_user(open_scene: Scene, engine: str) -> None:
    """It serves and stores what this user may, and says of the rest what to do."""
    scene = open_scene
    disk, foreign = scene.disk(), scene.disk("foreign")
    sections = (engine, defaults(user=NOBODY), device(), device("foreign", 2))
    daemon = scene.daemon(*sections)
    for path in (disk, foreign):
        path.chmod(0o600)
    give(disk, scene.directory / "state")
    daemon.start()
    assert_confined(daemon)
    user = pwd.getpwnam(NOBODY)
    for status in statuses(daemon):
        assert status["Uid"].split() == [str(user.pw_uid)] * 4
        assert status["Gid"].split() == [str(user.pw_gid)] * 4
        assert "0" not in status["Groups"].split()
    row = daemon.listed("foreign")
    assert row["state"] == "waiting"
    assert (
        f"user {NOBODY} may not open it: give it access (setfacl -m u:{NOBODY}:rw "
        in (row["reason"])
    )
    assert facts(daemon)["user"] == NOBODY
    assert (scene.directory / "ctl").stat().st_uid == user.pw_uid
    async with scene.initiator() as initiator:
        await round_trip(initiator, disk)
        remote = await initiator.open(0, 1)
        await remote.query(Ccmd.SET, b"kept")
    give(foreign)
    daemon.wait_for_state("foreign", "serving")
    assert daemon.stop() == 0
    assert (scene.directory / "pid").read_text() == ""

    daemon.start()
    assert daemon.ask("show-config")["devices"]["disk"] == b"kept".hex()
    assert daemon.stop() == 0


def test_metrics_as_another_user(open_scene: Scene, engine: str) -> None:
    """The socket's file goes with the daemon where its directory is the user's."""
    disk, web = open_scene.disk(), open_scene.directory / "web"
    daemon = open_scene.daemon(engine, defaults(user=NOBODY, metrics=web), device())
    give(open_scene.directory, open_scene.directory / "state", disk)
    daemon.start()
    daemon.wait_for_state("disk", "serving")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(web))
        client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        with client.makefile("rb") as answer:
            assert b"\nggaoe_build_info{" in answer.read()
    assert_confined(daemon)
    assert daemon.stop() == 0
    assert not web.exists()


def test_a_user_that_does_not_exist(scene: Scene) -> None:
    scene.disk()
    daemon = scene.daemon(defaults(user="no-such-user"), device())
    outcome = scene.ggaoe("-c", daemon.config)
    assert outcome.status == 1
    assert "ggaoe: user no-such-user does not exist: create it" in outcome.stderr
    assert not (scene.directory / "ctl").exists()
    assert not (scene.directory / "pid").exists()


def test_a_user_that_does_not_exist_leaves_nothing_behind(open_scene: Scene) -> None:
    """A directory of root's would be in the way of the next start, with the right user."""
    give(open_scene.disk())
    place = open_scene.directory / "lib"
    place.mkdir(mode=0o755)
    open_scene.target.run("mount", "--bind", place, "/var/lib")
    run = open_scene.directory / "run"
    options = {"state_directory": "/var/lib/ggaoed", "pid_file": run / "pid"}
    options["control_socket"] = run / "ctl"
    daemon = open_scene.daemon(defaults(user="no-such-user", **options), device())
    daemon.launch()
    assert daemon.running.wait() == 1
    assert "ggaoe: user no-such-user does not exist: create it" in daemon.log_text()
    assert not (place / "ggaoed").exists()
    assert not run.exists()


def test_a_state_directory_that_is_not_the_users(open_scene: Scene) -> None:
    open_scene.disk()
    daemon = open_scene.daemon(defaults(user=NOBODY), device())
    outcome = open_scene.ggaoe("-c", daemon.config)
    assert outcome.status == 1
    assert f"is not readable and writable for user {NOBODY}: change its owner" in outcome.stderr


def test_the_default_state_directory_is_made_for_the_user(open_scene: Scene) -> None:
    give(open_scene.disk())
    place = open_scene.directory / "lib"
    place.mkdir(mode=0o755)
    open_scene.target.run("mount", "--bind", place, "/var/lib")
    options = defaults(user=NOBODY, state_directory="/var/lib/ggaoed")
    daemon = open_scene.daemon(options, device())
    daemon.start()
    status = (place / "ggaoed").stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (pwd.getpwnam(NOBODY).pw_uid, 0o700)
    assert daemon.stop() == 0


def test_a_state_directory_that_cannot_be_read(open_scene: Scene) -> None:
    open_scene.disk()
    daemon = open_scene.daemon(defaults(user=NOBODY), device())
    state = open_scene.directory / "state"
    give(state)
    state.chmod(0o300)
    outcome = open_scene.ggaoe("-c", daemon.config)
    assert outcome.status == 1
    assert f"is not readable and writable for user {NOBODY}" in outcome.stderr


async def test_what_root_has_left_in_the_state_directory(open_scene: Scene) -> None:
    """By a crash in the middle of storing a state, before the configuration had a user."""
    scene = open_scene
    disk = scene.disk()
    daemon = scene.daemon(defaults(user=NOBODY), device())
    left = scene.directory / "state" / ".disk.json.new"
    left.write_text("{")
    left.chmod(0o600)
    give(disk, scene.directory / "state")
    daemon.start()
    assert not left.exists()
    async with scene.initiator() as initiator:
        await (await initiator.open(0, 1)).query(Ccmd.SET, b"kept")
    assert daemon.stop() == 0
    assert {path.name for path in (scene.directory / "state").iterdir()} == {"disk.json", "lock"}


def test_a_directory_that_the_user_may_not_enter(open_scene: Scene, engine: str) -> None:
    """It says so, not that Landlock is the cause; and who lets the user in need not restart it."""
    scene = open_scene
    closed = scene.directory / "closed"
    (closed / "images").mkdir(parents=True)
    disk = scene.disk("closed/images/disk")
    daemon = scene.daemon(engine, defaults(user=NOBODY), device(path=disk))
    give(disk, scene.directory / "state")
    closed.chmod(0o700)
    daemon.start()
    row = daemon.listed("disk")
    assert row["state"] == "waiting"
    assert row["reason"] == (
        f"{disk}: user {NOBODY} may not enter {closed}: give it access "
        f"(setfacl -m u:{NOBODY}:x {closed})"
    )
    closed.chmod(0o711)
    daemon.wait_for_state("disk", "serving")
    assert daemon.stop() == 0


def test_a_pid_file_where_the_user_may_not_look(open_scene: Scene) -> None:
    scene = open_scene
    private = scene.directory / "private"
    private.mkdir(mode=0o700)
    disk = scene.disk()
    daemon = scene.daemon(defaults(user=NOBODY, pid_file="private/pid"), device())
    give(disk, scene.directory / "state")
    daemon.start()
    assert daemon.stop() == 0
    assert "Traceback" not in daemon.log_text()
    assert (private / "pid").read_text() == ""


@pytest.mark.parametrize("switches", [(), ("--no-landlock", "--no-seccomp"), ("--user", NOBODY)])
def test_export_is_confined(open_scene: Scene, switches: tuple[str, ...]) -> None:
    scene = open_scene
    disk = scene.disk()
    control = scene.directory / "ctl"
    if "--user" in switches:
        give(disk)
    log = scene.directory / "export.log"
    temporary = scene.directory / "tmp"
    temporary.mkdir()
    temporary.chmod(0o1777)
    with log.open("wb") as stderr:
        options = ("--interface", "far0", "--slot", "1", "--control-socket", control, *switches)
        command = ("env", f"TMPDIR={temporary}", *GGAOE, "export", disk, *options)
        process = scene.target.spawn(*command, stderr=stderr, cwd=REPOSITORY)
    scene.logs.append(log)
    daemon = Daemon(scene.target, scene.directory)
    daemon.process = process
    wait_until(lambda: "ready: " in log.read_text(), DEADLINE_S, "its start")
    assert_confined(daemon, seccomp=0 if "--no-seccomp" in switches else 2)
    shown = scene.run(*GGAOECTL, "--socket", control, "--json", "show", "daemon").json["daemon"]
    assert (shown["landlock"]["reason"] is None) == ("--no-landlock" not in switches)
    assert shown["user"] == (NOBODY if "--user" in switches else "root")
    assert process.stop() == 0
    assert "Traceback" not in log.read_text()
    assert not list(temporary.iterdir())
