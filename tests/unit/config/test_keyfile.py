"""The INI dialect: syntax, escapes, lists and positions."""

from __future__ import annotations

import pytest

from ggaoe.config import keyfile
from ggaoe.config.document import Problems

DEVICE = "[d]\npath = /x\nshelf = 1\nslot = 0\n"


def read(text: str) -> dict[str, dict[str, str]]:
    found = Problems("f")
    sections = keyfile.parse(text, found)
    assert not found.errors
    return {s.name: {key: e.scalar().value for key, e in s.entries.items()} for s in sections}


def test_repeated_section_is_merged_and_last_key_wins():
    assert read("[a]\nx=1\ny=2\n[b]\n[a]\nx=3\n") == {"a": {"x": "3", "y": "2"}, "b": {}}


def test_repeated_key_is_warned_about_with_both_positions(problems):
    text = "[defaults]\nmtu = 1500\n\n[defaults]\n  mtu = 9000\n"
    assert problems(text) == [
        "5:3: warning: option 'mtu' is set again, so the value at f.conf:2:1 has no effect"
    ]


def test_indented_line_crlf_and_blanks_round_the_equals_sign():
    assert read("[a]\r\n\t x \t=\t 1 2 \t\r\n") == {"a": {"x": "1 2"}}


def test_escapes_and_blanks_they_protect():
    assert read("[a]\nx = \\s a\\tb\\nc\\\\ \\s\n") == {"a": {"x": "  a\tb\nc\\  "}}


def test_comment_is_only_a_comment_at_the_start_of_a_line():
    assert read("# no\n  # no\n[a]\nx=1 # yes\n") == {"a": {"x": "1 # yes"}}


@pytest.mark.parametrize(
    ("raw", "items"),
    [
        ("a, b ,c", ["a", "b", "c"]),
        ("a,,b,", ["a", "b"]),
        ("", []),
        (",", []),
        ("a\\,b,c", ["a,b", "c"]),
        ("a\\\\,b", ["a\\", "b"]),
    ],
)
def test_list_items(raw, items):
    (section,) = keyfile.parse(f"[a]\nx = {raw}\n", Problems("f"))
    assert [item.value for item in section.entries["x"].items()] == items


def test_list_items_know_their_columns():
    (section,) = keyfile.parse("[a]\n  x =  one,two,  three\n", Problems("f"))
    assert [item.column for item in section.entries["x"].items()] == [8, 12, 18]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("word", "1:1: 'word' is no [section], no 'option = value' and no '# comment'"),
        (" = 3", "1:2: '= 3' is no [section], no 'option = value' and no '# comment'"),
        ("; c", "1:1: ';' starts no comment: write '#' instead"),
        ("[a", "1:1: the section's name is not closed: write [a]"),
        ("[a] # c", "1:1: '# c' follows the section's name: give it its own line"),
        (
            "[]",
            "1:1: '' cannot name a section: no '[', no control characters, not empty",
        ),
        (
            "mtu = 3",
            "1:1: option 'mtu' stands before the first section: put it below [defaults]",
        ),
    ],
)
def test_wrong_lines(problems, line, message):
    assert problems(line + "\n") == [message]


def test_all_wrong_lines_are_reported_but_not_what_follows_a_broken_header(problems):
    assert problems("[a\nx = 1\n[defaults]\nfoo\nb[c = 3\nmtu = \\q\n") == [
        "1:1: the section's name is not closed: write [a]",
        "4:1: 'foo' is no [section], no 'option = value' and no '# comment'",
        "5:1: 'b[c' cannot be an option's name",
        "6:7: '\\q' is not an escape: write \\\\ for a backslash",
    ]


def test_problems_are_bounded(problems):
    found = problems("x\n" * 1000)
    assert len(found) == 101
    assert found[-1] == " not shown: 900 more problems"
