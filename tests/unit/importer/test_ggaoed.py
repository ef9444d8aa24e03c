"""The original's configuration and its state files."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path

import pytest

from ggaoe.cli.ggaoe import main
from ggaoe.proto.target import TargetState
from ggaoe.server.state import StateStore
from unit.importer.conftest import ONE, TWO, Import

CONFIG = """\
# as it was
[defaults]
queue-length = 32
tx-ring-bug = true
state-directory = {states}
[acls]
lab = 02:00:00:00:00:01
[disk]
path = {disk}
shelf = 1
slot = 2
accept = lab
"""


def save(directory: Path, name: str, order: str = "<", text: bytes = b"", *reserved: bytes) -> None:
    """The three files of one device, as a machine of that byte order maps them."""
    directory.mkdir(exist_ok=True)
    (directory / f"{name}.config").write_bytes(
        struct.pack(f"{order}II1024s", 0x38A0BFAE, len(text), text)
    )
    for kind, macs in (("mac_mask", ()), ("reserve", reserved)):
        table = b"".join(mac + b"\0\0" for mac in macs)
        (directory / f"{name}.{kind}").write_bytes(
            struct.pack(f"{order}II2040s", 0xE92A716B, len(macs), table)
        )


def loaded(directory: Path, name: str) -> TargetState:
    return asyncio.run(StateStore(directory).load(name))


def source(directory: Path, disk_bytes: int = 8192) -> Path:
    disk = directory / "disk"
    disk.write_bytes(bytes(disk_bytes))
    (directory / "states").mkdir(exist_ok=True)
    path = directory / "ggaoed.conf"
    path.write_text(CONFIG.format(states=directory / "states", disk=disk))
    return path


def test_configuration_is_copied(imports: Import, tmp_path: Path) -> None:
    path = source(tmp_path)
    result = imports("ggaoed", path)
    assert result.text == path.read_text().replace("tx-ring", "#tx-ring")
    assert result.config.devices["disk"].queue_length == 32
    assert result.told(f"{path}:4:1: warning", "obsolete")
    assert result.told(f"{path}: warning: ggaoed acknowledges writes before")
    assert result.told(f"{path}:8:1: warning: no interfaces are set for [disk]")
    assert len(result.lines) == 3


def test_missing_states_are_told(imports: Import, tmp_path: Path) -> None:
    path = source(tmp_path)
    (tmp_path / "states").rmdir()
    assert imports("ggaoed", path).told(
        f"{path}:5:1: warning", f"{tmp_path}/states is no directory"
    )


def test_size_of_a_disk_stays(imports: Import, tmp_path: Path) -> None:
    """The original exports every whole sector."""
    result = imports("ggaoed", source(tmp_path, 8192 + 1024))
    assert result.config.devices["disk"].exact_size


def test_relative_paths_are_told(imports: Import, tmp_path: Path) -> None:
    path = source(tmp_path)
    path.write_text("[disk]\npath = disk\nshelf = 0\nslot = 0\n")
    assert imports("ggaoed", path).told(f"{path}:2:1: warning: path starts at the directory")


def test_interfaces_beyond_the_defaults_are_told(imports: Import, tmp_path: Path) -> None:
    """The original serves a device on those interfaces only that [defaults] names, too."""
    path = source(tmp_path)
    for listed, device, told in (
        ("eth1", "eth*", True),
        ("eth1, eth2", "eth1", False),
        ("eth*", "eth1*, eth2", False),
        ("eth1", "eth1, eth2", True),
        ("", "eth2", False),
    ):
        defaults = f"[defaults]\ninterfaces = {listed}\n" if listed else ""
        text = "[a]\npath = /srv/a\nshelf = 0\nslot = 0\ninterfaces = "
        path.write_text(f"{defaults}{text}{device}\n")
        assert imports("ggaoed", path).told("warning: [a]", "interfaces of [defaults]") is told


def test_lists_that_ggaoed_cuts_off_are_told(imports: Import, tmp_path: Path) -> None:
    path = source(tmp_path)
    hosts = ", ".join(f"02:00:00:00:{n >> 8:02x}:{n & 255:02x}" for n in range(256))
    late = "early = late\nlate = 02:00:00:00:00:01\n"
    path.write_text(
        f"[acls]\n{late}lab = {hosts}\n"
        + CONFIG[CONFIG.index("[disk]") :]
        .format(disk="/srv/a")
        .replace("slot", "interfaces = eth0\nslot")
    )
    result = imports("ggaoed", path)
    assert result.told(f"{path}:4:1: warning: ggaoed uses the first 255 addresses of lab")
    assert result.told(f"{path}:2:1: warning: ggaoed leaves late out of early")


def test_output_in_another_dialect_is_refused(imports: Import, tmp_path: Path) -> None:
    path, output = source(tmp_path), tmp_path / "new.toml"
    result = imports("ggaoed", path, "-o", str(output))
    assert result.status == 1
    assert result.told(f"{path}: ", "new.toml would be read as TOML")
    assert not output.exists()


def test_nothing_is_stored_where_the_configuration_cannot_be_written(
    imports: Import, tmp_path: Path
) -> None:
    path = source(tmp_path)
    save(tmp_path / "states", "disk", "<", b"hello")
    (tmp_path / "new").mkdir()
    options = ("--state-directory", str(tmp_path / "new"), "-o", str(tmp_path / "none" / "x.conf"))
    assert imports("ggaoed", path, *options).status == 1
    assert not list((tmp_path / "new").iterdir())


@pytest.mark.parametrize("order", "<>")
def test_states_are_converted(imports: Import, tmp_path: Path, order: str) -> None:
    save(tmp_path / "states", "disk", order, b"hello", ONE, TWO)
    save(tmp_path / "states", "gone", order, b"x")
    (tmp_path / "new").mkdir()
    path = source(tmp_path)
    assert imports("ggaoed", path).told("state of disk is not carried over", "--state-directory")
    result = imports("ggaoed", path, "--state-directory", str(tmp_path / "new"))
    assert result.status == 0
    expected = TargetState(config_string=b"hello", reserved=(ONE, TWO))
    assert loaded(tmp_path / "new", "disk") == expected
    assert result.told("states/gone: warning: state of a device that")
    assert result.told("names", "states as its state-directory: change it to", "/new")
    assert [one.name for one in (tmp_path / "new").iterdir()] == ["disk.json"]


def test_states_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "states", "a.b", "<", b"hello")
    save(tmp_path / "states", "empty")
    command = ["import", "ggaoed", str(tmp_path / "states"), "--state-directory", str(tmp_path)]
    assert main(command) == 0
    assert loaded(tmp_path, "a.b") == TargetState(config_string=b"hello")
    assert not (tmp_path / "empty.json").exists()
    save(tmp_path / "states", "a.b", "<", b"other")
    assert main(command) == 1
    assert "a.b.json exists" in capsys.readouterr().err
    assert loaded(tmp_path, "a.b") == TargetState(config_string=b"hello")
    assert main([*command, "--force"]) == 0
    assert loaded(tmp_path, "a.b") == TargetState(config_string=b"other")
    assert main([*command, "-o", str(tmp_path / "x.conf")]) == 1
    assert "a state directory holds no configuration" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "content", "told"),
    [
        ("config", b"", "begins with nothing"),
        ("config", bytes(1032), "begins with 00000000 instead of 38a0bfae"),
        ("reserve", struct.pack("<II", 0xE92A716B, 256), "256 entries, of which there can be 255"),
        ("reserve", struct.pack("<II", 0xE92A716B, 1), "cut off"),
        ("mac_mask", struct.pack("<I", 0xE92A716B), "cut off"),
        ("config", struct.pack("<II", 0x38A0BFAE, 1025), "1025 entries"),
    ],
)
def test_damaged_states_are_refused(
    imports: Import, tmp_path: Path, kind: str, content: bytes, told: str
) -> None:
    path = source(tmp_path)
    save(tmp_path / "states", "disk")
    (tmp_path / "states" / f"disk.{kind}").write_bytes(content)
    result = imports("ggaoed", path, "--state-directory", str(tmp_path))
    assert result.status == 1
    assert result.told(f"states/disk.{kind}: no state of ggaoed", told)
    assert result.text == ""


def test_what_check_refuses_is_refused_with_its_place(imports: Import, tmp_path: Path) -> None:
    path = source(tmp_path)
    path.write_text("[disk]\npath = /x\nshelf = 1\nslot = 300\naccept = nobody\n")
    result = imports("ggaoed", path)
    assert result.status == 1
    assert result.told(f"{path}:4:8: 300 is out of range")
    assert result.told(f"{path}:5:10: 'nobody' is neither")


@pytest.mark.parametrize("content", [None, "[defaults]\nqueue-length = 32\n"])
def test_nothing_there(imports: Import, tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "there"
    if content is None:
        path.mkdir()
    else:
        path.write_text(content)
    result = imports("ggaoed", path)
    assert result.status == 1
    assert result.told("neither a device nor the state of one was found")
    assert not result.file.exists()
