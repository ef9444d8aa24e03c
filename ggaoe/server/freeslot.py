"""The first slot of a shelf that no target serves, for `ggaoe export` without a slot.

Owns where is looked: at claims and programs of this machine, and at what the network replies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ggaoe.client import Initiator
from ggaoe.errors import ClientError, StartError
from ggaoe.net.link import Interface
from ggaoe.proto.frame import SLOT_ANY
from ggaoe.server.claims import Address, is_claimed, programs

LISTEN_S = 0.3


def first_free(shelf: int, interfaces: Sequence[Interface]) -> int:
    """The slot; StartError where the shelf has none, or the network cannot be asked."""
    taken = _served_on_network(shelf, [one.name for one in interfaces if one.is_up])
    indexes = {one.index for one in interfaces}
    for one, process in programs():
        served = process.serves() if process is not None else None
        if served is not None and served[0] == shelf and one.interface in indexes:
            taken.add(served[1])
    for slot in range(SLOT_ANY):
        if slot not in taken and not any(
            is_claimed(Address(index, shelf, slot)) for index in indexes
        ):
            return slot
    raise StartError(f"shelf {shelf} has no free slot; name another --shelf")


def _served_on_network(shelf: int, names: Sequence[str]) -> set[int]:
    async def ask() -> set[int]:
        async with Initiator(names) as initiator:
            found = await initiator.discover(LISTEN_S)
        return {one.slot for one in found if one.shelf == shelf}

    if not names:
        return set()
    try:
        return asyncio.run(ask())
    except ClientError as error:
        raise StartError(f"no free slot can be looked for: {error}; name one with --slot") from None
