"""Measure every target in every case, by turns, and print medians and ratios.

Run as root: `make bench`, or `python bench/run.py --cases 'read-*' --rounds 1 --seconds 0.5`. Owns:
namespaces, turns, and the processor time of targets. Must not know: how a target is told what to do
(targets.py), what is to be reached (cases.py), tables (report.py), guests (initiator.py).

A measurement has network namespaces of its own, joined by veth pairs or by a wire of a certain
speed, the target on one core and the load on another. Within each round of a case the targets take
turns.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import initiator
import report
from cases import CASES, SECTOR_BYTES, Case
from storage import Files, refuses_direct_io, write_back
from targets import (
    AOELOAD,
    CORES,
    FIO_ENGINES,
    ON_LOAD_CORE,
    ON_TARGET_CORE,
    REPOSITORY,
    TARGETS,
    Export,
)

sys.path.insert(0, str(REPOSITORY / "tests"))

from helpers.netns import Namespace, Process, bridge, veth

LOAD_TIMEOUT_S = 60.0  # beyond the measured time; the load has shorter time-outs of its own
BUSY_LOAD_AVERAGE = 0.5
REALTIME_PRIORITY = 10
WIRE_QUEUE_BYTES = 4 << 20  # a switch's; more than a case ever has on its way
WIRE_BURST_US = 100  # what passes at once after a pause, for the sake of the kernel's timers
WIRE_BURST_BYTES_MIN = 16384  # more than one jumbo frame
Round = dict[str, float]


class BenchError(Exception):
    """A target gave no answer, an error or wrong data, or the machine lacks something essential."""


@dataclass(frozen=True)
class Bench:
    """What all measurements share."""

    files: Files
    directory: Path
    seconds: float

    def measure(self, case: Case, name: str) -> Round:
        """One target under one load; its figures. Raises BenchError."""
        target = TARGETS[name]
        log = self.directory / f"{name}.log"
        with Namespace() as near, Namespace() as far, Namespace() as switch:
            for index in range(case.interfaces):
                if case.wire_mbit_per_s:
                    wire(near, f"near{index}", switch, far, f"far{index}", case)
                else:
                    veth(near, f"near{index}", far, f"far{index}", case.mtu_bytes)
            exports = self._exports(case)
            # Not below `directory`, whose path may be too long for a socket.
            with log.open("wb") as output, tempfile.TemporaryDirectory(prefix="ggaoe-") as own:
                processes = [
                    far.spawn(
                        *ON_TARGET_CORE,
                        *command,
                        stdout=output,
                        stderr=output,
                        cwd=REPOSITORY,
                    )
                    for command in target.commands(case.storage, exports, Path(own))
                ]
                try:
                    return self._load(case, target.check, near, exports, processes)
                except BenchError as error:
                    printed = log.read_text(errors="replace")
                    raise BenchError(f"{name}, {case.title}: {error}\n{printed}") from None

    def _exports(self, case: Case) -> list[Export]:
        paths = self.files.exported(case.devices, cached=case.storage.cached)
        write_back(paths)
        return [
            Export(index // 16, index % 16, f"far{index % case.interfaces}", path)
            for index, path in enumerate(paths)
        ]

    def _load(
        self,
        case: Case,
        check: str,
        near: Namespace,
        exports: list[Export],
        processes: list[Process],
    ) -> Round:
        devices = [
            f"e{one.shelf}.{one.slot}@{one.interface.replace('far', 'near')}" for one in exports
        ]
        self._aoeload(near, "--seconds", "0", *devices)
        before_s = processor_s(processes)
        # A wire is the kernel's work on the load's processor: who polls there would delay it.
        sleeps = ("--sleep",) if case.wire_mbit_per_s else ()
        found = self._aoeload(
            near,
            *sleeps,
            f"--seconds={self.seconds}",
            f"--warmup={self.seconds / 10}",
            f"--depth={case.depth}",
            f"--sectors={case.sectors}",
            f"--write-percent={case.write_percent}",
            f"--check={check}",
            *devices,
        )
        used_s = processor_s(processes) - before_s
        counts = [device.pop("requests") for device in found.pop("devices")]
        figures: Round = {key: value for key, value in found.items() if key != "first_trouble"}
        figures["cpu_us"] = used_s * 1e6 / max(found["requests_in_all"], 1)
        figures["least_share"] = min(counts) * len(counts) / max(sum(counts), 1)
        if case.wire_mbit_per_s:
            figures["wire_share"] = figures["mb_per_s"] * 8 / case.wire_mbit_per_s
        return figures

    def _aoeload(self, near: Namespace, *arguments: str) -> dict[str, Any]:
        process = near.spawn(
            *(*ON_LOAD_CORE, str(AOELOAD), "load"),
            *arguments,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        output = process.stdout.read()
        status = process.wait(self.seconds + LOAD_TIMEOUT_S)
        found: dict[str, Any] = json.loads(output or b"{}")
        if status != 0:
            raise BenchError(found.get("first_trouble") or "the load failed, see its message above")
        return found

    def measure_fio(self, case: Case, name: str) -> Round:
        """What fio gets out of the bare file, on the target's core. Raises BenchError."""
        done = subprocess.run(
            [
                *(*ON_TARGET_CORE, "fio", "--name=bare"),
                *(f"--filename={self.files.bare()}", f"--ioengine={FIO_ENGINES[name]}"),
                f"--rw=rand{'write' if case.write_percent else 'read'}",
                *(f"--bs={case.sectors * SECTOR_BYTES}", f"--iodepth={case.depth}", "--direct=1"),
                *("--time_based", f"--runtime={int(self.seconds * 1000)}ms"),
                *("--output-format=json", "--eta=never"),
            ],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.directory,
        )
        if done.returncode != 0:
            raise BenchError(f"{name}, {case.title}: {done.stderr.strip()}")
        job = json.loads(done.stdout)["jobs"][0]
        side = job["write" if case.write_percent else "read"]
        latency = side["clat_ns"]["percentile"]
        used_us = (job["usr_cpu"] + job["sys_cpu"]) / 100 * job["job_runtime"] * 1000
        return {
            "iops": side["iops"],
            "mb_per_s": side["bw_bytes"] / 1e6,
            "p50_us": latency["50.000000"] / 1000,
            "p99_us": latency["99.000000"] / 1000,
            "p99_9_us": latency["99.900000"] / 1000,
            "cpu_us": used_us / max(side["total_ios"], 1),
        }


