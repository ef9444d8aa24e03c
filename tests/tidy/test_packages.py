"""Packages: one version everywhere, scripts that a shell understands, and nothing is left out."""

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
DEBIAN = ROOT / "packaging" / "debian"
SCRIPTS = [
    *sorted((ROOT / "packaging").rglob("*.sh")),
    *(
        path
        for path in sorted(DEBIAN.glob("ggaoe.*"))
        if path.suffix in (".postinst", ".prerm", ".postrm")
    ),
]
CARRIED_ANYWAY = {"README.md", "LICENSE"}
"""By setuptools, into every source distribution."""


@pytest.mark.parametrize("file", VERSIONS)
def test_all_have_one_version(file: str) -> None:
    found = re.search(VERSIONS[file], (ROOT / file).read_text(), re.MULTILINE)
    assert found
    assert found[1] == __version__


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_scripts_have_no_syntax_errors(script: Path) -> None:
    requires_program("bash")
    is_plain = script.read_text().startswith("#!/bin/sh")
    subprocess.run(["sh" if is_plain else "bash", "-n", script], check=True, timeout=60)


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


def installed_documents() -> set[str]:
    """What packages install as it is in the source, by its path there."""
    found = [(DEBIAN / f"ggaoe.{what}").read_text() for what in ("docs", "examples")]
    spec = (ROOT / "packaging" / "rpm" / "ggaoe.spec").read_text()
    found += re.findall(r"^%(?:doc|license) (.*)$", spec, re.MULTILINE)
    for text in (spec, (DEBIAN / "rules").read_text()):
        found += re.findall(r"\binstall .*?(packaging/(?!made)\S+)", text)
    return {name for text in found for name in text.split()}


def test_packages_find_in_the_source_distribution_what_they_install() -> None:
    names = installed_documents()
    assert {"README.md", "LICENSE", "docs"} <= names
    carried = set(
        re.sub(r"^(include|graft) ", "", (ROOT / "MANIFEST.in").read_text(), flags=re.M).split()
    )
    for name in names:
        assert (ROOT / name).exists(), name
        above = {str(one) for one in Path(name).parents}
        assert ({name} | above) & (carried | CARRIED_ANYWAY), name
