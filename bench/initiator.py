"""The kernel initiator beside the synthetic load: fio in a guest kernel, on its AoE disk.

Owns: the targets as the guest's runs need them. Must not know: the other cases. The measuring
itself is tests/interop/fio_compare.py.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import Any

import report
from cases import CACHED, GUEST_SETUPS, GuestSetup
from targets import ON_TARGET_CORE, REPOSITORY

sys.path.insert(0, str(REPOSITORY / "tests"))

from helpers.targets import Ggaoe, TargetUnderTest, Vblade
from interop import fio_compare
from interop.guest import Images

SECONDS_MIN = 1
MEMORY = "/dev/shm"
PROGRAMS = ("linux.uml", "busybox", "aoe-discover", "fio")

KEYS = {(case, setup): setup.key(case) for setup in GUEST_SETUPS for case in fio_compare.CASES}
"""By name of fio_compare's case, and setup."""


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
    targets: Sequence[type[TargetUnderTest]],
    wanted: Collection[str],
    directory: Path,
    rounds: int,
    seconds: float,
) -> list[dict[str, Any]]:
    """Every case of each setup of which a key is wanted, the targets by turns; their records."""
    setups = dict.fromkeys(setup for (_, setup), key in KEYS.items() if key in wanted)
    keys = {at: key for at, key in KEYS.items() if at[1] in setups}
    missing = [name for name in PROGRAMS if not shutil.which(name)]
    if missing:
        skipped = {one.name: f"needs {', '.join(missing)}" for one in targets}
        return [_record(key, *at, {}, skipped) for at, key in keys.items()]
    figures: dict[tuple[str, GuestSetup], dict[str, list[dict[str, float]]]] = {
        at: {one.name: [] for one in targets} for at in keys
    }
    with ExitStack() as stack:
        on_disk, in_memory = (
            Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ggaoe-bench-", dir=place)))
            for place in (directory, MEMORY)
        )
        images = Images.assemble(in_memory)
        for number, setup, one in product(range(rounds), setups, targets):
            print(
                f"guest, MTU {setup.mtu_bytes}{', tmpfs' if setup.on_tmpfs else ''},"
                f" round {number + 1}/{rounds}: {one.name}",
                file=sys.stderr,
            )
            place = in_memory if setup.on_tmpfs else on_disk
            found = fio_compare.measure(
                images, place, one, setup.mtu_bytes, max(SECONDS_MIN, round(seconds))
            )
            for case, figure in found.items():
                figures[case, setup][one.name].append(figure._asdict())
    return [_record(key, *at, figures[at], {}) for at, key in keys.items()]


def _record(
    key: str,
    case: str,
    setup: GuestSetup,
    rounds: dict[str, list[dict[str, float]]],
    skipped: dict[str, str],
) -> dict[str, Any]:
    return report.case_record(key, setup.title(case), rounds, skipped, {})
