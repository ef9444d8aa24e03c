"""One simulated life of a target: everything follows from a seed.

Owns the course of events: who is there, what befalls whom and when. The target is the real one,
engine, scheduler and protocol, between links in memory and a simulated disk; the clock is manual.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import blake2b

from ggaoe.backend.base import Backend
from ggaoe.engine.base import STALE_AGE_NS, Device, Engine, Hooks, Port
from ggaoe.errors import BackendError
from ggaoe.net.link import Interface, LinkSettings
from ggaoe.proto.ata import Op
from ggaoe.proto.frame import ETHERNET_BYTES, SECTOR_BYTES
from ggaoe.sched.commit import TOLD_S
from ggaoe.server.export import REOPENING_S_MAX
from ggaoe.testing.clock import ManualClock, ManualLoop
from ggaoe.testing.engine import ENGINES_ON_MEMORY, link_of
from ggaoe.testing.link import MemoryLink
from sim.disk import Ills, SimDisk
from sim.hosts import Habits, Host, probes, wishes
from sim.judge import Judge, Presence, Record
from sim.network import Network, Weather
from sim.target import CONFIG as DEVICE
from sim.target import SimExport, SimStates
from sim.wire import (
    ATA,
    COMMAND_AT,
    CONFIG,
    DATA_AT,
    MASK,
    RESERVE,
    SETTINGS,
    Asked,
    answered_of,
    asked_of,
    setting,
    told_of,
)

PATHS = 2
MTU_BYTES_MIN = 1500
LOWER_MTU_RATE = 0.5
TURNS_TO_SETTLE = 10
"""A frame that has been delivered is read, and what is at fault with it answered."""
ASK_AGAIN_S = 0.25
"""Whoever wants a setting changed asks as often as it takes."""
CALM_S = 60.0
"""By then a world that nothing befalls has settled: no disk hangs longer, nor does anybody wait
longer before the disk is opened again."""
PROBED_S = 1.0
LIMITS: tuple[dict[str, int], ...] = (
    {},
    {},
    {},
    {"iops_limit": 1000, "iops_burst": 3, "bandwidth_limit_bytes_per_s": 4 << 20},
    {"bandwidth_limit_bytes_per_s": 200_000, "bandwidth_burst_bytes": 1024},
    {"initiator_iops_limit": 300, "initiator_bandwidth_limit_bytes_per_s": 1 << 20},
    {"iops_limit": 800, "initiator_iops_limit": 200, "bandwidth_limit_bytes_per_s": 2 << 20},
)
NO_LIMITS = dict.fromkeys((key for limits in LIMITS for key in limits), 0)
GIVE_UP_S = 3600.0
"""Simulated time after which a world that has not ended is at fault."""


@dataclass(frozen=True)
class Report:
    """What happened in one life; `trace` names the whole course of it."""

    seed: int
    trace: str
    events: Counter[str]
    answers: int
    reads_checked: int
    simulated_s: float


def live(seed: int, engine: str) -> Report:
    """Live through `seed` on the engine of that name; raises what went wrong."""
    clock = ManualClock()
    log = logging.getLogger("ggaoe")
    level = log.level
    log.setLevel(logging.CRITICAL)
    world: World | None = None

    async def play() -> Report:
        nonlocal world
        world = World(seed, ENGINES_ON_MEMORY[engine], clock)
        async with asyncio.timeout(GIVE_UP_S):
            await world.play()
        return world.report()

    try:
        return ManualLoop(clock).run(play(), lambda: world is not None and world.pump())
    finally:
        log.setLevel(level)


class World:
    """See the module; `engine_class` is one on links in memory."""

    def __init__(self, seed: int, engine_class: type[Engine], clock: ManualClock) -> None:
        self.seed = seed
        self._chance = chance = random.Random(seed)
        # By itself, so that limits leave the rest of a life as it is without them.
        self._chance_of_limits = random.Random(f"limits {seed}")
        self._chance_of_mtu = random.Random(f"mtu {seed}")
        self._clock = clock
        self._engine_class = engine_class
        self._trace = blake2b(digest_size=8)
        self._events: Counter[str] = Counter()
        self._is_over = False
        self._states = SimStates(chance)
        self._tags = itertools.count(1)
        self._asking: tuple[int, bool] = 0, False
        """The tag by which somebody asks for a setting or wants it changed, and whether he does."""
        self._is_told = asyncio.Event()
        self._began_ns = clock.monotonic_ns
        self._mtus_bytes = [chance.choice((1500, 4200))] * PATHS
        size_sectors = chance.choice((8, 24, 64))
        ills = _ills(chance, size_sectors)
        self._disk = SimDisk(chance, size_sectors, chance.choice((512, 512, 4096)), ills)
        self._config = replace(DEVICE, write_cache=chance.random() < 0.3)
        self._judge = Judge(
            size_sectors, write_cache=self._config.write_cache, bad=ills.bad, full=ills.full
        )
        self._disk.flush_began = self._judge.flush_began
        self._disk.flush_ended = self._judge.flush_ended
        self._cannot_open_rate = chance.choice((0, 0, 0.3))
        self._may_withdraw_ns = 0
        """Before that the target must not say that its disk is away."""
        self._is_draining = False
        self._network = Network(chance, _weather(chance))
        self._network.deliver_to_target = self._arrive
        self._network.deliver_to_hosts = self._hear
        self._hosts = self._make_hosts(size_sectors)
        self._everybody = b"".join(mac for host in self._hosts for mac in host.macs)
        self._backlog: list[tuple[int, bytes, int, Record | Asked | None]] | None = None
        """What came while the target did not look; None: it looks."""
        self._ports: list[Port | None] = [None] * PATHS
        self._links: list[tuple[int, MemoryLink]] = []
        """Of the ports, by their paths."""
        self._engine: Engine
        self._export: SimExport
        self._start()

    def _make_hosts(self, size_sectors: int) -> list[Host]:
        chance = self._chance
        targets = [_mac(path) for path in range(PATHS)]
        count_max = sectors_in(min(self._mtus_bytes))
        hosts = []
        for number in range(1, chance.choice((1, 2, 3)) + 1):
            linux = Habits(True, chance.choice((2, 8, 32)), chance.choice((0.01, 0.1)))
            simple = Habits(False, chance.choice((1, 1, 8)), chance.choice((0.01, 0.1)))
            habits = chance.choice((linux, linux, simple))
            wanted = wishes(chance, number, chance.randint(10, 50), size_sectors, count_max)
            probing = probes(chance, number, len(wanted), size_sectors, count_max, PATHS)
            hosts.append(Host(chance, number, self._network, targets, habits, wanted, probing))
        return hosts

    # --- the target ----------------------------------------------------------------------------

    def _start(self) -> None:
        chance = self._chance
        hooks = Hooks(
            changed=lambda _, *change: self._export.change(*change), conflict=lambda *_: None
        )
        self._engine = self._engine_class(hooks, self._clock.for_engine())
        self._config = replace(
            self._config,
            queue_length=chance.choice((2, 3, 8, 64)),
            max_delay_s=chance.choice((0, 0.001)),
            merge_delay_s=chance.choice((0, 0, 0.0001)),
            **self._limits(),
        )
        self._states = SimStates(chance, self._states.content)
        self._export = SimExport(
            self._engine, self._states, self._config, self._announce, self._open_disk,
            self._withdrawn,
        )  # fmt: skip
        for path in range(PATHS):
            self._open(path)

    async def _open_disk(self) -> Backend:
        await asyncio.sleep(0.01 * self._chance.random())
        if self._chance.random() < self._cannot_open_rate:
            self._may_withdraw_ns = self._clock.monotonic_ns
            raise BackendError("not now")
        return self._disk

    def _withdrawn(self) -> None:
        """The target says that its disk is away; after a planned reopening has begun it may do so
        only where the disk cannot be opened, or that takes long."""
        if self._judge.presence is Presence.DISK:
            self._events["withdrawn"] += 1
        if self._clock.monotonic_ns < self._may_withdraw_ns:
            return
        self._judge.presence = Presence.NO_DISK
        if not self._is_draining:
            self.pump()
            self._judge.dropped()

    def _announce(self, device: Device) -> None:
        """What is known is served by every link."""
        if not device.is_known:
            return
        self._engine.set_ports(device, [port for port in self._ports if port is not None])
        if device.backend is not None:
            self._judge.presence = Presence.DISK

    def _limits(self) -> dict[str, int]:
        limits = self._chance_of_limits.choice(LIMITS)
        self._events["limits"] += bool(limits)
        return NO_LIMITS | limits

    def _open(self, path: int) -> None:
        mtu_bytes = self._mtus_bytes[path]
        interface = Interface(path + 1, f"eth{path}", _mac(path), mtu_bytes, is_up=True)
        self._ports[path] = port = self._engine.open_link(interface, LinkSettings())
        self._links.append((path, link_of(port)))
        if self._export.device.is_known:
            self._announce(self._export.device)

    def _close(self, path: int) -> None:
        port, self._ports[path] = self._ports[path], None
        if port is not None:
            self.pump()
            self._engine.close_link(port)
            self._links = [entry for entry in self._links if entry[0] != path]
            self._judge.silenced(path)

    # --- frames --------------------------------------------------------------------------------

    def pump(self) -> bool:
        """Show the judge what has left the target, and send it on its way."""
        left = []
        for path, link in self._links:
            sent = link.sent
            if sent:
                link.sent = []
                left += [(path, frame) for frame in sent]
        if not left:
            return False
        for path, frame in left:
            self._note(b"<", path, frame)
        self._judge.answered(
            (answered_of(path, frame) for path, frame in left if frame[COMMAND_AT] == ATA),
            self._clock.monotonic_ns,
        )
        for path, frame in left:
            if frame[COMMAND_AT] == ATA:
                self._network.to_hosts(path, frame)
            else:
                self._hear_of_setting(frame)
        return True

    def _hear_of_setting(self, frame: bytes) -> None:
        told = told_of(frame)
        tag, is_change = self._asking
        if told is None or told.tag != tag:
            return
        self._judge.told(told, is_change=is_change)
        self._is_told.set()

    def _arrive(self, path: int, frame: bytes, is_cut: bool = False) -> None:
        self.pump()
        if self._ports[path] is None or len(frame) > self._mtus_bytes[path] + ETHERNET_BYTES:
            return
        self._note(b">", path, frame)
        # No two arrivals at the same time: the kernel's stamps are told apart, too.
        self._clock.monotonic_ns += 1
        arrived: Record | Asked | None = asked_of(path, frame)
        if arrived is not None and arrived.is_whole:
            arrived = self._judge.asked(arrived)
        if self._backlog is None:
            self._look(path, frame, self._clock.wall_ns, arrived)
        else:
            self._backlog.append((path, frame, self._clock.wall_ns, arrived))

    def _look(
        self, path: int, frame: bytes, arrival_ns: int, arrived: Record | Asked | None
    ) -> None:
        """The target gets to see a frame."""
        if isinstance(arrived, Record):
            asked = arrived.asked
            fits = asked.op is not Op.READ or asked.count <= sectors_in(self._mtus_bytes[path])
            self._judge.seen(arrived, self._clock.monotonic_ns, fits=fits)
        elif arrived is not None:
            self._judge.damaged(arrived, self._clock.monotonic_ns)
        port = self._ports[path]
        if port is not None:
            link_of(port).deliver(frame, arrival_ns)

    def _hear(self, path: int, frame: bytes, is_cut: bool) -> None:
        if is_cut:
            return
        answer = answered_of(path, frame)
        for host in self._hosts:
            if host.macs[path] == answer.destination:
                host.hear(answer)

    def _note(self, what: bytes, path: int, frame: bytes) -> None:
        self._trace.update(b"%s%d %d " % (what, path, self._clock.monotonic_ns))
        self._trace.update(frame)

    # --- what befalls it -----------------------------------------------------------------------

    async def play(self) -> None:
        """Let everything happen, until every host is done and the end has been judged."""
        befalling = asyncio.gather(self._befall(), self._administer())
        for host in self._hosts:
            host.begin()
        for host in self._hosts:
            await host.is_done.wait()
        self._is_over = True
        await befalling
        await self._calm_down()
        await self._restart(power_is_cut=self._chance.random() < 0.5)
        for command in SETTINGS:
            await self._ask(command, None)
        await self._export.close(None)
        self._engine.close()

    async def _calm_down(self) -> None:
        """Nothing befalls the target any more: it settles, and serves everybody by every path."""
        self._network.weather = Weather()
        self._cannot_open_rate = 0.0
        self._cure()
        await asyncio.sleep(CALM_S)
        self.pump()
        self._judge.calm()
        await self._probe(Host.flush)
        await asyncio.sleep(TOLD_S + 1)
        await self._probe(Host.probe)

    async def _probe(self, probe: Callable[[Host], None]) -> None:
        async with asyncio.timeout(PROBED_S):
            for host in self._hosts:
                probe(host)
            for host in self._hosts:
                await host.is_done.wait()

    async def _befall(self) -> None:
        """One thing after the other."""
        chance = self._chance
        kinds: list[Callable[[], Awaitable[None]]] = [
            self._stall, self._flap, self._reopen, self._retune, self._heal, self._set_clock,
            lambda: self._restart(power_is_cut=True), lambda: self._restart(power_is_cut=False),
        ]  # fmt: skip
        interval_s = chance.choice((0.001, 0.01, 0.1))
        for _ in range(chance.choice((0, 2, 8))):
            await asyncio.sleep(interval_s * chance.random())
            if self._is_over:
                return
            await chance.choice(kinds)()

    async def _stall(self) -> None:
        """The target does not look at frames for a while."""
        self._events["stall"] += 1
        self._backlog = []
        await asyncio.sleep(self._chance.choice((0.01, 1.0, 10.0)) * self._chance.random())
        self._look_again()

    def _look_again(self) -> None:
        backlog, self._backlog = self._backlog, None
        self.pump()
        oldest_ns = self._clock.wall_ns - STALE_AGE_NS
        for path, frame, arrival_ns, arrived in backlog or ():
            if isinstance(arrived, Record) and arrival_ns < oldest_ns:
                self._judge.stale(arrived)
                self._events["stale"] += 1
            self._look(path, frame, arrival_ns, arrived)

    async def _flap(self) -> None:
        """A link goes down and comes up again; at times all do, with a lower MTU."""
        self._events["flap"] += 1
        paths = [self._chance.randrange(PATHS)]
        is_lowered = self._chance_of_mtu.random() < LOWER_MTU_RATE
        if is_lowered and max(self._mtus_bytes) > MTU_BYTES_MIN:
            self._events["mtu"] += 1
            paths = self._chance_of_mtu.choice((paths, list(range(PATHS))))
        for path in paths:
            self._close(path)
            if is_lowered:
                self._lower_mtu(path)
        await asyncio.sleep(0.1 * self._chance.random())
        for path in paths:
            self._open(path)

    def _lower_mtu(self, path: int) -> None:
        """Hosts hear of it, and ask for less from then on."""
        self._mtus_bytes[path] = MTU_BYTES_MIN
        for host in self._hosts:
            host.sectors_max = sectors_in(MTU_BYTES_MIN)

    async def _reopen(self) -> None:
        """The device is taken off its disk and put on it again, as a reload does."""
        self._events["reopen"] += 1
        await self._settle()
        if not self._export.device.is_suspended:
            self._may_withdraw_ns = self._clock.monotonic_ns + round(REOPENING_S_MAX * 1e9)
        self._is_draining = True
        await self._export.reopen(self._config)
        self._is_draining = False
        self.pump()
        if self._judge.presence is Presence.NO_DISK:
            self._judge.dropped()

    async def _retune(self) -> None:
        """The administrator changes the queue's length and limits."""
        self._events["retune"] += 1
        queue_length = self._chance.choice((2, 5, 64))
        self._config = replace(self._config, queue_length=queue_length, **self._limits())
        self._export.apply(self._config)

    async def _heal(self) -> None:
        """The disk recovers."""
        self._events["heal"] += 1
        self._cure()

    def _cure(self) -> None:
        self._disk.ills = Ills()
        self._judge.healed()

    async def _set_clock(self) -> None:
        """Somebody sets the clock of the wall, while no frame waits."""
        self._events["clock-set"] += 1
        await self._settle()
        self._clock.wall_offset_ns += self._chance.randrange(-3600, 3600) * 1_000_000_000

    async def _restart(self, *, power_is_cut: bool) -> None:
        """The target is killed, or loses power, and comes back after a while."""
        self._events["power-cut" if power_is_cut else "kill"] += 1
        self.pump()
        self._disk.stop()
        if power_is_cut:
            self._disk.cut_power()
        self._judge.ended(self._disk.content, power_was_cut=power_is_cut)
        self._judge.presence = Presence.NOTHING
        self._states.stop()
        for path in range(PATHS):
            self._close(path)
        await self._export.close(0)
        self._engine.close()
        await asyncio.sleep(self._chance.random())
        self._start()

    # --- what hosts set ------------------------------------------------------------------------

    async def _administer(self) -> None:
        """Hosts change what the target keeps, one after the other; in the end nobody is locked
        out."""
        chance = self._chance
        for _ in range(chance.choice((0, 0, 2, 6))):
            await asyncio.sleep(0.1 * chance.random())
            if self._is_over:
                break
            command = chance.choice((RESERVE, RESERVE, CONFIG, MASK))
            values = {
                RESERVE: b"".join(chance.choice(self._hosts).macs),
                CONFIG: chance.randbytes(8),
                MASK: self._everybody,
            }
            self._events["change"] += 1
            await self._ask(command, chance.choice((values[command], values[command], b"")))
            await asyncio.sleep(chance.choice((0.05, 1.0)) * chance.random())
            await self._ask(command, None)
        await self._ask(RESERVE, b"")

    async def _ask(self, command: int, value: bytes | None) -> None:
        """Have a setting changed to `value`, or (None) told; asked until there is an answer."""
        tag = next(self._tags)
        self._asking = tag, value is not None
        self._is_told.clear()
        if value is not None:
            self._judge.setting(command, value)
        while not self._is_told.is_set():
            host, path = self._chance.choice(self._hosts), self._chance.randrange(PATHS)
            self._arrive(
                path,
                setting(_mac(path), host.macs[path], tag, command, value, self._everybody),
            )
            with suppress(TimeoutError):
                async with asyncio.timeout(ASK_AGAIN_S):
                    await self._is_told.wait()

    async def _settle(self) -> None:
        """Everything that has been delivered is dealt with; no time passes."""
        for _ in range(TURNS_TO_SETTLE):
            await asyncio.sleep(0)
            self.pump()

    def report(self) -> Report:
        return Report(
            self.seed,
            self._trace.hexdigest(),
            self._events,
            self._judge.answers,
            self._judge.reads_checked,
            (self._clock.monotonic_ns - self._began_ns) / 1e9,
        )


