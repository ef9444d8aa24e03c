"""Files that include each other: which are read, in which order, and where problems are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ggaoe.config import load
from ggaoe.config.read import FILES_MAX
from ggaoe.errors import ConfigError

DEVICE = "[{}]\npath = disk\nshelf = 0\nslot = {}\n"


def write(directory: Path, **files: str) -> Path:
    """Files by name with `_` for `/` and `__` for `.`; the one called main is returned."""
    for name, text in files.items():
        path = directory / name.replace("__", ".").replace("_", "/")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return directory / "main.conf"


def problems(path: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(path)
    return [str(problem).replace(f"{path.parent}/", "") for problem in caught.value.problems]


def test_both_dialects_are_included_in_alphabetical_order(tmp_path: Path) -> None:
    main = write(
        tmp_path,
        main__conf="[defaults]\ninclude = d/*, other.toml\nqueue-length = 7\n"
        + DEVICE.format("a", 1),
        d_2__conf=DEVICE.format("c", 3),
        d_1__toml='[devices.b]\npath = "disk"\nshelf = 0\nslot = 2\n',
        other__toml='[acls]\nlab = ["02:00:00:00:00:01"]\n',
    )
    config = load(main)
    assert list(config.devices) == ["a", "b", "c"]
    assert {device.queue_length for device in config.devices.values()} == {7}
    assert "lab" in config.acls
    assert config.devices["a"].path == tmp_path / "disk"
    assert config.devices["b"].path == tmp_path / "d" / "disk"
    assert config.settings["devices.b", "slot"].origin == f"{tmp_path}/d/1.toml:4"
    assert config.document.files == tuple(
        tmp_path / name for name in ("d/1.toml", "d/2.conf", "other.toml")
    )


def test_toml_includes_too(tmp_path: Path) -> None:
    write(tmp_path, more__conf=DEVICE.format("a", 1))
    main = tmp_path / "main.toml"
    main.write_text('[defaults]\ninclude = ["more.conf"]\n')
    assert list(load(main).devices) == ["a"]


def test_a_pattern_may_match_nothing_and_leaves_out_the_file_itself(tmp_path: Path) -> None:
    main = write(tmp_path, main__conf="[defaults]\ninclude = *.conf, none/*.conf\n")
    assert load(main).document.files == ()


def test_a_name_has_to_exist(tmp_path: Path) -> None:
    main = write(
        tmp_path, main__conf="[defaults]\ninclude = dsks.conf, nothing\n", disks__conf="# empty\n"
    )
    assert problems(main) == [
        f"main.conf:2:11: {tmp_path}/dsks.conf cannot be read: No such file or directory; "
        "did you mean 'disks.conf'?".replace(f"{tmp_path}/", ""),
        (
            "main.conf:2:22: nothing cannot be read: No such file or directory; correct the name, "
            "or write a pattern, which may match nothing"
        ),
    ]


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    main = write(tmp_path, main__conf="[defaults]\ninclude = d\n", d_a__conf="")
    assert problems(main) == [
        "main.conf:2:11: d is no regular file: write the name of one, or a pattern"
    ]


def test_cycles(tmp_path: Path) -> None:
    main = write(
        tmp_path,
        main__conf="[defaults]\ninclude = a.conf\n",
        a__conf="[defaults]\ninclude = b.toml\n",
        b__toml='[defaults]\ninclude = ["a.conf"]\n',
    )
    assert problems(main) == [
        (
            "b.toml:2:12: 'a.conf' includes itself (a.conf → b.toml → a.conf): remove one of the "
            "inclusions"
        )
    ]


def test_problems_are_told_with_the_file_that_has_them(tmp_path: Path) -> None:
    main = write(
        tmp_path,
        main__conf="[defaults]\ninclude = d/*.conf\n" + DEVICE.format("a", "nine"),
        d_1__conf="[b]\npath = /x\nshelf = 0\nslot = 1\nqueue-lenght = 3\nno line\n",
        d_2__conf="\ufeff" + DEVICE.format("c", 1),
    )
    assert problems(main) == [
        "d/1.conf:5:1: unknown option 'queue-lenght': did you mean 'queue-length'?",
        "d/1.conf:6:1: 'no line' is no [section], no 'option = value' and no '# comment'",
        (
            "d/2.conf:3:1: address e0.1 of device [c] is that of [b] (d/1.conf:3:1): change it, or "
            "let them use different interfaces"
        ),
        "main.conf:6:8: 'nine' is no whole number: slot can be auto or 0 to 254",
    ]


def test_what_cannot_be_read_as_text(tmp_path: Path) -> None:
    main = write(tmp_path, main__conf="[defaults]\ninclude = a.conf\n")
    (tmp_path / "a.conf").write_bytes(b"# \xff\n")
    assert problems(main) == ["a.conf:1:3: byte 0xff is not UTF-8: save the file in that encoding"]


def test_only_defaults_and_lists_stand_in_several_files(tmp_path: Path) -> None:
    main = write(
        tmp_path,
        main__conf="[defaults]\ninclude = a.conf\nmtu = 1500\n[acls]\nlab =\n"
        + DEVICE.format("a", 1),
        a__conf="[defaults]\nmtu = 9000\nqueue-length = 3\n[acls]\nlab =\nnew =\n"
        + DEVICE.format("a", 2),
    )
    assert problems(main) == [
        "a.conf:2:1: 'mtu' is set at main.conf:3:1 already: remove one of the two",
        "a.conf:5:1: 'lab' is set at main.conf:5:1 already: remove one of the two",
        "a.conf:7:1: device [a] is at main.conf:6:1 already: give one of the two another name",
    ]


def test_a_file_is_read_once(tmp_path: Path) -> None:
    main = write(
        tmp_path,
        main__conf="[defaults]\ninclude = d/1.conf, d/*.conf\n",
        d_1__conf=DEVICE.format("a", 1),
        d_2__conf="[defaults]\ninclude = 1.conf\n",
    )
    assert list(load(main).devices) == ["a"]


def test_there_is_a_bound(tmp_path: Path) -> None:
    main = write(tmp_path, main__conf="[defaults]\ninclude = d/*\n")
    (tmp_path / "d").mkdir()
    for number in range(FILES_MAX + 2):
        (tmp_path / "d" / f"{number:04}").touch()
    assert problems(main) == [
        f"main.conf:2:11: more than {FILES_MAX} files are included: join some"
    ]


def test_a_pipe_does_not_hold_up_the_reader(tmp_path: Path) -> None:
    main = write(tmp_path, main__conf="[defaults]\ninclude = pipe\n")
    os.mkfifo(tmp_path / "pipe")
    assert problems(main) == [
        "main.conf:2:11: pipe is no regular file: write the name of one, or a pattern"
    ]


def test_texts_instead_of_files(tmp_path: Path) -> None:
    main = write(tmp_path, main__conf="[defaults]\ninclude = a.conf\n", a__conf="")
    assert list(load(main, instead={tmp_path / "a.conf": DEVICE.format("n", 1)}).devices) == ["n"]
    assert list(load(main, instead={main: ""}).devices) == []
