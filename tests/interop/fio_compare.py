"""Compare ggaoe with Debian's vblade under the kernel initiator: fio in a guest, a table printed.

Run as root: `python tests/interop/fio_compare.py [--rounds 3] [--seconds 3]`. The two targets take
turns within every round and the table shows medians, so that a slow moment of the machine hits
both. The guest is the bottleneck (its kernel is a process here): the ratios say whether a target
costs latency, not what its ceiling is. The served file lies in memory unless --directory says
otherwise; on a disk the two do unequal work, since vblade acknowledges what only the page cache
has and ggaoe does not.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from helpers.targets import Ggaoe, TargetUnderTest, Vblade
from interop.guest import GuestError, Images, Wire, run_guest

BACKING_BYTES = 256 << 20
MTUS_BYTES = (1500, 9000)
BOOT_ALLOWANCE_S = 60.0
CASES = {
    "random read 4k depth 1": "rw=randread\nbs=4k\niodepth=1\n",
    "random read 4k depth 32": "rw=randread\nbs=4k\niodepth=32\n",
    "random write 4k depth 1": "rw=randwrite\nbs=4k\niodepth=1\n",
    "random write 4k depth 32": "rw=randwrite\nbs=4k\niodepth=32\n",
    "sequential read 64k depth 32": "rw=read\nbs=64k\niodepth=32\n",
}
SCRIPT = """
. /functions
find_disk
fio --eta=never --output-format=json --output=/tmp/result /jobs.fio || fail fio
tr -d '\\n' < /tmp/result
echo
"""


class Figure(NamedTuple):
    """What fio measured in one case."""

    iops: float
    p50_us: float


def main() -> None:
    options = _arguments()
    if os.geteuid() != 0:
        sys.exit("fio_compare needs root, for namespaces and packet sockets")
    figures: dict[tuple[int, str, str], list[Figure]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="ggaoe-compare-", dir=options.directory) as name:
        directory = Path(name)
        images = Images.assemble(directory)
        for round_number in range(1, options.rounds + 1):
            for mtu_bytes in MTUS_BYTES:
                for target_class in (Vblade, Ggaoe):
                    print(
                        f"round {round_number}: MTU {mtu_bytes}, {target_class.name}",
                        file=sys.stderr,
                    )
                    found = measure(images, directory, target_class, mtu_bytes, options.seconds)
                    for case, figure in found.items():
                        figures[mtu_bytes, case, target_class.name].append(figure)
    print_table(figures)


def measure(
    images: Images,
    directory: Path,
    target_class: type[TargetUnderTest],
    mtu_bytes: int,
    seconds: int,
) -> dict[str, Figure]:
    """One guest, one target, every case for `seconds`."""
    backing = directory / "disk"
    # Written in full: a hole is served faster than data.
    with backing.open("wb") as file:
        file.write(b"\xa5" * BACKING_BYTES)
        os.fsync(file.fileno())  # or it would be written back during the measurement
    with Wire([mtu_bytes]) as wire:
        target = target_class(wire.namespace, wire.interfaces, backing, directory)
        target.start()
        transcript = run_guest(
            images,
            wire,
            SCRIPT,
            with_fio=True,
            files={"jobs.fio": _jobs(seconds)},
            timeout_s=BOOT_ALLOWANCE_S + 2 * seconds * len(CASES),
        )
        target.stop()
    if transcript.status != 0:
        sys.exit(f"fio failed against {target.name}:\n{transcript}\n{target.log.read_text()}")
    return _figures(transcript.output[-1])


def print_table(figures: dict[tuple[int, str, str], list[Figure]]) -> None:
    """Medians of each case, and ggaoe's share of vblade's."""
    print(f"{'':34} {'vblade':>16} {'ggaoe':>16} {'ggaoe/vblade':>14}")
    print(f"{'case':28} {'MTU':>5} {'iops':>8} {'p50 us':>7} {'iops':>8} {'p50 us':>7}", end="")
    print(f" {'iops':>7} {'p50':>6}")
    for mtu_bytes in MTUS_BYTES:
        for case in CASES:
            base = _median(figures[mtu_bytes, case, Vblade.name])
            ours = _median(figures[mtu_bytes, case, Ggaoe.name])
            print(
                f"{case:28} {mtu_bytes:5}"
                f" {base.iops:8.0f} {base.p50_us:7.0f} {ours.iops:8.0f} {ours.p50_us:7.0f}"
                f" {ours.iops / base.iops:7.2f} {ours.p50_us / base.p50_us:6.2f}"
            )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="fio in a guest kernel: ggaoe beside vblade")
    parser.add_argument("--rounds", type=int, default=3, help="rounds to take medians of")
    parser.add_argument("--seconds", type=int, default=3, help="duration of each case")
    parser.add_argument(
        "--directory", type=Path, default="/dev/shm", help="where the served file is made"
    )
    return parser.parse_args()


def _jobs(seconds: int) -> str:
    head = "[global]\nfilename=/dev/etherd/e0.1\ndirect=1\nioengine=libaio\nstonewall\n"
    head += f"time_based\nruntime={seconds}\n"
    return head + "".join(f"[{case}]\n{settings}" for case, settings in CASES.items())


def _figures(result: str) -> dict[str, Figure]:
    found = {}
    for job in json.loads(result)["jobs"]:
        side = max(job["read"], job["write"], key=lambda side: side["total_ios"])
        p50_us = side["clat_ns"]["percentile"]["50.000000"] / 1000
        found[job["jobname"]] = Figure(side["iops"], p50_us)
    return found


def _median(rounds: list[Figure]) -> Figure:
    iops, p50_us = zip(*rounds, strict=True)
    return Figure(statistics.median(iops), statistics.median(p50_us))


if __name__ == "__main__":
    try:
        main()
    except GuestError as error:
        sys.exit(str(error))
