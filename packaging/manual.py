"""Writes the manual pages into a directory: ggaoe(8), ggaoectl(8) and ggaoed.conf(5), in mdoc(7).

`python packaging/manual.py DIRECTORY`; commands and options come from the programs' own parsers,
the configuration's from the text of docs/options.md, which is made from the table of options. Only
what no table says is written here. SOURCE_DATE_EPOCH is the pages' date, if it is set.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from ggaoe.cli import ggaoe, ggaoectl
from ggaoe.config.example import options_page

_COLUMNS = 60  # before escapes; lines of mdoc have 80 at most
_FOLDED = "Ds"

_ABOUT_GGAOE = """\
ggaoe exports disks and files to other machines straight over Ethernet, with the ATA-over-Ethernet
protocol. A Linux host with the module aoe sees `/dev/etherd/e0.1` and uses it as a disk. An
acknowledged write is on stable storage.

Without a command it is the daemon: it reads its configuration, opens what is to be exported, and
serves until it is told to stop. It needs CAP_NET_RAW and access to what it exports; what it does
not need once it has started, it gives up.

AoE has no login, and MAC addresses are no credentials: give storage a network or a VLAN of its own.
"""

_ABOUT_GGAOECTL = """\
ggaoectl asks a running daemon, by its control socket. Where that is, the configuration file says.
"""

_PROVENANCE = "Generated from the table of options in `ggaoe/config/schema.py`.\n"
_ABOUT_CONFIGURATION = """\
The file says what is exported, on which interfaces, and to whom. `ggaoe check` finds its errors,
and the daemon reads it again when it gets SIGHUP or is asked by `ggaoectl reload`: what differs is
changed, and nothing else.
"""

_SIGNALS = (
    ("SIGHUP", "Read the configuration again. A file with errors changes nothing."),
    (
        "SIGTERM, SIGINT, SIGQUIT",
        "Finish what has started, drop the rest, which hosts send again. Twice: end at once.",
    ),
)
_ENVIRONMENT = (
    ("GGAOE_ENGINE", "`native` or `portable`, whatever the configuration says."),
    (
        "NOTIFY_SOCKET, WATCHDOG_USEC",
        "Where and how often the service manager wants to hear of the daemon; see sd_notify(3).",
    ),
)
_FILES = (
    (str(ggaoe.DEFAULT_CONFIG), "The configuration; see ggaoed.conf(5)."),
    ("/etc/ggaoe/export/NAME.conf", "What the unit ggaoe-export@NAME.service exports."),
    ("/var/lib/ggaoed", "Config strings, MAC mask lists and reservations that hosts have set."),
    ("/run/ggaoed/ggaoed.sock", "The control socket."),
)
_STATUS_OF_GGAOE = (
    ("0", "Done."),
    ("1", "Failed; a line on standard error says what, where, and what to do."),
    ("2", "The command line is wrong."),
)
_EXAMPLE = (
    "Serve one volume without a configuration, and look from another host:",
    "ggaoe export /dev/vg0/data --interface eth1 --shelf 0 --slot 1",
    "ggaoe discover",
)


def main(directory: Path) -> None:
    """Write all pages."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, lines in (
        ("ggaoe.8", ggaoe_page()),
        ("ggaoectl.8", ggaoectl_page()),
        ("ggaoed.conf.5", configuration_page()),
    ):
        (directory / name).write_text("\n".join(lines) + "\n", encoding="ascii")


def ggaoe_page() -> list[str]:
    """ggaoe(8)."""
    parser = ggaoe.command_parser()
    comment, *commands = _EXAMPLE
    return [
        *_head("ggaoe", 8, "ATA-over-Ethernet storage target"),
        *_program(parser, _ABOUT_GGAOE),
        *_list("SIGNALS", _SIGNALS),
        *_list("ENVIRONMENT", _ENVIRONMENT, "Ev"),
        *_list("FILES", _FILES, "Pa"),
        *_list("EXIT STATUS", _STATUS_OF_GGAOE),
        ".Sh EXAMPLES",
        *_text(comment),
        ".Bd -literal -offset indent",
        *(_escaped(command, code=True) for command in commands),
        ".Ed",
        *_see(("ggaoed.conf", 5), ("ggaoectl", 8)),
    ]


def ggaoectl_page() -> list[str]:
    """ggaoectl(8)."""
    parser = ggaoectl.command_parser()
    return [
        *_head("ggaoectl", 8, "control a running ggaoe"),
        *_program(parser, _ABOUT_GGAOECTL),
        *_see(("ggaoed.conf", 5), ("ggaoe", 8)),
    ]


