"""Access lists: inclusion, hosts of /etc/ethers, cycles, bounds, and who is admitted."""

from __future__ import annotations

import itertools
from pathlib import Path

from ggaoe.config import acl, load, parse
from ggaoe.config.acl import Hosts, parse_ethers
from ggaoe.proto.rules import EVERYBODY, Rule

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
    assert served.accept == EVERYBODY
    assert [served.permits(mac) for mac in (ONE, TWO)] == [True, False]


def test_names_of_hosts():
    served = device(DEVICE + "accept = alpha, beta\n", {"alpha": ONE, "beta": TWO})
    assert served.accept.exceptions == {ONE, TWO}


def test_list_goes_before_host_of_the_same_name():
    text = "[acls]\nalpha = 02:00:00:00:00:02\n" + DEVICE + "accept = alpha\n"
    assert device(text, {"alpha": ONE}).accept.exceptions == {TWO}


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
    assert load(file, ethers=ethers).devices["d"].accept.exceptions == {ONE}


# --- rules of one operation ------------------------------------------------------------------

LISTS = "[acls]\nlab = 02:00:00:00:00:01, 02:00:00:00:00:02\nguests = 02:00:00:00:00:02\nnone =\n"


def test_the_first_item_that_names_a_host_decides():
    served = device(LISTS + DEVICE + "write = !guests, lab\nread = lab, 02:00:00:00:00:03\n")
    assert [served.write.permits(mac) for mac in (ONE, TWO, THREE)] == [True, False, False]
    assert [served.read.permits(mac) for mac in (ONE, TWO, THREE)] == [True, True, True]
    assert served.write.deciding(TWO) == Rule("!guests", False, frozenset({TWO}))
    assert (served.discover, served.change) == (EVERYBODY, EVERYBODY)


def test_where_every_item_refuses_others_are_permitted():
    served = device(LISTS + DEVICE + "write = !guests, ! 02:00:00:00:00:03\nread = !none\n")
    assert [served.write.permits(mac) for mac in (ONE, TWO, THREE)] == [True, False, False]
    assert served.write.permits(bytes.fromhex("0200000000ff"))
    assert served.read.permits(ONE)


def test_hosts_may_be_refused_by_name():
    served = device(DEVICE + "discover = !beta\n", {"beta": TWO})
    assert [served.discover.permits(mac) for mac in (ONE, TWO)] == [True, False]


def test_rules_that_name_nobody_close_the_operation_with_a_warning(problems):
    for written in ("", "none", "!lab, guests"):
        text = LISTS + DEVICE + f"write = {written}\n"
        assert not any(device(text).write.permits(mac) for mac in (ONE, TWO, THREE))
        (found,) = problems(text)
        assert found.startswith("9:")
        assert found.endswith("nobody can write to device [d]: its lists leave no address")


def test_rules_and_accept_may_leave_nobody_together(problems):
    text = LISTS + DEVICE + "accept = guests\ndeny = none\nread = 02:00:00:00:00:01\nwrite = lab\n"
    assert problems(text) == [
        "11:8: warning: nobody can read device [d]: its lists leave no address"
    ]


def test_a_refusal_behind_what_permits_is_told_to_have_no_effect(problems):
    text = LISTS + DEVICE + "change = lab, !guests\n"
    assert device(text).change.permits(TWO)
    (found,) = problems(text)
    assert found.startswith("9:15: warning: '!guests' has no effect: hosts that no item names are")
    assert found.endswith("refused anyway; put it before the items that permit")


def test_a_refusal_stands_only_where_there_is_an_order(problems):
    expected = "'!lab' cannot stand here: what refuses has an order only in discover, read, write"
    for option in ("accept", "deny"):
        (found,) = problems(LISTS + DEVICE + f"{option} = !lab\n")
        assert expected in found
    (found,) = problems("[acls]\nlab = 02:00:00:00:00:01\nmore = !lab\n")
    assert expected in found


def test_unknown_names_in_rules(problems):
    assert problems(LISTS + DEVICE + "read = !gests, 7\n", hosts={}) == [
        "9:8: 'gests' is neither an access list nor a host of /etc/ethers: did you mean 'guests'?",
        (
            "9:16: '7' is neither an access list nor a host of /etc/ethers: define it in [acls], "
            "or write the MAC address"
        ),
    ]


def test_rules_are_bounded_as_lists_are(problems, monkeypatch):
    monkeypatch.setattr(acl, "ADDRESSES_MAX", 2)
    assert problems(LISTS + DEVICE + "read = lab, !guests, 02:00:00:00:00:03\n") == [
        "9:22: an access list holds at most 2 addresses: split it"
    ]
