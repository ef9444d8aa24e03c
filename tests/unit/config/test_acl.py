"""Access lists: inclusion, hosts of /etc/ethers, cycles, bounds, and who is admitted."""

from __future__ import annotations

import itertools
from pathlib import Path

from ggaoe.config import acl, load, parse
from ggaoe.config.acl import Hosts, parse_ethers

ONE, TWO, THREE = (bytes.fromhex(f"0200000000{n:02x}") for n in (1, 2, 3))
DEVICE = "[d]\npath = /x\nshelf = 1\nslot = 0\n"


def device(text: str, hosts: dict[str, bytes] | None = None):
    return parse(text, "f", hosts=Hosts(Path("/etc/ethers"), hosts or {})).devices["d"]


def test_lists_include_lists_defined_before_and_after():
    text = "[acls]\na = 2:0:0:0:0:1\nb = a, c\nc = 02:00:00:00:00:02\nempty =\n"
    assert parse(text, "f").acls == {
        "a": {ONE},
        "b": {ONE, TWO},
        "c": {TWO},
        "empty": frozenset(),
    }


def test_accept_first_then_deny():
    text = "[acls]\nlab = 02:00:00:00:00:01, 02:00:00:00:00:02\n"
    served = device(text + DEVICE + "accept = lab\ndeny = 02:00:00:00:00:02\n")
    assert [served.permits(mac) for mac in (ONE, TWO, THREE)] == [True, False, False]


def test_without_accept_everybody_but_the_denied():
    served = device(DEVICE + "deny = 02:00:00:00:00:02\n")
    assert served.accept is None
    assert [served.permits(mac) for mac in (ONE, TWO)] == [True, False]


def test_names_of_hosts():
    served = device(DEVICE + "accept = alpha, beta\n", {"alpha": ONE, "beta": TWO})
    assert served.accept == {ONE, TWO}


def test_list_goes_before_host_of_the_same_name():
    text = "[acls]\nalpha = 02:00:00:00:00:02\n" + DEVICE + "accept = alpha\n"
    assert device(text, {"alpha": ONE}).accept == {TWO}


def test_list_that_leaves_nobody_closes_the_device_with_a_warning(problems):
    for lists in ("accept =", "accept = none", "accept = x\ndeny = x"):
        text = "[acls]\nnone =\nx = 02:00:00:00:00:01\n" + DEVICE + lists + "\n"
        served = device(text)
        assert not served.permits(ONE)
        (found,) = problems(text)
        assert found.startswith("8:")
        assert found.endswith("warning: nobody can use device [d]: its lists leave no address")


def test_unknown_names(problems):
    text = "[acls]\nlab = 02:00:00:00:00:01\n" + DEVICE + "accept = labs, zebra, gama\n"
    assert problems(text, hosts={"gamma": TWO}) == [
        "7:10: 'labs' is neither an access list nor a host of /etc/ethers: did you mean 'lab'?",
        (
            "7:16: 'zebra' is neither an access list nor a host of /etc/ethers: define it in "
            "[acls], or write the MAC address"
        ),
        "7:23: 'gama' is neither an access list nor a host of /etc/ethers: did you mean 'gamma'?",
    ]


def test_wrong_addresses(problems):
    assert problems("[acls]\na = 02:00:00:00:00, 01:00:5e:00:00:01, ff:ff:ff:ff:ff:ff\n") == [
        "2:5: '02:00:00:00:00' is no MAC address: write it as 02:00:00:00:00:01",
        "2:21: 01:00:5e:00:00:01 is a multicast address: no host sends from one",
        "2:40: ff:ff:ff:ff:ff:ff is a multicast address: no host sends from one",
    ]


def test_every_cycle_is_reported_where_it_closes(problems):
    text = "[acls]\na = b\nb = c\nc = 02:00:00:00:00:01, a\ns = s\nuser = a\n"
    assert problems(text) == [
        "4:24: access list 'c' includes itself (c → a → b → c): remove one of the inclusions",
        "5:5: access list 's' includes itself: remove one of the inclusions",
    ]


def test_inclusion_may_be_long():
    names = [f"n{number}" for number in range(3000)]
    chain = "".join(f"{a} = {b}\n" for a, b in itertools.pairwise(names))
    config = parse(f"[acls]\n{chain}{names[-1]} = 02:00:00:00:00:01\n", "f")
    assert config.acls["n0"] == {ONE}


def test_size_is_bounded_by_an_error_not_by_a_cut(problems, monkeypatch):
    monkeypatch.setattr(acl, "ADDRESSES_MAX", 2)
    text = "[acls]\na = 02:00:00:00:00:01, 02:00:00:00:00:02\nb = a, 02:00:00:00:00:01\n"
    assert problems(text) == []
    assert problems(text + "c = a, 02:00:00:00:00:03\n") == [
        "4:8: an access list holds at most 2 addresses: split it"
    ]


def test_ethers_text():
    text = (
        "# hosts\n2:0:0:0:0:1 alpha\n\n02:00:00:00:00:02\tbeta # x\n2:0:0:0:0:3 alpha\nbad\nx y\n"
    )
    assert parse_ethers(text) == {"alpha": ONE, "beta": TWO}


def test_ethers_file(tmp_path):
    file, ethers = tmp_path / "f.conf", tmp_path / "ethers"
    file.write_text(DEVICE + "accept = alpha\n")
    ethers.write_text("02:00:00:00:00:01 alpha\n")
    assert load(file, ethers=ethers).devices["d"].accept == {ONE}
