"""One simulated life of a target: everything follows from a seed.

Owns the course of events: who is there, what befalls whom and when. The target is the real one,
engine, scheduler and protocol, between links in memory and a simulated disk; the clock is manual.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import blake2b

from ggaoe.engine.base import STALE_AGE_NS, Device, Engine, Hooks, Port
from ggaoe.net.link import Interface, LinkSettings
from ggaoe.proto.frame import Header
from ggaoe.proto.target import Change, Settings, Target, TargetState
from ggaoe.sched.queue import Policy
from ggaoe.sched.throttle import NO_LIMITS, Limits, Rate
from ggaoe.testing.clock import ManualClock, ManualLoop
from ggaoe.testing.engine import ENGINES_ON_MEMORY, link_of
from sim.disk import Ills, SimDisk
from sim.hosts import Habits, Host, wishes
from sim.judge import Judge
from sim.network import Network, Weather
from sim.wire import SHELF, SLOT, Asked, answered_of, asked_of, owners_of, reserve

PATHS = 2
TURNS_TO_SETTLE = 10
"""A frame that has been delivered is read, and what is at fault with it answered."""
LIMITS = (
    NO_LIMITS,
    NO_LIMITS,
    NO_LIMITS,
    Limits(iops=Rate(1000, 3), bandwidth=Rate(4 << 20, 4096)),
    Limits(bandwidth=Rate(200_000, 1024)),
    Limits(initiator_iops=Rate(300, 1), initiator_bandwidth=Rate(1 << 20, 2048)),
    Limits(Rate(800, 2), Rate(2 << 20, 8192), Rate(200, 2), Rate(1 << 20, 1)),
)
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
        self._clock = clock
        self._engine_class = engine_class
        self._trace = blake2b(digest_size=8)
        self._events: Counter[str] = Counter()
        self._is_over = False
        self._state = TargetState()
        """What hosts have set of the device; it outlives the target."""
        self._owners: list[bytes] | None = None
        """Of the reservation that was acknowledged last."""
        self._owners_told = asyncio.Event()
        self._changes: set[asyncio.Task[None]] = set()
        self._began_ns = clock.monotonic_ns
        self._mtu_bytes = chance.choice((1500, 4200))
        size_sectors = chance.choice((8, 24, 64))
        ills = _ills(chance, size_sectors)
        self._write_cache = chance.random() < 0.3
        self._disk = SimDisk(chance, size_sectors, chance.choice((512, 512, 4096)), ills)
        self._judge = Judge(
            size_sectors,
            write_cache=self._write_cache,
            flush_failures=lambda: self._disk.flush_failures,
            ill=ills.bad | ills.full,
        )
        self._disk.on_flush_failure = self._judge.flush_failed
        self._network = Network(chance, _weather(chance))
        self._network.deliver_to_target = self._arrive
        self._network.deliver_to_hosts = self._hear
        self._hosts = self._make_hosts(size_sectors)
        self._backlog: list[tuple[int, bytes, int, Asked | None]] | None = None
        """What came while the target did not look; None: it looks."""
        self._ports: list[Port | None] = [None] * PATHS
        self._engine: Engine
        self._device: Device
        self._start()

    def _make_hosts(self, size_sectors: int) -> list[Host]:
        chance = self._chance
        targets = [_mac(path) for path in range(PATHS)]
        count_max = 2 if self._mtu_bytes == 1500 else 8
        hosts = []
        for number in range(chance.choice((1, 2, 3))):
            linux = Habits(True, chance.choice((2, 8, 32)), chance.choice((0.01, 0.1)))
            simple = Habits(False, chance.choice((1, 1, 8)), chance.choice((0.01, 0.1)))
            hosts.append(
                Host(
                    chance,
                    number + 1,
                    self._network,
                    targets,
                    chance.choice((linux, linux, simple)),
                    wishes(chance, number + 1, chance.randint(10, 50), size_sectors, count_max),
                )
            )
        return hosts

    # --- the target ----------------------------------------------------------------------------

    def _start(self) -> None:
        chance = self._chance
        hooks = Hooks(changed=self._change, conflict=lambda *_: None)
        self._engine = self._engine_class(hooks, self._clock.for_engine())
        settings = Settings(SHELF, SLOT, "sim", "disk", "1", 64, write_cache=self._write_cache)
        policy = Policy(
            queue_length=chance.choice((2, 3, 8, 64)),
            max_delay_ns=chance.choice((0, 1_000_000)),
            merge_delay_ns=chance.choice((0, 0, 100_000)),
            limits=self._limits(),
        )
        target = Target(settings)
        target.state = self._state
        self._device = self._engine.add_device("sim", target, policy, trace_io=False)
        for path in range(PATHS):
            self._open(path)
        self._attach()

    def _limits(self) -> Limits:
        limits = self._chance_of_limits.choice(LIMITS)
        self._events["limits"] += limits != NO_LIMITS
        return limits

    def _open(self, path: int) -> None:
        interface = Interface(path + 1, f"eth{path}", _mac(path), self._mtu_bytes, is_up=True)
        self._ports[path] = self._engine.open_link(interface, LinkSettings())
        self._engine.set_ports(self._device, [port for port in self._ports if port is not None])

    def _close(self, path: int) -> None:
        port, self._ports[path] = self._ports[path], None
        if port is not None:
            self.pump()
            self._engine.close_link(port)
            self._judge.silenced(path)

    def _attach(self) -> None:
        self._device.target.size_sectors = self._disk.size_bytes // 512
        self._engine.attach(self._device, self._disk)

    # --- frames --------------------------------------------------------------------------------

    def pump(self) -> bool:
        """Show the judge what has left the target, and send it on its way."""
        left = []
        for path, port in enumerate(self._ports):
            if port is not None:
                link = link_of(port)
                sent = link.sent
                if sent:
                    link.sent = []
                    left += [(path, frame) for frame in sent]
        if not left:
            return False
        for path, frame in left:
            self._note(b"<", path, frame)
        self._judge.answered(
            (answered_of(path, frame) for path, frame in left if owners_of(frame) is None),
            self._clock.monotonic_ns,
        )
        for _, frame in left:
            owners = owners_of(frame)
            if owners is not None:
                self._owners = owners
                self._owners_told.set()
                self._judge.reserved(owners)
        for path, frame in left:
            self._network.to_hosts(path, frame)
        return True

    def _arrive(self, path: int, frame: bytes, is_cut: bool) -> None:
        self.pump()
        if self._ports[path] is None:
            return
        self._note(b">", path, frame)
        # No two arrivals at the same time: the kernel's stamps are told apart, too.
        self._clock.monotonic_ns += 1
        asked = asked_of(path, frame)
        if asked is not None and asked.is_whole:
            seen_ns = self._clock.monotonic_ns if self._backlog is None else None
            self._judge.asked(asked, seen_ns)
        elif asked is not None and self._backlog is None:
            self._judge.damaged(asked, self._clock.monotonic_ns)
        if self._backlog is None:
            self._deliver(path, frame, self._clock.wall_ns)
        else:
            self._backlog.append((path, frame, self._clock.wall_ns, asked))

    def _deliver(self, path: int, frame: bytes, arrival_ns: int) -> None:
        port = self._ports[path]
        if port is not None:
            link_of(port).deliver(frame, arrival_ns)

    def _hear(self, path: int, frame: bytes, is_cut: bool) -> None:
        if is_cut or owners_of(frame) is not None:
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
        chance = self._chance
        befalling = asyncio.create_task(self._befall())
        for host in self._hosts:
            host.begin()
        for host in self._hosts:
            await host.is_done.wait()
        self._is_over = True
        await befalling
        await self._reopen()
        await self._restart(power_is_cut=chance.random() < 0.5)
        await self._engine.remove_device(self._device, None)
        self._engine.close()

    async def _befall(self) -> None:
        """One thing after the other."""
        chance = self._chance
        kinds: list[Callable[[], Awaitable[None]]] = [
            self._stall, self._flap, self._reopen, self._retune, self._heal, self._set_clock,
            self._reserve,
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
        for path, frame, arrival_ns, asked in backlog or ():
            if asked is not None and asked.is_whole and arrival_ns < oldest_ns:
                self._judge.stale(asked)
                self._events["stale"] += 1
            elif asked is not None and asked.is_whole:
                self._judge.seen(asked, self._clock.monotonic_ns)
            elif asked is not None:
                self._judge.damaged(asked, self._clock.monotonic_ns)
            self._deliver(path, frame, arrival_ns)

    async def _flap(self) -> None:
        """A link goes down and comes up again."""
        self._events["flap"] += 1
        path = self._chance.randrange(PATHS)
        self._close(path)
        await asyncio.sleep(0.1 * self._chance.random())
        self._open(path)

    async def _reopen(self) -> None:
        """The device is taken off its disk and put on it again, as a reload does."""
        self._events["reopen"] += 1
        self._judge.may_refuse = True
        await self._settle()
        mark = self._judge.mark
        await self._engine.detach(self._device, None)
        self.pump()
        self._judge.dropped(mark)
        await asyncio.sleep(0.01 * self._chance.random())
        self._attach()

    async def _retune(self) -> None:
        """The administrator changes the queue's length and limits."""
        self._events["retune"] += 1
        queue_length = self._chance.choice((2, 5, 64))
        self._device.policy = Policy(queue_length, limits=self._limits())
        self._engine.refresh(self._device)

    async def _heal(self) -> None:
        """The disk recovers."""
        self._events["heal"] += 1
        self._disk.ills = Ills()

    async def _reserve(self) -> None:
        """One host locks the others out, by all its paths, and lets them in again after a while."""
        self._events["reserve"] += 1
        self._judge.may_refuse = True
        owner = self._chance.choice(self._hosts)
        for owners in (owner.macs, []):
            path = self._chance.randrange(PATHS)
            self._owners_told.clear()
            frame = reserve(_mac(path), owner.macs[path], owners)
            self._deliver(path, frame, self._clock.wall_ns)
            while self._owners != owners:
                await self._owners_told.wait()
            await asyncio.sleep(0.05 * self._chance.random())

    def _change(self, device: Device, port: Port, header: Header, frame: bytes) -> None:
        task = asyncio.create_task(self._put_in_force(device, port, header, frame))
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)

    async def _put_in_force(self, device: Device, port: Port, header: Header, frame: bytes) -> None:
        """What the server does with a change of state."""
        outcome = device.target.receive(header, frame, port.path)
        assert isinstance(outcome, Change)
        await asyncio.sleep(0.01 * self._chance.random())  # it is stored
        self._state = device.target.state = outcome.state
        self._engine.refresh(device)
        if await self._engine.fence(device):
            self._engine.send(port, outcome.frame)

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
        for path in range(PATHS):
            self._close(path)
        await self._engine.remove_device(self._device, 0)
        self._engine.close()
        await asyncio.sleep(self._chance.random())
        self._start()

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
