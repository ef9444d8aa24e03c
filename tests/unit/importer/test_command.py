"""What all of `ggaoe import` has in common."""

from __future__ import annotations

from pathlib import Path

import pytest

from ggaoe.cli.ggaoe import main

LINE = "0 1 eth0 /srv/disk -s\n"


@pytest.fixture
def source(tmp_path: Path) -> str:
    path = tmp_path / "vblade.conf"
    path.write_text(LINE)
    return str(path)


def test_standard_output(source: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", "vblade", source]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(f"# Imported from vblade ({source})")
    assert "[e0.1]\npath = /srv/disk\n" in captured.out
    assert captured.err == ""


def test_nothing_is_overwritten(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "ours.conf"
    output.write_text("mine")
    command = ["import", "vblade", source, "-o", str(output)]
    assert main(command) == 1
    assert capsys.readouterr().err == (
        f"ggaoe: {output} exists: name another one, or overwrite it with --force\n"
    )
    assert output.read_text() == "mine"
    assert main([*command, "--force"]) == 0
    assert "[e0.1]" in output.read_text()


@pytest.mark.parametrize("program", ["vblade", "vblade-persist", "qaoed", "ggaoed", "kvblade"])
def test_source_that_does_not_exist(
    program: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "missing"
    assert main(["import", program, str(missing)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"{missing}: cannot be ")


def test_output_that_cannot_be_written(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "none" / "ours.conf"
    assert main(["import", "vblade", source, "-o", str(output)]) == 1
    assert capsys.readouterr().err.endswith("cannot be written: No such file or directory\n")
