"""What all of `ggaoe import` has in common."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ggaoe.cli.ggaoe import main

REPOSITORY = Path(__file__).parents[3]
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
    told = f"{output} cannot be written: {output.parent} is no directory: make it\n"
    assert capsys.readouterr().err.endswith(told)


def test_no_link_leads_to_another_file(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "ours.conf"
    output.symlink_to(tmp_path / "elsewhere")
    assert main(["import", "vblade", source, "-o", str(output)]) == 1
    assert capsys.readouterr().err.startswith(f"ggaoe: {output} exists: ")
    assert not (tmp_path / "elsewhere").exists()


def test_standard_output_is_utf_8(tmp_path: Path) -> None:
    source = tmp_path / "vblade.conf"
    source.write_text("0 1 eth0 /srv/später -s\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "ggaoe.cli.ggaoe", "import", "vblade", str(source)],
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(REPOSITORY)},
        check=False,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert "path = /srv/später\n" in done.stdout.decode()


def test_result_that_could_not_be_read_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = tmp_path / "vblade.conf", tmp_path / "ours.conf"
    lines = [f"{n // 250} {n % 250} eth0 /srv/{'x' * 480}{n} -s\n" for n in range(2000)]
    source.write_text("".join(lines))
    assert main(["import", "vblade", str(source), "-o", str(output)]) == 1
    assert f"{output}: is larger than 1048576 bytes" in capsys.readouterr().err
    assert not output.exists()
