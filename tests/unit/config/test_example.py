"""Generated texts: in step with the option table, and a sample file that is a configuration."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ggaoe.config import parse
from ggaoe.config.example import options_page, sample_file
from ggaoe.config.schema import OPTIONS

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("file", "made", "command"),
    [
        ("ggaoed.conf.example", sample_file, "python -m ggaoe.config.example"),
        ("docs/options.md", options_page, "python -m ggaoe.config.example --markdown"),
    ],
)
def test_generated_files_are_in_step(file, made, command):
    assert (ROOT / file).read_text() == made(), f"run: {command} > {file}"


def test_sample_file_changes_nothing():
    config = parse(sample_file(), "f.conf")
    assert config.warnings == ()
    assert config == parse("", "f.conf")


def test_sample_file_with_all_marks_removed_sets_every_default():
    text = re.sub(r"^#(?=[\[a-z])", "", sample_file(), flags=re.MULTILINE)
    config = parse(text, "f.conf")
    assert config.warnings == ()
    plain = parse(re.sub(r"^interfaces.*", "", text, flags=re.MULTILINE), "f.conf")
    assert plain.default_interface == parse("", "f.conf").default_interface
    disk = plain.devices["disk0"]
    bare = parse(
        "[acls]\nlab = 02:00:00:00:00:01, 02:00:00:00:00:02\nguests = 02:00:00:00:01:01\n"
        "[disk0]\npath = /dev/sdb\nshelf = 1\nslot = 0\nlength = 10GiB\n"
        "accept = lab, 02:00:00:00:00:01\ndeny = guests\n"
        "discover = lab, guests\nread = lab, guests\n"
        "write = !guests, lab\nchange = 02:00:00:00:00:01\n",
        "f.conf",
    ).devices["disk0"]
    assert disk == bare


def test_what_packages_install_exports_nothing_and_shows_how():
    text = (ROOT / "packaging/ggaoed.conf").read_text()
    assert parse(text, "f.conf") == parse("", "f.conf")
    shown = parse(re.sub(r"^#(?=[\[a-z])", "", text, flags=re.MULTILINE), "f.conf")
    assert shown.warnings == ()
    assert shown.devices["data"].interfaces == ("eth1",)


def test_every_option_is_described():
    for option in OPTIONS:
        assert f"`{option.key}`" in options_page()
        assert (f"#{option.key} = " in sample_file()) is not bool(option.obsolete)
