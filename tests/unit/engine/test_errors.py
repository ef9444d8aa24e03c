"""A store's failures reach those whom they concern, with the right registers, and nobody else."""

from __future__ import annotations

import errno

import pytest

from ggaoe.backend.faults import Fail, Short
from ggaoe.events import Event, about
from ggaoe.proto.ata import Op
from ggaoe.units import format_mac
from unit.engine.rig import Host, Rig, sectors, until
from unit.proto.host import MAC_A, SMART, ata_argument

UNC, ABRT, IDNF = (0x41, 0x40), (0x41, 0x04), (0x41, 0x10)


async def test_medium_errors_by_direction(rig: Rig) -> None:
    port = rig.port()
    disk, host = rig.disk(port), Host(port, MAC_A)
    disk.strike(Fail(errno.EIO))
    expected = [
        (host.read(0, 2), UNC, 2),
        (host.verify(10, 3), UNC, 3),
        (host.write(20, sectors("w", "w")), ABRT, 2),
        (host.flush(), ABRT, 0),
    ]
    for tag, registers, left in expected:
        answer = await host.answer(tag)
        assert (answer.error, answer.registers) == (None, registers)
        assert answer.sectors == left
        assert len(answer.frame) == 60
        assert answer.data == bytes(24)
    assert disk.device.counters.ata_errors == 4
    assert dict(disk.device.initiators.items())[MAC_A].errors == 4


