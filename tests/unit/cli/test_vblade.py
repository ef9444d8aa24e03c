"""What the arguments of `ggaoe vblade` are in our configuration; interop tests run it."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from ggaoe.cli.vblade import SOURCE, add_vblade_parser, mapping_of
from ggaoe.config import DeviceConfig, from_mapping
from ggaoe.errors import ConfigError


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_vblade_parser(parser.add_subparsers(), lambda _: 0)
    return parser.parse_args(["vblade", *arguments])


def device(arguments: str) -> DeviceConfig:
    options = parsed(*arguments.split())
    (made,) = from_mapping(mapping_of(options), SOURCE).devices.values()
    return made


@pytest.mark.parametrize("options", ["", "-s", "-d", "-r"])
def test_writes_are_never_acknowledged_from_a_cache(options: str) -> None:
    disk = device(f"{options} 1 2 eth0 /srv/disk")
    assert not disk.write_cache
    assert disk.direct_io is (options == "-d")
    assert disk.read_only is (options == "-r")


def test_everything_else() -> None:
    disk = device("-b 9 -m 020000000001 -m 02:00:00:00:00:02 -o 7 -l 1000 1 2 eth0 disk")
    assert (disk.address, disk.path, disk.interfaces) == ("e1.2", Path.cwd() / "disk", ("eth0",))
    assert (disk.queue_length, disk.exact_size) == (9, True)
    assert (disk.offset_bytes, disk.length_bytes) == (7 * 512, 1000 * 512)
    hosts = [bytes([2, 0, 0, 0, 0, number]) for number in (1, 2, 3)]
    assert [disk.permits(host) for host in hosts] == [True, True, False]


@pytest.mark.parametrize("netif", ["", "eth0:1", "an-interface-too-long"])
def test_what_is_no_interface_is_refused(netif: str) -> None:
    options = parsed("1", "2", netif, "disk")
    with pytest.raises(ConfigError, match="is no name of an interface"):
        mapping_of(options)


def test_sectors_are_read_as_c_reads_them() -> None:
    disk = device("-o 010 -l 0x10 1 2 eth0 disk")
    assert (disk.offset_bytes, disk.length_bytes) == (8 * 512, 16 * 512)


@pytest.mark.parametrize(
    "arguments",
    ["-o 08 1 2", "-l 1_0 1 2", "-b 0x10 1 2", "0x1 2", "1 2_0", "1 ٣", "+1 2"],
)
def test_numbers_of_which_vblade_takes_a_part_are_refused(
    arguments: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        device(f"{arguments} eth0 disk")
    assert ended.value.code == 1
    assert "is no " in capsys.readouterr().err