def configuration_page() -> list[str]:
    """ggaoed.conf(5)."""
    return [
        *_head("ggaoed.conf", 5, "configuration of the ATA-over-Ethernet target ggaoe"),
        ".Sh DESCRIPTION",
        *_text(_ABOUT_CONFIGURATION),
        *_from_markdown(options_page().replace(_PROVENANCE, "")),
        *_list("FILES", _FILES[:1], "Pa"),
        *_see(("ggaoe", 8), ("ggaoectl", 8)),
    ]


def _head(name: str, section: int, summary: str) -> list[str]:
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    date = datetime.fromtimestamp(int(epoch), UTC) if epoch else datetime.now(UTC)
    return [
        f".Dd {date:%B} {date.day}, {date.year}",
        f".Dt {name.upper()} {section}",
        ".Os",
        ".Sh NAME",
        f".Nm {name}",
        f".Nd {summary}",
    ]


def _see(*pages: tuple[str, int]) -> list[str]:
    entries = [f".Xr {name} {section}" for name, section in pages]
    return [".Sh SEE ALSO", *(f"{entry} ," for entry in entries[:-1]), entries[-1]]


# --- programs ------------------------------------------------------------------------------------


def _program(parser: argparse.ArgumentParser, about: str) -> Iterator[str]:
    """The sections that a parser's table makes."""
    yield ".Sh SYNOPSIS"
    for path, command, _ in _commands(parser):
        yield f".Nm {parser.prog}"
        yield from _synopsis(path, command)
    yield ".Sh DESCRIPTION"
    yield from _text(about)
    yield ".Pp"
    yield "The options are:"
    yield from _options(_own_actions(parser))
    yield ".Sh COMMANDS"
    common = {_meaning(action) for action in _own_actions(parser)}
    for path, command, summary in _commands(parser):
        if not path:
            continue
        yield f".Ss {' '.join((*path, *_operands(command)))}"
        yield from _text(_sentence(command.description or summary))
        yield from _options(
            action for action in _own_actions(command) if _meaning(action) not in common
        )
        if command.epilog:
            yield ".Pp"
            yield from _text(command.epilog)
    if parser.epilog:
        yield ".Sh NOTES"
        yield from _text(parser.epilog)


def _commands(
    parser: argparse.ArgumentParser, path: tuple[str, ...] = (), summary: str = ""
) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser, str]]:
    """Every command that can be given, with the words that call it, and what it does in a few
    words. No words are the program itself."""
    below = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not any(action.required for action in below):
        yield path, parser, summary
    for action in below:
        shown = {choice.dest: choice.help for choice in action._choices_actions}
        for name, command in action.choices.items():
            if shown.get(name) != argparse.SUPPRESS:
                yield from _commands(command, (*path, name), shown.get(name) or "")


def _meaning(action: argparse.Action) -> tuple[object, ...]:
    """What a reader sees of an option; two commands may mean different things by one name."""
    return (*action.option_strings, action.metavar, action.help)


def _own_actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    hidden = (argparse._HelpAction, argparse._SubParsersAction)
    return [
        action
        for action in parser._actions
        if not isinstance(action, hidden) and action.help != argparse.SUPPRESS
    ]


def _synopsis(path: tuple[str, ...], command: argparse.ArgumentParser) -> Iterator[str]:
    if path:
        yield f".Cm {' '.join(path)}"
    if any(action.option_strings and not action.required for action in _own_actions(command)):
        yield ".Op Ar options"
    for action in _own_actions(command):
        if action.required and action.option_strings:
            yield "." + _flag(action, action.option_strings[-1])
        elif not action.option_strings:
            name = _escaped(_metavar(action))
            repeated = " ..." if action.nargs in ("*", "+") else ""
            optional = ".Op Ar" if action.nargs in ("*", "?") else ".Ar"
            yield f"{optional} {name}{repeated}"


def _operands(command: argparse.ArgumentParser) -> Iterator[str]:
    for action in _own_actions(command):
        if not action.option_strings:
            yield f"Ar {_escaped(_metavar(action))}"


def _options(actions: Iterable[argparse.Action]) -> Iterator[str]:
    formatter = argparse.HelpFormatter("")
    items = []
    for action in actions:
        if action.option_strings:
            items.append(".It " + " , ".join(_flag(action, name) for name in action.option_strings))
        else:
            items.append(f".It Ar {_escaped(_metavar(action))}")
        text = formatter._expand_help(action) if action.help else ""
        if action.choices:
            text += f" (one of {', '.join(map(str, action.choices))})"
        items += _text(_sentence(text)) if text else ()
    if items:
        yield f".Bl -tag -width {_FOLDED}"
        yield from items
        yield ".El"


