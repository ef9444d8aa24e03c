"""vblade-persist's tree."""

from __future__ import annotations

from pathlib import Path

from unit.importer.conftest import ONE, TWO, Import


def export(root: Path, shelf: int, slot: int, source: str, *macs: str, down: bool = False) -> Path:
    directory = root / "vblades" / f"e{shelf}.{slot}"
    (directory / "env").mkdir(parents=True)
    values = {"SHELF": shelf, "SLOT": slot, "NETIF": "eth0", "SOURCE": source}
    for name, value in values.items():
        (directory / "env" / name).write_text(f"{value}\n")
    (directory / "macs").mkdir()
    for mac in macs:
        (directory / "macs" / mac).touch()
    if down:
        (directory / "down").touch()
    return directory


def test_tree(imports: Import, tmp_path: Path) -> None:
    export(tmp_path, 0, 1, "/dev/vg0/a b", "020000000001")
    export(tmp_path, 0, 2, "/dev/vg0/c", down=True)
    for source in (tmp_path, tmp_path / "vblades"):
        result = imports("vblade-persist", source)
        (disk,) = result.config.devices.values()
        assert (disk.name, str(disk.path), disk.interfaces) == ("e0.1", "/dev/vg0/a b", ("eth0",))
        assert disk.permits(ONE)
        assert not disk.permits(TWO)
        assert result.told("e0.2/down: warning: noauto")
    assert "#[e0.2]\n#path = /dev/vg0/c\n" in result.text


def test_noauto_needs_its_marks_removed_only(imports: Import, tmp_path: Path) -> None:
    export(tmp_path, 0, 2, "/dev/vg0/c", down=True)
    for option in ("", "--toml"):
        result = imports("vblade-persist", tmp_path, *filter(None, [option]))
        assert not result.config.devices
        head, rest = result.text.split("\n", 1)
        result.file.write_text(f"{head}\n{rest.replace('#', '')}")
        assert list(result.config.devices) == ["e0.2"]


def test_hidden_directories_are_left_out(imports: Import, tmp_path: Path) -> None:
    """The supervisor does not look into them."""
    export(tmp_path, 0, 1, "/dev/vg0/a").rename(tmp_path / "vblades" / ".e0.1")
    assert imports("vblade-persist", tmp_path).told(f"{tmp_path}: no export was found")


def test_incomplete_export_is_left_out(imports: Import, tmp_path: Path) -> None:
    export(tmp_path, 0, 1, "/dev/vg0/a")
    (export(tmp_path, 0, 2, "/dev/vg0/b") / "env" / "NETIF").unlink()
    result = imports("vblade-persist", tmp_path)
    assert list(result.config.devices) == ["e0.1"]
    assert result.told("e0.2: warning", "env/NETIF is missing")


def test_garbage_is_refused(imports: Import, tmp_path: Path) -> None:
    directory = export(tmp_path, 0, 1, "/dev/vg0/a\nmore", "02000000zzzz")
    (directory / "env" / "SHELF").write_text("zero")
    result = imports("vblade-persist", tmp_path)
    assert result.status == 1
    assert result.told("env/SOURCE:2:1: a second line")
    assert result.told("macs/02000000zzzz: '02000000zzzz' is not a MAC address")


def test_no_tree(imports: Import, tmp_path: Path) -> None:
    result = imports("vblade-persist", tmp_path / "none")
    assert result.status == 1
    assert result.told("none: cannot be listed: No such file or directory")
