"""Manual pages and completion: made from the programs' parsers, and nothing to complain about."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from ggaoe.cli import ggaoe, ggaoectl
from ggaoe.config.schema import OPTIONS
from helpers.needs import requires_program

ROOT = Path(__file__).parents[2]
PROGRAMS = {"ggaoe": ggaoe, "ggaoectl": ggaoectl}
PAGES = ("ggaoe.8", "ggaoectl.8", "ggaoed.conf.5")
TIMEOUT_S = 60


def run(*argv: str | Path, stdin: str = "", **environment: str) -> str:
    """All that it prints; it has to succeed."""
    done = subprocess.run(
        argv,
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
        env={**os.environ, "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8", **environment},
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def commands(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices


def long_options(parser: argparse.ArgumentParser) -> set[str]:
    """Of all commands."""
    found: set[str] = set()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                found |= long_options(command)
        elif action.help != argparse.SUPPRESS:
            found |= {name for name in action.option_strings if name.startswith("--")}
    return found


# --- manual pages ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def manual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory: Path = tmp_path_factory.mktemp("man")
    run(sys.executable, ROOT / "packaging/manual.py", directory, SOURCE_DATE_EPOCH="0")
    assert {path.name for path in directory.iterdir()} == set(PAGES)
    return directory


def read(page: Path) -> str:
    requires_program("man")
    return run("man", "-l", page, MANWIDTH="200", MANPAGER="cat", MAN_KEEP_FORMATTING="")


@pytest.mark.parametrize("page", PAGES)
def test_mandoc_has_no_complaint(manual: Path, page: str) -> None:
    requires_program("mandoc")
    done = subprocess.run(
        ["mandoc", "-Tlint", manual / page],
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    found = (done.stdout + done.stderr).splitlines()
    # They refer to each other, and need not be installed here.
    assert [line for line in found if "referenced manual not found" not in line] == []


@pytest.mark.parametrize("page", PAGES)
def test_groff_has_no_complaint(manual: Path, page: str) -> None:
    requires_program("man")
    shown = subprocess.run(
        ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", manual / page],
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    assert (shown.returncode, shown.stderr) == (0, "")


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_command_and_option_is_in_the_manual(manual: Path, name: str) -> None:
    text = read(manual / f"{name}.8")
    parser = PROGRAMS[name].command_parser()
    assert [one for one in commands(parser) if f"{name} {one}" not in text] == []
    assert [one for one in long_options(parser) - {"--help"} if one not in text] == []


def explained(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    """The first name and the help of each option, of the commands, too."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from explained(command)
        elif action.option_strings and action.help not in (None, argparse.SUPPRESS):
            assert action.help is not None
            yield action.option_strings[0], action.help


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_meaning_of_an_option_is_in_the_manual(manual: Path, name: str) -> None:
    """Two commands may have an option of one name and mean different things."""
    text = letters_of(read(manual / f"{name}.8"))
    parser = PROGRAMS[name].command_parser()
    left = [one for one in explained(parser) if one[0] not in ("-h", "-V")]
    assert [one for one in left if letters_of(one[1].replace("%%", "%")) not in text] == []


def letters_of(text: str) -> str:
    """Without what a page's layout changes."""
    return re.sub("[^a-z0-9]", "", text.lower())


def test_every_option_of_the_file_is_in_the_manual(manual: Path) -> None:
    text = read(manual / "ggaoed.conf.5")
    assert [option.key for option in OPTIONS if option.key not in text] == []


# --- completion --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def completion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if find_spec("shtab") is None:
        pytest.skip("needs shtab: pip install shtab")
    directory: Path = tmp_path_factory.mktemp("completion")
    run(sys.executable, ROOT / "packaging/completion.py", directory)
    return directory


COMPLETE_IN_BASH = """
source "$1"
COMP_WORDS=("$2" "$3") COMP_CWORD=1
_shtab_"$2" "$2" "$3" "$2"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize("name", PROGRAMS)
def test_bash_completes_commands_and_options(completion: Path, name: str) -> None:
    requires_program("bash")
    parser = PROGRAMS[name].command_parser()
    for prefix, expected in (("", set(commands(parser))), ("--", {"--version", "--config"})):
        script = completion / f"{name}.bash"
        found = run("bash", "-c", COMPLETE_IN_BASH, "bash", script, name, prefix).split()
        assert expected <= set(found)


@pytest.mark.parametrize("name", PROGRAMS)
def test_fish_completes_commands(completion: Path, name: str) -> None:
    requires_program("fish")
    script = f"source {completion}/{name}.fish; complete -C '{name} '"
    found = {line.split("\t")[0] for line in run("fish", "--no-config", "-c", script).splitlines()}
    assert set(commands(PROGRAMS[name].command_parser())) <= found


COMPLETE_IN_ZSH = """
compdef() { :; }
_describe() { local name=${@[-1]}; print -l -- ${(P)name}; }
eval "$(<$1/_$2)"
"_shtab_$2_commands"
"""


@pytest.mark.parametrize("name", PROGRAMS)
def test_zsh_completes_commands(completion: Path, name: str) -> None:
    requires_program("zsh")
    text = run("zsh", "-f", "-c", COMPLETE_IN_ZSH, "zsh", completion, name)
    found = {line.split(":")[0] for line in text.splitlines()}
    assert set(commands(PROGRAMS[name].command_parser())) <= found


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_names_of_devices_are_asked_for(completion: Path, tmp_path: Path, shell: str) -> None:
    """The same command is in all three files, and finds the names in the real answer's form."""
    requires_program(shell)
    text = (
        completion / {"bash": "ggaoectl.bash", "zsh": "_ggaoectl", "fish": "ggaoectl.fish"}[shell]
    )
    (command,) = set(re.findall(r"ggaoectl --json list [^\")]*", text.read_text()))
    answer = json.dumps(
        {"devices": [{"name": "a-1", "slot": 1}, {"name": "b", "slot": 2}]}, indent=2
    )
    ggaoectl = tmp_path / "ggaoectl"
    ggaoectl.write_text(f"#!/bin/sh\ncat <<'END'\n{answer}\nEND\n")
    ggaoectl.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    assert run(shell, "-c", command, PATH=path).split() == ["a-1", "b"]
