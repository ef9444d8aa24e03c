"""`ggaoe doctor` finds what is wrong, says what to do, and changes nothing."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ggaoe.engine.select import ENGINES
from ggaoe.net.plain import SEND_BUFFER_BYTES
from ggaoe.proto.query import Ccmd
from ggaoe.server.doctor.storage import disks_below
from ggaoe.units import format_mac
from helpers.loop import loop_device
from helpers.needs import requires_namespaces, requires_program
from helpers.netns import bridge
from helpers.targets import REPOSITORY, Vblade
from integration.scene import DISK_BYTES, GGAOE, MIB, Daemon, Scene, device

pytestmark = pytest.mark.one_engine

TIMEOUT_S = 30.0
NOBODY = "nobody"

Row = dict[str, str]


class Clinic:
    """Runs doctor on a daemon's configuration in the target's namespace, with a /sys that shows
    that namespace."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        scene.target.run("mount", "-t", "sysfs", "sysfs", "/sys")

    def run(self, config: Path, *argv: str, wrapper: tuple[str, ...] = ()) -> tuple[int, str]:
        done = subprocess.run(
            [
                *(
                    "nsenter",
                    f"--target={self.scene.target.pid}",
                    "--net",
                    "--mount",
                    "--pid",
                    "--",
                ),
                *(*wrapper, *GGAOE, "doctor", "-c", str(config), *argv),
            ],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=TIMEOUT_S,
            text=True,
            cwd=REPOSITORY,
        )
        return done.returncode, done.stdout

    def examine(self, daemon: Daemon, *, wrapper: tuple[str, ...] = ()) -> list[Row]:
        """All findings; the exit status has to fit them."""
        status, output = self.run(daemon.config, "--json", wrapper=wrapper)
        answer: dict[str, Any] = json.loads(output)
        assert answer["version"] == 1
        found: list[Row] = answer["findings"]
        print(output)
        assert answer["errors"] == len([row for row in found if row["severity"] == "error"])
        assert status == (1 if answer["errors"] else 0)
        return found

    def worst(self, daemon: Daemon) -> list[Row]:
        return [row for row in self.examine(daemon) if row["severity"] in ("error", "warning")]


@pytest.fixture
def clinic(scene: Scene) -> Clinic:
    return Clinic(scene)


def _one(found: list[Row], check: str, severity: str, where: str = "") -> Row:
    rows = [row for row in found if (row["check"], row["severity"]) == (check, severity)]
    rows = [row for row in rows if where in row["where"]]
    assert len(rows) == 1, found
    return rows[0]


def _tree(directory: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in directory.rglob("*")
    }


def test_a_sound_setup_before_the_start(scene: Scene, clinic: Clinic) -> None:
    scene.disk()
    daemon = scene.daemon(device())
    before = _tree(scene.directory)
    found = clinic.examine(daemon)
    assert _tree(scene.directory) == before
    assert not [row for row in found if row["severity"] == "error"]
    for check in ("configuration", "privilege", "backing", "state directory", "addresses"):
        assert _one(found, check, "ok")
    assert "2 sectors in a frame, 17" in _one(found, "interfaces", "note", "far0")["what"]
    assert "cannot reach the daemon" in _one(found, "daemon", "note")["what"]


def test_a_sound_daemon_while_it_runs(scene: Scene, clinic: Clinic) -> None:
    scene.disk()
    with scene.serving(device()) as daemon:
        found = clinic.examine(daemon)
        assert "serves everything" in _one(found, "daemon", "ok")["what"]
        assert daemon.listed("disk")["state"] == "serving"
        daemon.configure(device(read_only=True))
        assert "read-only false → true" in _one(clinic.examine(daemon), "daemon", "note")["what"]
        daemon.configure(device(nonsense=1))
        found = clinic.worst(daemon)
        assert "unknown option" in _one(found, "configuration", "error")["what"]
        assert "refuse a reload" in _one(found, "daemon", "warning")["what"]


def test_for_people(scene: Scene, clinic: Clinic) -> None:
    daemon = scene.daemon(device())
    status, output = clinic.run(daemon.config)
    assert status == 1
    lines = output.splitlines()
    (line,) = [line for line in lines if line.startswith("error ")]
    assert line.split()[1:3] == ["backing", "disk:"]
    assert "check the path" in line
    assert lines[-1].startswith("errors: 1, warnings: ")


def test_what_a_running_daemon_waits_for(scene: Scene, clinic: Clinic) -> None:
    scene.disk("spare")
    with scene.serving(device(), device("spare", 2, auto=False)) as daemon:
        what = _one(clinic.examine(daemon), "daemon", "note", "spare")["what"]  # as configured
        assert what == "stopped: not started, because auto = false"
        found = clinic.worst(daemon)
        assert "waiting: " in _one(found, "daemon", "error", "disk")["what"]
        assert "No such file" in _one(found, "backing", "error", "disk")["what"]


