"""Changes written into files: what they mean, and that nothing else in the files moves."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest

from ggaoe.config import Edit, edit, load
from ggaoe.config.persist import rewrite
from ggaoe.errors import ConfigError

KEYFILE = """\
# The disks of the lab
[defaults]
interfaces = far*
  # indented

[disk]
# what it is
path = /dev/sdb
shelf = 1
  slot = 0
queue-length   =  64
queue-length = 32
# the last comment of disk

[acls]
lab = 02:00:00:00:00:01

# about other
[other]
path = /dev/sdc
shelf = 1
slot = 1
"""
TOML = """\
# The disks of the lab
[defaults]
interfaces = ["far*"]  # all of them

[devices.disk]  # what it is
path = "/dev/sdb"
shelf = 1
slot = 0
queue-length = 32   # enough

[acls]
lab = [ "02:00:00:00:00:01" ]

# about other
[devices.other]
path = '/dev/sdc'
shelf = 1
slot = 1
"""


def after(path: Path, *changes: Edit) -> str:
    """The text of the file with the changes in it, which it means then."""
    wanted = edit(load(path), changes, in_file=True)
    assert rewrite(path, changes).write() in ([path], [])
    assert load(path) == wanted
    return path.read_bytes().decode()


@pytest.fixture
def keyfile(tmp_path: Path) -> Path:
    path = tmp_path / "f.conf"
    path.write_text(KEYFILE)
    return path


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    path = tmp_path / "f.toml"
    path.write_text(TOML)
    return path


def replaced(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1
    return text.replace(old, new)


@pytest.mark.parametrize(
    ("change", "old", "new"),
    [
        (
            Edit("set", "disk", {"queue-length": "5"}),
            "queue-length = 32\n",
            "queue-length = 5\n",
        ),
        (Edit("set", "disk", {"slot": "7"}), "  slot = 0\n", "  slot = 7\n"),
        (
            Edit("set", "other", {"read-only": "true"}),
            "slot = 1\n",
            "slot = 1\nread-only = true\n",
        ),
        (
            Edit("set", "disk", {"queue-length": None}),
            "queue-length   =  64\nqueue-length = 32\n",
            "",
        ),
        (Edit("set", "defaults", {"mtu": "9000"}), "far*\n", "far*\nmtu = 9000\n"),
        (Edit("set", "defaults", {"user": "me"}), "far*\n", "far*\nuser = me\n"),
        (Edit("set", "acls", {"lab": ""}), "lab = 02:00:00:00:00:01\n", "lab = \n"),
        (Edit("set", "eth0", {"mtu": "1500"}), "slot = 1\n", "slot = 1\n\n[eth0]\nmtu = 1500\n"),
        (
            Edit("add", "new", {"path": "/x y", "shelf": "1", "slot": "2"}),
            "slot = 1\n",
            "slot = 1\n\n[new]\npath = /x y\nshelf = 1\nslot = 2\n",
        ),
        (Edit("remove", "other"), "[other]\npath = /dev/sdc\nshelf = 1\nslot = 1\n", ""),
        (
            Edit("remove", "disk"),
            KEYFILE[KEYFILE.index("[disk]") : KEYFILE.index("# the last")],
            "",
        ),
    ],
    ids=str,
)
def test_key_file(keyfile: Path, change: Edit, old: str, new: str) -> None:
    assert after(keyfile, change) == replaced(KEYFILE, old, new)


@pytest.mark.parametrize(
    ("change", "old", "new"),
    [
        (Edit("set", "disk", {"queue-length": "5"}), "= 32   # enough", "= 5   # enough"),
        (
            Edit("set", "other", {"read-only": "true", "max-delay": "5ms"}),
            "slot = 1\n",
            'slot = 1\nread-only = true\nmax-delay = "5ms"\n',
        ),
        (Edit("set", "disk", {"queue-length": None}), "queue-length = 32   # enough\n", ""),
        (
            Edit("set", "defaults", {"interfaces": "eth0, a\\,b"}),
            '["far*"]  # all',
            '["eth0", "a,b"]  # all',
        ),
        (
            Edit("set", "acls", {"new": "lab"}),
            'lab = [ "02:00:00:00:00:01" ]\n',
            'lab = [ "02:00:00:00:00:01" ]\nnew = ["lab"]\n',
        ),
        (
            Edit("set", "eth0", {"mtu": "1500"}),
            "slot = 1\n",
            "slot = 1\n\n[interfaces.eth0]\nmtu = 1500\n",
        ),
        (Edit("remove", "other"), TOML[TOML.index("[devices.other]") :], ""),
    ],
    ids=str,
)
def test_toml(toml: Path, change: Edit, old: str, new: str) -> None:
    assert after(toml, change) == replaced(TOML, old, new)


def test_device_is_added_to_toml(toml: Path) -> None:
    change = Edit("add", "new one", {"path": "/x", "shelf": "1", "slot": "auto"})
    section = '\n[devices."new one"]\npath = "/x"\nshelf = 1\nslot = "auto"\n'
    assert after(toml, change) == TOML + section


def test_what_is_commented_behind_a_section_stays(toml: Path) -> None:
    start, end = TOML.index("[devices.disk]"), TOML.index("[acls]")
    text = TOML.replace("[acls]", "# about lists\n\n[acls]")
    toml.write_text(text)
    assert after(toml, Edit("remove", "disk")) == TOML[:start] + text[end:]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_last_section_of_a_file_without_a_last_end_of_line(toml: Path, end: str) -> None:
    toml.write_bytes(TOML.rstrip().replace("\n", end).encode())
    expected = TOML[: TOML.index("[devices.other]")].replace("\n", end)
    assert after(toml, Edit("remove", "other")).rstrip() == expected.rstrip()


def test_toml_without_tables(toml: Path) -> None:
    text = 'devices.disk.path = "/x"\ndevices.disk.shelf = 1 # one\ndevices.disk.slot = 1\n'
    toml.write_text(text)
    change = Edit("set", "disk", {"shelf": "2", "queue-length": "3"})
    expected = text.replace("shelf = 1", "shelf = 2") + "devices.disk.queue-length = 3\n"
    assert after(toml, change) == expected
    change = Edit("set", "disk", {"shelf": None, "slot": "auto"})
    wrong = pytest.raises(ConfigError, match="device \\[disk\\] has no shelf")
    with wrong:
        rewrite(toml, [change])
    assert after(toml, Edit("remove", "disk")) == ""


def test_toml_of_tables_that_are_partly_in_the_key(toml: Path) -> None:
    text = '[devices] # all\ndisk.path = "/x"\ndisk.shelf = 1\n\ndisk.slot = 1 # one\n# end\n'
    toml.write_text(text)
    expected = text.replace("# end", "disk.queue-length = 3\n# end")
    assert after(toml, Edit("set", "disk", {"queue-length": "3"})) == expected


@pytest.mark.parametrize("dialect", ["conf", "toml"])
def test_last_option_of_an_interface(tmp_path: Path, dialect: str) -> None:
    path = tmp_path / f"f.{dialect}"
    header = "[interfaces.eth0]" if dialect == "toml" else "[eth0]"
    path.write_text(f"{header}\nmtu = 1500\n")
    assert after(path, Edit("set", "eth0", {"mtu": None})) == f"{header}\n"
    assert after(path, Edit("set", "eth0", {"mtu": "1400"})).count("mtu = 1400") == 1


SECTIONS: list[tuple[str, str, dict[str, Any]]] = [
    ("", "defaults", {"state-directory": ".", "queue-length": 5}),
    ("", "acls", {"lab": ["02:00:00:00:00:01"]}),
    ("devices", "disk", {"path": "/x", "shelf": 1, "slot": 0}),
    ("devices", "o t", {"path": "/y", "shelf": 1, "slot": 1, "accept": ["lab"]}),
    ("interfaces", "eth0", {"mtu": 1500, "send-buffer-size": 1024}),
    ("templates", "t", {"path": "v*", "shelf": 2}),
    ("devices", "t-v1", {"max-delay": "5ms"}),
]
CHANGES = [
    *(
        Edit("set", name, {key: value})
        for name in ("disk", "o t", "defaults", "t-v1", "t-v2")
        for key in ("queue-length", "max-delay")
        for value in ("7", None)
        if (key, value) != ("max-delay", "7")
    ),
    *(Edit("set", name, {"mtu": value}) for name in ("eth0", "eth1") for value in ("0", None)),
    *(Edit("set", "acls", {name: "02:00:00:00:00:02"}) for name in ("lab", "new one")),
    Edit("remove", "disk"),
    Edit("add", "new", {"path": "/n", "shelf": "3", "slot": "auto"}),
]


def section_lines(dialect: str, kind: str, name: str, options: dict[str, Any]) -> list[str]:
    if dialect == "toml":
        header = f"{kind}.{name!r}" if kind else name
        return [f"[{header}]", *(f"{key} = {value!r}" for key, value in options.items())]
    header = f"template {name}" if kind == "templates" else name
    texts = {key: ", ".join(v) if isinstance(v, list) else v for key, v in options.items()}
    return [f"[{header}]", *(f"{key} = {text}" for key, text in texts.items())]


@pytest.mark.parametrize("dialect", ["conf", "toml"])
def test_any_change_of_any_file(tmp_path: Path, dialect: str) -> None:
    """It means what it should, and no comment is lost."""
    for name in ("v1", "v2"):
        (tmp_path / name).touch()
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    path = tmp_path / f"f.{dialect}"
    for change in CHANGES:
        lines = []
        for section in rng.sample(SECTIONS, len(SECTIONS)):
            for line in section_lines(dialect, *section):
                noise = (f"# {line}", "  # more", "", "\t")
                lines += [
                    *rng.sample(noise, rng.choice((0, 0, 1, 2))),
                    rng.choice(("", " ")) + line,
                ]
        text = rng.choice(("\n", "\r\n")).join([*lines, ""])
        path.write_bytes(text.encode())
        changed = after(path, change)
        if change.action == "set":
            kept = iter(changed.splitlines())
            assert all(line in kept for line in text.splitlines() if "#" in line)


def test_toml_in_one_line(toml: Path) -> None:
    text = 'devices = { disk = { path = "/x", shelf = 1, slot = 1 } }  # all\n'
    toml.write_text(text)
    assert after(toml, Edit("set", "disk", {"slot": "auto"})) == text.replace(
        "slot = 1", 'slot = "auto"'
    )
    with pytest.raises(ConfigError, match="cannot be written so that the file means the same"):
        rewrite(toml, [Edit("set", "disk", {"queue-length": "3"})])


def test_option_behind_a_value_of_several_lines(toml: Path) -> None:
    text = TOML.replace("slot = 1\n", 'slot = 1\naccept = [\n  "lab",\n  # more\n]\n# end\n')
    toml.write_text(text)
    change = Edit("set", "other", {"read-only": "true"})
    assert after(toml, change) == text.replace("]\n# end", "]\nread-only = true\n# end")


@pytest.mark.parametrize("dialect", ["conf", "toml"])
def test_device_of_a_template_gets_a_section_for_what_is_its_own(
    tmp_path: Path, dialect: str
) -> None:
    (tmp_path / "vg").mkdir()
    for name in ("a", "b"):
        (tmp_path / "vg" / name).touch()
    path = tmp_path / f"f.{dialect}"
    text, header = "[template vms]\npath = vg/*\nqueue-length = 5\n", "[vms-a]"
    if dialect == "toml":
        text, header = '[templates.vms]\npath = "vg/*"\nqueue-length = 5\n', "[devices.vms-a]"
    text = text.replace("queue", "shelf = 1\nqueue")
    path.write_text(text)
    changed = after(path, Edit("set", "vms-a", {"queue-length": "3"}))
    assert changed == f"{text}\n{header}\nqueue-length = 3\n"
    changed = after(path, Edit("set", "vms-a", {"auto": "false"}))
    assert changed == f"{text}\n{header}\nqueue-length = 3\nauto = false\n"
    changed = after(path, Edit("set", "vms-a", {"queue-length": None, "merge-delay": None}))
    assert changed == f"{text}\n{header}\nauto = false\n"
    unset = Edit("set", "vms-b", {"queue-length": None})
    assert edit(load(path), [unset]) == load(path)
    assert rewrite(path, [unset]).write() == []


def test_file_that_has_it_already_is_left_alone(keyfile: Path) -> None:
    for values in ({"slot": "0"}, {"read-only": None}):
        assert rewrite(keyfile, [Edit("set", "disk", values)]).write() == []


def test_several_changes_at_once(keyfile: Path) -> None:
    text = after(
        keyfile,
        Edit("set", "disk", {"auto": "false"}),
        Edit("set", "other", {"auto": "false"}),
        Edit("set", "other", {"auto": "true"}),
    )
    assert text.count("auto = false") == text.count("auto = true") == 1


def test_file_that_includes(tmp_path: Path) -> None:
    main, more = tmp_path / "f.conf", tmp_path / "more.conf"
    main.write_text("[defaults]\ninclude = more.conf\n")
    more.write_text("[disk]\npath = /x\nshelf = 1\nslot = 1\n[defaults]\nqueue-length = 3\n")
    rewriting = rewrite(
        main,
        [
            Edit("set", "disk", {"slot": "2"}),
            Edit("set", "defaults", {"queue-length": "4", "mtu": "1500"}),
            Edit("add", "new", {"path": "/y", "shelf": "1", "slot": "3"}),
        ],
    )
    assert sorted(rewriting.write()) == [main, more]
    assert more.read_text().split("\n")[3:6] == ["slot = 2", "[defaults]", "queue-length = 4"]
    assert "mtu = 1500" in main.read_text()
    assert "[new]" in main.read_text()
    rewriting.undo()
    assert main.read_text() == "[defaults]\ninclude = more.conf\n"
    assert "slot = 1" in more.read_text()


def test_ends_of_lines_and_byte_order_mark_stay(keyfile: Path) -> None:
    keyfile.write_bytes(b"\xef\xbb\xbf" + KEYFILE.replace("\n", "\r\n").encode())
    text = after(keyfile, Edit("set", "eth0", {"mtu": "1500"}), Edit("set", "disk", {"slot": "5"}))
    assert text.startswith("\ufeff# The disks")
    assert text.count("\n") == text.count("\r\n")
    assert "  slot = 5\r\n" in text


def test_file_without_a_last_end_of_line(keyfile: Path) -> None:
    keyfile.write_text(KEYFILE.rstrip("\n"))
    assert after(keyfile, Edit("set", "other", {"slot": "3"})).endswith("slot = 3")
    assert after(keyfile, Edit("set", "other", {"read-only": "1"})).endswith("\nread-only = 1")


def test_owner_mode_and_links_stay(keyfile: Path, tmp_path: Path) -> None:
    real = tmp_path / "real.conf"
    keyfile.rename(real)
    keyfile.symlink_to(real.name)
    real.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(real, -1, 34)
    before = real.stat()
    after(keyfile, Edit("set", "disk", {"slot": "3"}))
    status = real.stat()
    assert keyfile.is_symlink()
    assert status.st_ino != before.st_ino
    assert (status.st_mode, status.st_uid, status.st_gid) == (
        before.st_mode,
        before.st_uid,
        before.st_gid,
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.conf", "real.conf"]


def test_somebody_else_has_changed_it(keyfile: Path, tmp_path: Path) -> None:
    rewriting = rewrite(keyfile, [Edit("set", "disk", {"slot": "3"})])
    keyfile.write_text(KEYFILE + "# mine\n")
    with pytest.raises(ConfigError, match="was changed by somebody else"):
        rewriting.write()
    assert keyfile.read_text() == KEYFILE + "# mine\n"
    assert list(tmp_path.iterdir()) == [keyfile]


def test_what_somebody_else_has_written_is_not_undone(keyfile: Path, tmp_path: Path) -> None:
    rewriting = rewrite(keyfile, [Edit("set", "disk", {"slot": "3"})])
    rewriting.write()
    edited = keyfile.read_text() + "# mine\n"
    keyfile.write_text(edited)
    with pytest.raises(ConfigError, match="was changed by somebody else"):
        rewriting.undo()
    assert keyfile.read_text() == edited
    assert list(tmp_path.iterdir()) == [keyfile]


def test_of_several_files_all_or_none_are_written(keyfile: Path, tmp_path: Path) -> None:
    more = tmp_path / "more.conf"
    more.write_text("[new]\npath = /n\nshelf = 1\nslot = 5\n")
    text = KEYFILE.replace("[defaults]", "[defaults]\ninclude = more.conf")
    keyfile.write_text(text)
    changes = [Edit("set", name, {"auto": "false"}) for name in ("disk", "new")]
    rewriting = rewrite(keyfile, changes)
    more.write_text("# by somebody else\n")
    with pytest.raises(ConfigError, match="was changed by somebody else"):
        rewriting.write()
    assert keyfile.read_text() == text


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (Edit("set", "dsk", {"queue-length": "3"}), "set dsk: there is no such device or"),
        (Edit("set", "disk", {"slot": "x"}), "set disk: 'x' is no whole number"),
        (Edit("set", "disk", {"sloth": "1"}), "unknown option 'sloth': did you mean 'slot'?"),
        (Edit("remove", "dis"), "there is no such device: did you mean 'disk'?"),
        (Edit("add", "disk", {"path": "/x"}), "add disk: there is one of that name"),
        (Edit("set", "defaults", {"include": "x"}), "include has a meaning only in a file"),
        (Edit("remove", "vms-a"), "narrow its pattern, or 'ggaoectl stop vms-a --persist'"),
        (Edit("set", "vms-a", {"path": "/x"}), "write a section with another name for it"),
        (Edit("set", "disk", {"path": "/\udcff"}), "has a name that is not UTF-8"),
        (Edit("add", "a]b", {"path": "/x", "shelf": "1", "slot": "9"}), "cannot be written so"),
    ],
    ids=str,
)
def test_what_cannot_be_written(keyfile: Path, tmp_path: Path, change: Edit, problem: str) -> None:
    (tmp_path / "vg").mkdir()
    (tmp_path / "vg" / "a").touch()
    keyfile.write_text(
        KEYFILE.replace("[defaults]", "[defaults]\nstate-directory = .")
        + "[template vms]\nshelf = 2\npath = vg/*\n"
    )
    before = keyfile.read_text()
    with pytest.raises(ConfigError) as caught:
        rewrite(keyfile, [change])
    assert problem in str(caught.value)
    assert keyfile.read_text() == before


def test_errors_elsewhere_in_the_file(keyfile: Path) -> None:
    keyfile.write_text(KEYFILE + "nonsense\n")
    with pytest.raises(ConfigError, match=r"f\.conf:23:1: 'nonsense'"):
        rewrite(keyfile, [Edit("set", "disk", {"slot": "3"})])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_directory_that_may_not_be_written(keyfile: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ConfigError, match="cannot be rewritten: Permission denied"):
            rewrite(keyfile, [Edit("set", "disk", {"slot": "3"})]).write()
    finally:
        tmp_path.chmod(0o700)
