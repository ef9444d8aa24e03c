"""Automatic slots and templates: who gets which number, and keeps it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggaoe.config import Config, Edit, edit, load, slots
from ggaoe.config.read import fixed_part
from ggaoe.errors import ConfigError, Problem
from unit.config.conftest import NO_INTERFACES

Load = Callable[..., Config]


@pytest.fixture
def read(tmp_path: Path) -> Load:
    """Function: text of a key file → its configuration; numbers are remembered from call to call,
    as the daemon does it, unless told otherwise."""

    def found(text: str, *, remember: bool = True) -> Config:
        path = tmp_path / "f.conf"
        path.write_text(f"[defaults]\nstate-directory = .\nshelf = 1\n{text}")
        config = load(path)
        if remember and config.slots is not None:
            (tmp_path / slots.FILE_NAME).write_bytes(slots.encode(config.slots))
        return config

    return found


def auto(*names: str) -> str:
    return "".join(f"[{name}]\npath = /x/{name}\nslot = auto\n" for name in names)


def addresses(config: Config) -> dict[str, str]:
    return {name: device.address for name, device in config.devices.items()}


def told(config: Config) -> list[Problem]:
    """Its warnings, less the one that these texts set no interfaces."""
    return [found for found in config.warnings if NO_INTERFACES not in found.message]


def problems(read: Load, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(text)
    return [f"{p.line}:{p.column}: {p.message}" for p in caught.value.problems if not p.warning]


def test_lowest_numbers_that_nobody_has(read: Load) -> None:
    config = read(
        auto("a", "b") + "[c]\npath = /c\nslot = 1\n[d]\npath = /d\nshelf = 2\nslot = 0\n"
    )
    assert addresses(config) == {"a": "e1.0", "b": "e1.2", "c": "e1.1", "d": "e2.0"}
    assert config.settings["devices.a", "slot"].origin.endswith("f.conf:6 (auto)")


def test_numbers_stay(read: Load) -> None:
    assert addresses(read(auto("a", "b", "c"))) == {"a": "e1.0", "b": "e1.1", "c": "e1.2"}
    assert addresses(read(auto("c", "new"))) == {"c": "e1.2", "new": "e1.3"}
    assert addresses(read(auto("a", "b", "c"))) == {"a": "e1.0", "b": "e1.1", "c": "e1.2"}


def test_explicit_number_of_a_device_that_is_there_is_refused(read: Load) -> None:
    read(auto("a"))
    text = "[b]\npath = /b\nslot = 0\n"
    (problem,) = problems(read, auto("a") + text)
    assert "address e1.0 of device [b] is that of [a]" in problem


def test_explicit_number_of_a_device_that_has_gone(read: Load) -> None:
    read(auto("a", "b"))
    explicit = "[c]\npath = /c\nslot = 0\n"
    assert addresses(read(auto("b") + explicit)) == {"b": "e1.1", "c": "e1.0"}
    assert addresses(read(auto("a", "b") + explicit))["a"] == "e1.2"


def test_number_that_was_explicit_is_given_to_nobody_else(read: Load) -> None:
    read("[a]\npath = /a\nslot = 0\n" + auto("b"))
    read("[a]\npath = /a\nslot = 2\n" + auto("b"))
    assert addresses(read(auto("b", "new"))) == {"b": "e1.1", "new": "e1.3"}
    assert addresses(read(auto("a", "b", "new")))["a"] == "e1.0"


def test_number_that_is_written_down_and_not_any_more(read: Load) -> None:
    read(auto("a", "b", "c"))
    read(auto("a", "c"))
    for slot in (2, 7):
        pinned = f"[c]\npath = /x/c\nslot = {slot}\n"
        assert addresses(read(auto("a") + pinned))["c"] == f"e1.{slot}"
        assert addresses(read(auto("a", "c", "new"))) == {
            "a": "e1.0",
            "c": "e1.2",
            "new": "e1.3",
        }


def test_full_shelf_takes_what_went_first_and_says_so(read: Load) -> None:
    names = [f"d{number}" for number in range(255)]
    read(auto(*names))
    read(auto(*names[1:]))
    read(auto(*names[2:]))
    config = read(auto(*names[2:], "new"))
    assert config.devices["new"].slot == 0
    (warning,) = told(config)
    assert "device [new] becomes e1.0, which was that of 'd0'" in warning.message
    (problem,) = problems(read, auto(*names[2:], "new", "newer", "newest"))
    assert problem.endswith("shelf 1 has no slot left for device [newest]: use another shelf")


def test_full_shelf_takes_what_was_explicit_and_says_so(read: Load) -> None:
    names = [f"d{number}" for number in range(254)]
    explicit = "[x]\npath = /x\nslot = {}\n"
    read(explicit.format(0) + auto(*names[1:]))
    read(explicit.format(254) + auto(*names[1:]))
    config = read(explicit.format(254) + auto(*names[1:], "new"))
    (warning,) = told(config)
    assert "device [new] becomes e1.0, which was that of 'x'" in warning.message


def test_nothing_is_remembered_without_need(read: Load, tmp_path: Path) -> None:
    assert read("[c]\npath = /c\nslot = 0\n").slots is None
    (tmp_path / slots.FILE_NAME).write_text("broken")
    read("[c]\npath = /c\nslot = 0\n")
    (problem,) = problems(read, auto("a"))
    assert problem.startswith("0:0: is damaged or not ours")


names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=5)


@given(st.dictionaries(st.integers(0, 65534), st.dictionaries(names, st.integers(0, 254))))
def test_file_keeps_what_is_remembered(memory: dict[int, dict[str, int]]) -> None:
    distinct = {
        shelf: {name: slot for slot, name in {s: n for n, s in taken.items()}.items()}
        for shelf, taken in memory.items()
    }
    again = slots.decode(slots.encode(distinct))
    assert again == distinct
    assert [list(taken) for taken in again.values()] == [
        list(distinct[shelf]) for shelf in sorted(distinct)
    ]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"[" * 100000,
        b'{"format": "ggaoe-slots", "version": 2, "shelves": {}}',
        b'{"format": "ggaoe-slots", "version": 1}',
        b'{"format": "ggaoe-slots", "version": 1, "shelves": {"x": {}}}',
        b'{"format": "ggaoe-slots", "version": 1, "shelves": {"65535": {}}}',
        b'{"format": "ggaoe-slots", "version": 1, "shelves": {"1": {"a": 1}, "01": {"b": 1}}}',
        b'{"format": "ggaoe-slots", "version": 1, "shelves": {"1": []}}',
        b'{"format": "ggaoe-slots", "version": 1, "shelves": {"1": {"a": 255}}}',
        b'{"format": "ggaoe-slots", "version": 1, "shelves": {"1": {"a": true}}}',
        b'{"format": "ggaoe-slots", "version": 1, "shelves": {"1": {"a": 1, "b": 1}}}',
    ],
)
def test_damaged_files_are_refused(content: bytes) -> None:
    with pytest.raises(ValueError):
        slots.decode(content)


@given(
    st.lists(
        st.tuples(st.sets(st.integers(0, 12)), st.sets(st.integers(0, 6))), min_size=1, max_size=8
    )
)
def test_numbers_are_distinct_and_stay(steps: list[tuple[set[int], set[int]]]) -> None:
    """Whoever comes and goes, and whatever is explicit: on a shelf with room a device that was
    there keeps its number, and nobody has that of another."""
    remembered: dict[str, int] = {}
    present: dict[str, int] = {}
    for wanting, explicit in steps:
        names = [f"d{number}" for number in sorted(wanting)]
        # What collides is refused elsewhere.
        free = {f"e{slot}": slot for slot in sorted(explicit - set(present.values()))}
        chosen = slots.choose(remembered, names, free)
        assert chosen == slots.choose(remembered, names, free)
        had = set(remembered.values())
        for name in names:
            assert chosen.slots[name] not in had - {remembered.get(name)}
        assert chosen.slots.keys() == set(names)
        assert not chosen.reused
        assert len(set(chosen.slots.values())) == len(names)
        for name, slot in present.items():
            assert chosen.slots.get(name, slot) == slot
        remembered, present = chosen.memory, chosen.slots
        assert len(set(remembered.values())) == len(remembered)


# --- templates ---------------------------------------------------------------------------------

VMS = "[template vms]\npath = vg/*\n"


def volumes(directory: Path, *names: str) -> None:
    (directory / "vg").mkdir(exist_ok=True)
    for name in names:
        (directory / "vg" / name).touch()


def test_template_exports_what_matches(read: Load, tmp_path: Path) -> None:
    volumes(tmp_path, "b", "a", ".hidden")
    (tmp_path / "vg" / "directory").mkdir()
    config = read(VMS + "queue-length = 5\nread-only = true\n")
    assert addresses(config) == {"vms-a": "e1.0", "vms-b": "e1.1"}
    device = config.devices["vms-b"]
    assert (device.path, device.queue_length) == (tmp_path / "vg" / "b", 5)
    assert config.templates == (("vms", tmp_path / "vg" / "*", True),)


def test_volumes_keep_their_numbers(read: Load, tmp_path: Path) -> None:
    volumes(tmp_path, "a", "c")
    read(VMS)
    volumes(tmp_path, "b")
    (tmp_path / "vg" / "a").unlink()
    assert addresses(read(VMS)) == {"vms-b": "e1.2", "vms-c": "e1.1"}
    (tmp_path / "vg" / "c").unlink()
    (tmp_path / "vg" / "b").unlink()
    assert addresses(read(VMS)) == {}
    volumes(tmp_path, "a", "d")
    assert addresses(read(VMS)) == {"vms-a": "e1.0", "vms-d": "e1.3"}


def test_template_of_toml_with_wildcards_in_several_parts(tmp_path: Path) -> None:
    for part in ("x", "y"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "disk").touch()
    file = tmp_path / "f.toml"
    file.write_text('[templates.t]\npath = "*/disk"\nshelf = 3\n')
    assert addresses(load(file)) == {"t-x-disk": "e3.0", "t-y-disk": "e3.1"}


def test_section_of_its_own_comes_first(read: Load, tmp_path: Path) -> None:
    volumes(tmp_path, "a", "b")
    (tmp_path / "link").symlink_to(tmp_path / "vg" / "a")
    config = read(VMS + "[special]\npath = link\nslot = 0\n[template again]\npath = vg/b\n")
    assert addresses(config) == {"special": "e1.0", "vms-b": "e1.1"}


def test_name_that_a_section_has(read: Load, tmp_path: Path) -> None:
    volumes(tmp_path, "a")
    (problem,) = problems(read, VMS + "[vms-a]\npath = /other\nslot = 9\n")
    assert problem.startswith("5:8: ")
    assert problem.endswith("f.conf:6:1 already: give the section another name")


@pytest.mark.parametrize(
    ("text", "files"),
    [
        ("[template t]\npath = vg/*/*\n", ("a-b/c", "a/b-c")),
        ("[template t]\npath = vg/x/*\n[template t-a]\npath = vg/y/*\n", ("x/a-b", "y/b")),
    ],
)
def test_two_volumes_that_would_have_one_name(
    read: Load, tmp_path: Path, text: str, files: tuple[str, ...]
) -> None:
    for name in files:
        (tmp_path / "vg" / name).parent.mkdir(parents=True)
        (tmp_path / "vg" / name).touch()
    (problem,) = problems(read, text)
    one, other = sorted(str(tmp_path / "vg" / name) for name in files)
    assert re.search(r"would become device \[t-a-b.*\], as .* would", problem)
    assert one in problem
    assert other in problem


def test_volume_that_has_two_names_is_exported_once(read: Load, tmp_path: Path) -> None:
    volumes(tmp_path, "a")
    (tmp_path / "vg" / "b").symlink_to("a")
    config = read(VMS)
    assert list(config.devices) == ["vms-a"]
    (warning,) = told(config)
    assert warning.message == (
        f"{tmp_path}/vg/b is not exported: it is the same as {tmp_path}/vg/a"
    )


def test_volume_that_cannot_be_examined_keeps_its_device(read: Load, tmp_path: Path) -> None:
    """The device waits, and says why; to leave it out would take it from its hosts."""
    volumes(tmp_path, "a")
    (tmp_path / "vg" / "long").symlink_to("x" * 300)
    (tmp_path / "vg" / "nothing").symlink_to("nowhere")
    (tmp_path / "vg" / "loop").symlink_to("loop")
    assert list(read(VMS).devices) == ["vms-a", "vms-long"]


def test_directory_that_looks_like_a_pattern(tmp_path: Path) -> None:
    directory = tmp_path / "[x]*"
    volumes_of = directory / "vg?"
    volumes_of.mkdir(parents=True)
    (volumes_of / "a").touch()
    (directory / "more.conf").write_text("[b]\npath = b\nslot = auto\n")
    file = directory / "f.conf"
    file.write_text(
        "[defaults]\nstate-directory = .\nshelf = 1\ninclude = m*.conf\n"
        "[template t]\npath = vg[?]/*\n"
    )
    config = load(file)
    assert addresses(config) == {"b": "e1.0", "t-a": "e1.1"}
    assert config.document.directories == (directory,)
    assert fixed_part(str(config.templates[0].pattern)) == volumes_of


def test_section_without_a_path_changes_one_of_the_devices(read: Load, tmp_path: Path) -> None:
    volumes(tmp_path, "a", "b", "c")
    text = VMS + "queue-length = 5\n[vms-b]\nqueue-length = 7\n[vms-c]\nslot = 9\n"
    config = read(text)
    assert addresses(config) == {"vms-a": "e1.0", "vms-b": "e1.1", "vms-c": "e1.9"}
    assert [device.queue_length for device in config.devices.values()] == [5, 7, 5]
    assert config.devices["vms-b"].path == tmp_path / "vg" / "b"
    changed = edit(config, [Edit("set", "vms-b", {"queue-length": None, "max-delay": "1"})])
    assert changed.devices["vms-b"].queue_length == 5
    assert changed.devices["vms-b"].max_delay_s == 1
    assert list(edit(config, [Edit("remove", "vms-b")]).devices) == ["vms-a", "vms-c"]
    (tmp_path / "vg" / "b").unlink()
    config = read(text)
    assert list(config.devices) == ["vms-a", "vms-c"]
    (warning,) = told(config)
    assert str(warning).endswith(
        "f.conf:7:1: warning: [vms-b] has no effect: its template has no such volume now "
        "(and it has no path)"
    )


def test_device_is_put_in_the_place_of_a_templates(read: Load, tmp_path: Path) -> None:
    volumes(tmp_path, "a")
    config = edit(read(VMS), [Edit("remove", "vms-a")])
    config = edit(config, [Edit("add", "vms-a", {"path": "/other", "slot": "3"})])
    assert addresses(config) == {"vms-a": "e1.3"}


def test_volume_whose_name_cannot_be_used(read: Load, tmp_path: Path) -> None:
    volumes(tmp_path, "a\n", "b")
    config = read(VMS)
    assert list(config.devices) == ["vms-b"]
    (warning,) = told(config)
    assert "cannot name a device" in warning.message


def test_too_many_volumes(read: Load, tmp_path: Path) -> None:
    volumes(tmp_path, *(str(number) for number in range(256)))
    assert problems(read, VMS) == [
        (
            "5:8: template [vms] matches 256 volumes, and a shelf has 255 slots: narrow the "
            "pattern, or part it into templates with a shelf each"
        )
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("shelf = 1\n", "4:1: template [vms] has no path: add one, as in path = /dev/vg0/*"),
        ("path = x*\nslot = 3\n", "6:1: template [vms] has a slot: its devices take auto"),
        (
            "path = x*\nuuid = 1\n",
            "6:1: template [vms] has a uuid: its devices take a path with wildcards",
        ),
        (
            "path = x*\n[template ]\npath = y*\n",
            "6:1: a template needs a name, which its devices have in theirs: [template NAME]",
        ),
        (
            "path = x*\nmtu = 1500\n",
            "6:1: option 'mtu' cannot stand in [vms]: it belongs in",
        ),
    ],
)
def test_wrong_templates(read: Load, text: str, problem: str) -> None:
    assert any(found.startswith(problem) for found in problems(read, f"[template vms]\n{text}"))


def test_template_needs_a_shelf(tmp_path: Path) -> None:
    path = tmp_path / "f.conf"
    path.write_text("[template vms]\npath = x*\n")
    with pytest.raises(ConfigError, match=r"template \[vms\] has no shelf"):
        load(path)
