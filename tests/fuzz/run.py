"""Runs the fuzz targets under libFuzzer (atheris): `run.py [--seconds N] [TARGET …]`.

Prints for each target how many inputs libFuzzer executed, and keeps what fails in `crashes`, which
is not part of the project. A target is a file `fuzz_NAME.py` with `one_input`, which raises where
its invariant does not hold; it knows nothing of this file, so that the tests replay the corpus
without atheris. What is found new is added to the corpus with `--keep`, as little as covers all.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
TREE = HERE.parents[1]
SECONDS = 60
INPUT_TIMEOUT_S = 60
MEMORY_MIB_MAX = 4096
OUTPUT_SHOWN = 4000
KINDS = ("crash", "timeout", "oom", "leak")


def names() -> list[str]:
    """Every target."""
    return sorted(path.stem.removeprefix("fuzz_") for path in HERE.glob("fuzz_*.py"))


def fuzz(name: str, scratch: Path, options: Sequence[str]) -> None:
    """Be libFuzzer for one target; does not return."""
    import atheris

    logging.disable(logging.CRITICAL)
    with atheris.instrument_imports(include=["ggaoe"]):
        target = importlib.import_module(f"fuzz.fuzz_{name}")
    options = [f"-max_len={target.MAX_BYTES}", *options]
    if words := [word.encode() for word in getattr(target, "WORDS", ())]:
        dictionary = scratch / "words"
        escaped = ["".join(f"\\x{byte:02x}" for byte in word) for word in words]
        dictionary.write_text("".join(f'"{word}"\n' for word in escaped))
        options.append(f"-dict={dictionary}")
    # To merge, libFuzzer starts itself again by its own name.
    itself = scratch / name
    command = shlex.join([sys.executable, __file__, "--libfuzzer", name, str(scratch)])
    itself.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    itself.chmod(0o700)
    atheris.Setup([str(itself), *options], target.one_input)
    atheris.Fuzz()


def corpus_of(name: str, data: Path = HERE) -> Path:
    """The folder of a target's inputs, which the file's `CORPUS` names."""
    found = re.search(r'^CORPUS = "(\w+)"', (HERE / f"fuzz_{name}.py").read_text(), re.MULTILINE)
    assert found, name
    return data / "corpus" / found[1]


def run(name: str, seconds: int, data: Path, *, keep: bool) -> bool:
    """Fuzz one target for so long; whether nothing was found."""
    crashes, corpus = data / "crashes", corpus_of(name, data)
    crashes.mkdir(exist_ok=True)
    before = set(crashes.iterdir())
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ggaoe-fuzz-") as scratch:
        found = Path(scratch) / "found"
        found.mkdir()
        done = _child(
            name,
            scratch,
            f"-max_total_time={seconds}",
            f"-timeout={INPUT_TIMEOUT_S}",
            f"-rss_limit_mb={MEMORY_MIB_MAX}",
            f"-artifact_prefix={crashes}/{name}-",
            "-print_final_stats=1",
            str(found),
            str(corpus),
        )
        took_s = round(time.monotonic() - began_s)
        if keep:
            _child(name, scratch, "-merge=1", str(corpus), str(found))
    executed = re.search(r"^stat::number_of_executed_units:\s*(\d+)", done.stderr, re.MULTILINE)
    findings = sorted(path for path in set(crashes.iterdir()) - before if _is_crash(path, name))
    count = executed[1] if executed else "no count of"
    print(f"{name}: {count} executions in {took_s} s, {len(findings)} findings", flush=True)
    if done.returncode or findings:
        print(done.stdout[-OUTPUT_SHOWN:] + done.stderr[-OUTPUT_SHOWN:])
    for path in findings:
        print(f"  {path}: mend it, then make it a test of every run:")
        print(f"  mv {path} {corpus}/NAME-OF-THE-DEFECT")
    return not done.returncode and not findings


def _is_crash(path: Path, name: str) -> bool:
    return path.name.startswith(tuple(f"{name}-{kind}" for kind in KINDS))


def _child(name: str, scratch: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, __file__, "--libfuzzer", name, scratch, *options]
    # libFuzzer ends the process on the spot: what a target keeps in files goes with the scratch.
    environment = {**os.environ, "TMPDIR": scratch}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, errors="replace"
    )


def main(arguments: Sequence[str]) -> int:
    """The exit status: 1 where an input was found that breaks an invariant."""
    sys.path[:0] = [str(TREE), str(HERE.parent)]
    if arguments[:1] == ["--libfuzzer"]:
        fuzz(arguments[1], Path(arguments[2]), arguments[3:])
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=SECONDS, help="for each target")
    parser.add_argument("--keep", action="store_true", help="add new inputs to the corpus")
    parser.add_argument("--data", type=Path, default=HERE, help="where corpus and crashes are")
    parser.add_argument("--list", action="store_true", help="print the targets' names")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(names()))
    options = parser.parse_args(arguments)
    if options.list:
        print("\n".join(names()))
        return 0
    for name in options.targets:
        if name not in names():
            parser.error(f"no target {name}: there are {', '.join(names())}")
    chosen = options.targets or names()
    results = [run(name, options.seconds, options.data, keep=options.keep) for name in chosen]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
