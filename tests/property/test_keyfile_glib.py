"""The key-file reader against GLib itself, in the system's Python, as the oracle."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ggaoe.config import keyfile
from ggaoe.config.document import Problems

PYTHON = Path("/usr/bin/python3")

ORACLE = r"""
import json, sys
import gi
gi.require_version("GLib", "2.0")
from gi.repository import GLib

def read(get, group, key):
    try:
        return list(value) if isinstance(value := get(group, key), list) else value
    except GLib.Error:
        return "invalid"

def answer(text):
    file = GLib.KeyFile.new()
    file.set_list_separator(ord(","))
    try:
        file.load_from_data(text, len(text.encode()), GLib.KeyFileFlags.KEEP_TRANSLATIONS)
    except GLib.Error:
        return None
    groups = {}
    for group in file.get_groups()[0]:
        groups[group] = {
            key: [
                file.get_value(group, key),
                {"text": read(file.get_string, group, key)},
                {"items": read(file.get_string_list, group, key)},
            ]
            for key in file.get_keys(group)[0]
        }
    return groups

print("ready", flush=True)
for line in sys.stdin:
    print(json.dumps(answer(json.loads(line))), flush=True)
"""

Groups = dict[str, dict[str, list[object]]] | None

SYNTAX = st.sampled_from("[]=#;,\\ \t\r\n")
ESCAPES = st.sampled_from(["\\s", "\\,", "\\n", "\\\\", "\\t", "\\r", "\\x"])
WORDS = st.sampled_from(["a", "é", "1", "\x0b", "\f", "\x01", "\u00a0", "key", "[x]", "a,b, c"])
LINES = st.sampled_from(["\n[a]\n", "\n[b]\n", "\nx=", "\n y = ", "\r\n", "\n#"])
TEXT = st.lists(SYNTAX | ESCAPES | WORDS | LINES, max_size=25).map("".join)


@pytest.fixture(scope="module")
def glib() -> Iterator[Callable[[str], Groups]]:
    """Function: text → groups of keys with raw, unescaped and split values, None if refused."""
    if not PYTHON.exists():
        pytest.skip(f"no {PYTHON} to run GLib in")
    with subprocess.Popen(
        [PYTHON, "-c", ORACLE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        if process.stdout.readline() != "ready\n":
            reason = process.stderr.read().strip().splitlines()[-1:]
            pytest.skip(f"{PYTHON} has no GLib (install python3-gi): {reason}")

        def ask(text: str) -> Groups:
            process.stdin.write(json.dumps(text) + "\n")
            process.stdin.flush()
            found: Groups = json.loads(process.stdout.readline())
            return found

        yield ask


def read(get: Callable[[str], object], raw: str) -> object:
    try:
        return get(raw)
    except ValueError:
        return "invalid"


def ours(text: str) -> Groups:
    problems = Problems("f")
    sections = keyfile.parse(text, problems)
    if problems.errors:
        return None
    return {
        section.name: {
            key: [
                entry.raw,
                {"text": read(keyfile.unescape, entry.raw)},
                {
                    "items": read(
                        lambda raw: [item for _, item in keyfile.split_list(raw)], entry.raw
                    )
                },
            ]
            for key, entry in section.entries.items()
            if isinstance(entry, keyfile.KeyfileEntry)
        }
        for section in sections
    }


@settings(max_examples=1000)
@given(TEXT)
def test_same_as_glib(glib, text):
    assert ours(text) == glib(text)


@pytest.mark.parametrize(
    "text",
    [
        "[a]\nx=1\n[b]\n[a]\nx=2\ny=\\sq \n",
        "[a]\nx=a, b\\,c,,d,\n",
        "[a]\nx=1 # c\n",
        "x=1\n[a]\n",
        "[a] \t\nx=1\r\n\r\n",
        "[a]\nx",
        "; c\n",
        "[a]\nx=\\",
        "[DEFAULT]\nx y=3",
    ],
)
def test_same_as_glib_on_what_people_write(glib, text):
    assert ours(text) == glib(text)
