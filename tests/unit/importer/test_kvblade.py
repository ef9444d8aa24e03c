"""kvblade's directory in sysfs."""

from __future__ import annotations

from pathlib import Path

from unit.importer.conftest import Import


def target(root: Path, name: str, path: str, serial: str = "SN HERE") -> None:
    directory = root / name
    directory.mkdir()
    (directory / "bpath").write_text(f"{path}\n")
    (directory / "sn").write_text(f"{serial}\n")
    (directory / "scst").write_text("2048\n")


def test_listing(imports: Import, tmp_path: Path) -> None:
    target(tmp_path, "1.0@eth0", "/dev/vg0/a")
    target(tmp_path, "1.0@eth1", "/dev/vg0/a")
    target(tmp_path, "1.1@eth1.7", "/dev/vg0/b", "disk-of-accounts")
    (tmp_path / "add").touch()
    result = imports("kvblade", tmp_path)
    both, other = result.config.devices.values()
    assert (both.name, str(both.path)) == ("e1.0", "/dev/vg0/a")
    assert both.interfaces == ("eth0", "eth1")
    assert (other.name, other.interfaces) == ("e1.1", ("eth1.7",))
    assert both.direct_io
    assert both.exact_size
    assert result.told("1.1@eth1.7/sn:1:1: warning: the serial number", "disk-of-accounts")
    assert len(result.lines) == 1


def test_nothing_there(imports: Import, tmp_path: Path) -> None:
    result = imports("kvblade", tmp_path)
    assert result.status == 1
    assert result.told("no export was found")
    assert not result.file.exists()


def test_garbage_is_refused(imports: Import, tmp_path: Path) -> None:
    target(tmp_path, "70000.0@eth0", "/dev/vg0/a")
    target(tmp_path, "1.0@eth0", "relative")
    (tmp_path / "1.1@eth0").mkdir()
    result = imports("kvblade", tmp_path)
    assert result.status == 1
    assert result.told("70000.0@eth0: 70000 is out of range")
    assert result.told("1.0@eth0/bpath:1:1: 'relative' is no absolute path")
    assert result.told("1.1@eth0/bpath: cannot be read")
