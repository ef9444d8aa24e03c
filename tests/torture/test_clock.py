"""Somebody sets the clock of the target's machine: hosts notice no more than a lost frame.

Frames are stamped by the kernel, in time of the wall. As no namespace has a wall clock of its own,
the target runs in a guest kernel, from the files of this machine.
"""

from __future__ import annotations

import asyncio
import random
import shlex
import sys
from collections.abc import Coroutine
from pathlib import Path

import pytest

from ggaoe.client import Initiator, Timing
from helpers.targets import REPOSITORY
from integration.load import WORKERS, Load
from integration.scene import DEADLINE_S, DISK_BYTES, device
from interop.guest import Images, Wire, best_transport, run_guest
from torture.budget import OVERHEAD_S, seeded, torture_s

SECONDS = 3.0
GUEST_TIMEOUT_S = torture_s(SECONDS) + 400.0
pytestmark = pytest.mark.timeout(GUEST_TIMEOUT_S + OVERHEAD_S)

HOUR_S = 3600
STEPS_S = (-1, 1, -4, 4, -6, 6, -HOUR_S, HOUR_S, -20 * 365 * 24 * HOUR_S, 10 * 365 * 24 * HOUR_S)
"""Around the age from which a frame counts as stale (5 s), and far beyond it."""
RESENDING = Timing(timeout_max_s=0.4, deadline_s=DEADLINE_S)

CONFIGURATION = """
[defaults]
interfaces = eth*
state-directory = /run/ggaoe
control-socket = /run/ggaoe/ctl
pid-file = /run/ggaoe/pid
"""

# The root directory of this machine is the daemon's, with what is the guest's own over it.
SCRIPT = """
. /functions
mkdir /machine
mount -t hostfs none /machine || fail 'this guest kernel has no hostfs'
for directory in proc sys dev; do mount --bind /$directory /machine/$directory; done
mount -t tmpfs run /machine/run
mkdir /machine/run/ggaoe
export {environment}
chroot /machine sh -c {command} > /tmp/log 2>&1 &
is_ready() {{ grep -q 'ready: ' /tmp/log; }}
await 60 is_ready
host load
{steps}
host unload
kill -0 $! || fail 'the daemon has ended'
chroot /machine sh -c 'kill $(cat /run/ggaoe/pid)'
wait $! || fail 'the daemon did not end well'
cat /tmp/log
grep -q Traceback /tmp/log && fail 'an exception'
umount /machine/run
sync
"""


def stepping(rng: random.Random) -> list[int]:
    """Every step once, and as many more as time permits: about one a second."""
    more = rng.choices(STEPS_S, k=int(torture_s(0)))
    return [*rng.sample(STEPS_S, len(STEPS_S)), *more]


class Rounds:
    """Load that the guest's script begins and ends, from the thread that talks to the guest."""

    def __init__(self, initiator: Initiator, disk: Path) -> None:
        self._loop = asyncio.get_running_loop()
        self._initiator = initiator
        self._disk = disk
        self.load: Load

    def _call(self, what: Coroutine[None, None, None]) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result()

    def begin(self) -> None:
        self._call(self._begin())

    async def _begin(self) -> None:
        self.load = Load(await self._initiator.open(0, 1), self._disk)
        self.load.start()
        await self.load.more()

    def more(self) -> None:
        self._call(self.load.more())

    def end(self) -> None:
        self._call(self.load.finish())


async def test_the_clock_is_set_under_load(images: Images, engine: str, tmp_path: Path) -> None:
    """Over two paths, whose frames are put in order by their stamps."""
    steps = stepping(seeded())
    disk, config = tmp_path / "disk", tmp_path / "ggaoe.conf"
    with disk.open("wb") as file:
        file.truncate(DISK_BYTES)
    config.write_text(CONFIGURATION + device(path=disk, direct_io=False))
    script = SCRIPT.format(
        environment=shlex.join([f"PYTHONPATH={REPOSITORY}", f"GGAOE_ENGINE={engine}"]),
        command=shlex.quote(
            shlex.join([sys.executable, "-m", "ggaoe.cli.ggaoe", "-c", str(config)])
        ),
        steps="\n".join(
            f"date -s @$(($(date +%s) + {step_s})) > /dev/null\nhost more" for step_s in steps
        ),
    )
    with Wire([1500, 1500], best_transport()) as wire:
        with wire.namespace.entered():
            initiator = Initiator(wire.interfaces, RESENDING)
        async with initiator:
            rounds = Rounds(initiator, disk)
            actions = {"load": rounds.begin, "more": rounds.more, "unload": rounds.end}
            transcript = await asyncio.to_thread(
                run_guest, images, wire, script, actions=actions, timeout_s=GUEST_TIMEOUT_S
            )
    print(transcript)
    assert transcript.status == 0
    rounds.load.check_file()
    counters = rounds.load.remote.counters
    print(f"{len(steps)} steps, {rounds.load.rounds} rounds, {counters.resent} resent")
    assert counters.resent <= len(steps) * WORKERS
