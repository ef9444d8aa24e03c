"""Targets that tests serve a file with: ggaoe as a process, and Debian's vblade as yardstick.

Owns: command lines, generated configuration, start, stop and kill. Must not know: who initiates.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from helpers.netns import Namespace, Process, wait_until

START_TIMEOUT_S = 15.0
ETHERTYPE_AOE = "88a2"
REPOSITORY = Path(__file__).parents[2]


@dataclass
class TargetUnderTest(ABC):
    """Serves `backing` as `shelf`.`slot` on `interfaces` of `namespace`; a log is in `directory`.

    Start, stop and kill may follow each other any number of times: `directory` keeps the state.
    """

    namespace: Namespace
    interfaces: Sequence[str]
    backing: Path
    directory: Path
    shelf: int = 0
    slot: int = 1
    processes: list[Process] = field(default_factory=list, init=False)

    name: ClassVar[str]
    # vblade ends when its interface is taken down; it lives through a pulled cable.
    survives_interface_down: ClassVar[bool]

    @abstractmethod
    def _commands(self) -> list[list[str]]:
        """The processes to run, as argument vectors."""

    @property
    def log(self) -> Path:
        """Where everything that the target prints is appended."""
        return self.directory / f"{self.name}.log"

    def start(self) -> None:
        """Start it and wait until it listens on every interface."""
        with self.log.open("ab") as log:
            self.processes = [
                self.namespace.spawn(*command, stdout=log, stderr=log, cwd=REPOSITORY)
                for command in self._commands()
            ]
        wait_until(self._listens, START_TIMEOUT_S, f"{self.name} listens, see {self.log}")

    def stop(self) -> None:
        """Ask it to end, and wait until it has."""
        for process in self.processes:
            process.stop()

    def kill(self) -> None:
        """SIGKILL: it gets no chance to finish anything."""
        for process in self.processes:
            process.kill()

    def _listens(self) -> bool:
        for process in self.processes:
            if process.poll() is not None:
                raise RuntimeError(f"{self.name} ended at start: {self.log.read_text()}")
        # The kernel's table of packet sockets: the ethertype is the fourth column.
        rows = Path(f"/proc/{self.processes[0].pid}/net/packet").read_text().splitlines()[1:]
        return sum(row.split()[3] == ETHERTYPE_AOE for row in rows) >= len(self.interfaces)


class Vblade(TargetUnderTest):
    """Debian's vblade: one process per interface, through the page cache."""

    name = "vblade"
    survives_interface_down = False

    def _commands(self) -> list[list[str]]:
        address = [str(self.shelf), str(self.slot)]
        return [
            ["vblade", "-b", "64", *address, interface, str(self.backing)]
            for interface in self.interfaces
        ]


class Ggaoe(TargetUnderTest):
    """The daemon of this repository, in the foreground, with a generated configuration."""

    name = "ggaoe"
    survives_interface_down = True

    def configuration(self) -> str:
        """The text of its ggaoed.conf; the last section is the disk's."""
        return (
            f"[defaults]\n"
            f"interfaces = {', '.join(self.interfaces)}\n"
            f"state-directory = {self.directory}\n"
            f"control-socket = {self.directory}/ctl\n"
            f"pid-file = {self.directory}/pid\n"
            f"[disk]\n"
            f"path = {self.backing}\n"
            f"shelf = {self.shelf}\n"
            f"slot = {self.slot}\n"
        )

    def _commands(self) -> list[list[str]]:
        path = self.directory / "ggaoed.conf"
        path.write_text(self.configuration())
        self._log_starts_at = self.log.stat().st_size
        return [[sys.executable, "-m", "ggaoe.cli.ggaoe", "-c", str(path)]]

    def _listens(self) -> bool:
        # A little later: the links are open before the devices are known.
        return super()._listens() and b"ready: " in self.log.read_bytes()[self._log_starts_at :]
