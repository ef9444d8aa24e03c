"""Who may do what, on the daemon: lists for each operation through reloads, what `ggaoectl why`
says of it, and that false sources get no more answers than a rate allows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable

import pytest

from ggaoe.client import AtaCommandError, NoAnswerError, RefusedError, RemoteDevice
from ggaoe.engine.limit import SOURCE_BURST
from ggaoe.proto.ata import AtaError, Opcode
from ggaoe.proto.frame import SECTOR_BYTES, Command, Error, pack_taskfile
from ggaoe.proto.query import Ccmd, pack_config
from helpers.netns import wait_until
from integration.scene import DEADLINE_S, Daemon, Scene, device

SECTOR = bytes(SECTOR_BYTES)
QUERY = pack_config(Ccmd.READ)
OTHER_HOST = bytes.fromhex("020000000001")
SILENCE_S = 0.3
"""After which an answer is not expected any more."""


class Host:
    """Our host and its device while the administrator changes its lists."""

    def __init__(self, scene: Scene, daemon: Daemon, remote: RemoteDevice) -> None:
        self.mac = scene.host.mac("near0").hex(":")
        self.daemon = daemon
        self.remote = remote

    async def permit(self, **lists: str) -> None:
        """By SIGHUP."""
        acls = f"[acls]\nus = {self.mac}\nnobody =\n"
        await asyncio.to_thread(self.daemon.reconfigure, device(**lists), acls)

    async def may(self, *, hidden: bool = False) -> dict[str, bool]:
        """What it can do, found out by trying; silence is expected of a `hidden` device."""
        patience_s = SILENCE_S if hidden else DEADLINE_S
        return {
            "discover": await _succeeds(self.remote.ping(patience_s), patience_s),
            "read": await _succeeds(self.remote.read(0, 1)),
            "write": await _succeeds(self.remote.write(0, SECTOR)),
            "change": await _succeeds(self.remote.query(Ccmd.FORCE, b"text"), patience_s),
        }

    async def explained(self) -> dict[str, bool]:
        """What it can do as `ggaoectl why` says."""
        answer = await asyncio.to_thread(self.daemon.ask, "why", self.mac, "disk")
        (found,) = answer["devices"]
        return {name: said["permitted"] for name, said in found["operations"].items()}


async def _succeeds(attempt: Awaitable[object], patience_s: float = DEADLINE_S) -> bool:
    """False where it is refused as what is not permitted is refused."""
    try:
        async with asyncio.timeout(patience_s):
            await attempt
    except (NoAnswerError, TimeoutError):
        return False
    except AtaCommandError as error:
        if error.error != AtaError.ABRT:
            raise
        return False
    except RefusedError as error:
        if error.code != Error.ARGUMENT:
            raise
        return False
    return True


@pytest.fixture
async def host(scene: Scene) -> AsyncIterator[Host]:
    scene.disk()
    with scene.serving(device()) as daemon:
        async with scene.initiator() as initiator:
            yield Host(scene, daemon, await initiator.open(0, 1))


@pytest.mark.parametrize("operation", ["discover", "read", "write", "change"])
async def test_an_operation_is_taken_and_given_by_reload(host: Host, operation: str) -> None:
    everything = dict.fromkeys(("discover", "read", "write", "change"), True)
    less = {**everything, operation: False}
    hidden = operation == "discover"
    if hidden:
        less["change"] = False  # its answer would tell
    assert await host.may() == await host.explained() == everything
    for closed in ("nobody", "!us"):
        await host.permit(**{operation: closed})
        assert await host.may(hidden=hidden) == await host.explained() == less
    await host.permit(**{operation: "!nobody, us"})
    assert await host.may() == await host.explained() == everything
    await host.permit()
    assert await host.may() == everything


@pytest.mark.one_engine
async def test_why_names_the_rule(host: Host) -> None:
    await host.permit(accept="us", write="!us, 02:00:00:00:00:01", read_only=True)
    ran = await asyncio.to_thread(host.daemon.ctl, "why", host.mac, "disk")
    assert ran.status == 0
    rows = [line.split(maxsplit=2) for line in ran.stdout.splitlines()]
    assert ["discover", "yes", "accept: us"] in rows
    assert ["read", "yes", "accept: us"] in rows
    assert ["write", "no", "write: !us"] in rows
    stranger = await asyncio.to_thread(host.daemon.ask, "why", "2:0:0:0:0:1", "disk")
    (found,) = stranger["devices"]
    assert found["last_seen"] is None
    for said in found["operations"].values():
        assert said["checks"][-1] == {
            "check": "accept",
            "permits": False,
            "rule": "not in the list",
        }
    (shown,) = (await asyncio.to_thread(host.daemon.ask, "show", "disk"))["devices"]
    assert (shown["write"], shown["read"]) == (["!us", "02:00:00:00:00:01"], None)
    for wrong in ("nonsense", "01:00:5e:00:00:01"):
        refused = await asyncio.to_thread(host.daemon.ctl, "why", wrong, "disk")
        assert refused.status in (1, 2)
        assert wrong in refused.stderr


@pytest.mark.one_engine
async def test_why_tells_that_nothing_serves_the_device(scene: Scene) -> None:
    scene.disk()
    with scene.serving(device(interfaces="far9*")) as daemon:
        (found,) = daemon.ask("why", "02:00:00:00:00:01", "disk")["devices"]
        for said in found["operations"].values():
            assert not said["permitted"]
            assert said["checks"] == [
                {"check": "interfaces", "permits": False, "rule": "none serves it"}
            ]


def test_whoever_may_not_discover_is_not_told(scene: Scene) -> None:
    scene.disk()
    scene.disk("open")
    other = device("open", 2)
    with (
        scene.wire() as wire,
        scene.serving(device(discover=f"{wire.mac.hex(':')}"), other) as daemon,
    ):
        told = wire.wait_for(lambda got: got.is_advertisement and got.address == (0, 1))
        assert told.header.destination == wire.mac
        daemon.reconfigure(device(discover="!02:00:00:00:00:01", queue_length=9), other)
        wire.pending()
        daemon.reconfigure(device(discover="!02:00:00:00:00:01"), device("open", 2, queue_length=9))
        frames = wire.collect(lambda got: sum(f.is_advertisement for f in got) >= 2)
        assert {got.address for got in frames if got.is_advertisement} == {(0, 2)}


def test_a_false_source_makes_no_amplifier(scene: Scene) -> None:
    """Honest hosts are answered meanwhile, and reading goes on."""
    scene.disk()
    identify = pack_taskfile(0, 0, 1, Opcode.IDENTIFY_DEVICE)
    with scene.wire() as wire, scene.serving(device()) as daemon:

        def is_limited() -> bool:
            wire.send(
                *(
                    wire.request(Command.ATA, identify, tag, source=OTHER_HOST)
                    for tag in range(1000, 1000 + SOURCE_BURST)
                )
            )
            wire.pending()
            ours = daemon.ask("stats")["initiators"]["disk"].get(OTHER_HOST.hex(":"), {})
            return bool(ours.get("drops", {}).get("rate_limited"))

        wait_until(is_limited, DEADLINE_S, "what is asked too often is dropped")
        wire.send(wire.request(Command.CONFIG, QUERY, 7), wire.read(0, 1, 8, source=OTHER_HOST))
        frames = wire.collect(lambda got: {7, 8} <= {f.header.tag for f in got})
        assert wire.mac in {got.header.destination for got in frames if got.header.tag == 7}
        (line,) = [line for line in daemon.log_text().splitlines() if "rate_limited" in line]
        assert OTHER_HOST.hex(":") in line