def _flag(action: argparse.Action, name: str) -> str:
    flag = "Fl " + _escaped(name.removeprefix("-"), code=True)
    return flag if action.nargs == 0 else f"{flag} Ar {_escaped(_metavar(action))}"


def _metavar(action: argparse.Action) -> str:
    if isinstance(action.metavar, str):
        return action.metavar
    return action.dest.replace("_", "-") if not action.option_strings else action.dest.upper()


# --- text ----------------------------------------------------------------------------------------


def _list(title: str, items: Iterable[tuple[str, str]], macro: str = "") -> Iterator[str]:
    yield f".Sh {title}"
    yield f".Bl -tag -width {_FOLDED}"
    for name, text in items:
        yield f".It {macro} {_escaped(name)}".replace("  ", " ")
        yield from _text(text)
    yield ".El"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _from_markdown(text: str) -> Iterator[str]:
    """As much of Markdown as the list of options has: headings, paragraphs, lists, tables."""
    in_item = False
    before = ""
    for block in re.split(r"\n{2,}", text.strip()):
        if block.startswith("### "):
            if not in_item:
                yield f".Bl -tag -width {_FOLDED}"
            in_item = True
            yield f".It {_inline(block[4:])}"
        elif block.startswith("## "):
            if in_item:
                yield ".El"
            in_item = False
            yield f".Sh {block[3:].upper()}"
        elif not block.startswith("# "):
            yield from _block(block, in_item=in_item, is_first=before.startswith("#"))
        before = block
    if in_item:
        yield ".El"


def _block(block: str, *, in_item: bool, is_first: bool) -> Iterator[str]:
    """A table, a list or a paragraph; lists of facts about an item become running text."""
    lines = block.split("\n")
    if block.startswith("|"):
        yield from _table(lines)
    elif block.startswith("- ") and in_item:
        yield ".br"
        yield from _text(" ".join(line[2:] for line in lines))
    elif block.startswith("- "):
        yield ".Bl -bullet"
        for line in lines:
            yield ".It"
            yield from _text(line[2:])
        yield ".El"
    else:
        if not is_first:
            yield ".Pp"
        yield from _text(block)


def _table(lines: list[str]) -> Iterator[str]:
    header, _, *rows = (
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines
    )
    yield f".Bl -tag -width {_FOLDED}"
    for first, *cells in rows:
        yield f".It {_inline(first)}"
        for number, (name, cell) in enumerate(zip(header[1:], cells, strict=True)):
            if number:
                yield ".br"
            yield from _text(f"{name}: {cell}." if name else f"{cell}.")
    yield ".El"


def _text(text: str) -> Iterator[str]:
    """Running text: a sentence begins a line, as mdoc wants it; blank lines part paragraphs."""
    for number, paragraph in enumerate(re.split(r"\n{2,}", text.strip())):
        if number:
            yield ".Pp"
        for sentence in re.split(r"(?<=[.:;?!]) +(?=[A-Z(`])", " ".join(paragraph.split())):
            wrapped = textwrap.wrap(
                sentence, _COLUMNS, break_long_words=False, break_on_hyphens=False
            )
            # Fonts and escapes go over line ends, so they are made of the whole sentence.
            yield from _inline("\n".join(wrapped)).split("\n")


def _inline(text: str) -> str:
    """One piece of text with `code` and *emphasis*."""
    pieces = re.split(r"(`[^`]*`|\*[^*\s][^*]*\*)", text)
    made = []
    for piece in pieces:
        if piece[:1] == "`" and len(piece) > 1:
            made.append(rf"\fB{_escaped(piece[1:-1], code=True)}\fR")
        elif piece[:1] == "*" and len(piece) > 1:
            made.append(rf"\fI{_escaped(piece[1:-1])}\fR")
        else:
            made.append(_escaped(piece))
    lines = "".join(made).split("\n")
    return "\n".join(rf"\&{line}" if line[:1] in (".", "'") else line for line in lines)


def _escaped(text: str, *, code: bool = False) -> str:
    """Characters that are special to roff; what is to be typed has real minus signs."""
    text = text.replace("\\", r"\e")
    if code:
        text = text.replace("-", r"\-")
    return "".join(c if c.isascii() else rf"\[u{ord(c):04X}]" for c in text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
