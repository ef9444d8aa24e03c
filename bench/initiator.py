"""The kernel initiator beside the synthetic load: fio in a guest kernel, on its AoE disk.

Owns: the targets as the guest's runs need them. Must not know: the other cases. The measuring
itself is tests/interop/fio_compare.py.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import report
from cases import CACHED, GUEST_MTUS_BYTES, guest_key
from targets import ON_TARGET_CORE, REPOSITORY

sys.path.insert(0, str(REPOSITORY / "tests"))

from helpers.targets import Ggaoe, TargetUnderTest, Vblade
from interop import fio_compare
from interop.guest import Images

SECONDS_MIN = 1
PROGRAMS = ("linux.uml", "busybox", "aoe-discover", "fio")

KEYS = {
    (case, mtu_bytes): guest_key(case, mtu_bytes)
    for mtu_bytes in GUEST_MTUS_BYTES
    for case in fio_compare.CASES
}
"""By name of fio_compare's case, and MTU in bytes."""


class GuestVblade(Vblade):
    """vblade on the targets' core."""

    def _commands(self) -> list[list[str]]:
        return [[*ON_TARGET_CORE, *command] for command in super()._commands()]


class GuestGgaoe(Ggaoe):
    """ggaoe on the targets' core, through the page cache: the work that vblade does."""

    settings = CACHED.ggaoe

    def configuration(self) -> str:
        return super().configuration().replace("[defaults]\n", f"[defaults]\n{self.settings}")

    def _commands(self) -> list[list[str]]:
        return [[*ON_TARGET_CORE, *command] for command in super()._commands()]


class GuestGgaoeSleeping(GuestGgaoe):
    """The same without busy-poll."""

    name = "ggaoe-sleeping"
    settings = GuestGgaoe.settings + "busy-poll = 0\n"


TARGETS: tuple[type[TargetUnderTest], ...] = (GuestVblade, GuestGgaoe, GuestGgaoeSleeping)


def measure(
    targets: Sequence[type[TargetUnderTest]], rounds: int, seconds: float
) -> list[dict[str, Any]]:
    """Every case at every MTU, the targets by turns; one record for each of KEYS."""
    missing = [name for name in PROGRAMS if not shutil.which(name)]
    if missing:
        skipped = {one.name: f"needs {', '.join(missing)}" for one in targets}
        return [report.case_record(key, _title(*at), {}, skipped, {}) for at, key in KEYS.items()]
    figures: dict[tuple[str, int], dict[str, list[dict[str, float]]]] = {
        at: {one.name: [] for one in targets} for at in KEYS
    }
    # In memory: what a disk does would hide what a target does.
    with tempfile.TemporaryDirectory(prefix="ggaoe-bench-", dir="/dev/shm") as name:
        images = Images.assemble(Path(name))
        for number, mtu_bytes, one in product(range(rounds), GUEST_MTUS_BYTES, targets):
            print(
                f"guest, MTU {mtu_bytes}, round {number + 1}/{rounds}: {one.name}",
                file=sys.stderr,
            )
            found = fio_compare.measure(
                images, Path(name), one, mtu_bytes, max(SECONDS_MIN, round(seconds))
            )
            for case, figure in found.items():
                figures[case, mtu_bytes][one.name].append(figure._asdict())
    return [report.case_record(key, _title(*at), figures[at], {}, {}) for at, key in KEYS.items()]


def _title(case: str, mtu_bytes: int) -> str:
    return f"kernel initiator, {case}, MTU {mtu_bytes}"
