"""Reload plans: what changes, how, and what has to wait for a restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from ggaoe.config import diff, effective, parse
from ggaoe.config.schema import options_of

BASE = {"path": "/x", "shelf": "1", "slot": "0"}

OTHER = {
    "path": "/y",
    "shelf": "2",
    "slot": "2",
    "offset": "1M",
    "length": "1M",
    "interfaces": "eth0",
    "accept": "02:00:00:00:00:01",
    "deny": "02:00:00:00:00:01",
    "discover": "02:00:00:00:00:01",
    "read": "02:00:00:00:00:01",
    "write": "02:00:00:00:00:01",
    "change": "02:00:00:00:00:01",
    "queue-length": "7",
    "direct-io": "false",
    "max-delay": "0",
    "merge-delay": "1ms",
    "iops-limit": "500",
    "iops-burst": "1",
    "bandwidth-limit": "10MiB",
    "bandwidth-burst": "1MiB",
    "initiator-iops-limit": "500",
    "initiator-bandwidth-limit": "10MiB",
    "exact-size": "false",
    "read-only": "true",
    "broadcast": "true",
    "write-cache": "true",
    "trace-io": "true",
    "auto": "false",
}


def config(devices: dict[str, dict[str, str]], more: str = ""):
    text = more
    for name, options in devices.items():
        text += f"\n[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in options.items())
    return parse(text, "f")


@pytest.mark.parametrize("option", options_of("device"), ids=lambda option: option.key)
def test_each_option_of_a_device_is_applied_as_the_table_says(option):
    new = {**BASE, option.key: OTHER.get(option.key, "1234-ABCD")}
    if option.key == "uuid":
        del new["path"]
    plan = diff(config({"d": BASE}), config({"d": new}))
    (change,) = plan.changed
    assert change.how == option.reload
    assert option.key in [changed.key for changed in change.options]
    assert (plan.added, plan.removed, plan.interfaces, plan.restart) == ((), (), (), ())


def test_strongest_step_wins_and_all_options_are_named():
    new = {**BASE, "queue-length": "7", "path": "/y"}
    plan = diff(config({"d": BASE}), config({"d": new}))
    assert plan.lines() == ["reopen d (e1.0): path /x → /y, queue-length 64 → 7"]


def test_devices_whose_paths_mean_something_else_are_reopened():
    devices = {name: {**BASE, "slot": str(slot)} for slot, name in enumerate("abcd")}
    changed = {**devices, "b": {**devices["b"], "queue-length": "7"}}
    changed["c"] = {**devices["c"], "slot": "9"}
    del changed["d"]
    plan = diff(config(devices), config(changed)).reopening("abcd")
    assert plan.lines() == [
        "remove d (e1.3)",
        "reopen b (e1.1): queue-length 64 → 7, path /x → what is there now",
        "replace c (e1.2): slot 2 → 9",
        "reopen a (e1.0): path /x → what is there now",
    ]
    assert diff(config(devices), config(devices)).reopening(()).empty


def test_same_configuration_needs_nothing():
    plan = diff(config({"d": BASE}), config({"d": BASE}, "# moved\n[acls]\nunused =\n"))
    assert plan.empty
    assert not plan.relinks("eth0")


def test_added_removed_and_moved_devices():
    old = config({"a": BASE, "b": {**BASE, "slot": "1"}})
    new = config({"b": {**BASE, "slot": "5"}, "c": BASE})
    assert diff(old, new).lines() == [
        "remove a (e1.0)",
        "replace b (e1.1): slot 1 → 5",
        "add c (e1.0)",
    ]


def test_changed_access_list_reaches_the_devices_that_use_it():
    acl = "[acls]\nlab = 02:00:00:00:00:01{}\n"
    devices = {"a": {**BASE, "accept": "lab"}, "b": {**BASE, "slot": "1"}}
    old = config(devices, acl.format(""))
    new = config(devices, acl.format(", 02:00:00:00:00:02"))
    assert diff(old, new).lines() == ["change a (e1.0): accept 1 address → 2 addresses (+1 -0)"]
    assert diff(old, config({**devices, "a": BASE}, acl.format(""))).lines() == [
        "change a (e1.0): accept 1 address → (everybody)"
    ]


def test_default_reaches_the_devices_that_leave_it_out():
    devices = {"a": BASE, "b": {**BASE, "slot": "1", "queue-length": "9"}}
    plan = diff(config(devices), config(devices, "[defaults]\nqueue-length = 8\n"))
    assert plan.lines() == ["change a (e1.0): queue-length 64 → 8"]


def test_interfaces():
    old = config({}, "[eth0]\nmtu = 1500\n[eth1]\nmtu = 4200\n")
    new = config({}, "[defaults]\nmtu = 9000\n[eth1]\nmtu = 4200\nring-buffer-size = 0\n")
    plan = diff(old, new)
    assert plan.lines() == [
        "reopen all interfaces without a section: mtu (the interface's own) → 9000",
        "reopen eth0: mtu 1500 → 9000",
        "reopen eth1: ring-buffer-size auto → 0",
    ]
    assert [plan.relinks(name) for name in ("eth0", "eth1", "eth2")] == [True, True, True]
    plan = diff(old, config({}, "[eth0]\nmtu = 1500\n[eth1]\nmtu = 9000\n"))
    assert [plan.relinks(name) for name in ("eth0", "eth1", "eth2")] == [False, True, False]


def test_what_needs_a_restart_keeps_its_old_value():
    run = "/run/ggaoed/ggaoed"
    old = config({"d": BASE})
    text = "[defaults]\npid-file = /p\ncontrol-socket = /c\nstate-directory = /s\n"
    new = config({"d": BASE}, text + "engine = portable\nadvertise-interval = 1min\n")
    plan = diff(old, new)
    assert plan.lines() == [
        "change advertise-interval 0 → 60",
        "needs a restart: engine auto → portable; auto stays",
        f"needs a restart: pid-file {run}.pid → /p; {run}.pid stays",
        f"needs a restart: control-socket {run}.sock → /c; {run}.sock stays",
        "needs a restart: state-directory /var/lib/ggaoed → /s; /var/lib/ggaoed stays",
    ]
    assert plan.config.engine == "auto"
    assert plan.config.pid_file == Path("/run/ggaoed/ggaoed.pid")
    assert plan.config.advertise_interval_s == 60
    rows = {(row.section, row.key): row.value for row in effective(plan.config)}
    assert rows["defaults", "engine"] == "auto"
    assert diff(plan.config, new).restart == plan.restart


def test_rules_tell_how_many_addresses_come_and_go():
    acl = "[acls]\nlab = 02:00:00:00:00:01, 02:00:00:00:00:02\n"
    old = config({"a": {**BASE, "read": "lab"}}, acl)
    changes = {
        "!lab": "read 2 addresses → all but 2 addresses",
        "!02:00:00:00:00:01, lab": "read 2 addresses → 1 address (+0 -1)",
        "": "read 2 addresses → 0 addresses (+0 -2)",
    }
    for rules, change in changes.items():
        new = config({"a": {**BASE, "read": rules}}, acl)
        assert diff(old, new).lines() == [f"change a (e1.0): {change}"]
    assert diff(old, config({"a": BASE}, acl)).lines() == [
        "change a (e1.0): read 2 addresses → (everybody)"
    ]
