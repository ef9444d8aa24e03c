"""The verbs of ggaoectl that change what is exported without the file, or with `--persist` with it.

Owns their arguments, and the order of what has to be done twice: the daemon says whether it would
take the change, then the file has it, then the daemon; what the daemon refuses after all, the file
loses again.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ggaoe.errors import ConfigError, ControlError, GgaoeError

if TYPE_CHECKING:
    from ggaoe.config.persist import Rewriting

Call = Callable[..., Any]
Result = dict[str, Any]

DEFAULT_CONFIG = Path("/etc/ggaoe/ggaoed.conf")
NAMES = ("add", "remove", "start", "stop", "swap", "set")
_REFUSED = -32002  # as the daemon has it: it cannot be done
_CONFIG_INVALID = -32003


class OptionError(GgaoeError):
    """The words of an option are none."""


def add_arguments(verb: str, parser: argparse.ArgumentParser) -> None:
    """Those of one verb."""
    if verb in ("remove", "start", "stop"):
        parser.add_argument("names", nargs="+", metavar="NAMES", help="glob patterns of devices")
    else:
        name = "device, interface, defaults or acls" if verb == "set" else "device"
        parser.add_argument("name", metavar="NAME", help=name)
    if verb == "swap":
        parser.add_argument("path", type=Path, metavar="PATH", help="file or block device")
        text = "even if it is smaller: hosts lose what lies beyond"
        parser.add_argument("--force", action="store_true", help=text)
    elif verb in ("add", "set"):
        text = "an option, with its value as in a key file"
        count = "+" if verb == "add" else "*"
        parser.add_argument("options", nargs=count, metavar="OPTION=VALUE", help=text)
    if verb == "set":
        text = "give an option its default back (repeatable)"
        parser.add_argument("--unset", action="append", default=[], metavar="OPTION", help=text)
    text = "write the change into the configuration file, too; a reload takes back all that is not"
    parser.add_argument("--persist", action="store_true", help=f"{text} there")
    text = "only tell what would change"
    parser.add_argument("--dry-run", action="store_true", help=text)


def run(verb: str, arguments: argparse.Namespace, call: Call) -> Result:
    """The daemon's answer, with the `files` that were written; raises OptionError."""
    params = _params(verb, arguments)
    if not arguments.persist:
        result: Result = call(verb, **params, dry_run=arguments.dry_run)
        return result
    from ggaoe.config import persist

    source = call("version")["config"]
    if source is None:
        text = "the daemon has no configuration file: do without --persist"
        raise ControlError(_REFUSED, text)
    _check_source(arguments, source)
    with persist.alone(Path(source)):
        planned: Result = call(verb, **params, dry_run=True, persisted=True)
        try:
            rewriting = persist.rewrite(Path(source), _edits(verb, params, planned))
            if arguments.dry_run:
                return planned
            files = [str(path) for path in rewriting.write()]
        except ConfigError as error:
            raise _refusal(error, "nothing was changed: the file cannot have it") from None
        try:
            result = call(verb, **params, persisted=True, reads=planned.get("reads"))
        except ControlError as refusal:
            _undo(rewriting, refusal)
            raise
        except BaseException:  # nobody knows whether the daemon has it
            text = f"{', '.join(files)} has the change: 'ggaoectl reload' puts it in force"
            print(f"ggaoectl: {text}", file=sys.stderr)
            raise
    return {**result, "files": files}


def _check_source(arguments: argparse.Namespace, source: str) -> None:
    """OptionError where the command line names another file than the daemon does, which could name
    any. With --socket alone it names none."""
    if arguments.config is None and arguments.socket is not None:
        return
    named = arguments.config or DEFAULT_CONFIG
    if os.path.realpath(named) != os.path.realpath(source):
        text = f"the daemon has read {source}, not {named}; to write to that, name it with -c"
        raise OptionError(text)


def _undo(rewriting: Rewriting, refusal: ControlError) -> None:
    try:
        rewriting.undo()
    except ConfigError as error:
        text = f"{refusal}: the daemon has not changed, but the file has: edit it"
        raise _refusal(error, text) from None


def _params(verb: str, arguments: argparse.Namespace) -> dict[str, Any]:
    if verb in ("remove", "start", "stop"):
        return {"names": arguments.names}
    if verb == "swap":
        path = str(arguments.path.absolute())
        return {"name": arguments.name, "path": path, "force": arguments.force}
    options: dict[str, str | None] = {}
    for word in arguments.options:
        key, equals, value = word.partition("=")
        if not key.strip() or not equals:
            text = f"{word!r} is no option with a value: write it as queue-length=16"
            raise OptionError(text)
        options[key.strip()] = _absolute(key.strip(), value.strip())
    if verb == "set":
        options.update(dict.fromkeys(arguments.unset))
        if not options:
            raise OptionError("name what to set: OPTION=VALUE, or --unset OPTION")
    return {"name": arguments.name, "options": options}


def _absolute(key: str, raw: str) -> str:
    """A relative path starts where ggaoectl runs, not where the file is."""
    from ggaoe.config import keyfile, schema

    option = schema.BY_KEY.get(key)
    if option is None or option.kind is not schema.Kind.PATH or not raw or raw.startswith("/"):
        return raw
    return f"{keyfile.escape(str(Path.cwd()))}/{raw}"


def _edits(verb: str, params: dict[str, Any], planned: Result) -> list[Any]:
    """What the file is to have."""
    from ggaoe.config import keyfile
    from ggaoe.config.overlay import Edit

    if verb == "remove":
        return [Edit("remove", device["name"]) for device in planned["plan"]["removed"]]
    if verb == "swap":
        values = {"path": keyfile.escape(params["path"]), "uuid": None}
        return [Edit("set", params["name"], values)]
    if verb in ("start", "stop"):
        names = [*planned["started" if verb == "start" else "stopped"], *planned["already"]]
        value = "true" if verb == "start" else "false"
        return [Edit("set", name, {"auto": value}) for name in names]
    return [Edit("add" if verb == "add" else "set", params["name"], params["options"])]


def _refusal(error: ConfigError, text: str) -> ControlError:
    problems = [
        {
            "file": problem.file,
            "line": problem.line,
            "column": problem.column,
            "message": problem.message,
            "warning": problem.warning,
        }
        for problem in error.problems
    ]
    return ControlError(_CONFIG_INVALID, text, {"problems": problems})
