"""Plays many seeds on all processors, prints those that fail: `python -m sim.run` in `tests`."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
import traceback
from collections import Counter, deque
from collections.abc import Iterator
from multiprocessing.pool import AsyncResult

from ggaoe.testing.engine import ENGINES_ON_MEMORY
from sim.world import live

BATCH_SEEDS = 100
Batch = tuple[str, int]


def play(batch: Batch) -> tuple[Counter[str], list[str]]:
    """What happened in a batch of seeds, and the failures."""
    engine, first = batch
    events: Counter[str] = Counter()
    failures = []
    for seed in range(first, first + BATCH_SEEDS):
        try:
            report = live(seed, engine)
        except Exception:
            failures.append(f"seed {seed} on {engine}:\n{traceback.format_exc(limit=-4)}")
        else:
            events += report.events
            events["answers"] += report.answers
            events["reads checked"] += report.reads_checked
        events[f"lives on {engine}"] += 1
    return events, failures


def main() -> int:
    """The exit status: 0 where no seed failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, help="how many on each engine; default: any number")
    parser.add_argument("--seconds", type=float, default=60.0, help="stop after so long")
    parser.add_argument("--engines", default=",".join(ENGINES_ON_MEMORY))
    arguments = parser.parse_args()
    end = arguments.first + arguments.seeds if arguments.seeds else sys.maxsize
    batches: Iterator[Batch] = (
        (engine, first)
        for first in range(arguments.first, end, BATCH_SEEDS)
        for engine in arguments.engines.split(",")
    )
    processes = os.cpu_count() or 1
    until_s = time.monotonic() + arguments.seconds
    events: Counter[str] = Counter()
    failed = 0
    # A worker ends after some batches: what the target gives up at a power cut is never freed.
    with multiprocessing.Pool(processes, maxtasksperchild=20) as pool:
        pending: deque[AsyncResult[tuple[Counter[str], list[str]]]] = deque()
        while pending or time.monotonic() < until_s:
            while len(pending) < 2 * processes and time.monotonic() < until_s:
                batch = next(batches, None)
                if batch is None:
                    until_s = 0.0
                else:
                    pending.append(pool.apply_async(play, (batch,)))
            if not pending:
                break
            counted, failures = pending.popleft().get()
            events += counted
            failed += len(failures)
            for failure in failures:
                print(failure, flush=True)
    print(", ".join(f"{count:,} {event}" for event, count in sorted(events.items())))
    print(f"{failed} failures")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
