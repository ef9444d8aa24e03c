"""Files: reading, an original ggaoed.conf, origins, and files that cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from ggaoe.config import effective, load, load_async, parse
from ggaoe.config.read import FILE_BYTES_MAX
from ggaoe.errors import ConfigError
from ggaoe.proto.rules import EVERYBODY

ORIGINAL = """\
# The file server's disks
[defaults]
queue-length = 16
direct-io = true
trace-io = false
interfaces = eth*, san0
mtu = 9000
ring-buffer-size = 8192
send-buffer-size = 256
receive-buffer-size = 256
tx-ring-bug = false
max-delay = 0.001
merge-delay = 0.0005
pid-file = /run/aoe.pid
control-socket = /run/aoe.sock
state-directory = /srv/aoe
buffers = 1024

[acls]
mail = 00:16:3e:00:00:01
web = 00:16:3e:00:00:02, 0:16:3e:0:0:3, backup
servers = mail, web
guests = 00:16:3e:00:00:03

[eth1]
mtu = 1500
ring-buffer-size = 0
send-buffer-size = 1024
receive-buffer-size = 2048

[mailstore]
path = /dev/vg0/mail
shelf = 1
slot = 0
queue-length = 32
direct-io = false
trace-io = true
interfaces = eth1
max-delay = 0
merge-delay = 0.01
read-only = true
broadcast = true
accept = servers, 00:16:3e:00:00:09
deny = guests

