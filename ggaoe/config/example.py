"""Writes the sample configuration file and the list of options, both from the option table.

`python -m ggaoe.config.example > ggaoed.conf.example`
`python -m ggaoe.config.example --markdown > docs/options.md`
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence

from ggaoe.config import schema
from ggaoe.config.schema import Option, Place
from ggaoe.config.values import describe_range, format_value

_COLUMNS = 88

_TOP = """\
Configuration of ggaoed, the ATA-over-Ethernet target. Generated from the table of options.

A line that starts with '#' is a comment; a comment behind a value would be part of the value.
Lists are separated by commas. Lines that are commented out show the default, or a sample
value for what has none. The same model can be written as TOML in a file NAME.toml.
Check a changed file with: ggaoe check -c FILE"""

_ACLS = """\
Named access lists. An item is a MAC address, a host of /etc/ethers or another list.
A device refers to them in 'accept' and 'deny', and for one operation in 'discover', 'read',
'write' and 'change'. In these four the first item that names a host decides, a '!' before an
item refuses, and hosts that no item names are refused unless every item has a '!'."""

_INTERFACE = """\
A section with options of an interface is named like the interface. What it leaves out comes
from [defaults]; an interface needs no section."""

_DEVICE = """\
A section with a path, uuid, shelf or slot is a device. Its name also names its saved state,
and is the serial number that hosts see. What it leaves out comes from [defaults]."""

_FORMS = """\
## Form of the file

A file is TOML when its name ends in `.toml` or when a table `[devices.NAME]`, `[interfaces.NAME]`
or `[templates.NAME]` stands in it. Every other file is a key file, as ggaoed has always read it.

| | key file | TOML |
|---|---|---|
| device | `[NAME]` with a path, uuid, shelf or slot | `[devices.NAME]` |
| interface | `[NAME]` with options of an interface | `[interfaces.NAME]` |
| template | `[template NAME]` | `[templates.NAME]` |
| access list | `NAME = item, item` below `[acls]` | `NAME = ["item", "item"]` below `[acls]` |
| list | `eth0, san*` (a comma in an item: `\\,`) | `["eth0", "san*"]` |
| text, path | without quotes; `\\s`, `\\t`, `\\n`, `\\r`, `\\\\` are escapes | in quotes |
| size, duration | `64k`, `5ms` | `"64k"`, `"5ms"`, or a number |
| comment | a line that starts with `#` | `#` anywhere |
| repeated section | continues the first | an error |
| section in several files | only `[defaults]` and `[acls]` | only `[defaults]` and `[acls]` |
| repeated option | the last one counts, with a warning | an error |"""

_RULES = """\
## Rules

Rules are a list like that of `accept`, but in order: the first item that names a host decides
about it. A `!` before an item refuses whom it names. Hosts that no item names are refused; where
every item has a `!`, they are permitted. An empty list refuses everybody.

| | |
|---|---|
| `write = lab` | the hosts of `lab` |
| `write = !guests, lab` | the hosts of `lab` that are not in `guests` |
| `write = !guests` | everybody but `guests` |"""

_TEMPLATES = """\
## Templates

`[template vms]` with `path = /dev/vg0/*` and `shelf = 2` exports every file and block device that
the pattern matches, as device `vms-NAME`; of a pattern with wildcards in several parts of the path
the name has all of them. It takes every option of a device but uuid, and slot only as `auto`. A
volume keeps its slot, which the state directory remembers, whatever else comes or goes. The pattern
is looked up at the start and at a reload, never in between: a snapshot that a backup makes for a
moment is not exported.

