"""Whatever Python raises while frames are dispatched or transfers are carried out is reported, and
the other frames and devices are served."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ggaoe.engine import portable
from ggaoe.engine.base import Engine
from ggaoe.proto.target import Target
from unit.engine.conftest import Leases
from unit.engine.rig import Host, Rig, until
from unit.proto.host import IDENTIFY, MAC_A, MAC_B, config_argument

Fail = Callable[..., None]


@contextmanager
def reported() -> Iterator[list[dict[str, Any]]]:
    """What the loop's exception handler is told meanwhile."""
    loop = asyncio.get_running_loop()
    before, found = loop.get_exception_handler(), []
    loop.set_exception_handler(lambda _, context: found.append(context))
    try:
        yield found
    finally:
        loop.set_exception_handler(before)


def once(call: Callable[..., Any]) -> Callable[..., Any]:
    """`call`, of which the first call raises."""
    failures = iter([MemoryError()])

    def wrapped(*arguments: Any, **named: Any) -> Any:
        for failure in failures:
            raise failure
        return call(*arguments, **named)

    return wrapped


async def test_a_frame_that_fails_is_one_frame(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    port = rig.port()
    rig.disk(port)
    host = Host(port, MAC_A)
    monkeypatch.setattr(Target, "receive", once(Target.receive))
    with reported() as found:
        tags = [host.ata(IDENTIFY) for _ in range(3)]
        tags += [host.write(0, "a"), host.read(0), host.verify(0), host.flush()]
        tags.append(host.send(1, config_argument(0)))
        await host.good(*tags[1:-1])
        await host.answer(tags[-1])
    (failure,) = found
    assert isinstance(failure["exception"], MemoryError)


async def test_a_device_that_fails_is_one_device(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, leases: Leases
) -> None:
    """Also where one wake has something for several."""
    port = rig.port()
    disks = [rig.disk(port, name=f"disk{slot}", slot=slot) for slot in (1, 2)]
    hosts = [Host(port, MAC_A, slot=1), Host(port, MAC_B, slot=2)]
    monkeypatch.setattr(disks[0].faults, "submit", once(disks[0].faults.submit))
    with reported() as found:
        lost = hosts[0].read(0)
        await hosts[1].good(hosts[1].read(0), hosts[1].write(0, "a"))
        await hosts[0].good(hosts[0].read(8))
        assert lost not in hosts[0].answers
        assert len(found) == 1
        await rig.engine.remove_device(disks[0].device, 0.0)  # what was lost never ends
    rig.disks.remove(disks[0])
    leases.given_up = int(rig.engine.name == "portable")


async def test_reads_without_a_buffer_are_dropped(
    engine_class: type[Engine], rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the portable engine: they share a transfer, and a write waits for one of them."""
    if engine_class.name != "portable":
        pytest.skip("of the portable engine")
    port = rig.port()
    disk, host = rig.disk(port), Host(port, MAC_A)
    monkeypatch.setattr(portable, "_transfer_of", once(portable._transfer_of))
    dropped = {host.read(0), host.read(1)}
    await host.good(host.write(0, "a"), host.read(1))
    assert not host.answers.keys() & dropped
    assert disk.device.counters.drops == {"queue_full": 2}
    assert disk.device.in_flight + disk.device.waiting == 0


async def test_a_reply_that_fails_leaves_its_place(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = rig.port()
    disk, host = rig.disk(port), Host(port, MAC_A)
    monkeypatch.setattr(Target, "ata_head", once(Target.ata_head))
    monkeypatch.setattr(Target, "io_failure", once(Target.io_failure))
    with reported():
        tags = [host.ata(IDENTIFY), host.read(0), host.read(8)]
        await until(lambda: len(host.answers) >= 2)
        await until(lambda: disk.device.in_flight + disk.device.waiting == 0)
    assert tags[-1] in host.answers


async def test_taking_what_the_core_has_fails(
    engine_class: type[Engine], rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the native engine: the next event finds the rest."""
    if engine_class.name != "native":
        pytest.skip("of the native engine")
    port = rig.port()
    rig.disk(port)
    host = Host(port, MAC_A)
    engine: Any = rig.engine
    monkeypatch.setattr(engine, "_report_failures", once(engine._report_failures))
    monkeypatch.setattr(engine, "_dispatch_all", once(engine._dispatch_all))
    with reported() as found:
        host.ata(IDENTIFY)
        await until(lambda: found)
        await host.good(host.read(0), host.ata(IDENTIFY), host.write(0, "a"))
