"""The initiator: its ports, discovery, and which device a reply belongs to."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType

from ggaoe.client.device import RemoteDevice
from ggaoe.client.errors import NoAnswerError
from ggaoe.client.port import Port
from ggaoe.client.window import Timing
from ggaoe.errors import ClientError
from ggaoe.net.filters import Role
from ggaoe.net.link import Frame, Interface
from ggaoe.net.netlink import list_interfaces
from ggaoe.net.plain import PlainLink
from ggaoe.proto import query
from ggaoe.proto.frame import (
    BROADCAST,
    CONFIG_HEADER_BYTES,
    SHELF_ANY,
    SLOT_ANY,
    Command,
    Header,
    pack_request,
    padded,
    unpack_header,
)

DISCOVERY_TIMEOUT_S = 1.0
DISCOVERY_INTERVAL_S = 0.3
"""Queries are repeated, since a broadcast may be lost."""
FOUND_MAX = 1 << 16
"""Answers of one discovery; a segment has thousands of devices, but anybody can make up more."""
USER_SPACE_TAG = 1 << 31
"""Set in our tags: the kernel's initiator on the same interface ignores such replies."""
TAGS = USER_SPACE_TAG - 1
DISCOVERY_TAG = USER_SPACE_TAG


@dataclass(frozen=True, slots=True, order=True)
class Found:
    """A target that answered a config query on one interface."""

    shelf: int
    slot: int
    interface: str
    mac: bytes
    buffer_count: int
    """Requests that it is willing to hold."""
    firmware: int
    sectors: int
    """Most sectors in one frame; 0 means two."""
    config_string: bytes


