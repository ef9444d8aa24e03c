"""Packages: one version everywhere, and scripts that a shell understands."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from ggaoe import __version__
from helpers.needs import requires_program

ROOT = Path(__file__).parents[2]
VERSIONS = {
    "pyproject.toml": r'^version = "(.*)"$',
    "packaging/debian/changelog": r"^ggaoe \((.*)-\d+\) ",
    "packaging/rpm/ggaoe.spec": r"^Version: +(.*)$",
}
SCRIPTS = sorted((ROOT / "packaging").rglob("*.sh"))


@pytest.mark.parametrize("file", VERSIONS)
def test_all_have_one_version(file: str) -> None:
    found = re.search(VERSIONS[file], (ROOT / file).read_text(), re.MULTILINE)
    assert found
    assert found[1] == __version__


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_scripts_have_no_syntax_errors(script: Path) -> None:
    requires_program("bash")
    subprocess.run(["bash", "-n", script], check=True, timeout=60)


def test_rpm_reads_the_spec() -> None:
    requires_program("rpmspec")
    done = subprocess.run(
        ["rpmspec", "-P", ROOT / "packaging/rpm/ggaoe.spec"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
