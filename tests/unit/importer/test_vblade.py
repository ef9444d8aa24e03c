"""vblade's fragments and files of lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from unit.importer.conftest import ONE, TWO, Import

FRAGMENT = """\
# a single instance
shelf=14
slot=2
netif=ens3
filename=/dev/mapper/export
options='-r -m 02:00:00:00:00:01,020000000002 -o 8'
ionice='--class best-effort --classdata 7'
"""


def fragments(directory: Path, **texts: str) -> Path:
    folder = directory / "vblade.conf.d"
    folder.mkdir()
    for name, text in texts.items():
        (folder / f"{name}.conf").write_text(text)
    return folder


def test_fragment_of_the_manual_page(imports: Import, tmp_path: Path) -> None:
    source = fragments(tmp_path, demo=FRAGMENT)
    result = imports("vblade", source)
    disk = result.config.devices["demo"]
    assert (disk.shelf, disk.slot, disk.interfaces) == (14, 2, ("ens3",))
    assert disk.path == Path("/dev/mapper/export")
    assert (disk.read_only, disk.offset_bytes, disk.length_bytes) == (True, 8 * 512, None)
    assert disk.permits(ONE)
    assert disk.permits(TWO)
    assert not disk.permits(b"\2\0\0\0\0\3")
    assert disk.exact_size
    assert result.told(f"{source}/demo.conf:7:9: warning: ionice")


def test_every_option(imports: Import, tmp_path: Path) -> None:
    text = 'shelf=0 slot=1; netif=eth0\nfilename=/srv/a\\ b\noptions="-ds -b32 -l 16 -o2" # all\n'
    disk = imports("vblade", fragments(tmp_path, one=text)).config.devices["one"]
    assert disk.path == Path("/srv/a b")
    assert (disk.direct_io, disk.write_cache, disk.read_only) == (True, False, False)
    assert (disk.queue_length, disk.offset_bytes, disk.length_bytes) == (32, 1024, 8192)


@pytest.mark.parametrize(("text", "sectors"), [("010", 8), ("0x10", 16), ("10", 10)])
def test_sectors_are_read_as_c_reads_them(
    imports: Import, tmp_path: Path, text: str, sectors: int
) -> None:
    source = tmp_path / "vblade.conf"
    source.write_text(f"0 1 eth0 /srv/disk -s -o {text} -l {text}\n")
    disk = imports("vblade", source).config.devices["e0.1"]
    assert (disk.offset_bytes, disk.length_bytes) == (sectors * 512, sectors * 512)


def test_hosts_without_all_colons(imports: Import, tmp_path: Path) -> None:
    source = tmp_path / "vblade.conf"
    source.write_text("0 1 eth0 /srv/disk -s -m 0200:0000:0001,02:00:0000:00:02\n")
    disk = imports("vblade", source).config.devices["e0.1"]
    assert disk.permits(ONE)
    assert disk.permits(TWO)


def test_options_of_a_fragment_have_no_comments(imports: Import, tmp_path: Path) -> None:
    """What a shell makes of $options: words, whatever they begin with."""
    text = "shelf=0 slot=1 netif=eth0 filename=/srv/disk options='-r # -m 020000000001'\n"
    result = imports("vblade", fragments(tmp_path, one=text))
    assert result.status == 1
    assert result.told("one.conf:1:", "'#' is no option of vblade")


def test_variables_without_a_meaning_are_told(imports: Import, tmp_path: Path) -> None:
    """vblade-persist-convert of Debian writes such ones, which vblade then ignores."""
    source = fragments(tmp_path, demo=FRAGMENT + "Options='-d'\n", other="Shelf=1\nSlot=2\n")
    result = imports("vblade", source)
    assert list(result.config.devices) == ["demo"]
    assert result.told("demo.conf:8:10: warning: Options has no meaning", "'options'?")
    assert result.told("other.conf:1:7: warning: Shelf has no meaning", "'shelf'?")
    assert result.told("other.conf: warning: sets no shelf, slot")


def test_hidden_fragments_are_left_out(imports: Import, tmp_path: Path) -> None:
    """As *.conf has it, by which vblade finds them."""
    source = fragments(tmp_path, **{"demo": FRAGMENT, ".demo": FRAGMENT.replace("14", "15")})
    assert list(imports("vblade", source).config.devices) == ["demo"]


def test_nothing_there(imports: Import, tmp_path: Path) -> None:
    source = fragments(tmp_path)
    assert imports("vblade", source).told(
        f"{source}: no export was found", "SOURCE must be a directory"
    )


def test_names_with_a_meaning_are_not_taken(imports: Import, tmp_path: Path) -> None:
    source = fragments(tmp_path, **{"template x": FRAGMENT})
    assert list(imports("vblade", source).config.devices) == ["e14.2"]


def test_what_holds_for_many_is_told_once(imports: Import, tmp_path: Path) -> None:
    source = tmp_path / "vblade.conf"
    lines = [f"0 {slot} eth0 /srv/{slot}\n" for slot in range(200)]
    source.write_text("".join(lines) + "1 1 eth0 /srv/0 -s\n")
    result = imports("vblade", source)
    assert result.told(f"{source}:1:1: warning: vblade acknowledges", f"also {source}:2:1")
    assert result.told("and 196 more")
    assert result.told(f"{source}:201:1: warning: exports what e0.0")
    assert len(result.lines) == 2


def test_other_ways_to_one_file_are_seen(imports: Import, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    source = tmp_path / "vblade.conf"
    source.write_text(f"0 1 eth0 {tmp_path}/disk -s\n0 2 eth0 {tmp_path}/link -s\n")
    assert imports("vblade", source).told(f"{source}:2:1: warning: exports what e0.1")


def test_toml_is_the_same(imports: Import, tmp_path: Path) -> None:
    source = fragments(tmp_path, demo=FRAGMENT)
    assert imports("vblade", source, "--toml").config == imports("vblade", source).config


@pytest.mark.parametrize(("options", "told"), [("", True), ("-s", False), ("-r", False)])
def test_durability_is_told(imports: Import, tmp_path: Path, options: str, told: bool) -> None:
    text = f"shelf=0\nslot=1\nnetif=eth0\nfilename=/srv/disk\noptions='{options}'\n"
    result = imports("vblade", fragments(tmp_path, one=text))
    assert not result.config.devices["one"].write_cache
    assert result.told("one.conf:1:7", "write-cache = true") is told


def test_fragment_that_vblade_ignores_is_left_out(imports: Import, tmp_path: Path) -> None:
    source = fragments(tmp_path, demo=FRAGMENT, draft="shelf=3\nslot=\n# netif=eth0\n")
    (source / "notes.txt").write_text("not read")
    result = imports("vblade", source)
    assert list(result.config.devices) == ["demo"]
    assert result.told("draft.conf: warning: sets no slot, netif, filename")


def test_file_of_lines_in_both_orders(imports: Import, tmp_path: Path) -> None:
    source = tmp_path / "vblade.conf"
    source.write_text(
        "# network_device shelf slot file/disk/partition mac[,mac[,mac]]\n"
        "eth0 0 1 /srv/disk1\n"
        "\n"
        "eth1 0 2 /dev/sdb 02:00:00:00:00:01,02:00:00:00:00:02 # the cluster\n"
        "1 3 eth0 /srv/disk2 -s -b 16\n"
    )
    config = imports("vblade", source).config
    assert [(d.address, str(d.path), d.interfaces) for d in config.devices.values()] == [
        ("e0.1", "/srv/disk1", ("eth0",)),
        ("e0.2", "/dev/sdb", ("eth1",)),
        ("e1.3", "/srv/disk2", ("eth0",)),
    ]
    assert config.devices["e0.2"].permits(TWO)
    assert not config.devices["e0.2"].permits(b"\2\0\0\0\0\3")
    assert config.devices["e1.3"].queue_length == 16


def test_one_file_on_two_interfaces_is_one_device(imports: Import, tmp_path: Path) -> None:
    source = tmp_path / "vblade.conf"
    source.write_text("0 1 eth0 /srv/disk -s\n0 1 eth1 /srv/disk -s\n")
    config = imports("vblade", source).config
    assert config.devices["e0.1"].interfaces == ("eth0", "eth1")
    assert len(config.devices) == 1


def test_one_address_with_different_options_stays_two(imports: Import, tmp_path: Path) -> None:
    source = tmp_path / "vblade.conf"
    source.write_text("0 1 eth0 /srv/disk -s\n0 1 eth1 /srv/disk -r\n")
    result = imports("vblade", source)
    assert {d.interfaces for d in result.config.devices.values()} == {("eth0",), ("eth1",)}
    assert result.told("vblade.conf:2:1: warning", "the other one waits")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("0 1 eth0", "1:1: 3 words"),
        ("65536 1 eth0 /x", "1:1: 65536 is out of range"),
        ("4095 1 eth0 /x", "1:1: shelf cannot be 4095"),
        ("x y z /x", "1:3: 'y' is no whole number"),
        ("0 1 eth0:1 /x", "1:5: 'eth0:1' is no name of an interface"),
        ("0 1 eth0 disk.img", "1:10: 'disk.img' is no absolute path"),
        ("0 1 eth0 /x -z", "1:14: -z is no option"),
        ("0 1 eth0 /x -b", "1:14: -b has no value"),
        ("0 1 eth0 /x -b 0", "1:16: 0 is out of range"),
        ("0 1 eth0 /x -o -1", "1:16: '-1' is no number of sectors"),
        ("0 1 eth0 /x -o 08", "1:16: '08' is no number of sectors"),
        ("0 1 eth0 /x -l 8k", "1:16: '8k' is no number of sectors"),
        ("0 1 eth0 /x -l 0", "1:16: a length of 0"),
        ("0 1 eth0 /x -m 02:00:00:00:00:01,zz", "1:34: 'zz' is not a MAC"),
        ("0 1 eth0 /x -m 2:0:0:0:0:1", "1:16: '2:0:0:0:0:1' is not a MAC"),
        ("eth0 0 1 /x 03:00:00:00:00:01", "1:13: '03:00:00:00:00:01' is a multicast"),
        ("0 1 eth0 /x word", "1:13: 'word' is no option"),
    ],
)
def test_wrong_lines_are_refused_with_their_place(
    imports: Import, tmp_path: Path, line: str, told: str
) -> None:
    source = tmp_path / "vblade.conf"
    source.write_text(f"{line}\n")
    result = imports("vblade", source)
    assert result.status == 1
    assert result.text == ""
    assert result.told(f"{source}:{told}"), result.lines


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("shelf=$N", "1:7: '$' needs a shell"),
        ("shelf=`hostid`", "1:7: '`' needs a shell"),
        ("filename=~/disk", "1:10: '~' needs a shell"),
        ('filename="$DISK"', "1:11: '$' needs a shell"),
        ("options='-r", "1:9: the quote is not closed"),
        ("slot=1\noptions=-r -s", "2:12: '-s' is no assignment"),
        ("shelf=1 || exit", "1:9: '|' needs a shell"),
        ("shelf=1\\", "1:8: the line goes on"),
        ("a=1\nif true", "2:1: 'if' is no assignment"),
        ("'shelf=1'", "1:1: 'shelf=1' is no assignment"),
        ("sl\\ot=1", "1:1: 'slot=1' is no assignment"),
        ("; slot=1", "1:1: nothing stands before the ';'"),
        ("slot=1;;", "1:8: nothing stands before the ';'"),
    ],
)
def test_what_needs_a_shell_is_refused(
    imports: Import, tmp_path: Path, text: str, told: str
) -> None:
    result = imports("vblade", fragments(tmp_path, one=text))
    assert result.status == 1
    assert result.told(f"one.conf:{told}"), result.lines


def test_same_address_twice_is_refused(imports: Import, tmp_path: Path) -> None:
    source = tmp_path / "vblade.conf"
    source.write_text("0 1 eth0 /a -s\n0 1 eth0 /b -s\n")
    result = imports("vblade", source)
    assert result.status == 1
    assert result.told(f"{source}:2:1: e0.1 is exported on eth0 already ({source}:1:1)")


def test_bytes_that_are_no_text(imports: Import, tmp_path: Path) -> None:
    source = tmp_path / "vblade.conf"
    source.write_bytes(b"0 1 eth0 /a\n0 2 \xff\n")
    assert imports("vblade", source).told(f"{source}:2:5: byte 0xff")
