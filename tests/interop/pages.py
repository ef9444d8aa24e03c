"""Pages of the documentation as something that can be done: what they configure and have typed.

Owns: reading a page into steps, the machines on which they run, with /etc, /srv, /run and /var/lib
of their own, and the script by which a guest does its `host#` lines. Must not know: what any page
says.

A page is done in its order. A block ```ini becomes /etc/ggaoe/ggaoed.conf; in a block ```console
each line with a prompt is a command that has to succeed, and the lines below it are what it prints:
in this order, perhaps with others between, where `…` is any text and blanks are as many as they
like.
What `ggaoectl` shows may take a moment to become true.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from helpers.netns import Namespace, veth, wait_until
from helpers.targets import REPOSITORY

COMMAND_TIMEOUT_S = 60.0
LOOK_AGAIN_S = 15.0
STOP_TIMEOUT_S = 20.0
CONFIGURATION = Path("/etc/ggaoe/ggaoed.conf")
PID_FILE = Path("/run/ggaoed/ggaoed.pid")
MTU_BYTES = 1500
MTU_BYTES_MAX = 9000

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PROMPT = re.compile(r"(target|host)# (.*)")


@dataclass(frozen=True)
class Step:
    """Something that a page has done on `machine`, "target" or "host"; `line` counts from 1.

    `configuration` is the text of a configuration file, otherwise `command` is a shell's line,
    and `shown` what the page says it prints.
    """

    line: int
    machine: str
    command: str = ""
    configuration: str = ""
    shown: list[str] = field(default_factory=list)

    @property
    def needs_kernel(self) -> bool:
        """Is the initiator of the host's kernel wanted, and not the tools?"""
        return self.machine == "host" and not self.command.startswith("ggaoe ")


def steps_of(text: str) -> list[Step]:
    """The steps of a page, in its order. ValueError where a console block has none."""
    steps: list[Step] = []
    for block in _FENCE.finditer(text):
        line = text.count("\n", 0, block.start()) + 2
        if block[1] == "ini":
            steps.append(Step(line, "target", configuration=block[2]))
        elif block[1] == "console":
            steps += _typed(block[2].splitlines(), line)
    return steps


def _typed(lines: Sequence[str], first: int) -> list[Step]:
    steps: list[Step] = []
    for number, text in enumerate(lines, first):
        if prompt := _PROMPT.fullmatch(text):
            steps.append(Step(number, prompt[1], command=prompt[2]))
        elif steps:
            steps[-1].shown.append(text)
        else:
            raise ValueError(f"line {number}: a console block begins with target# or host#")
    return steps


def is_shown(output: str, shown: Sequence[str]) -> bool:
    """Does `output` have the lines that a page shows?"""
    rest = iter([" ".join(line.split()) for line in output.splitlines()])
    return all(any(_pattern(line).fullmatch(found) for found in rest) for line in shown)


def _pattern(line: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, " ".join(line.split()).split("…"))))


