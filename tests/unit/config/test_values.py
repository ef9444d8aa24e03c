"""One value at a time: types, units, ranges, and what the message tells to write instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from ggaoe.config import parse

DEVICE = "[d]\npath = /x\nshelf = 1\nslot = 0\n"


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("queue-length = 2", "queue_length", 2),
        ("queue-length = +65535", "queue_length", 65535),
        ("direct-io = 0", "direct_io", False),
        ("direct-io = false", "direct_io", False),
        ("trace-io = 1", "trace_io", True),
        ("max-delay = 0.001", "max_delay_s", 0.001),
        ("max-delay = 1", "max_delay_s", 1.0),
        ("max-delay = 1e-3", "max_delay_s", 0.001),
        ("merge-delay = 250us", "merge_delay_s", 0.00025),
        ("offset = 4k", "offset_bytes", 4096),
        ("length = 1GiB", "length_bytes", 2**30),
        ("iops-limit = 0", "iops_limit", 0),
        ("iops-limit = 10", "iops_limit", 10),
        ("bandwidth-limit = 10MiB", "bandwidth_limit_bytes_per_s", 10 << 20),
        ("bandwidth-burst = 4GiB", "bandwidth_burst_bytes", 1 << 32),
        ("initiator-bandwidth-limit = 65536", "initiator_bandwidth_limit_bytes_per_s", 65536),
        ("interfaces = eth*,  san0 ,", "interfaces", ("eth*", "san0")),
        ("write-cache = true", "write_cache", True),
        ("exact-size = true", "exact_size", True),
        ("read-only = true", "read_only", True),
        ("broadcast = true", "broadcast", True),
    ],
)
def test_device_values(line, field, value):
    assert getattr(parse(DEVICE + line, "f").devices["d"], field) == value


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("queue-length = 65536", "16: 65536 is out of range: queue-length can be 2 to 65535"),
        ("queue-length = 0", "16: 0 is out of range: queue-length can be 2 to 65535"),
        ("queue-length = 1k", "16: '1k' is no whole number: queue-length can be 2 to 65535"),
        ("queue-length =", "15: '' is no whole number: queue-length can be 2 to 65535"),
        ("direct-io = yes", "13: 'yes' is no boolean: write direct-io = true"),
        ("direct-io = off", "13: 'off' is no boolean: write direct-io = false"),
        ("direct-io = 2", "13: '2' is no boolean: write direct-io = true or false"),
        ("max-delay = 1.5", "13: 1.5 is out of range: max-delay can be 0 to 1 s"),
        (
            "max-delay = -1",
            "13: '-1' is not a duration: write seconds or a unit, as in 0.001, 5ms",
        ),
        ("iops-limit = 9", "14: 9 is out of range: iops-limit can be 0 or 10 to 1000000000"),
        (
            "bandwidth-limit = 1k",
            "19: 1024 is out of range: bandwidth-limit can be 0 or 64 KiB to 32 GiB",
        ),
        (
            "offset = 100",
            "10: 100 is out of range: offset can be 0 B to 128 PiB, in steps of 512 bytes",
        ),
        (
            "length = 0",
            "10: 0 is out of range: length can be 512 B to 128 PiB, in steps of 512 bytes",
        ),
        (
            "offset = some",
            "10: 'some' is not a size: write bytes or a unit, as in 512, 64k, 4MiB, 1G",
        ),
        (
            "queue-length = 16 # deep",
            (
                "16: '16 # deep' is no whole number: queue-length can be 2 to 65535 "
                "(a comment needs a line of its own: move the '#…' away)"
            ),
        ),
    ],
)
def test_wrong_device_values(problems, line, message):
    assert problems(DEVICE + line) == [f"5:{message}"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("shelf = 65535", "65535 is out of range: shelf can be 0 to 65534"),
        ("shelf = 4095", "shelf cannot be 4095: Linux initiators refuse it, take another"),
        ("shelf = -1", "-1 is out of range: shelf can be 0 to 65534"),
        ("shelf = 0x10", "'0x10' is no whole number: shelf can be 0 to 65534"),
        ("slot = 255", "255 is out of range: slot can be auto or 0 to 254"),
        ("path = ", "path has no value: give it one, or remove the line"),
        ('path = "/dev/sdb"', "write path = /dev/sdb, without quotes"),
        ("path = " + "x" * 5000, "path has more than 4096 characters: shorten it"),
        ("path = a\0b", "path cannot contain a zero byte"),
    ],
)
def test_wrong_addresses_and_paths(problems, line, message):
    key = line.partition(" ")[0]
    rest = {"path": "/x", "shelf": "1", "slot": "0"}
    del rest[key]
    text = f"[d]\n{line}\n" + "".join(f"{k} = {v}\n" for k, v in rest.items())
    assert [found.partition(": ")[2] for found in problems(text)] == [message]


def test_wrong_uuid(problems):
    found = problems('[d]\nuuid = "12-34"\nshelf = 1\nslot = 0\n')
    assert found == ["2:8: '\"12-34\"' is no UUID: write it as blkid prints it, without quotes"]


def test_user():
    assert parse("[defaults]\nuser = _ggaoed-1.x$\n", "f.conf").user == "_ggaoed-1.x$"
    assert parse("", "f.conf").user is None


@pytest.mark.parametrize("name", ["0", "a b", '"ggaoed"', "x" * 33, "a/b", "a:b"])
def test_wrong_user(problems, name):
    (found,) = problems(f"[defaults]\nuser = {name}\n")
    assert "is no name of a user: write it without quotes" in found


def test_queue_length_of_one_becomes_two_with_a_warning(problems):
    text = DEVICE + "queue-length = 1"
    assert parse(text, "f.conf").devices["d"].queue_length == 2
    assert problems(text) == [
        (
            "5:16: warning: queue-length = 1 is taken as 2: a Linux initiator never brings "
            "up a device that announces one buffer"
        )
    ]


@pytest.mark.parametrize("mark", "#;")
def test_comment_behind_a_path_is_taken_with_a_warning(problems, mark):
    text = DEVICE.replace("/x", f"/x {mark}1")
    assert parse(text, "f").devices["d"].path == Path(f"/x {mark}1")
    assert problems(text) == [
        (
            f"2:8: warning: the value of path holds a '{mark}' (a comment needs a line of its own: "
            f"move the '{mark}…' away)"
        )
    ]


@pytest.mark.parametrize("path", ["~/disk.img", "$HOME/disk.img", "/srv/$NAME"])
def test_what_a_shell_would_expand_is_taken_with_a_warning(problems, path):
    text = DEVICE.replace("/x", path)
    (problem,) = problems(text)
    taken = parse(text, "f").devices["d"].path
    expected = f"2:8: warning: '~' and '$' stand for nothing here: path is {taken}: write the whole"
    assert problem.startswith(expected)


@pytest.mark.parametrize("value", ['"eth1"', "'eth1'", "eth1 eth2", "eth1; eth2", "a/b"])
def test_interfaces_in_another_syntax_are_errors(problems, value):
    (problem,) = problems(f"{DEVICE}interfaces = {value}")
    assert problem.startswith("5:14: ")
    assert "is not the name of an interface: separate names by commas, and write them" in problem


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("mtu = 9000", "mtu_bytes", 9000),
        ("mtu = 0", "mtu_bytes", None),
        ("ring-buffer-size = 0", "ring_buffer_size_kib", 0),
        ("ring-buffer-size = 256", "ring_buffer_size_kib", 256),
        ("ring-buffer-size = auto", "ring_buffer_size_kib", "auto"),
        ("send-buffer-size = 1MiB", "send_buffer_size_kib", 1024),
        ("receive-buffer-size = 256k", "receive_buffer_size_kib", 256),
    ],
)
def test_interface_values(line, field, value):
    assert getattr(parse(f"[eth0]\n{line}\n", "f").interface("eth0"), field) == value
    assert getattr(parse(f"[defaults]\n{line}\n", "f").interface("eth7"), field) == value


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("mtu = 1055", "2:7: 1055 is out of range: mtu can be 0 or 1056 to 65536"),
        ("mtu = 65537", "2:7: 65537 is out of range: mtu can be 0 or 1056 to 65536"),
        (
            "ring-buffer-size = 100B",
            "2:20: '100B' is no multiple of 1 KiB: ring-buffer-size counts in KiB",
        ),
        (
            "send-buffer-size = 2GiB",
            "2:20: 2097152 is out of range: send-buffer-size can be 0 to 1048576 KiB",
        ),
    ],
)
def test_wrong_interface_values(problems, line, message):
    assert problems(f"[eth0]\n{line}\n") == [message]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("engine = fast", "2:10: 'fast' is unknown: engine can be auto, portable, native"),
        (
            "advertise-interval = 0.5",
            "2:22: 0.5 is out of range: advertise-interval can be 0 or 1 to 86400 s",
        ),
        (
            "control-socket = /" + "x" * 107,
            "2:18: control-socket can have at most 107 bytes: shorten it",
        ),
    ],
)
def test_wrong_daemon_values(problems, line, message):
    assert problems(f"[defaults]\n{line}\n") == [message]


@pytest.mark.parametrize("line", ["tx-ring-bug = maybe", "buffers = 64"])
def test_obsolete_options_are_accepted_with_a_warning(problems, line):
    (found,) = problems(f"[defaults]\n{line}\n")
    key = line.partition(" ")[0]
    assert found.startswith(f"2:1: warning: option '{key}' is obsolete and ignored: ")


def test_relative_paths_start_at_the_directory_of_the_file():
    config = parse("[d]\npath = disk.img\nshelf = 1\nslot = 0\n", "/srv/aoe/f.conf")
    assert config.devices["d"].path == Path("/srv/aoe/disk.img")