def wire(
    near: Namespace, near_name: str, switch: Namespace, far: Namespace, far_name: str, case: Case
) -> None:
    """A wire of a certain speed, joined to its ends as a network card is: what is sent stays the
    sender's until it has left, which happens on the load's processor."""
    # A bare veth pair delivers each frame within the call that sends it, so that no send buffer is
    # ever full. Here the call ends as soon as the frame is queued on the other processor.
    ends = {f"to-{near_name}": (near, near_name), f"to-{far_name}": (far, far_name)}
    switch.run("mount", "-t", "sysfs", "sysfs", "/sys")
    for port, (namespace, name) in ends.items():
        veth(namespace, name, switch, port, case.mtu_bytes)
        queue = f"/sys/class/net/{port}/queues/rx-0/rps_cpus"
        switch.run("sh", "-c", f"echo {1 << int(CORES[-1]):x} > {queue}")
        switch.run(
            *("tc", "qdisc", "add", "dev", port, "root", "tbf"),
            *("rate", f"{case.wire_mbit_per_s}mbit", "limit", str(WIRE_QUEUE_BYTES)),
            *("burst", str(max(WIRE_BURST_BYTES_MIN, case.wire_mbit_per_s * WIRE_BURST_US // 8))),
        )
    bridge(switch, f"wire-{near_name}", list(ends), case.mtu_bytes)


def processor_s(processes: Iterable[Process]) -> float:
    """What all threads of some processes have used of processors so far."""
    # In nanoseconds: /proc/PID/stat counts whole hundredths of a second, which is too coarse for
    # one of 64 processes.
    used_ns = [
        int(path.read_text().split()[0])
        for process in processes
        for path in Path(f"/proc/{process.pid}/task").glob("*/schedstat")
    ]
    if not used_ns:
        raise BenchError("the target has ended, or this kernel has no /proc/PID/schedstat")
    return sum(used_ns) / 1e9


def build() -> None:
    """Compile the load generator where it is missing or older than its source."""
    source = REPOSITORY / "bench" / "aoeload.c"
    if AOELOAD.exists() and AOELOAD.stat().st_mtime >= source.stat().st_mtime:
        return
    if shutil.which("cc") is None:
        raise BenchError("needs a C compiler: apt-get install gcc libc6-dev")
    AOELOAD.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cc", "-O2", "-Wall", "-Wextra", "-o", AOELOAD, source], check=True)


def run_cases(bench: Bench, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Every selected case with its figures and what was skipped."""
    unavailable = {name: target.unavailable() for name, target in TARGETS.items()}
    unavailable |= {name: _fio_lacks(engine) for name, engine in FIO_ENGINES.items()}
    no_direct_io = refuses_direct_io(bench.directory)
    for case in CASES:
        if not _selected(case.key, options.cases):
            continue
        names = [name for name in case.targets if _selected(name, options.targets)]
        skipped = {name: unavailable[name] for name in names if unavailable[name]}
        if no_direct_io and not case.storage.cached:
            skipped = dict.fromkeys(names, "the filesystem of --directory has no direct I/O")
        names = [name for name in names if name not in skipped]
        for name, reason in skipped.items():
            print(f"{case.key}: {name} skipped: {reason}", file=sys.stderr)
        rounds: dict[str, list[Round]] = {name: [] for name in names}
        failed: dict[str, str] = {}
        for number in range(options.rounds):
            # Nobody is always the one who comes after the same other.
            turn = number % max(len(names), 1)
            for name in names[turn:] + names[:turn]:
                measure = bench.measure_fio if name in FIO_ENGINES else bench.measure
                try:
                    figures = measure(case, name)
                except BenchError as error:
                    # The other targets' figures are worth having all the same.
                    failed[name] = str(error)
                    names.remove(name)
                    print(f"bench: {error}", file=sys.stderr)
                    continue
                rounds[name].append(figures)
                print(
                    f"{case.key}, round {number + 1}/{options.rounds}:"
                    f" {name} {figures['iops'] / 1000:.1f} k/s",
                    file=sys.stderr,
                )
        rounds = {name: rounds[name] for name in names}
        yield report.case_record(case.key, case.title, rounds, skipped, failed)


def _run_initiator(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The kernel initiator's cases of one setup are measured in one go: they share a boot."""
    wanted = [key for key in initiator.KEYS.values() if _selected(key, options.cases)]
    if not wanted:
        return []
    targets = [one for one in initiator.TARGETS if _selected(one.name, options.targets)]
    # The guest inherits it; the targets move away, see there.
    os.sched_setaffinity(0, {int(CORES[-1])})
    return initiator.measure(targets, wanted, options.directory, options.rounds, options.seconds)


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "kernel": platform.release(),
        "processors": os.cpu_count(),
        "model": models[0] if models else platform.machine(),
        "python": platform.python_version(),
        "ggaoe": _printed(sys.executable, "-m", "ggaoe.cli.ggaoe", "-V"),
        "vblade": _printed("dpkg-query", "-W", "-f", "${Version}", "vblade"),
        "fio": _printed("fio", "--version"),
        "load_average_before": os.getloadavg()[0],
    }


def _printed(*command: str) -> str:
    try:
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def _fio_lacks(engine: str) -> str:
    if shutil.which("fio") is None:
        return "needs fio: apt-get install fio"
    command = ["fio", "--name=probe", "--size=4k", f"--ioengine={engine}", "--rw=read"]
    with tempfile.TemporaryDirectory() as directory:
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    return f"fio has no {engine} here" if done.returncode else ""


def _selected(name: str, globs: Iterable[str]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="measure ggaoe beside vblade and the ceilings")
    globs = partial(str.split, sep=",")
    parser.add_argument("--cases", type=globs, default=["*"], metavar="GLOB,…", help="keys to run")
    parser.add_argument("--targets", type=globs, default=["*"], metavar="GLOB,…", help="to run")
    parser.add_argument("--rounds", type=int, default=5, help="to take medians of (5)")
    parser.add_argument("--seconds", type=float, default=2, help="duration of each (2)")
    parser.add_argument("--size-mib", type=int, default=1024, help="what is served, in all (1024)")
    parser.add_argument(
        "--directory", type=Path, default="/var/tmp", help="where that is made (/var/tmp)"
    )
    parser.add_argument(
        "--record", action="store_true", help="keep the figures, and bring README.md up to date"
    )
    parser.add_argument(
        "--realtime",
        action="store_true",
        help="run targets and load with SCHED_FIFO: for wire-* on a machine that is not idle",
    )
    parser.add_argument("--list", action="store_true", help="print keys and targets, do nothing")
    options = parser.parse_args()
    keys = {*(case.key for case in CASES), *initiator.KEYS.values()}
    names = {name for case in CASES for name in case.targets}
    names |= {one.name for one in initiator.TARGETS}
    for wanted, known in ((options.cases, keys), (options.targets, names)):
        for glob in wanted:
            if not any(fnmatchcase(name, glob) for name in known):
                parser.error(f"nothing is called {glob}: see --list")
    return options


def _print_list() -> None:
    for case in CASES:
        print(f"{case.key:24} {case.title}: {', '.join(case.targets)}")
    for key in initiator.KEYS.values():
        print(f"{key}: {', '.join(one.name for one in initiator.TARGETS)}")


@contextmanager
def _prepared(options: argparse.Namespace) -> Iterator[Bench]:
    if os.geteuid() != 0:
        raise BenchError("needs root, for namespaces and packet sockets")
    if len(CORES) < 2:
        raise BenchError("needs two processors, one for the target and one for the load")
    if os.getloadavg()[0] > BUSY_LOAD_AVERAGE:
        print("bench: the machine is busy: these figures will be off", file=sys.stderr)
    build()
    with tempfile.TemporaryDirectory(prefix="ggaoe-bench-", dir=options.directory) as name:
        files = Files(Path(name), options.size_mib << 20)
        yield Bench(files, Path(name), options.seconds)


def main() -> None:
    options = _arguments()
    if options.list:
        _print_list()
        return
    if options.realtime:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(REALTIME_PRIORITY))
    results: dict[str, Any] = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": machine(),
        "options": {
            key: getattr(options, key) for key in ("rounds", "seconds", "size_mib", "realtime")
        },
    }
    with _prepared(options) as bench:
        results["cases"] = list(run_cases(bench, options))
        results["cases"] += _run_initiator(options)
    print(report.tables([results]))
    if options.record:
        report.record(results)
    if any(case["failed"] for case in results["cases"]):
        raise BenchError("some targets failed, see above")


if __name__ == "__main__":
    try:
        main()
    except BenchError as error:
        sys.exit(f"bench: {error}")
