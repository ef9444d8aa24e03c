"""The targets that are measured: how each is started with the storage of a case.

Owns: command lines, generated configuration, which core is whose. Must not know: loads, namespaces,
figures. Another setting of a target is another entry of TARGETS.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cases import SECTOR_BYTES, Storage

REPOSITORY = Path(__file__).parents[1]
AOELOAD = REPOSITORY / "build" / "bench" / "aoeload"
CORES = [str(core) for core in sorted(os.sched_getaffinity(0))]
ON_TARGET_CORE = ("taskset", "-c", CORES[0])
ON_LOAD_CORE = ("taskset", "-c", CORES[-1])
BUFFERS = 64  # what vblade announces, ggaoe's default


@dataclass(frozen=True)
class Export:
    """One device: its address, the interface of the target that it is served on, its file."""

    shelf: int
    slot: int
    interface: str
    path: Path


class Target(ABC):
    """Something that answers AoE requests."""

    check: str = "number"
    """How the load checks what it reads, see aoeload."""

    def unavailable(self) -> str:
        """Why it cannot run here; empty if it can."""
        return ""

    @abstractmethod
    def commands(
        self, storage: Storage, exports: Sequence[Export], directory: Path
    ) -> list[list[str]]:
        """The processes that serve `exports`, as argument vectors; `directory` is theirs."""


class Vblade(Target):
    """Debian's vblade: a process for each device."""

    def unavailable(self) -> str:
        return "" if shutil.which("vblade") else "needs vblade: apt-get install vblade"

    def commands(
        self, storage: Storage, exports: Sequence[Export], directory: Path
    ) -> list[list[str]]:
        options = ["-b", str(BUFFERS), *storage.vblade]
        return [
            ["vblade", *options, str(one.shelf), str(one.slot), one.interface, str(one.path)]
            for one in exports
        ]


@dataclass(frozen=True)
class Ggaoe(Target):
    """The daemon of this repository with one of its engines; `settings` are lines of [defaults],
    `wrapper` is a command that starts it."""

    engine: str
    settings: str = ""
    wrapper: tuple[str, ...] = ()

    def unavailable(self) -> str:
        version = subprocess.run(
            [sys.executable, "-m", "ggaoe.cli.ggaoe", "-V"],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        if self.engine == "native" and "native" not in version:
            return "the native engine is not built here, or GGAOE_ENGINE hides it"
        return ""

    def commands(
        self, storage: Storage, exports: Sequence[Export], directory: Path
    ) -> list[list[str]]:
        path = directory / "ggaoed.conf"
        path.write_text(
            f"[defaults]\n"
            f"state-directory = {directory}\n"
            f"control-socket = {directory}/ctl\n"
            f"pid-file = {directory}/pid\n"
            f"engine = {self.engine}\n{storage.ggaoe}{self.settings}"
            + "".join(
                f"[disk-{one.shelf}-{one.slot}]\npath = {one.path}\ninterfaces = {one.interface}\n"
                f"shelf = {one.shelf}\nslot = {one.slot}\n"
                for one in exports
            )
        )
        return [[*self.wrapper, sys.executable, "-m", "ggaoe.cli.ggaoe", "-c", str(path)]]


@dataclass(frozen=True)
class Reflector(Target):
    """Answers without storage: what packet sockets allow at all."""

    options: tuple[str, ...] = ()

    check = "none"

    def commands(
        self, storage: Storage, exports: Sequence[Export], directory: Path
    ) -> list[list[str]]:
        sectors = exports[0].path.stat().st_size // SECTOR_BYTES
        interfaces = dict.fromkeys(one.interface for one in exports)
        return [
            [str(AOELOAD), "reflect", *self.options, "--region", str(sectors), *interfaces],
        ]


AS_IN_THE_UNIT = ("setpriv", "--bounding-set=-all,+net_raw", "--inh-caps=-all,+net_raw")
WMEM_MAX_KIB = 208
"""Default of net.core.wmem_max before Linux 6.18, the limit without CAP_NET_ADMIN."""

TARGETS: dict[str, Target] = {
    "vblade": Vblade(),
    "ggaoe": Ggaoe("native"),
    "ggaoe-unit": Ggaoe("native", f"send-buffer-size = {WMEM_MAX_KIB}\n", AS_IN_THE_UNIT),
    "ggaoe-sleeping": Ggaoe("native", "busy-poll = 0\n"),
    "ggaoe-uring": Ggaoe("native", "io-engine = uring\n"),
    "ggaoe-socket": Ggaoe("native", "ring-buffer-size = 0\n"),
    "ggaoe-portable": Ggaoe("portable"),
    "reflector-sleeping": Reflector(("--sleep",)),
    "reflector-polling": Reflector(),
}

FIO_ENGINES = {"fio-uring": "io_uring", "fio-libaio": "libaio"}
"""No targets, but what the bare file gives: fio at the place of one."""