What is special about one volume is said in a section that is called as its device, without path and
uuid: `[vms-db]` with `queue-length = 8`, with `auto = false`, or with a slot. A volume that another
section exports by its path is left out."""

_TEMPLATE = """\
A section [template NAME] exports every file or block device that its path, a pattern, matches
when the configuration is read: as device NAME-VOLUME, with an automatic slot of its shelf. What
another section exports is left out. The other options are those of a device."""

_INHERITED = "These are described above, where they set what sections of devices leave out."


def sample_file() -> str:
    """A key file that changes nothing: every option commented out beside its default."""
    lines = [*_comment(_TOP), "", "[defaults]", ""]
    for option in schema.options_of("defaults"):
        lines += [*_option(option), ""]
    lines += [*_comment(_ACLS), "[acls]", ""]
    lines += ["#lab = 02:00:00:00:00:01, 02:00:00:00:00:02", "#guests = 02:00:00:00:01:01", ""]
    lines += [*_comment(_INTERFACE), "#[eth0]", ""]
    lines += [f"#{option.key} = {_shown(option)}" for option in schema.options_of("interface")]
    lines += ["", *_comment(_DEVICE), "#[disk0]", ""]
    for option in schema.options_of("device"):
        if option.places == schema.DEVICE:
            lines += [*_option(option), ""]
    lines += _comment(_INHERITED)
    for option in schema.options_of("device"):
        if option.places != schema.DEVICE:
            lines.append(f"#{option.key} = {_shown(option)}")
    lines += ["", *_comment(_TEMPLATE), "#[template vg0]", ""]
    lines += ["#path = /dev/vg0/*", "#shelf = 2"]
    return "\n".join(lines) + "\n"


def options_page() -> str:
    """The list of options as Markdown, a section per place in the file."""
    titles: dict[Place, str] = {
        "device": "Options of a device",
        "interface": "Options of an interface",
        "defaults": "Options of the daemon",
    }
    lines = [
        "# Options of ggaoed.conf",
        "",
        "Generated from the table of options in `ggaoe/config/schema.py`.",
        "An option that may also stand in `[defaults]` sets there what sections leave out.",
        "",
        *_FORMS.splitlines(),
        "",
        *_RULES.splitlines(),
        "",
        *_TEMPLATES.splitlines(),
        "",
    ]
    for place, title in titles.items():
        lines += [f"## {title}", ""]
        for option in schema.options_of(place):
            if place != "defaults" or option.places == schema.DAEMON:
                lines += _described(option)
    lines += ["## Obsolete options", ""]
    for option in schema.OPTIONS:
        if option.obsolete:
            lines.append(f"- `{option.key}`: {option.doc} Accepted with a warning; without effect.")
    lines += ["", "## What a reload does", ""]
    lines += [f"- *{name}*: {meaning}." for name, meaning in schema.RELOAD_MEANING.items()]
    return "\n".join(lines) + "\n"


def _comment(text: str) -> list[str]:
    return [f"# {line}".rstrip() for line in text.splitlines()]


def _option(option: Option) -> list[str]:
    words = [option.doc]
    if option.choices:
        words.append(f"One of {', '.join(option.choices)}.")
    elif option.high:
        words.append(f"Range: {describe_range(option)}.")
    if option.sample and option.unset:
        required = option.unset == schema.REQUIRED
        words.append("Required." if required else f"Default: {option.unset}.")
    # uuid stands commented out twice: uncommenting all single marks leaves a valid device
    mark = "##" if option.key == "uuid" else "#"
    text = textwrap.fill(" ".join(words), _COLUMNS)
    return [*_comment(text), f"{mark}{option.key} = {_shown(option)}"]


def _shown(option: Option) -> str:
    return option.sample or format_value(option, option.default)


def _described(option: Option) -> list[str]:
    default = format_value(option, option.default)
    default = default.strip("()") if option.default in (None, ()) else f"`{default}`"
    facts = [f"Type: {option.kind.value}"]
    if option.choices:
        facts.append("Values: " + ", ".join(f"`{choice}`" for choice in option.choices))
    elif option.high:
        facts.append(f"Range: {describe_range(option)}")
    facts.append(f"Default: {default}" if default != schema.REQUIRED else "Required")
    if "defaults" in option.places and len(option.places) > 1:
        facts.append("Also in `[defaults]`")
    facts.append(f"Reload: *{option.reload}*")
    return [f"### `{option.key}`", "", option.doc, "", *(f"- {fact}." for fact in facts), ""]


def main(arguments: Sequence[str]) -> None:
    """Write one of the two texts to standard output."""
    sys.stdout.write(options_page() if "--markdown" in arguments else sample_file())


if __name__ == "__main__":
    main(sys.argv[1:])
