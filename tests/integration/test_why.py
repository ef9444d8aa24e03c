"""`ggaoectl why` names what keeps a host from a device, on the daemon with either engine, and
what it says to do helps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from ggaoe.engine.select import ENGINES
from ggaoe.proto.access import Dcmd, Directive, Mcmd, Rcmd, pack_mask, pack_reserve
from ggaoe.proto.frame import SECTOR_BYTES, Command
from ggaoe.proto.query import Ccmd, pack_config
from helpers.netns import wait_until
from integration.scene import DEADLINE_S, Daemon, Scene, Wire, device

pytestmark = pytest.mark.one_engine

QUERY = pack_config(Ccmd.READ)
SECTOR = bytes(SECTOR_BYTES)
OTHER = bytes.fromhex("020000000001")
STRANGER = "02:00:00:00:00:77"


@dataclass
class Play:
    """A host at a wire, and the daemon that is asked why."""

    daemon: Daemon
    wire: Wire
    tag: int = 0

    @property
    def mac(self) -> str:
        return self.wire.mac.hex(":")

    def next_tag(self) -> int:
        self.tag += 1
        return self.tag

    def ask(self, command: int, argument: bytes, **fields: Any) -> bytes:
        """Send a request, and wait for its reply."""
        tag = self.next_tag()
        self.wire.send(self.wire.request(command, argument, tag, **fields))
        return self.wire.wait_for_reply(tag).frame

    def query(self) -> None:
        assert not self.ask(Command.CONFIG, QUERY)[14] & 0x04

    def read(self, sectors: int = 1) -> bytes:
        tag = self.next_tag()
        self.wire.send(self.wire.read(0, sectors, tag))
        return self.wire.wait_for_reply(tag).frame

    def why(self, mac: str | None = None) -> dict[str, Any]:
        answer: dict[str, Any] = self.daemon.ask("why", mac or self.mac, "disk")
        return answer

    def device(self) -> dict[str, Any]:
        (found,) = self.why()["devices"]
        return dict(found)

    def check(self, name: str) -> dict[str, Any]:
        (found,) = [check for check in self.device()["checks"] if check["check"] == name]
        return dict(found)

    def fault(self) -> dict[str, Any]:
        """The only check that finds something wrong."""
        (found,) = [check for check in self.device()["checks"] if check["verdict"] == "not ok"]
        return dict(found)

    def frames(self) -> list[tuple[str, str, str]]:
        """(what it asked for, what became of it, why) of the last frames for the device."""
        frames = self.device()["frames"]
        assert {frame["interface"] for frame in frames} <= {"far0"}
        return [(frame["asks"], frame["fate"], frame["cause"]) for frame in frames]

    def wait_for_frame(self, *expected: str) -> None:
        """Of what gets no answer one cannot tell otherwise that it has come."""
        wait_until(lambda: expected in self.frames(), DEADLINE_S, f"{expected} is known")

    def wait_for_stray(self, cause: str) -> dict[str, Any]:
        def found() -> list[dict[str, Any]]:
            return [frame for frame in self.why()["frames"] if frame["cause"] == cause]

        wait_until(lambda: bool(found()), DEADLINE_S, f"a frame that is dropped: {cause}")
        return found()[0]


@pytest.fixture(params=list(ENGINES))
def play(scene: Scene, request: pytest.FixtureRequest) -> Iterator[Play]:
    scene.disk()
    sections = f"[defaults]\nengine = {request.param}\n", device()
    with scene.wire() as wire, scene.serving(*sections) as daemon:
        yield Play(daemon, wire)


def test_nothing_is_wrong(play: Play) -> None:
    play.query()
    play.wire.send(play.wire.write(3, SECTOR * 2, tag := play.next_tag()))
    play.wire.wait_for_reply(tag)
    assert play.read()[27] == 0x40
    assert play.frames() == [
        ("CONFIG READ", "answered", ""),
        ("READ_SECTORS_EXT 0+1", "answered", ""),
    ]
    assert {check["verdict"] for check in play.device()["checks"]} == {"ok"}
    text = play.daemon.ctl("why", play.mac).stdout
    assert "READ_SECTORS_EXT 0+1  answered" in text
    assert "to do" not in text


def test_a_host_that_was_never_seen(play: Play) -> None:
    play.query()
    answer = play.why(STRANGER)
    assert (answer["heard"], answer["frames"], answer["others"]) == ([], [], {"far0": 1})
    ran = play.daemon.ctl("why", STRANGER)
    assert ran.status == 0
    assert ran.stdout.startswith(
        f"{STRANGER} never heard; interfaces: far0; other hosts: 1 on far0\n"
    )
    assert "never heard on far0; other hosts: 1 on far0" in ran.stdout
    assert "aoe-discover" in ran.stdout
    (found,) = answer["devices"]
    assert {check["verdict"] for check in found["checks"][:4]} == {"unknown"}


def test_an_interface_whose_address_has_changed(play: Play, scene: Scene) -> None:
    """The new address is announced with the first frame that leaves from it, and told of."""
    play.query()
    old, new = scene.target.mac("far0"), bytes.fromhex("0200000000aa")
    scene.target.ip(f"link set far0 address {new.hex(':')}")
    first = play.wire.wait_for(lambda got: got.header.source == new)
    assert first.is_advertisement
    changed = f"the address of far0 changed from {old.hex(':')} to {new.hex(':')} "
    fault = play.fault()
    assert fault["check"] == "address"
    assert fault["text"].startswith(changed)
    play.query()
    check = play.check("address")
    assert check["verdict"] == "ok"
    assert changed in check["text"]
    play.wire.send(play.wire.request(Command.CONFIG, QUERY, play.next_tag(), destination=old))
    play.wait_for_stray("foreign_host")
    assert play.fault()["text"].startswith(changed)
    told = f"far0: the address changed from {old.hex(':')} to {new.hex(':')} and is announced"
    assert told in play.daemon.log_text()
    scene.target.ip(f"link set far0 address {old.hex(':')}")
    play.wire.wait_for(lambda got: got.header.source == old and got.is_advertisement)
    play.query()
    assert f"changed from {new.hex(':')} to {old.hex(':')} " in play.check("address")["text"]


def test_an_access_list(play: Play) -> None:
    play.daemon.ask("set", "disk", f"accept={OTHER.hex(':')}")
    play.wire.send(play.wire.request(Command.CONFIG, QUERY, play.next_tag()))
    play.wait_for_frame("CONFIG READ", "dropped", "access_list")
    fault = play.fault()
    assert fault["check"] == "access lists"
    assert fault["text"] == "it is refused everything, by accept: not in the list"
    remedy = f"accept={OTHER.hex(':')}, {play.mac}"
    assert f"ggaoectl set disk '{remedy}'" in fault["remedy"]
    play.daemon.ask("set", "disk", remedy)
    play.query()
    assert play.check("access lists")["verdict"] == "ok"


def test_a_mask_list(play: Play) -> None:
    edit = pack_mask(Mcmd.EDIT, (Directive(Dcmd.ADD, OTHER),))
    assert not play.ask(Command.MASK, edit)[14] & 0x04
    play.wait_for_frame("MASK edit, 1 directive", "answered", "")
    play.wire.send(play.wire.read(0, 1, play.next_tag()))
    play.wait_for_frame("READ_SECTORS_EXT 0+1", "dropped", "mask_list")
    fault = play.fault()
    assert fault["check"] == "mask list"
    assert fault["remedy"].endswith("ggaoectl clear-macmask disk")
    play.daemon.ask("clear-macmask", "disk")
    play.read()
    assert play.check("mask list")["verdict"] == "ok"


def test_a_reservation(play: Play) -> None:
    assert not play.ask(Command.RESERVE, pack_reserve(Rcmd.SET, (OTHER,)))[14] & 0x04
    assert play.read()[14] & 0x04
    assert play.frames() == [
        ("RESERVE set, 1 host", "answered", ""),
        ("READ_SECTORS_EXT 0+1", "refused", "it is reserved for other hosts"),
    ]
    fault = play.fault()
    assert fault["check"] == "reservation"
    assert OTHER.hex(":") in fault["text"]
    play.daemon.ask("clear-reserve", "disk")
    assert play.read()[27] == 0x40
    assert play.check("reservation")["verdict"] == "ok"


def test_more_sectors_than_the_mtu_has_room_for(scene: Scene, play: Play) -> None:
    assert play.read(8)[27] == 0x41
    fault = play.fault()
    assert fault["check"] == "MTU"
    assert "8 sectors in one frame on far0; far0 has 1500, and announces 2" in fault["text"]
    assert fault["remedy"].startswith("ip link set far0 mtu 4132 ")
    scene.host.ip("link set near0 mtu 4132")
    scene.target.ip("link set far0 mtu 4132")
    wait_until(
        lambda: (play.daemon.interface("far0") or {}).get("mtu_bytes") == 4132, DEADLINE_S, "MTU"
    )
    play.daemon.wait_for_interface("far0", serving=True)
    assert play.read(8)[27] == 0x40
    assert play.check("MTU")["verdict"] == "ok"
    scene.target.ip("link set far0 mtu 1500")
    wait_until(
        lambda: (play.daemon.interface("far0") or {}).get("mtu_bytes") == 1500, DEADLINE_S, "MTU"
    )
    play.daemon.wait_for_interface("far0", serving=True)
    play.wire.send(play.wire.read(0, 8, play.next_tag()))
    play.wait_for_frame("READ_SECTORS_EXT 0+8", "dropped", "mtu")
    assert "8 sectors was under way when the MTU of far0 was lowered" in play.fault()["text"]
    doctor = scene.ggaoe("doctor", "-c", play.daemon.config).stdout
    assert "1 request dropped for which a frame had room only before the MTU" in doctor


def test_another_address(play: Play) -> None:
    play.wire.send(play.wire.request(Command.CONFIG, QUERY, play.next_tag(), slot=9))
    stray = play.wait_for_stray("address")
    assert (stray["to"], stray["asks"], stray["fate"]) == ("e0.9", "CONFIG READ", "dropped")
    fault = play.fault()
    assert fault["check"] == "address"
    assert fault["text"] == "it has asked for e0.9 on far0, which nothing has there; this is e0.1"
    assert "ggaoectl set disk shelf=0 slot=9" in fault["remedy"]
    play.query()
    assert play.check("address")["verdict"] == "ok"


def test_a_tagged_frame(play: Play) -> None:
    frame = play.wire.request(Command.CONFIG, QUERY, play.next_tag())
    play.wire.send(frame[:12] + bytes.fromhex("81000005") + frame[12:])
    stray = play.wait_for_stray("vlan")
    assert (stray["to"], stray["interface"]) == ("e0.1", "far0")
    assert play.fault()["check"] == "VLAN"
    assert "on far0 had the tag of a VLAN" in play.daemon.ctl("why", play.mac, "disk").stdout
    play.query()
    assert play.check("VLAN")["verdict"] == "ok"


def test_a_device_that_is_stopped(play: Play) -> None:
    play.daemon.ask("stop", "disk")
    fault = play.fault()
    assert (fault["check"], fault["remedy"]) == ("device", "ggaoectl start disk")
    found = play.device()
    assert not any(said["permitted"] for said in found["operations"].values())
    play.daemon.ask("start", "disk")
    play.query()
    assert play.check("device")["verdict"] == "ok"