[scratch]
uuid = 0a3407de-014b-458b-b5c1-848e92a327a3
shelf = 65534
slot = 254
"""


@pytest.fixture
def original(tmp_path: Path) -> tuple[Path, Path]:
    """An original file with every option, and an ethers file beside it."""
    file, ethers = tmp_path / "ggaoed.conf", tmp_path / "ethers"
    file.write_text(ORIGINAL)
    ethers.write_text("00:16:3e:00:00:0a backup\n")
    return file, ethers


def macs(*last: int) -> set[bytes]:
    return {bytes.fromhex(f"00163e0000{byte:02x}") for byte in last}


def test_original_file_is_accepted_with_its_meaning(original):
    config = load(original[0], ethers=original[1])
    assert [warning.line for warning in config.warnings] == [11, 17]
    assert str(config.pid_file) == "/run/aoe.pid"
    assert str(config.control_socket) == "/run/aoe.sock"
    assert str(config.state_directory) == "/srv/aoe"
    assert config.acls["servers"] == macs(1, 2, 3, 10)

    mail, scratch = config.devices["mailstore"], config.devices["scratch"]
    assert (mail.address, mail.path, mail.uuid) == ("e1.0", Path("/dev/vg0/mail"), None)
    assert (mail.queue_length, mail.direct_io, mail.trace_io) == (32, False, True)
    assert (mail.max_delay_s, mail.merge_delay_s) == (0.0, 0.01)
    assert (mail.read_only, mail.broadcast, mail.interfaces) == (True, True, ("eth1",))
    assert (mail.accept.exceptions, mail.accept.others) == (macs(1, 2, 3, 9, 10), False)
    assert (mail.deny.exceptions, mail.deny.others) == (macs(3), True)

    assert (scratch.address, scratch.path) == ("e65534.254", None)
    assert scratch.uuid == "0a3407de-014b-458b-b5c1-848e92a327a3"
    assert (scratch.queue_length, scratch.direct_io, scratch.accept) == (16, True, EVERYBODY)
    assert (scratch.max_delay_s, scratch.merge_delay_s) == (0.001, 0.0005)
    assert scratch.interfaces == ("eth*", "san0")
    assert [scratch.uses(name) for name in ("eth7", "san0", "san1")] == [True, True, False]

    special, other = config.interface("eth1"), config.interface("eth0")
    assert (special.mtu_bytes, special.ring_buffer_size_kib) == (1500, 0)
    assert (special.send_buffer_size_kib, special.receive_buffer_size_kib) == (1024, 2048)
    assert (other.mtu_bytes, other.ring_buffer_size_kib) == (9000, 8192)
    assert (other.send_buffer_size_kib, other.receive_buffer_size_kib) == (256, 256)


async def test_asynchronous_reading_gives_the_same(original):
    assert await load_async(original[0], ethers=original[1]) == load(
        original[0], ethers=original[1]
    )


async def test_asynchronous_reading_fails_the_same(tmp_path):
    for path in (tmp_path / "none.conf", tmp_path):
        with pytest.raises(ConfigError) as one:
            load(path)
        with pytest.raises(ConfigError) as other:
            await load_async(path)
        assert one.value.problems == other.value.problems


def test_effective_values_and_their_origins(original):
    rows = {
        (row.section, row.key): row[2:] for row in effective(load(original[0], ethers=original[1]))
    }
    file = original[0]
    assert rows["defaults", "queue-length"] == ("16", f"{file}:3")
    assert rows["defaults", "engine"] == ("auto", "default")
    assert rows["acls", "servers"] == ("mail, web", f"{file}:22")
    assert rows["interfaces.eth1", "mtu"] == ("1500", f"{file}:26")
    assert rows["devices.mailstore", "queue-length"] == ("32", f"{file}:35")
    assert rows["devices.mailstore", "accept"] == ("servers, 00:16:3e:00:00:09", f"{file}:43")
    assert rows["devices.scratch", "queue-length"] == ("16", f"{file}:3")
    assert rows["devices.scratch", "accept"] == ("(everybody)", "default")
    assert rows["devices.scratch", "merge-delay"] == ("0.0005", f"{file}:13")
    assert rows["devices.scratch", "write-cache"] == ("false", "default")
    assert not any(key in ("buffers", "tx-ring-bug") for _, key in rows)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[defaults]\n# \xff\n", ":2:3: byte 0xff is not UTF-8: save the file in that encoding"),
        (
            b"#" * (FILE_BYTES_MAX + 1),
            ": is larger than 1048576 bytes, so it is hardly a configuration file",
        ),
    ],
)
def test_files_that_are_no_text(tmp_path, content, message):
    file = tmp_path / "f.conf"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert str(caught.value) == f"{file}{message}"


def test_byte_order_mark_is_ignored(tmp_path):
    file = tmp_path / "f.conf"
    file.write_bytes(b"\xef\xbb\xbf[defaults]\nmtu = 1500\n")
    assert load(file).interface("eth0").mtu_bytes == 1500


def test_missing_file(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "f.conf")
    assert str(caught.value) == (
        f"{tmp_path}/f.conf: cannot be read: No such file or directory; name the file with -c"
    )


def test_errors_and_warnings_come_together_in_the_order_of_the_file():
    with pytest.raises(ConfigError) as caught:
        parse("[defaults]\nbuffers = 3\nmtu = 1\nmtuu = 3\n", "f")
    assert [(problem.line, problem.warning) for problem in caught.value.problems] == [
        (2, True),
        (3, False),
        (4, False),
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[a]\n{0}", "1:1: warning: no interfaces are set for [a]: every Ethernet"),
        ("[a]\ninterfaces = eth1\n{0}[b]\n{1}", "6:1: warning: no interfaces are set for [b]:"),
        (
            "".join(f"[{name}]\n{{{index}}}" for index, name in enumerate("abcde")),
            "1:1: warning: no interfaces are set for [a], [b], [c], 2 others: every Ethernet",
        ),
        ("[a]\ninterfaces = *\n{0}", ""),
        ("[defaults]\ninterfaces = eth1\n[a]\n{0}", ""),
    ],
)
def test_devices_that_are_served_everywhere_are_told(text: str, told: str) -> None:
    parts = [f"path = /{slot}\nshelf = 1\nslot = {slot}\n" for slot in range(5)]
    found = [str(warning) for warning in parse(text.format(*parts), "f").warnings]
    assert len(found) == bool(told)
    assert all(line.startswith(f"f:{told}") for line in found)