def test_a_file_that_is_not_open_to_the_daemon(open_scene: Scene) -> None:
    """Root, who asks, may do everything."""
    for name in ("disk", "foreign", "looked-at"):
        open_scene.disk(name)
    (open_scene.directory / "looked-at").chmod(0o644)
    daemon = open_scene.daemon(f"[defaults]\nuser = {NOBODY}\n", device())
    user = pwd.getpwnam(NOBODY)
    for name in ("disk", "state"):
        os.chown(open_scene.directory / name, user.pw_uid, user.pw_gid)
    daemon.start()
    daemon.configure(
        f"[defaults]\nuser = {NOBODY}\n",
        device(),
        device("foreign", 2),
        device("looked-at", 3, read_only=True),
    )
    clinic = Clinic(open_scene)
    row = _one(clinic.examine(daemon), "backing", "error")
    foreign = open_scene.directory / "foreign"
    assert row["what"] == f"{foreign}: user {NOBODY}, who runs the daemon, may not open it"
    assert row["remedy"] == f"give it access (setfacl -m u:{NOBODY}:rw {foreign})"
    os.chown(foreign, user.pw_uid, user.pw_gid)
    assert not [row for row in clinic.worst(daemon) if row["check"] == "backing"]
    assert daemon.stop() == 0


def test_a_file_that_cannot_be_read(scene: Scene, clinic: Clinic) -> None:
    daemon = scene.daemon(device())
    daemon.config.unlink()
    row = _one(clinic.worst(daemon), "configuration", "error")
    assert row["where"] == str(daemon.config)
    assert "cannot be read" in row["what"]


def test_sizes_and_write_cache(scene: Scene, clinic: Clinic) -> None:
    scene.disk(size_bytes=DISK_BYTES + 712)
    found = clinic.worst(scene.daemon(device(write_cache=True)))
    row = _one(found, "backing", "warning")
    assert "not exported: 200 bytes at its end" in row["what"]
    assert "truncate" in row["remedy"]
    rounded = clinic.worst(scene.daemon(device(exact_size=False)))
    row = _one(rounded, "backing", "warning")
    assert "not exported: 712 bytes at its end" in row["what"]
    assert "exact-size = true" in row["remedy"]
    assert "power cut" in _one(found, "configuration", "warning", "disk")["what"]


def test_another_target_with_our_address(scene: Scene, clinic: Clinic) -> None:
    requires_program("vblade")
    scene.disk()
    other = Vblade(scene.host, ["near0"], scene.disk("other"), scene.directory, 0, 1)
    other.start()
    mac = format_mac(scene.host.mac("near0"))
    text = f"e0.1 is answered on far0 by {mac}, too"
    daemon = scene.daemon(device(), device("second", 2, path="disk2"))
    scene.disk("disk2")
    try:
        assert text in _one(clinic.worst(daemon), "addresses", "error", "disk")["what"]
        daemon.start()
        found = clinic.worst(daemon)
        assert text in _one(found, "addresses", "error", "disk")["what"]
        assert daemon.stop() == 0
    finally:
        other.stop()


def test_interfaces_that_cannot_serve(scene: Scene, clinic: Clinic) -> None:
    scene.disk()
    scene.target.ip("link set far0 down")
    scene.target.ip("link set far0 mtu 1000")
    daemon = scene.daemon("[defaults]\ninterfaces = far*, gone0\nmtu = 9000\n", device())
    found = clinic.worst(daemon)
    assert "does not exist" in _one(found, "interfaces", "error", "gone0")["what"]
    assert _one(found, "interfaces", "error", "interfaces")
    assert "not even two sectors" in _one(found, "interfaces", "error", "far0")["what"]
    texts = [row["what"] for row in found if row["severity"] == "warning"]
    assert "is down, or has no carrier" in texts
    assert "mtu = 9000 has no effect: the interface has 1000" in texts


async def test_a_port_of_a_bridge(scene: Scene, clinic: Clinic) -> None:
    """What doctor says is what happens: the port gets no frame, the bridge does."""
    scene.disk()
    bridge(scene.target, "switch0", ["far0"])
    daemon = scene.daemon(device())
    row = _one(clinic.worst(daemon), "interfaces", "warning", "far0")
    assert "belongs to switch0" in row["what"]
    assert "name switch0" in row["remedy"]
    daemon.start()
    async with scene.initiator() as initiator:
        # An announcement, which goes out all the same, is no reply to such a query.
        assert await initiator.discover(0.5, ccmd=Ccmd.PREFIX) == []
        daemon.reconfigure("[defaults]\ninterfaces = switch0\n", device())
        await initiator.open(0, 1)
        assert await initiator.discover(0.5, ccmd=Ccmd.PREFIX) != []
    assert not [row for row in clinic.worst(daemon) if row["check"] == "interfaces"]
    assert daemon.stop() == 0


def test_a_vlan_and_what_carries_it(scene: Scene, clinic: Clinic) -> None:
    scene.disk()
    try:
        scene.target.ip("link add link far0 name far0.5 type vlan id 5")
    except subprocess.CalledProcessError:
        pytest.skip("needs VLANs: this kernel has no 8021q")
    scene.target.ip("link set far0.5 up")
    daemon = scene.daemon(device())
    found = clinic.examine(daemon)
    texts = [row["what"] for row in found if row["where"] == "far0.5"]
    assert any("is a VLAN of far0, which serves the same devices" in text for text in texts)