async def test_a_failure_is_told_with_its_host(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    port = rig.port()
    disk, host = rig.disk(port), Host(port, MAC_A)
    disk.strike(Fail(errno.EIO))
    await host.answer(host.read(8))
    await until(lambda: caplog.records)
    (record,) = caplog.records
    assert record.getMessage() == "disk: READ of sector 8+1 failed: Input/output error (EIO)"
    told = about(Event.DEVICE_FAILED, device="disk", peer=format_mac(MAC_A))
    assert record.__dict__.items() >= told.items()
    failures = disk.device.failures
    assert (failures.count, f"disk: {failures.last}") == (1, record.getMessage())
    assert failures.age_s >= 0
    disk.device.clear_counters()
    assert (disk.device.failures.count, disk.device.failures.last) == (0, None)


async def test_every_failure_of_the_store_is_counted(rig: Rig) -> None:
    """Also more of them than are told one by one; what hosts do wrong is none of its failures."""
    port = rig.port()
    disk, host = rig.disk(port, write_cache=False), Host(port, MAC_A)
    disk.strike(Fail(errno.EIO), Op.READ)
    tags = [host.read(number) for number in range(100)]
    for tag in tags:
        assert (await host.answer(tag)).registers == UNC
    assert (await host.answer(host.read(1 << 24))).registers == IDNF
    failures = disk.device.failures
    await until(lambda: failures.count == 100)
    disk.strike(Fail(errno.ENOSPC), Op.FLUSH)
    assert (await host.answer(host.write(0, "w"))).registers == ABRT
    await until(lambda: failures.count == 102)
    assert failures.last is not None
    assert failures.last.endswith("failed: No space left on device (ENOSPC)")


async def test_other_failures_abort(rig: Rig) -> None:
    port = rig.port()
    disk, host = rig.disk(port), Host(port, MAC_A)
    disk.strike(Fail(errno.ENOSPC))
    assert (await host.answer(host.write(0, "w"))).registers == ABRT
    assert not disk.device.target.is_failing


async def test_smart_tells_of_a_failing_store(rig: Rig) -> None:
    port = rig.port()
    disk, host = rig.disk(port), Host(port, MAC_A)
    disk.strike(Fail(errno.EIO), times=1)
    await host.answer(host.read(0))
    argument = ata_argument(SMART, 0xC24F00, 1, feature=0xDA)
    assert (await host.answer(host.send(0, argument))).lba[1:3] == b"\xf4\x2c"


async def test_one_bad_sector_fails_one_of_many_merged_requests(rig: Rig) -> None:
    port = rig.port()
    disk, host = rig.disk(port), Host(port, MAC_A)
    disk.fill(0, sectors(*"abcdefgh"))
    disk.strike(Fail(errno.EIO), at=5, sectors=1)
    tags = [host.read(number) for number in range(8)]
    for number, tag in enumerate(tags):
        answer = await host.answer(tag)
        assert answer.registers == (UNC if number == 5 else (0x40, 0))
        assert answer.data == (bytes(24) if number == 5 else sectors("abcdefgh"[number]))
    assert disk.seen[0] == (Op.READ, 0, 8)
    assert disk.device.counters.retries == 1
    assert disk.device.counters.ata_errors == 1


async def test_one_bad_sector_fails_one_of_many_merged_writes(rig: Rig) -> None:
    port = rig.port()
    disk, host = rig.disk(port, write_cache=False), Host(port, MAC_A)
    disk.strike(Fail(errno.EIO), Op.WRITE, at=2, sectors=1)
    tags = [host.write(number, "w") for number in range(4)]
    answers = [(await host.answer(tag)).registers for tag in tags]
    assert answers == [(0x40, 0), (0x40, 0), ABRT, (0x40, 0)]
    assert disk.content(0, 4) == sectors("w", "w", "", "w")


async def test_short_transfers_are_continued(rig: Rig) -> None:
    port = rig.port(mtu_bytes=9000)
    disk, host = rig.disk(port), Host(port, MAC_A)
    data = sectors(*"abcdefgh")
    disk.strike(Short(3 * 512))
    await host.good(host.write(0, data))
    assert disk.of(Op.WRITE) == [(0, 8), (3, 5), (6, 2)]
    assert (await host.answer(host.read(0, 8))).data == data
    await host.good(host.verify(0, 8))
    assert disk.of(Op.VERIFY) == disk.of(Op.READ) == [(0, 8), (3, 5), (6, 2)]


async def test_short_merged_transfer_is_repeated_member_by_member(rig: Rig) -> None:
    port = rig.port()
    disk, host = rig.disk(port), Host(port, MAC_A)
    disk.strike(Short(512), times=1)
    await host.good(*[host.write(number, f"{number}") for number in range(3)])
    assert disk.of(Op.WRITE) == [(0, 3), (0, 1), (1, 1), (2, 1)]
    assert disk.content(0, 3) == sectors("0", "1", "2")


async def test_transfer_that_gets_nowhere_fails(rig: Rig) -> None:
    port = rig.port()
    disk, host = rig.disk(port), Host(port, MAC_A)
    disk.strike(Short(0))
    assert (await host.answer(host.read(0))).registers == UNC
    assert (await host.answer(host.write(0, "w"))).registers == ABRT


async def test_failed_write_lets_those_behind_it_go_on(rig: Rig) -> None:
    port = rig.port()
    disk, host = rig.disk(port, write_cache=False), Host(port, MAC_A)
    disk.strike(Fail(errno.EIO), Op.WRITE, times=1)
    failed, second, read = host.write(0, "a"), host.write(0, "b"), host.read(0)
    assert (await host.answer(failed)).registers == ABRT
    await host.good(second)
    assert (await host.answer(read)).data == sectors("b")


async def test_what_waited_while_the_store_shrank_is_out_of_range(rig: Rig) -> None:
    port = rig.port()
    disk, host = rig.disk(port), Host(port, MAC_A)
    disk.hold()
    tags = [host.read(4000), host.write(4001, "w")]
    await until(lambda: len(disk.faults.held) == 2)
    del disk.memory.data[2000 * 512 :]
    disk.device.target.size_sectors = await disk.faults.refresh_size_bytes() // 512
    rig.engine.refresh(disk.device)
    disk.release()
    for tag in tags:
        assert (await host.answer(tag)).registers == IDNF
    assert not disk.device.target.is_failing
    assert (await host.answer(host.read(2000))).registers == IDNF
    await host.good(host.read(1999))