def sectors_in(mtu_bytes: int) -> int:
    """How many sectors a frame has room for."""
    return (mtu_bytes + ETHERNET_BYTES - DATA_AT) // SECTOR_BYTES


def _mac(path: int) -> bytes:
    return bytes([2, 0, 0, 0, 0xFE, path])


def _weather(chance: random.Random) -> Weather:
    """A network between perfect and hopeless."""
    if chance.random() < 0.2:
        return Weather()
    return Weather(
        loss_rate=chance.choice((0, 0.01, 0.2)),
        duplicate_rate=chance.choice((0, 0.01, 0.2)),
        cut_rate=chance.choice((0, 0, 0.02)),
        delay_s=chance.choice((0.00001, 0.001, 0.02)),
        late_rate=chance.choice((0, 0.05)),
    )


def _ills(chance: random.Random, size_sectors: int) -> Ills:
    """A disk between sound and hopeless."""
    if chance.random() < 0.3:
        return Ills()
    sectors = range(size_sectors)
    return Ills(
        short_rate=chance.choice((0, 0.1, 0.5)),
        flush_failure_rate=chance.choice((0, 0, 0.1, 0.5)),
        slow_rate=chance.choice((0, 0.1)),
        hang_rate=chance.choice((0, 0, 0.01)),
        bad=set(chance.sample(sectors, chance.choice((0, 0, 1, 3)))),
        full=set(chance.sample(sectors, chance.choice((0, 0, 1, 3)))),
    )
