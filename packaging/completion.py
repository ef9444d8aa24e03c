"""Writes the completion of bash, zsh and fish into a directory, from the programs' own parsers.

`python packaging/completion.py DIRECTORY` makes NAME.bash, _NAME and NAME.fish for both programs.
What an argument stands for is told by its metavar.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import shtab

from ggaoe.cli import ggaoe, ggaoectl

FILES = {"bash": "{}.bash", "zsh": "_{}", "fish": "{}.fish"}

# Each shell quotes in its own way, so this does without $, double quotes and colons.
_DEVICES = shtab.cmd("ggaoectl --json list 2>/dev/null | sed -n -e 's/.,//' -e 's/^ *.name....//p'")
_INTERFACES = shtab.cmd("ls /sys/class/net")
_OF_METAVAR = {
    "FILE": shtab.FILE,
    "PATH": shtab.FILE,
    "SRC": shtab.FILE,
    "DST": shtab.FILE,
    "DIR": shtab.DIRECTORY,
    "IF": _INTERFACES,
    "NAME": _DEVICES,
    "NAMES": _DEVICES,
    "INTERVAL NAMES": _DEVICES,
}


def marked(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """`parser`, and those of its commands, with what shtab wants to know."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                marked(command)
            continue
        metavar = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
        if metavar in _OF_METAVAR and action.nargs != 0 and not action.choices:
            action.complete = _OF_METAVAR[metavar]  # type: ignore[attr-defined]
    return parser


def main(directory: Path) -> None:
    """Write all files."""
    directory.mkdir(parents=True, exist_ok=True)
    for program in (ggaoe, ggaoectl):
        parser = marked(program.command_parser())
        for shell, name in FILES.items():
            text = shtab.complete(parser, shell)
            (directory / name.format(parser.prog)).write_text(text.rstrip() + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
