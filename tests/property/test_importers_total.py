"""Whatever stands in a foreign file, an import gives a configuration or problems with places."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ggaoe.config import parse
from ggaoe.config.document import PROBLEMS_MAX
from ggaoe.errors import ConfigError, Problem
from ggaoe.importer import ggaoed, kvblade, persist, qaoed, shell, vblade, writer
from ggaoe.importer.model import Export, Imported, Options, interface_of, path_of, sections_of
from ggaoe.importer.report import Place, Report, Word

MACS = st.sampled_from(["02:00:00:00:00:01", "020000000002", "03:00:00:00:00:01", "2:0", "zz", ""])
VALUES = (
    st.sampled_from(["0", "1", "254", "255", "4095", "9" * 400, "-1", "٣", "eth0", "eth1", "e[x]*"])
    | st.sampled_from(["/srv/a", "/srv/a,b", "/x\\y", "/ b ", "/x #y", "rel", "/x\x7f", "/x\u2028"])
    | st.sampled_from(["on", "off", "auto", "accept", "reject", "lab", "a b", "!x", "#", "[y]="])
    | MACS
    | st.text(max_size=6)
)


def checked(read: Callable[[Path, Report], Imported], source: Path) -> None:
    report = Report()
    sections = sections_of(read(source, report), report)
    try:
        problems: Sequence[Problem] = report.settle()
    except ConfigError as error:
        problems = error.problems
    assert len(problems) <= 2 * PROBLEMS_MAX + 1
    assert all("\n" not in str(problem) for problem in problems)
    if report.failed:
        return
    key_file = parse(writer.key_file(sections, "title"), "f.conf")
    assert key_file == parse(writer.toml(sections, "title"), "f.toml")
    exported = {name for name in sections.devices if name not in sections.disabled}
    assert key_file.devices.keys() == exported
    for name, device in key_file.devices.items():
        assert str(device.path) == str(Path(str(sections.devices[name]["path"])))


def checked_text(read: Callable[[Path, Report], Imported], text: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory) / "f.conf"
        source.write_bytes(text.encode("utf-8", "surrogatepass"))
        checked(read, source)


NAMES = st.text(st.characters(exclude_categories=["C", "Z"], include_characters=" "), max_size=9)


@settings(max_examples=300)
@given(st.lists(st.tuples(NAMES, NAMES, NAMES, NAMES), max_size=4))
def test_what_is_written_is_read(names: list[tuple[str, str, str, str]]) -> None:
    imported, report, at = Imported(), Report(), Place("f")
    for slot, (name, file, interface, acl) in enumerate(names):
        path = path_of(Word(f"/{file}", at), report)
        one = interface_of(Word(interface, at), report)
        assume(path is not None and one is not None)
        plain = qaoed.plain_name(acl, list(imported.acls))
        imported.acls[plain] = ("02:00:00:00:00:01",)
        options: Options = {"read": (plain,), "write": (f"!{plain}",)}
        imported.exports.append(Export(0, slot, path or "", (one or "",), options, at, name))
    sections = sections_of(imported, report)
    for text, source in ((writer.key_file, "f.conf"), (writer.toml, "f.toml")):
        devices = list(parse(text(sections, "title"), source).devices.values())
        for slot, (device, (_, file, interface, _)) in enumerate(zip(devices, names, strict=True)):
            assert (device.slot, device.path) == (slot, Path(f"/{file}"))
            assert device.uses(interface)
            for host, may_read in ((b"\2\0\0\0\0\1", True), (b"\2\0\0\0\0\2", False)):
                assert device.read.permits(host) is may_read
                assert device.write.permits(host) is not may_read


FLAGS = st.sampled_from(["-b", "-d", "-s", "-rs", "-m", "-o", "-l8", "-l", "-z", "--", "-"])
LINES = st.lists(VALUES | FLAGS | st.sampled_from(["#", "/srv/a"]), max_size=9).map(" ".join)
PAIRS = st.tuples(
    st.sampled_from(["shelf", "slot", "netif", "filename", "options", "ionice", "x", "", "Shelf"]),
    st.sampled_from(["=", " = ", "='", '="', "=\\"]),
    VALUES | LINES,
    st.sampled_from(["", "'", '"', ";", " # x", "$x"]),
).map("".join)
GOOD = "shelf=0\nslot=1\nnetif=eth0\nfilename=/srv/a\n"


@settings(max_examples=200)
@given(
    st.text()
    | st.lists(LINES | st.text(max_size=9), max_size=9).map("\n".join)
    | st.lists(LINES.map("0 1 eth0 /srv/a ".__add__), max_size=3).map("\n".join)
)
def test_any_file_of_lines(text: str) -> None:
    checked_text(vblade.read, text)


@settings(max_examples=200)
@given(
    st.lists(PAIRS, max_size=9).map("\n".join),
    st.booleans(),
)
def test_any_fragment(text: str, good: bool) -> None:
    checked_text(vblade.read, (GOOD if good else "") + text)


QUOTES = st.sampled_from(["", "'", '"'])
SHELL = st.lists(
    st.tuples(
        st.sampled_from(["", "", " ", ";", "'", "\\"]),
        st.sampled_from(["shelf=", "slot=", "a=", "b=", "a", "#", ""]),
        QUOTES,
        st.lists(st.sampled_from([*"ab1-=:#~!*?[]{}^%\\ \t", "é", "$", "`", "&"]), max_size=5).map(
            "".join
        ),
        QUOTES,
        st.sampled_from([" ", "\n", ";", " # x\n", ""]),
    ).map("".join),
    max_size=4,
).map("".join)


@settings(max_examples=400)
@given(SHELL)
def test_what_is_read_of_a_fragment_a_shell_reads_alike(text: str) -> None:
    report = Report()
    found = shell.assignments(text, "f", report)
    if report.failed:
        return
    names = ("shelf", "slot", "a", "b")
    show = "".join(f'printf "%s\\0" "${name}"; ' for name in names)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        done = subprocess.run(
            ["/bin/sh", "-c", f". {file.name}; {show}"],
            env={"HOME": "/home/of/somebody", "LC_ALL": "C.UTF-8"},
            capture_output=True,
            check=True,
            timeout=60,
        )
    assert done.stderr == b""
    values = [found[name].text if name in found else "" for name in names]
    assert done.stdout.decode() == "".join(f"{value}\0" for value in values)


KEYS = st.sampled_from(
    [key for keys in qaoed._KEYS.values() for key in keys] + ["include", "x", ""]
)
ASSIGNMENTS = (
    st.tuples(KEYS, st.sampled_from([" = ", '="', "=", " "]), VALUES)
    .map("".join)
    .map(lambda text: text + ('";' if '="' in text else ";"))
)
BODIES = st.lists(ASSIGNMENTS, max_size=6).map("\n".join)
DEVICES = BODIES.map(lambda body: f"device {{ target = /srv/a; interface = eth0; {body} }}")
LISTS = BODIES.map(lambda body: f"access-list {{ name = lab; {body} }}")
BLOCKS = st.tuples(KEYS, BODIES).map(lambda pair: f"{pair[0]} {{ {pair[1]} }}")
ACLS = st.tuples(KEYS, VALUES).map(lambda pair: f"acl {{ {pair[0]} = {pair[1]}; }}")
PIECES = ASSIGNMENTS | BLOCKS | DEVICES | LISTS | ACLS | st.sampled_from(["/*", "*/", "}", "# x"])
GOOD_LIST = st.tuples(
    st.sampled_from(["accept", "reject"]), st.lists(st.sampled_from(["accept", "reject"]))
).map(
    lambda pair: (
        "access-list { name = lab; policy = "
        + "; ".join([pair[0], *(f"{verb} = 02:0:0:0:0:{n % 3}" for n, verb in enumerate(pair[1]))])
        + "; }\ndevice { target = /srv/a; interface = eth0; acl { read = lab; write = lab; } }"
    )
)


@settings(max_examples=300)
@given(st.text() | st.lists(PIECES, max_size=6).map("\n".join) | GOOD_LIST)
def test_any_qaoed_configuration(text: str) -> None:
    checked_text(qaoed.read, text)


@settings(max_examples=200)
@given(
    st.sampled_from(["accept", "reject"]),
    st.lists(st.tuples(st.sampled_from(["accept", "reject"]), st.integers(1, 4)), max_size=6),
)
def test_access_lists_permit_whom_qaoed_permits(policy: str, rules: list[tuple[str, int]]) -> None:
    body = "".join(f"{verb} = 02:00:00:00:00:0{host}; " for verb, host in rules)
    text = f"access-list {{ name = lab; policy = {policy}; {body}}}\n"
    text += "device { target = /srv/a; interface = eth0; acl { read = lab; } }"
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "qaoed.conf").write_text(text)
        report = Report()
        sections = sections_of(qaoed.read(Path(directory) / "qaoed.conf", report), report)
    (device,) = parse(writer.key_file(sections, "title"), "f.conf").devices.values()
    for host in range(1, 6):
        verdict = next((verb for verb, named in rules if named == host), policy)
        assert device.read.permits(bytes([2, 0, 0, 0, 0, host])) is (verdict == "accept")


@settings(max_examples=200)
@given(st.tuples(VALUES, VALUES, VALUES, VALUES), st.lists(MACS), st.booleans())
def test_any_tree_of_vblade_persist(values: tuple[str, ...], macs: list[str], down: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name) / "e0.0"
        for folder in ("env", "macs"):
            (directory / folder).mkdir(parents=True)
        for key, value in zip(("SHELF", "SLOT", "NETIF", "SOURCE"), values, strict=True):
            (directory / "env" / key).write_bytes(value.encode("utf-8", "surrogatepass"))
        for mac in filter(None, macs):
            (directory / "macs" / mac).touch()
        if down:
            (directory / "down").touch()
        checked(persist.read, Path(name))


@settings(max_examples=100)
@given(
    st.tuples(VALUES, VALUES, VALUES).filter(
        lambda parts: (
            not {"/", "\0"} & set("".join(parts))
            and len("".join(parts).encode("utf-8", "replace")) < 200
        )
    ),
    st.binary(max_size=20) | VALUES.map(lambda text: text.encode("utf-8", "surrogatepass")),
)
def test_any_listing_of_kvblade(parts: tuple[str, str, str], path: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        target = Path(name) / f"{parts[0]}.{parts[1]}@{parts[2]}"
        target.mkdir()
        for attribute in ("bpath", "sn"):
            (target / attribute).write_bytes(path)
        checked(kvblade.read, Path(name))


@settings(max_examples=200)
@given(
    st.binary(max_size=40)
    | st.tuples(
        st.sampled_from(["38a0bfae", "aebfa038", "e92a716b", "6b712ae9"]), st.binary(max_size=99)
    ).map(lambda pair: bytes.fromhex(pair[0]) + pair[1])
)
def test_any_state_of_ggaoed(content: bytes) -> None:
    for decode in (ggaoed.decode_config, ggaoed.decode_list):
        with suppress(ValueError):
            assert len(decode(content)) <= len(content)


@pytest.mark.parametrize("read", [vblade.read, qaoed.read])
def test_an_enormous_file_is_refused(
    tmp_path: Path, read: Callable[[Path, Report], Imported]
) -> None:
    source = tmp_path / "f.conf"
    source.write_bytes(b"\n" * (1 << 21))
    report = Report()
    read(source, report)
    assert report.failed
