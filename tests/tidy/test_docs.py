"""What documents say is there: links, anchors, commands and options, wherever they are mentioned.

And that the list of modules has all of them.

That the commands of docs/ work, and in their order, is for `tests/interop/test_docs.py`.
"""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from ggaoe.cli import ggaoe, ggaoectl
from ggaoe.config import schema

ROOT = Path(__file__).parents[2]
FOR_USERS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
DOCUMENTS = [*FOR_USERS, *sorted({*ROOT.glob("*.md"), *ROOT.glob("bench/*.md")} - {*FOR_USERS})]
PARSERS = {"ggaoe": ggaoe.command_parser(), "ggaoectl": ggaoectl.command_parser()}

WORDS_OF_EXAMPLES = {
    "DEV": "data",
    "FILE": "/srv/data.img",
    "MAC": "02:00:00:00:00:01",
    "MAC,…": "02:00:00:00:00:01",
    "N": "1",
    "NAME": "data",
    "NETIF": "eth1",
    "SECONDS": "1",
    "SHELF": "0",
    "SLOT": "1",
}
"""What stands in capitals for something else."""

_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\[[^\]\[]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)

in_every_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
in_every_page = pytest.mark.parametrize("path", FOR_USERS, ids=lambda path: path.stem)


def _anchors(path: Path) -> set[str]:
    """As the usual web views of Markdown name them."""
    headings = _HEADING.findall(_FENCED.sub("", path.read_text()))
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


@in_every_document
def test_links_lead_somewhere(path: Path) -> None:
    for link in _LINK.findall(_FENCED.sub("", path.read_text())):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), link
        assert not anchor or anchor in _anchors(target), link


def test_every_page_is_found_from_the_readme() -> None:
    linked: set[Path] = set()
    following = [ROOT / "README.md"]
    while following:
        page = following.pop()
        linked.add(page)
        links = (link.partition("#")[0] for link in _LINK.findall(page.read_text()))
        found = {(page.parent / link).resolve() for link in links if link.endswith(".md")}
        following += found - linked
    assert {*FOR_USERS} <= linked


def _commands(text: str) -> Iterator[str]:
    """Everything that is typed with our programs: in blocks, and within sentences and tables.

    In the first column of a table the name of the program is said once a row.
    """
    for block in _FENCED.findall(text):
        yield from re.findall(r"^(?:target|host)# (ggaoe(?:ctl)? .*)$", block, re.MULTILINE)
    text = _FENCED.sub("", text)
    yield from re.findall(r"^ {4}(ggaoe(?:ctl)? .*?)(?:  +#.*)?$", text, re.MULTILINE)
    for line in text.splitlines():
        _, first, rest = line.split("|", 2) if line.startswith("| ") else ("", "", line)
        program = ""
        for span in _CODE.findall(first):
            program = span.split()[0] if span.startswith("ggaoe") else program
            if program in PARSERS:
                yield span if span.startswith("ggaoe") else f"{program} {span}"
        yield from (span for span in _CODE.findall(rest) if re.match(r"ggaoe(ctl)? ", span))


def _arguments(command: str) -> list[str]:
    """Those of a real command: nothing optional, nothing in capitals."""
    command = command.replace("[", "").replace("]", "")
    return [WORDS_OF_EXAMPLES.get(word, word) for word in shlex.split(command)][1:]


def _is_understood(parser: argparse.ArgumentParser, arguments: list[str]) -> bool:
    try:
        parser.parse_args(arguments)
    except SystemExit as end:
        return end.code == 0
    return True


@in_every_page
def test_commands_can_be_parsed(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in _commands(path.read_text()):
        parser, arguments = PARSERS[command.split()[0]], _arguments(command)
        # A verb by itself is only a name.
        is_name = len(arguments) == 1 and not arguments[0].startswith("-")
        assert _is_understood(parser, arguments) or (
            is_name and _is_understood(parser, [*arguments, "--help"])
        ), f"{command}: {capsys.readouterr().err}"


@in_every_page
def test_options_are_known(path: Path) -> None:
    for span in _CODE.findall(_FENCED.sub("", path.read_text())):
        if found := re.match(r"([a-z][a-z-]*) = ", span):
            assert found[1] in schema.BY_KEY, span


def test_a_wrong_command_is_noticed() -> None:
    found = list(
        _commands("Try `ggaoectl why MAC data`.\n| `ggaoectl list`, `shwo NAME` | `x` |\n")
    )
    assert found == ["ggaoectl why MAC data", "ggaoectl list", "ggaoectl shwo NAME"]
    understood = [_is_understood(PARSERS["ggaoectl"], _arguments(one)) for one in found]
    assert understood == [True, True, False]


def test_every_command_is_in_the_readme() -> None:
    words = [command.split() for command in _commands((ROOT / "README.md").read_text())]
    for program, parser in PARSERS.items():
        (verbs,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
        told = {word[1] for word in words if word[0] == program and len(word) > 1}
        assert set(verbs.choices) <= told


def _layout() -> list[str]:
    """The modules that ARCHITECTURE.md lists, by their paths without suffix."""
    text = (ROOT / "ARCHITECTURE.md").read_text().partition("## Layout")[2]
    text = text.partition("ggaoe/\n")[2].partition("\ntests/")[0]
    top, *folders = re.split(r"^  ([a-z/]+)/ +", re.sub(r"\([^)]*\)", "", text), flags=re.MULTILINE)
    found = re.findall(r"(\w+)\.py", top)
    for folder, listed in zip(folders[::2], folders[1::2], strict=True):
        if folder != "engine/native":
            found += [f"{folder}/{name}" for name in re.findall(r"\w+", listed)]
    return found


def test_every_module_is_listed_once() -> None:
    package = ROOT / "ggaoe"
    modules = (path.relative_to(package).with_suffix("") for path in package.rglob("*.py"))
    names = {str(path) for path in modules if path.name != "__init__"}
    listed = _layout()
    assert not names - set(listed), "ARCHITECTURE.md, Layout, is to list these, too"
    assert sorted(listed) == sorted(names)


def test_every_file_of_the_core_is_named() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    for path in (ROOT / "ggaoe" / "engine" / "native").glob("*.p*[xd]*"):
        assert path.suffix in (".pyi", ".pyx") or f"`{path.name}`" in text, path.name