def test_a_promiscuous_interface(scene: Scene, clinic: Clinic) -> None:
    scene.disk()
    scene.target.ip("link set far0 promisc on")
    found = clinic.examine(scene.daemon(device()))
    texts = [row["what"] for row in found if row["where"] == "far0"]
    assert any("is promiscuous" in text for text in texts)


@pytest.mark.parametrize("engine", ENGINES)
def test_rings_that_do_not_fit_into_memory(scene: Scene, clinic: Clinic, engine: str) -> None:
    scene.disk()
    defaults = f"[defaults]\nengine = {engine}\nring-buffer-size = {1024**2}\n"
    daemon = scene.daemon(defaults, device())
    available_kib = next(
        int(line.split()[1])
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemAvailable:")
    )
    found = clinic.examine(daemon)
    if engine == "portable":
        assert not [row for row in found if row["where"] == "rings"]
        return
    row = next(row for row in found if row["where"] == "rings")
    assert row["severity"] == ("warning" if available_kib / 4 < 1024**2 else "ok")
    assert row["what"].startswith("1 GiB of ")


def test_send_buffers_that_the_system_limits(scene: Scene, clinic: Clinic) -> None:
    scene.disk()
    limit_kib = int(Path("/proc/sys/net/core/wmem_max").read_text()) >> 10
    wanted_kib = 32 * 1024
    if limit_kib >= wanted_kib:
        pytest.skip("needs a system with net.core.wmem_max below 32 MiB")

    def found(buffer_kib: int) -> list[Row]:
        daemon = scene.daemon(device(), f"[far0]\nsend-buffer-size = {buffer_kib}\n")
        rows = clinic.examine(daemon)
        return [row for row in rows if row["where"] == "net.core.wmem_max"]

    (row,) = found(wanted_kib)
    assert row["severity"] == "warning"
    assert row["what"].startswith(f"is {limit_kib} KiB: a daemon without CAP_NET_ADMIN gets no ")
    assert row["remedy"].startswith(f"sysctl -w net.core.wmem_max={wanted_kib << 10},")
    assert found(limit_kib) == []
    severities = {row["severity"] for row in found(0)}
    assert severities == ({"note"} if limit_kib << 10 < SEND_BUFFER_BYTES else set())


def test_a_damaged_state(scene: Scene, clinic: Clinic) -> None:
    scene.disk()
    daemon = scene.daemon(device())
    state = scene.directory / "state"
    (state / "disk.json").write_text("{")
    assert "is damaged" in _one(clinic.worst(daemon), "state directory", "error", "disk")["what"]
    (state / "disk.json").unlink()
    state.rmdir()
    assert "does not exist" in _one(clinic.worst(daemon), "state directory", "error")["what"]


def test_without_privilege(scene: Scene, clinic: Clinic) -> None:
    requires_program("setpriv")
    scene.disk()
    daemon = scene.daemon(device())
    wrapper = ("setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw")
    found = clinic.examine(daemon, wrapper=wrapper)
    assert "CAP_NET_RAW is missing" in _one(found, "privilege", "error")["what"]
    assert not [row for row in found if row["check"] == "addresses"]
    daemon.start()
    found = clinic.examine(daemon, wrapper=wrapper)
    assert "was not examined" in _one(found, "privilege", "note")["what"]
    assert daemon.stop() == 0


def test_a_device_that_is_mounted(scene: Scene, clinic: Clinic) -> None:
    requires_program("mkfs.ext4")
    image, place = scene.disk("image", 16 * MIB), scene.directory / "place"
    place.mkdir()
    with loop_device(image) as loop:
        subprocess.run(["mkfs.ext4", "-q", loop], check=True)
        daemon = scene.daemon(device(path=loop))
        assert not [row for row in clinic.worst(daemon) if row["check"] == "backing"]
        scene.target.run("mount", loop, place)
        try:
            row = _one(clinic.worst(daemon), "backing", "error", "disk")
            assert f"{loop} is in use: it is mounted at {place}" in row["what"]
            row = _one(clinic.worst(scene.daemon(device(path=image))), "backing", "error", "disk")
            text = f"{image} is attached as {loop}, which is mounted at {place}: unmount it"
            assert text in row["what"]
        finally:
            scene.target.run("umount", place)


def test_disks_below_aloop_device(tmp_path: Path) -> None:
    requires_namespaces()
    image = tmp_path / "image"
    image.write_bytes(bytes(MIB))
    expected = list(disks_below(image))
    with loop_device(image) as loop:
        assert list(disks_below(loop)) == expected
    if not expected:
        pytest.skip("the temporary directory is on no disk")
    assert all((disk / "queue").is_dir() for disk in expected)


def test_a_command_that_starts_without_what_doctor_needs() -> None:
    """`ggaoe --help` is not slowed down by checks that nobody has asked for."""
    code = "import sys, ggaoe.cli.ggaoe; print('ggaoe.server.doctor' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
