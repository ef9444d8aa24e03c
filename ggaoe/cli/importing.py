"""`ggaoe import`: foreign configurations become ours.

Owns arguments and output: the configuration to standard output or a file, what could not be carried
over to stderr, states to a state directory. Nothing is written unless all is well, and nothing is
overwritten unless asked for. What foreign files mean is in `importer`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from ggaoe.config import parse
from ggaoe.config.read import ETHERS, FILE_BYTES_MAX, is_toml, load_hosts
from ggaoe.errors import ConfigError, GgaoeError, Problem
from ggaoe.importer import ggaoed, kvblade, persist, qaoed, vblade, writer
from ggaoe.importer.model import Imported, sections_of
from ggaoe.importer.report import Place, Report
from ggaoe.proto.target import TargetState
from ggaoe.units import printable

if TYPE_CHECKING:
    from ggaoe.server.state import StateStore

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
Reader: TypeAlias = Callable[[Path, Report], Imported]

_FOREIGN: dict[str, tuple[Reader, Path, str]] = {
    "vblade": (
        vblade.read,
        vblade.DEFAULT_SOURCE,
        "a directory of fragments, a fragment, or a vblade.conf with a line for each export",
    ),
    "vblade-persist": (
        persist.read,
        persist.DEFAULT_SOURCE,
        "the directory with a directory for each export",
    ),
    "qaoed": (qaoed.read, qaoed.DEFAULT_SOURCE, "a qaoed.conf"),
    "kvblade": (
        kvblade.read,
        kvblade.DEFAULT_SOURCE,
        "the module's directory in sysfs while it serves, with a directory for each export",
    ),
}


def add_import_parser(commands: Subparsers) -> None:
    """Add the command; it sets `run`."""
    parser = commands.add_parser(
        "import",
        help="turn another target's configuration into ours",
        description="Turn another AoE target's configuration into ours. What could not be carried "
        "over is told on stderr, with its place and what to do.",
    )
    kinds = parser.add_subparsers(title="from", metavar="PROGRAM", required=True)
    for name, (_, default, what) in _FOREIGN.items():
        kind = _add_kind(kinds, name, default, what)
        kind.add_argument("--toml", action="store_true", help="write TOML instead of a key file")
        kind.set_defaults(run=_import_foreign, foreign=name)
    kind = _add_kind(
        kinds, "ggaoed", ggaoed.DEFAULT_SOURCE, "a ggaoed.conf, or a state directory of ggaoed"
    )
    kind.add_argument(
        "--state-directory",
        type=Path,
        metavar="DIR",
        help="where to write the states of its devices (config string, mask list, reservation)",
    )
    kind.set_defaults(run=_import_ggaoed)


def _add_kind(kinds: Subparsers, name: str, default: Path, what: str) -> argparse.ArgumentParser:
    kind = kinds.add_parser(name, help=f"from {what}", description=f"SOURCE is {what}.")
    kind.add_argument(
        "source", type=Path, nargs="?", default=default, metavar="SOURCE", help=f"default {default}"
    )
    kind.add_argument("-o", "--output", type=Path, metavar="FILE", help="default standard output")
    kind.add_argument("--force", action="store_true", help="overwrite files that exist")
    return kind


def _import_foreign(options: argparse.Namespace) -> int:
    read, _, what = _FOREIGN[options.foreign]
    report = Report()
    with _readable():
        sections = sections_of(read(options.source, report), report)
    if not sections.devices:
        text = f"no export was found; SOURCE must be {what}"
        report.error(Place(str(options.source)), text)
    title = f"Imported from {options.foreign} ({printable(str(options.source))}) by ggaoe import."
    toml = options.toml or (options.output is not None and options.output.suffix == ".toml")
    text = (writer.toml if toml else writer.key_file)(sections, title)
    if not report.failed:  # else what is wrong there would be told a second time, for ours
        name = f"the result{'.toml' if toml else ''}"
        _check(text, str(options.output or name), report)
    return _finish(options, report, text, {}, None)


@contextmanager
def _readable() -> Iterator[None]:
    """What may not even be looked at, as a directory above it, is the operator's matter."""
    try:
        yield
    except OSError as error:
        raise GgaoeError(f"{error.filename}: {error.strerror}") from None


