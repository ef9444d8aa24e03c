"""The units of systemd: both confined alike, and how well, by systemd's own measure."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from helpers.needs import requires_program

UNITS = Path(__file__).parents[2] / "packaging" / "systemd"
NAMES = ("ggaoe.service", "ggaoe-export@.service")
EXPOSURE_BELOW = 2.0


def hardening(name: str) -> str:
    _, _, rest = (UNITS / name).read_text().partition("# Hardening.")
    return rest


def test_both_have_the_same_hardening() -> None:
    first, second = (hardening(name) for name in NAMES)
    assert first
    assert first == second


@pytest.mark.parametrize("name", NAMES)
def test_exposure(name: str) -> None:
    requires_program("systemd-analyze")
    done = subprocess.run(
        ["systemd-analyze", "security", "--no-pager", "--offline=true", UNITS / name],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if "unrecognized option" in done.stderr:
        pytest.skip("needs systemd-analyze security --offline: systemd 250 or newer")
    found = re.search(r"exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found, done.stderr
    print(name, found[1])
    assert float(found[1]) < EXPOSURE_BELOW, done.stdout
    unknown = [line for line in done.stderr.splitlines() if "notify-reload" not in line]
    assert not unknown  # that is of systemd 253
