"""`ggaoe bench`: how fast a remote disk is, and how long its requests take.

Owns the options, the progress and the report. Writes only where that has been said twice.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from ggaoe.cli.render import is_screen
from ggaoe.cli.tool import (
    Subparsers,
    add_address,
    add_json,
    add_timeout,
    add_tool,
    complain,
    count,
    opened,
    positive,
    print_json,
)
from ggaoe.client import Load, LoadResult, LoadSpec, RemoteDevice
from ggaoe.proto.frame import SECTOR_BYTES
from ggaoe.units import counted, format_size, parse_size_bytes

DEPTH_MAX = 1024
BLOCK_BYTES_MAX = 16 << 20
TIMEOUT_S = 30.0
SCREEN_INTERVAL_S = 0.25
LINE_INTERVAL_S = 1.0
BAR_CHARS = 40
CPU_SHARE_MAX = 0.9
"""Beyond it a faster initiator would see a faster target."""
PERCENTILES = (50.0, 90.0, 99.0, 99.9)


def add_parser(subparsers: Subparsers) -> None:
    bench = add_tool(subparsers, "bench", _bench, "measure speed and latency of a disk")
    add_address(bench)
    text = "ask for blocks all over the disk (default: one after the other)"
    bench.add_argument("--random", action="store_true", help=text)
    text = "write instead of reading: needs --yes-destroy-data, too"
    bench.add_argument("--write", action="store_true", help=text)
    text = "what is on the disk may be lost"
    bench.add_argument("--yes-destroy-data", action="store_true", help=text)
    text = "blocks asked for at a time (16); the target's buffer count is a limit, too"
    bench.add_argument("--depth", type=_depth, default=16, metavar="N", help=text)
    text = "of one request (4KiB); larger ones than a frame are split"
    bench.add_argument("--block-size", type=_block_bytes, default=4096, metavar="SIZE", help=text)
    text = "seconds (10)"
    bench.add_argument("--duration", type=positive, default=10.0, metavar="SECONDS", help=text)
    text = "which random blocks (default: others each time)"
    bench.add_argument("--seed", type=int, metavar="N", help=text)
    text = "use every interface and MAC that answers for the address"
    bench.add_argument("--multipath", action="store_true", help=text)
    bench.add_argument("-q", "--quiet", action="store_true", help="show no progress")
    add_timeout(bench, TIMEOUT_S)
    add_json(bench)


def _depth(text: str) -> int:
    depth = count(text)
    if depth > DEPTH_MAX:
        raise argparse.ArgumentTypeError(f"at most {DEPTH_MAX}")
    return depth


def _block_bytes(text: str) -> int:
    try:
        size_bytes = parse_size_bytes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if not 0 < size_bytes <= BLOCK_BYTES_MAX or size_bytes % SECTOR_BYTES:
        raise argparse.ArgumentTypeError(
            f"{text!r}: write a multiple of {SECTOR_BYTES} bytes up to "
            f"{format_size(BLOCK_BYTES_MAX)}"
        )
    return size_bytes


async def _bench(arguments: argparse.Namespace) -> int:
    if arguments.write != arguments.yes_destroy_data:
        text = (
            "--write overwrites what is on the disk: add --yes-destroy-data if nobody needs it"
            if arguments.write
            else "--yes-destroy-data has no meaning without --write"
        )
        complain("bench", f"{text}; nothing was done")
        return 2
    spec = LoadSpec(
        is_random=arguments.random,
        is_write=arguments.write,
        depth=arguments.depth,
        block_bytes=arguments.block_size,
        duration_s=arguments.duration,
        seed=random.randrange(1 << 32) if arguments.seed is None else arguments.seed,
    )
    async with opened(arguments, arguments.address, multipath=arguments.multipath) as device:
        load = Load(device, spec)
        try:
            async with _progress(load, spec, quiet=arguments.quiet):
                await load.run()
        finally:
            # Of one that was interrupted or has failed, what there is.
            if load.result.blocks:
                _report(device, spec, load.result, as_json=arguments.json)
    return 0


# --- progress ------------------------------------------------------------------------------------


@asynccontextmanager
async def _progress(load: Load, spec: LoadSpec, *, quiet: bool) -> AsyncIterator[None]:
    """Shows on standard error how it goes, meanwhile."""
    if quiet:
        yield
        return
    drawing = _draw if is_screen(sys.stderr) and _has_rich() else _print_lines
    task = asyncio.create_task(drawing(load.result, spec))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _has_rich() -> bool:
    from importlib.util import find_spec

    return find_spec("rich") is not None


async def _draw(result: LoadResult, spec: LoadSpec) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task(_describe(spec), total=spec.duration_s, figures="")
        blocks, before_s = 0, time.monotonic()
        while True:
            await asyncio.sleep(SCREEN_INTERVAL_S)
            now_s = time.monotonic()
            figures = _figures(result, spec, result.blocks - blocks, now_s - before_s)
            blocks, before_s = result.blocks, now_s
            if result.started_s:
                progress.update(bar, completed=now_s - result.started_s, figures=figures)


async def _print_lines(result: LoadResult, spec: LoadSpec) -> None:
    blocks, before_s = 0, time.monotonic()
    while True:
        await asyncio.sleep(LINE_INTERVAL_S)
        now_s = time.monotonic()
        figures = _figures(result, spec, result.blocks - blocks, now_s - before_s)
        blocks, before_s = result.blocks, now_s
        if result.started_s:
            print(f"{now_s - result.started_s:6.1f} s  {figures}", file=sys.stderr, flush=True)


def _figures(result: LoadResult, spec: LoadSpec, blocks: int, seconds: float) -> str:
    rate = blocks / max(seconds, 1e-6)
    speed = format_size(int(rate * spec.block_bytes))
    return f"{rate:8.0f}/s  {speed}/s  p99 {_time(result.latencies.percentile_s(99))}"


# --- report --------------------------------------------------------------------------------------


def _report(device: RemoteDevice, spec: LoadSpec, result: LoadResult, *, as_json: bool) -> None:
    latencies, elapsed_s = result.latencies, max(result.elapsed_s, 1e-6)
    if as_json:
        print_json(_json(device, spec, result))
        return
    size = format_size(result.blocks * spec.block_bytes)
    speed = format_size(int(result.blocks * spec.block_bytes / elapsed_s))
    print(f"{device.name}: {_describe(spec)}, seed {spec.seed}")
    print(f"  {counted(result.blocks, 'block')}, {size} in {elapsed_s:.1f} s")
    print(f"  {result.blocks / elapsed_s:.0f} blocks/s, {speed}/s")
    if result.flush_s:
        print(f"  flush afterwards: {_time(result.flush_s)}")
    counters = device.counters
    print(f"  frames: {counters.sent} sent, {counters.resent} of them again")
    times = [("min", latencies.min_s), ("mean", latencies.mean_s)]
    times += [(f"p{percent:g}", latencies.percentile_s(percent)) for percent in PERCENTILES]
    times.append(("max", latencies.max_s))
    print("  latency: " + ", ".join(f"{name} {_time(seconds)}" for name, seconds in times))
    if result.cpu_s > CPU_SHARE_MAX * elapsed_s:
        print("  this tool had no processor time left: the target may be faster than that")
    rows = list(latencies.rows())
    most = max(amount for _, _, amount in rows)
    for low_us, high_us, amount in rows:
        bar = "#" * (-(-BAR_CHARS * amount // most))
        print(f"  {_time(low_us / 1e6):>9} to {_time(high_us / 1e6):>9} {amount:>9} {bar}".rstrip())


def _json(device: RemoteDevice, spec: LoadSpec, result: LoadResult) -> dict[str, Any]:
    latencies, elapsed_s = result.latencies, max(result.elapsed_s, 1e-6)
    return {
        "shelf": device.shelf,
        "slot": device.slot,
        "random": spec.is_random,
        "write": spec.is_write,
        "depth": spec.depth,
        "block_bytes": spec.block_bytes,
        "seed": spec.seed,
        "elapsed_s": round(result.elapsed_s, 6),
        "cpu_s": round(result.cpu_s, 6),
        "blocks": result.blocks,
        "blocks_per_s": round(result.blocks / elapsed_s, 3),
        "bytes_per_s": round(result.blocks * spec.block_bytes / elapsed_s, 3),
        "flush_s": round(result.flush_s, 6),
        "frames_sent": device.counters.sent,
        "frames_resent": device.counters.resent,
        "latency_us": {
            "min": round(latencies.min_s * 1e6, 1),
            "mean": round(latencies.mean_s * 1e6, 1),
            **{f"p{p:g}": round(latencies.percentile_s(p) * 1e6, 1) for p in PERCENTILES},
            "max": round(latencies.max_s * 1e6, 1),
        },
        "histogram_us": [list(row) for row in latencies.rows()],
    }


def _describe(spec: LoadSpec) -> str:
    order = "random" if spec.is_random else "sequential"
    what = "writes" if spec.is_write else "reads"
    return f"{order} {what} of {format_size(spec.block_bytes)}, depth {spec.depth}"


def _time(seconds: float) -> str:
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} us"
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