class Machine:
    """A machine of its own as far as a page can tell, on a namespace that has its interfaces; a
    context manager. Files are in `directory`, which is new; what is real stays as it is.
    """

    def __init__(self, name: str, namespace: Namespace, directory: Path) -> None:
        self.name = name
        self.namespace = namespace
        self._directory = directory
        self._etc, self._run, self._bin = (directory / part for part in ("etc", "run", "bin"))
        self._configuration = self._etc / CONFIGURATION.relative_to("/etc")

    def __enter__(self) -> Machine:
        self._directory.mkdir()
        self._bin.mkdir()
        for name in ("ggaoe", "ggaoectl"):
            program = self._bin / name
            # Without -P, modules would be looked for in the directory in which it is called.
            program.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m ggaoe.cli.{name} "$@"\n')
            program.chmod(0o755)
        subprocess.run(["cp", "-a", "/etc", self._etc], check=True, timeout=COMMAND_TIMEOUT_S)
        self._configuration.parent.mkdir(exist_ok=True)  # as packages do
        self._configuration.unlink(missing_ok=True)
        for name in ("etc", "run", "srv", "var/lib"):
            (self._directory / name).mkdir(parents=True, exist_ok=True)
            self.namespace.run("mount", "--bind", self._directory / name, f"/{name}")
        self.namespace.run("mount", "-t", "sysfs", "sysfs", "/sys")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the daemon that the page has started, and wait until it has gone."""
        pid_file = self._run / PID_FILE.relative_to("/run")
        if pid_file.exists():
            self._shell(f"kill $(cat {PID_FILE})")
            wait_until(lambda: not pid_file.exists(), STOP_TIMEOUT_S, "the end of the daemon")

    def do(self, step: Step) -> None:
        """Configure, or run a command; AssertionError if it fails or prints something else."""
        if step.configuration:
            self._configuration.write_text(step.configuration)
            return
        deadline_s = time.monotonic() + LOOK_AGAIN_S
        while True:
            status, output = self._shell(step.command)
            print(f"{self.name}# {step.command}\n{output}", end="")
            assert status == 0, f"line {step.line}: status {status}: {output}"
            if is_shown(output, step.shown):
                return
            # Whoever looks only looks again where something takes a moment.
            may_look_again = step.command.startswith("ggaoectl ") and time.monotonic() < deadline_s
            assert may_look_again, f"line {step.line} prints:\n{output}"

    def _shell(self, command: str) -> tuple[int, str]:
        """Its exit status and all that it prints."""
        setting = f"PATH={shlex.quote(str(self._bin))}:$PATH PYTHONPATH={REPOSITORY}"
        # Not a pipe: a daemon would keep it open.
        output = self._directory / "output"
        with output.open("wb") as out:
            status = subprocess.run(
                [
                    *("nsenter", f"--target={self.namespace.pid}", "--net", "--mount", "--pid"),
                    *("--wd=/srv", "--", "sh", "-c", f"export {setting}; {command}"),
                ],
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                timeout=COMMAND_TIMEOUT_S,
            ).returncode
        return status, output.read_text()


@contextmanager
def two_machines(directory: Path) -> Iterator[dict[str, Machine]]:
    """A target and a host without a kernel of its own, joined by eth1 and eth2; by name."""
    with ExitStack() as stack:
        target, host = (stack.enter_context(Namespace()) for _ in range(2))
        for name in ("eth1", "eth2"):
            veth(target, name, host, name, MTU_BYTES)
        machines = [
            Machine(name, namespace, directory / name)
            for name, namespace in (("target", target), ("host", host))
        ]
        yield {machine.name: stack.enter_context(machine) for machine in machines}


def rename_to_eth1(namespace: Namespace, interface: str) -> None:
    """The interface that pages speak of, with a usual MTU."""
    namespace.ip(f"link set {interface} down")
    namespace.ip(f"link set {interface} name eth1 mtu {MTU_BYTES} up")


# Its MTU stays what it was: the guest's driver could not raise it again.
_GUEST_SETUP = """
. /functions
is_there() {
    grep -q up /sys/block/etherd!e*/state 2> /dev/null
}
modprobe -r aoe
ip link set eth0 down
ip link set eth0 name eth1 up
"""


def guest_script(steps: Sequence[Step]) -> str:
    """What the guest does of `steps`; it has the host do the others with `host target NUMBER`,
    and reports what each of its own prints between marks, see `guest_outputs`."""
    lines = [_GUEST_SETUP]
    for number, step in enumerate(steps):
        if step.machine == "target":
            lines.append(f"host target {number}")
            continue
        lines.append(f"echo '@@step {number}'\n{step.command} || fail {shlex.quote(step.command)}")
        if step.command.startswith("aoe-discover"):
            # Answers come in their own time, which whoever types the next command does not notice.
            lines.append("await 30 is_there")
    return "\n".join(lines)


def guest_outputs(output: Sequence[str]) -> dict[int, str]:
    """What each step of a guest printed, by its number."""
    found: dict[int, list[str]] = {}
    lines: list[str] = []
    for line in output:
        if line.startswith("@@step "):
            lines = found.setdefault(int(line.split()[1]), [])
        elif not line.startswith("@@"):
            lines.append(line)
    return {number: "\n".join(lines) for number, lines in found.items()}
