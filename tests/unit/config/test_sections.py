"""Kinds of sections, inheritance, and the rules between options."""

from __future__ import annotations

import pytest

from ggaoe.config import from_mapping, parse
from ggaoe.errors import ConfigError


def device(name: str, address: str = "1.0", *lines: str) -> str:
    shelf, slot = address.split(".")
    return "\n".join([f"[{name}]", "path = /x", f"shelf = {shelf}", f"slot = {slot}", *lines, ""])


def test_empty_text_is_a_configuration_of_defaults():
    config = parse("", "f")
    assert (config.engine, config.advertise_interval_s) == ("auto", 0.0)
    assert [str(config.pid_file), str(config.control_socket), str(config.state_directory)] == [
        "/run/ggaoed/ggaoed.pid",
        "/run/ggaoed/ggaoed.sock",
        "/var/lib/ggaoed",
    ]
    assert not config.devices
    assert config.default_interface_patterns == ()
    assert config.interface("eth0").ring_buffer_size_kib == "auto"
    assert config.interface("eth0").name == "eth0"


def test_configuration_is_hashable_and_immutable():
    one, other = parse(device("d"), "f"), parse("# moved\n" + device("d"), "g")
    assert one == other
    assert hash(one) == hash(other)
    with pytest.raises(TypeError):
        one.devices["e"] = one.devices["d"]  # type: ignore[index]


def test_devices_and_interfaces_inherit_from_defaults_wherever_those_stand():
    text = device("d", "1.0", "queue-length = 8") + device("e", "1.1") + "[eth0]\nmtu = 1500\n"
    text += "[defaults]\nqueue-length = 4\nmtu = 4200\nsend-buffer-size = 256\ninterfaces = san*\n"
    config = parse(text, "f")
    assert [config.devices[name].queue_length for name in "de"] == [8, 4]
    assert config.devices["d"].interfaces == config.default_interface_patterns == ("san*",)
    assert (config.interface("eth0").mtu_bytes, config.interface("eth1").mtu_bytes) == (1500, 4200)
    assert config.interface("eth0").send_buffer_size_kib == 256


def test_device_can_return_to_every_interface():
    text = "[defaults]\ninterfaces = san*\n" + device("d", "1.0", "interfaces =")
    assert parse(text, "f").devices["d"].uses("eth0")


@pytest.mark.parametrize("mark", ["path = /x", "uuid = 1234-ABCD", "shelf = 1", "slot = 2"])
def test_each_of_four_options_makes_a_device(problems, mark):
    key = mark.partition(" ")[0]
    found = problems(f"[d]\n{mark}\n")
    wanted = {"path (or uuid)", "shelf", "slot"} - {key, "path (or uuid)" if key == "uuid" else key}
    if key == "path":
        wanted -= {"path (or uuid)"}
    assert set(found) == {f"1:1: device [d] has no {name}: add it" for name in wanted}


def test_path_and_uuid_exclude_each_other(problems):
    assert problems(device("d", "1.0", "uuid = 1234-ABCD")) == [
        "5:1: device [d] has a path and a uuid: remove one of them"
    ]


def test_options_of_an_interface_cannot_stand_in_a_device(problems):
    assert problems(device("d", "1.0", "mtu = 9000")) == [
        (
            "5:1: option 'mtu' cannot stand in [d]: it belongs in [defaults] or the section of an "
            "interface"
        )
    ]


def test_options_of_the_daemon_stand_in_defaults_only(problems):
    assert problems(device("d", "1.0", "pid-file = /x")) == [
        "5:1: option 'pid-file' cannot stand in [d]: it belongs in [defaults]"
    ]


def test_options_of_a_device_cannot_stand_in_defaults(problems):
    assert problems("[defaults]\nslot = 1\n") == [
        "2:1: option 'slot' cannot stand in [defaults]: it belongs in the section of a device"
    ]


def test_misspelt_option(problems):
    assert problems(device("d", "1.0", "que-length = 4", "frobnicate = 1")) == [
        "5:1: unknown option 'que-length': did you mean 'queue-length'?",
        "6:1: unknown option 'frobnicate': remove it, or see the list of options",
    ]


@pytest.mark.parametrize(
    ("name", "meant"), [("default", "defaults"), ("Defaults", "defaults"), ("acl", "acls")]
)
def test_misspelt_section(problems, name, meant):
    assert problems(f"[{name}]\nqueue-length = 4\n") == [
        f"1:1: unknown section [{name}]: did you mean [{meant}]?"
    ]


def test_section_without_any_known_option(problems):
    assert problems("[d]\nshelff = 1\n") == [
        (
            "1:1: section [d] has no option of a device (path or uuid, shelf, slot) or of an "
            "interface (mtu, ring-buffer-size …)"
        ),
        "2:1: unknown option 'shelff': did you mean 'shelf'?",
    ]


def test_section_with_options_of_a_device_but_no_address_is_no_interface(problems):
    assert problems("[d]\nread-only = true\n") == [
        "1:1: device [d] has no path (or uuid): add it",
        "1:1: device [d] has no shelf: add it",
        "1:1: device [d] has no slot: add it",
    ]


def test_empty_section_is_warned_about(problems):
    assert problems("[eth0]\n#mtu = 1500\n") == [
        "1:1: warning: section [eth0] is empty and has no effect"
    ]


@pytest.mark.parametrize("name", ["eth*", "a b", "averylonginterface", "."])
def test_wrong_names_of_interfaces(problems, name):
    assert problems(f"[{name}]\nmtu = 1500\n") == [
        f"1:1: '{name}' is no name of an interface (patterns belong in 'interfaces')"
    ]


@pytest.mark.parametrize("name", ["a/b", "..", "x" * 201, "名" * 23])
def test_wrong_names_of_devices(problems, name):
    (found,) = problems(device(name))
    assert found.startswith("1:1: '")
    assert "cannot name a device: no '/', no control characters, 1 to 200 bytes" in found


@pytest.mark.parametrize(
    ("one", "other"),
    [("", ""), ("eth0", ""), ("eth0", "eth0"), ("eth*", "eth1"), ("eth1", "san0, e*")],
)
def test_one_address_twice_on_a_common_interface(problems, one, other):
    text = device("d", "1.0", f"interfaces = {one}") + device("e", "1.0", f"interfaces = {other}")
    assert problems(text) == [
        (
            "8:1: address e1.0 of device [e] is that of [d] (f.conf:3:1): change it, or let them "
            "use different interfaces"
        )
    ]


def test_one_address_on_different_interfaces_is_allowed(problems):
    text = device("d", "1.0", "interfaces = eth0") + device("e", "1.0", "interfaces = eth1, san*")
    assert problems(text) == []


def test_settings_without_a_file():
    data = {"devices": {"d": {"path": "/x", "shelf": 1, "slot": 0, "read-only": True}}}
    assert from_mapping(data, "command line").devices["d"].read_only
    data["devices"]["d"]["shelf"] = 65535
    with pytest.raises(ConfigError) as caught:
        from_mapping(data, "command line")
    assert str(caught.value) == ("command line: 65535 is out of range: shelf can be 0 to 65534")
