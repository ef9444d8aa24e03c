"""qaoed.conf."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from unit.importer.conftest import ONE, TWO, Import

OTHER = bytes.fromhex("020000000009")

FULL = """\
## qaoed.conf
/* Global directives,
 * in a comment of two lines. */
log-level         = error;
apisocket = /tmp/qaoed.sock;
logging {
	name = "default";
	type = syslog;
	syslog-level = LOG_INFO;
}
interface {
	interface = "eth0";
	mtu = auto;
	log = default;
}
default
{
	shelf      = 33;
	slot       = 4;   # counts up
	writecache = off;
	broadcast  = on;
	interface  = eth0;
	acl { cfgread = "list five"; }
}
device {
	shelf = 0;
	slot = 2;
	target = /srv/data;
	interface = "eth1";
	acl { write = lab; cfgset = nobody; read = lab; discover = lab; }
}
device { target = /srv/one; }
device { target = /srv/two; slot = 9; }
device { target = /srv/three; }
access-list {
   name = lab;
   policy = reject;
   accept = 02:00:00:00:00:01;
   reject = 02:00:00:00:00:02;
   accept = 02:00:00:00:00:02;
}
access-list { name = "list five"; policy = accept; reject = "02:00:00:00:00:02"; }
access-list { name = nobody; policy = reject; }
"""


def qaoed(directory: Path, text: str) -> Path:
    source = directory / "qaoed.conf"
    source.write_text(text)
    return source


def test_devices_defaults_and_automatic_slots(imports: Import, tmp_path: Path) -> None:
    result = imports("qaoed", qaoed(tmp_path, FULL))
    assert {str(d.path): d.address for d in result.config.devices.values()} == {
        "/srv/data": "e0.2",
        "/srv/one": "e33.4",
        "/srv/two": "e33.9",
        "/srv/three": "e33.5",
    }
    data, one = result.config.devices["e0.2"], result.config.devices["e33.4"]
    assert (data.interfaces, one.interfaces) == (("eth1",), ("eth0",))
    assert not one.direct_io
    assert not one.write_cache
    assert one.exact_size


def test_access_lists_of_each_operation(imports: Import, tmp_path: Path) -> None:
    config = imports("qaoed", qaoed(tmp_path, FULL)).config
    data, one = config.devices["e0.2"], config.devices["e33.4"]
    # The first rule that names a host counts, and the policy where none does.
    for rules in (data.write, data.read, data.discover):
        assert [rules.permits(mac) for mac in (ONE, TWO, OTHER)] == [True, False, False]
    assert not any(data.change.permits(mac) for mac in (ONE, TWO, OTHER))
    assert [one.discover.permits(mac) for mac in (ONE, TWO, OTHER)] == [True, False, True]
    assert all(one.write.permits(mac) and one.read.permits(mac) for mac in (ONE, TWO, OTHER))


def test_who_may_not_write_may_not_lock_out_others(imports: Import, tmp_path: Path) -> None:
    """qaoed has neither mask lists nor reservations, which `change` is about here, too."""
    text = "device {{ target = /srv/{0}; slot = {0}; interface = eth0; acl {{ {1} }} }}\n"
    lists = "".join(
        f"access-list {{ name = {name}; policy = reject; accept = {mac}; }}\n"
        for name, mac in (("one", "02:00:00:00:00:01"), ("two", "02:00:00:00:00:02"))
    )
    acls = ("write = one;", "read = one; write = two;", "read = one;", "write = one; cfgset = two;")
    source = qaoed(tmp_path, "".join(map(text.format, range(4), acls)) + lists)
    result = imports("qaoed", source)
    changing = [
        [device.change.permits(mac) for mac in (ONE, TWO, OTHER)]
        for device in result.config.devices.values()
    ]
    only_one, only_two = [True, False, False], [False, True, False]
    assert changing == [only_one, only_two, only_one, only_two]
    assert result.told(f"{source}:1:", "warning: there is no cfgset, so those who may write")
    assert result.told(f"{source}:3:", "warning: there is no cfgset, so those who may read")
    assert result.told(f"{source}:4:", "warning: cfgset becomes change", "reservation")


def test_what_is_lost_is_told(imports: Import, tmp_path: Path) -> None:
    source = qaoed(tmp_path, FULL)
    result = imports("qaoed", source)
    for told in ("4:1: warning: log-level", "5:1: warning: apisocket", "6:1: warning: logging"):
        assert result.told(f"{source}:{told}")
    assert result.told("warning: nobody can change settings of device [e0.2]")
    assert not result.told("writecache")


def test_toml_is_the_same(imports: Import, tmp_path: Path) -> None:
    source = qaoed(tmp_path, FULL)
    assert imports("qaoed", source, "--toml").config == imports("qaoed", source).config


def test_mtu(imports: Import, tmp_path: Path) -> None:
    text = (
        "interface { interface = eth1; mtu = 4096; }\ninterface { interface = eth2; mtu = auto; }"
    )
    for number in range(3):
        text += f"\ndevice {{ target = /srv/{number}; slot = {number}; interface = eth{number}; }}"
    result = imports("qaoed", qaoed(tmp_path, text))
    assert {name: one.mtu_bytes for name, one in result.config.interfaces.items()} == {
        "eth0": 1500,
        "eth1": 4096,
    }
    assert result.told("qaoed.conf:3:1: warning: qaoed uses 1500 bytes of eth0")


def test_simplest_file(imports: Import, tmp_path: Path) -> None:
    text = "device { target = /dev/hda2; interface = eth0; }\n"
    result = imports("qaoed", qaoed(tmp_path, text * 2))
    assert [d.address for d in result.config.devices.values()] == ["e0.0", "e0.1"]
    assert result.told("qaoed.conf:1:1: warning: writecache is on", "also", "qaoed.conf:2:1")
    assert result.told("exports what e0.0", "exports, too")


def test_one_target_on_two_interfaces_is_one_device(imports: Import, tmp_path: Path) -> None:
    text = "".join(
        f"device {{ target = /srv/a; slot = 1; interface = eth{n}; }}\n" for n in range(2)
    )
    (disk,) = imports("qaoed", qaoed(tmp_path, text)).config.devices.values()
    assert disk.interfaces == ("eth0", "eth1")


def test_included_files_come_last(imports: Import, tmp_path: Path) -> None:
    (tmp_path / "qaoed.d").mkdir()
    for name, more in (("b", ""), ("a", f"include = {tmp_path}/c.conf;")):
        text = f"{more} device {{ target = /srv/{name}; }}"
        (tmp_path / "qaoed.d" / f"{name}.conf").write_text(text)
    (tmp_path / "c.conf").write_text("device { target = /srv/c; }")
    text = (
        "include = qaoed.d/*.conf; default { interface = eth0; slot = 0; } device { target = /x; }"
    )
    result = imports("qaoed", qaoed(tmp_path, text + "\ninclude = none/*;"))
    order = {str(d.path): d.slot for d in result.config.devices.values()}
    assert order == {"/x": 0, "/srv/a": 1, "/srv/c": 2, "/srv/b": 3}
    assert result.told("qaoed.conf:2:11: warning: 'none/*' matches no file")
    assert result.told("qaoed.conf:1:11: warning: 'qaoed.d/*.conf' is not looked up any more")


def test_one_place_is_told_once(imports: Import, tmp_path: Path) -> None:
    text = "device {{ target = /srv/{0}; slot = {0}; interface = eth0; }}\n"
    lists = "access-list { name = all; policy = accept; }\n default { acl { read = all; } }"
    result = imports("qaoed", qaoed(tmp_path, lists + "".join(map(text.format, range(3)))))
    (line,) = (line for line in result.lines if "refuses nobody" in line)
    assert line.endswith("left out")


def test_other_interfaces_are_told(imports: Import, tmp_path: Path) -> None:
    text = "device {{ target = /srv/{0}; slot = {0}; interface = eth{0}; writecache = off; }}\n"
    mtu = "interface {{ interface = eth{0}; mtu = auto; }}\n"
    told = "qaoed answers for every device on every interface"
    one = imports("qaoed", qaoed(tmp_path, text.format(0) + mtu.format(0)))
    assert not one.lines
    both = imports("qaoed", qaoed(tmp_path, "".join(map((text + mtu).format, range(2)))))
    assert [told in line for line in both.lines] == [True]


def test_what_is_no_file_is_not_included(imports: Import, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    os.mkfifo(tmp_path / "d" / "pipe")  # to open it would take for ever
    result = imports("qaoed", qaoed(tmp_path, "include = d/*;\ninclude = d;"))
    assert result.status == 1
    assert result.told("qaoed.conf:1:11: ", "d/pipe is no regular file")
    assert result.told("qaoed.conf:2:11: ", "d is no regular file")


def test_circular_include_is_refused(imports: Import, tmp_path: Path) -> None:
    source = qaoed(tmp_path, "include = other.conf;")
    (tmp_path / "other.conf").write_text("include = qaoed.conf;")
    result = imports("qaoed", source)
    assert result.status == 1
    assert result.told("other.conf:1:11:", "includes itself")


def test_broadcast_off_is_told(imports: Import, tmp_path: Path) -> None:
    text = "device { target = /x; interface = eth0;\nbroadcast = off; writecache = off; }"
    assert imports("qaoed", qaoed(tmp_path, text)).told(":2:13: warning: broadcast = off")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("device {", "1:9: a block is not closed"),
        ("}", "1:1: no block is open"),
        ("device { target /x; }", "1:17: = or { is expected behind 'target', not '/x'"),
        ("log-level = ;", "1:13: a value is expected"),
        ("log-level = a b;", "1:15: ; is expected"),
        ("log-level = a", "1:14: ; is expected behind the value of 'log-level', not the end"),
        ("= x;", "1:1: a keyword is expected"),
        ('log-level = "a', "1:13: the quote is not closed"),
        ("/* x", "1:1: the comment is not closed"),
        ("\n device { tarket = /x; }", "2:11: 'tarket' cannot stand in a block 'device': did you"),
        ("devise { }", "1:1: 'devise' cannot stand outside blocks: did you mean 'device'?"),
        ("device = x;", "1:1: 'device' is misused: write device {"),
        ("device { interface { } }", "1:10: 'interface' is misused: write interface = VALUE;"),
        ("device { interface = e; }", "1:1: the device has no target"),
        ("device { target = /x; }", "1:1: the device has no interface"),
        ("device { target = x; interface = e; }", "1:19: 'x' is no absolute path"),
        ("device { target = /x; interface = e; slot = 255; }", "1:45: 255 is out of range"),
        ("default { slot = x; }", "1:18: 'x' is no whole number"),
        ("access-list { policy = maybe; name = a; }", "1:24: 'maybe' is unknown here"),
        ("access-list { name = a; accept = b; }", "1:34: 'b' is not a MAC"),
        ("access-list { policy = accept; }", "1:1: the access list has no name"),
        (
            "device { target = /x; interface = e; acl { read = lab; } }",
            "1:51: there is no access list 'lab'",
        ),
        ("interface { mtu = 1500; }", "1:1: the block names no interface"),
        ("device {" * 12, "1:72: more than 8 blocks"),
    ],
)
def test_garbage_is_refused_with_its_place(
    imports: Import, tmp_path: Path, text: str, told: str
) -> None:
    source = qaoed(tmp_path, text)
    result = imports("qaoed", source)
    assert result.status == 1
    assert result.told(f"{source}:{told}"), result.lines


def test_slots_run_out(imports: Import, tmp_path: Path) -> None:
    text = "default { slot = 254; interface = eth0; writecache = off; }"
    text += "\ndevice { target = /a; }\ndevice { target = /b; }"
    result = imports("qaoed", qaoed(tmp_path, text))
    assert result.status == 1
    assert result.told("qaoed.conf:3:1: 255 is out of range")
