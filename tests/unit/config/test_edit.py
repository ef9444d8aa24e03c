"""Changes that stand in no file: what is in force after several, and what a reload takes back."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from ggaoe.config import Config, Edit, as_mapping, diff, edit, from_mapping, load, parse
from ggaoe.errors import ConfigError

TEXT = """\
[defaults]
queue-length = 8
[acls]
lab = 02:00:00:00:00:01
[a]
path = /a
shelf = 1
slot = 1
accept = lab
[b]
uuid = 1234
shelf = 1
slot = 2
queue-length = 9
"""
BASE = parse(TEXT, "f.conf")
DEVICE = {"path": "/c", "shelf": "1", "slot": "3"}


def lines(*changes: Edit) -> list[str]:
    return diff(BASE, edit(BASE, changes)).lines()


def test_values_are_set_and_unset() -> None:
    assert lines(Edit("set", "a", {"queue-length": "4"})) == ["change a (e1.1): queue-length 8 → 4"]
    assert lines(Edit("set", "b", {"queue-length": None})) == [
        "change b (e1.2): queue-length 9 → 8"
    ]
    assert lines(Edit("set", "defaults", {"queue-length": None, "mtu": "1500"})) == [
        "change a (e1.1): queue-length 8 → 64",
        "reopen all interfaces without a section: mtu (the interface's own) → 1500",
    ]
    assert lines(Edit("set", "acls", {"lab": ""})) == [
        "change a (e1.1): accept 1 address → 0 addresses (+0 -1)"
    ]
    assert lines(Edit("set", "b", {"path": "/b", "uuid": None})) == [
        "reopen b (e1.2): path (none) → /b, uuid 1234 → (none)"
    ]


def test_interface_without_a_section_gets_one() -> None:
    assert lines(Edit("set", "eth0", {"mtu": "1500"})) == [
        "reopen eth0: mtu (the interface's own) → 1500"
    ]
    again = [Edit("set", "eth0", {"mtu": mtu}) for mtu in ("1500", "2000")]
    assert edit(edit(BASE, again[:1]), again[1:]) == edit(BASE, again)
    assert edit(BASE, again).interface("eth0").mtu_bytes == 2000


def test_devices_come_and_go() -> None:
    assert lines(Edit("add", "c", DEVICE)) == ["add c (e1.3)"]
    assert lines(Edit("remove", "a")) == ["remove a (e1.1)"]
    assert lines(Edit("add", "c", DEVICE), Edit("remove", "c")) == []
    one = edit(BASE, [Edit("remove", "a")])
    other = edit(one, [Edit("add", "a", {**DEVICE, "queue-length": "2"})])
    assert diff(BASE, other).lines() == [
        (
            "replace a (e1.1): path /a → /c, slot 1 → 3, accept 1 address → (everybody), "
            "queue-length 8 → 2"
        )
    ]
    assert "a" not in edit(other, [Edit("remove", "a")]).devices


def test_origin_says_that_it_is_in_no_file() -> None:
    config = edit(BASE, [Edit("set", "a", {"slot": "4"})])
    assert config.settings["devices.a", "slot"].origin == "set a"


def test_section_of_toml(tmp_path: Path) -> None:
    file = tmp_path / "f.toml"
    file.write_text('[devices.a]\npath = "/a"\nshelf = 1\nslot = 1\n')
    change = Edit("set", "a", {"accept": "02:00:00:00:00:01, 02:00:00:00:00:02"})
    config = edit(load(file), [change])
    assert len(config.devices["a"].accept.exceptions) == 2


def test_volumes_are_not_looked_for_again(tmp_path: Path) -> None:
    file = tmp_path / "f.conf"
    file.write_text(
        "[defaults]\nstate-directory=.\nshelf=1\n"
        "[template t]\npath = v*\n[x]\npath = v2\nslot = 9\n"
    )
    for name in ("v1", "v2"):
        (tmp_path / name).touch()
    config = load(file)
    (tmp_path / "v3").touch()
    assert list(edit(config, [Edit("set", "t-v1", {"queue-length": "3"})]).devices) == ["x", "t-v1"]
    assert list(edit(config, [Edit("remove", "t-v1")]).devices) == ["x"]
    # The template does not take over what a section of the file has had.
    assert list(edit(config, [Edit("remove", "x")]).devices) == ["t-v1"]
    assert list(load(file).devices) == ["x", "t-v1", "t-v3"]


def test_mapping_is_the_configuration_again() -> None:
    served = parse(f"{TEXT}[defaults]\nmetrics = 127.0.0.1:9100\npid-file = /pid\n", "f.conf")
    config = edit(served, [Edit("add", "c", DEVICE), Edit("set", "eth0", {"mtu": "1500"})])
    assert from_mapping(json.loads(json.dumps(as_mapping(config))), "f.conf") == config


NAMES = st.sampled_from(["a", "b", "c", "eth0", "defaults", "acls"])
VALUES = st.dictionaries(
    st.sampled_from(["path", "uuid", "slot", "queue-length", "mtu", "lab", "nonsense", "accept"]),
    st.none() | st.sampled_from(["", "/x", "1", "3", "lab", "\\q", "auto"]),
    max_size=3,
)
EDITS = st.builds(
    Edit,
    st.sampled_from(["add", "remove", "set"]),
    NAMES,
    VALUES | st.just(DEVICE),
    st.just("device"),
)


@given(st.lists(EDITS, max_size=8))
def test_any_sequence_is_refused_or_in_force(changes: list[Edit]) -> None:
    """Nothing but ConfigError, whatever comes; a refused change leaves nothing behind; what is in
    force has no more traces than there are sections."""
    config: Config = BASE
    for change in changes:
        try:
            config = edit(config, [change])
        except ConfigError:
            continue
        if change.action == "remove":
            assert change.name not in config.devices
        elif change.action == "add":
            assert change.name in config.devices
    assert len(config.overlays) <= 6
    assert edit(config, []) == config
    assert edit(BASE, []) == BASE