class Initiator:
    """An AoE initiator on `interfaces` (names; None: all that are up, but for loopback).

    An asynchronous context manager. The packet sockets are opened at once, in the network namespace
    of the caller; ClientError where that fails. Needs CAP_NET_RAW.
    """

    def __init__(
        self, interfaces: Sequence[str] | None = None, timing: Timing | None = None
    ) -> None:
        self._timing = timing or Timing()
        self._ports: list[Port] = []
        self._devices: dict[tuple[int, int], RemoteDevice] = {}
        self._listeners: set[Callable[[Port, Header, query.ConfigArgument], None]] = set()
        self._tags = itertools.count(random.randrange(TAGS))
        try:
            for interface in _select(interfaces):
                self._ports.append(Port(_open(interface), self._on_frame))
        except BaseException:
            self.close()
            raise

    @property
    def interfaces(self) -> list[str]:
        """Names of the interfaces in use."""
        return [port.link.name for port in self._ports]

    async def __aenter__(self) -> Initiator:
        loop = asyncio.get_running_loop()
        for port in self._ports:
            port.start(loop)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Idempotent; requests under way fail."""
        for device in self._devices.values():
            device.close()
        for port in self._ports:
            port.close()

    async def discover(
        self,
        timeout_s: float = DISCOVERY_TIMEOUT_S,
        shelf: int = SHELF_ANY,
        slot: int = SLOT_ANY,
        ccmd: int = query.Ccmd.READ,
        text: bytes = b"",
    ) -> list[Found]:
        """Everybody who answers within `timeout_s`, in order of address; a target that answers on
        two interfaces is found twice. With a test as `ccmd`, those whose config string matches
        `text`."""
        found: dict[tuple[int, int, str, bytes], Found] = {}

        def on_config(port: Port, header: Header, config: query.ConfigArgument) -> None:
            key = (header.shelf, header.slot, port.link.name, header.source)
            is_asked = shelf in (SHELF_ANY, header.shelf) and slot in (SLOT_ANY, header.slot)
            # Advertisements, and answers to others, are of use to a READ only.
            is_answer = is_asked and ccmd in (query.Ccmd.READ, config.ccmd)
            if is_answer and (key in found or len(found) < FOUND_MAX):
                found[key] = Found(
                    *key, config.buffer_count, config.firmware, config.sectors, config.text
                )

        self._listeners.add(on_config)
        try:
            async with asyncio.timeout(timeout_s):
                await self._keep_asking(shelf, slot, query.pack_config(ccmd, text))
        except TimeoutError:
            pass
        finally:
            self._listeners.discard(on_config)
        return sorted(found.values())

    async def open(
        self,
        shelf: int,
        slot: int,
        timeout_s: float | None = None,
        *,
        multipath: bool = False,
    ) -> RemoteDevice:
        """The device at `shelf`.`slot` as soon as it has answered, the same one for all who ask;
        NoAnswerError if it does not within `timeout_s` (None: the timing's deadline).

        With `multipath`, every further interface and MAC that answers for this address is used,
        too: right only where all of them lead to the same disk.
        """
        address = (shelf, slot)
        device = self._devices.get(address)
        if device is not None and device.paths and not device.is_closed:
            return device
        if device is None or device.is_closed:
            loop = asyncio.get_running_loop()
            device = RemoteDevice(
                shelf, slot, loop, self._next_tag, self._timing, is_multipath=multipath
            )
            self._devices[address] = device
        answered = asyncio.Event()

        def on_config(_: Port, header: Header, __: query.ConfigArgument) -> None:
            if (header.shelf, header.slot) == address:
                answered.set()

        self._listeners.add(on_config)
        asking = asyncio.create_task(self._keep_asking(shelf, slot))
        limit_s = self._timing.deadline_s if timeout_s is None else timeout_s
        try:
            async with asyncio.timeout(limit_s):
                await answered.wait()
        except TimeoutError:
            self._devices.pop(address, None)
            device.close()
            tried = ", ".join(self.interfaces)
            raise NoAnswerError(
                f"{device.name} does not answer: asked for {limit_s:g} s on {tried}"
            ) from None
        finally:
            self._listeners.discard(on_config)
            asking.cancel()
        return device

    async def _keep_asking(
        self, shelf: int, slot: int, argument: bytes = query.pack_config(query.Ccmd.READ)
    ) -> None:
        while True:
            for port in self._ports:
                head = pack_request(
                    BROADCAST, port.link.mac, shelf, slot, Command.CONFIG, DISCOVERY_TAG
                )
                port.send([[padded(head + argument)]])
            await asyncio.sleep(DISCOVERY_INTERVAL_S)

    def _next_tag(self) -> int:
        return USER_SPACE_TAG | next(self._tags) % TAGS + 1

    def _on_frame(self, port: Port, frame: Frame) -> None:
        header = unpack_header(frame.head)
        if header is None or not header.is_response:
            return
        device = self._devices.get((header.shelf, header.slot))
        if header.command == Command.CONFIG and not header.is_error:
            config = None
            if len(frame) >= CONFIG_HEADER_BYTES:
                config = query.unpack_config(bytes(frame))
            if config is not None:
                if device is not None:
                    device.learn_path(port, header.source, config)
                for listener in list(self._listeners):
                    listener(port, header, config)
        # Linux's own requests and advertisements have tags without our bit.
        if device is not None and header.tag > DISCOVERY_TAG:
            device.receive(header, frame)


def _select(names: Sequence[str] | None) -> list[Interface]:
    known = {interface.name: interface for interface in list_interfaces()}
    if names is None:
        chosen = [
            interface
            for interface in known.values()
            if interface.is_up and interface.is_ethernet and not interface.is_loopback
        ]
        if not chosen:
            raise ClientError("no Ethernet interface is up: name one, or bring one up")
        return chosen
    for name in names:
        if name not in known:
            raise ClientError(f"no interface {name}: there are {', '.join(sorted(known))}")
        if not known[name].is_ethernet:
            raise ClientError(f"{name} is no Ethernet interface, and AoE needs one: name another")
        if not known[name].is_up:
            raise ClientError(f"interface {name} is down: ip link set {name} up")
    return [known[name] for name in dict.fromkeys(names)]


def _open(interface: Interface) -> PlainLink:
    try:
        return PlainLink(interface, role=Role.INITIATOR)
    except PermissionError:
        raise ClientError(
            f"no packet socket on {interface.name}: run it as root or with CAP_NET_RAW"
        ) from None
    except OSError as error:
        raise ClientError(f"no packet socket on {interface.name}: {error.strerror}") from None