def _check(text: str, name: str, report: Report) -> None:
    """What `ggaoe check` would say."""
    if len(text.encode()) > FILE_BYTES_MAX:
        advice = "import parts of it, and include their files"
        report.error(Place(name), f"is larger than {FILE_BYTES_MAX} bytes: {advice}")
        return
    try:
        problems = parse(text, name, hosts=load_hosts(ETHERS)).warnings
    except ConfigError as error:
        problems = error.problems
    for problem in problems:
        report.add(problem)


def _import_ggaoed(options: argparse.Namespace) -> int:
    report = Report()
    with _readable():
        copied = ggaoed.read(options.source, report)
    states: Mapping[str, TargetState] = copied.states
    if not (copied.has_devices or states or report.failed):
        text = "neither a device nor the state of one was found"
        report.error(Place(str(options.source)), text)
    store = None
    if options.state_directory is not None:
        from ggaoe.server.state import StateStore

        store = StateStore(options.state_directory)
        theirs = copied.state_directory
        if theirs is not None and theirs != store.directory.absolute():
            text = f"the configuration names {theirs} as its state-directory: change it to"
            report.note(Place(str(options.source)), f"{text} {store.directory.absolute()}")
    elif states:
        text = f"state of {', '.join(sorted(states))} is not carried over: add"
        report.note(Place(str(options.source)), f"{text} --state-directory DIR")
        states = {}
    if options.output is not None:
        _check_output(options.source, copied.text, options.output, report)
    return _finish(options, report, copied.text, states, store)


def _check_output(source: Path, text: str | None, output: Path, report: Report) -> None:
    """A copy means the same only where its name leads to the same dialect."""
    at = Place(str(source))
    if source.is_dir():
        text = "a state directory holds no configuration for -o: name the ggaoed.conf, too"
        report.error(at, text)
    elif text is not None and is_toml(text, str(output)) != is_toml(text, str(source)):
        other = "TOML" if is_toml(text, str(output)) else "a key file"
        report.error(at, f"{output} would be read as {other}, which this is not: name it otherwise")


def _finish(
    options: argparse.Namespace,
    report: Report,
    text: str | None,
    states: Mapping[str, TargetState],
    store: StateStore | None,
) -> int:
    """Tell what was found, and write where there is no error."""
    try:
        problems: Sequence[Problem] = report.settle()
    except ConfigError as error:
        problems = error.problems
    for problem in problems:
        print(problem, file=sys.stderr)
    if report.failed:
        return 1
    files = [options.output] if options.output is not None and text is not None else []
    if store is not None:
        store.check()
        files += [store.path_of(name) for name in states]
    for path in files:
        if os.path.lexists(path) and not options.force:
            raise _exists(path)
        if not path.parent.is_dir():
            raise GgaoeError(f"{path} cannot be written: {path.parent} is no directory: make it")
    if store is not None:
        for name, state in states.items():
            asyncio.run(store.save(name, state))
    if text is not None:
        _write(text, options.output, force=options.force)
    return 0


def _write(text: str, output: Path | None, *, force: bool) -> None:
    content = text.encode()
    if output is None:
        sys.stdout.buffer.write(content)
        sys.stdout.flush()
        return
    try:
        with output.open("wb" if force else "xb") as file:
            file.write(content)
    except FileExistsError:  # made meanwhile
        raise _exists(output) from None
    except OSError as error:
        raise GgaoeError(f"{output} cannot be written: {error.strerror}") from None


def _exists(path: Path) -> GgaoeError:
    return GgaoeError(f"{path} exists: name another one, or overwrite it with --force")
