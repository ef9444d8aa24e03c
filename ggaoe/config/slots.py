"""Automatic slot numbers: which device has which, and what is remembered of it.

Owns the choice and the form of the file. Knows no option. A number that a device has had is taken
by nobody else while any other is free: a host that still uses it would find another disk there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from ggaoe.files import decode_record, encode_record

FILE_NAME = "slots.map"
"""In the state directory; no device's state has this ending."""
FILE_BYTES_MAX = 16 << 20
FORMAT = "ggaoe-slots"
FORMAT_VERSION = 1
SHELF_MAX = 65534
SLOT_MAX = 254

Memory = Mapping[int, Mapping[str, int]]
"""Shelf → name of the device → slot; first those that are gone, in the order in which they went. A
further slot that a device has had, since it was explicit, is that of `NAME/SLOT`, which is no name.
"""


class Numbers(NamedTuple):
    """What was chosen for one shelf."""

    slots: dict[str, int]
    """Of the devices that wanted one, unless none was left."""
    memory: dict[str, int]
    reused: dict[str, str]
    """Device → the one that is gone and had its number."""


def choose(
    remembered: Mapping[str, int], wanting: Iterable[str], explicit: Mapping[str, int]
) -> Numbers:
    """A slot for each device in `wanting`, all of one shelf: the one that is remembered, otherwise
    the lowest that is neither `explicit` nor remembered, otherwise of those that are gone the one
    that went first. Those of `explicit` devices are remembered, too."""
    names = list(dict.fromkeys(wanting))
    given = set(explicit.values())
    gone = {
        name: slot for name, slot in remembered.items() if name not in names and slot not in given
    }
    slots = {name: remembered[name] for name in names if name in remembered}
    taken = given | set(slots.values())
    free = [slot for slot in range(SLOT_MAX + 1) if slot not in taken | set(gone.values())]
    reused = {}
    for name in names:
        if name in slots:
            continue
        if free:
            slots[name] = free.pop(0)
            continue
        if not gone:
            break
        former = next(iter(gone))
        slots[name] = gone.pop(former)
        reused[name] = former.partition("/")[0]
    present = {name: slots[name] for name in names if name in slots}
    for name, slot in explicit.items():
        if slot not in present.values():
            present[name if remembered.get(name, slot) == slot else f"{name}/{slot}"] = slot
    return Numbers(slots, gone | present, reused)


def read(directory: Path) -> Memory:
    """What the state directory remembers, nothing where there is no file. Raises OSError, and
    ValueError with what is wrong."""
    try:
        with (directory / FILE_NAME).open("rb") as file:
            return decode(file.read(FILE_BYTES_MAX))
    except FileNotFoundError:
        return {}


def encode(memory: Memory) -> bytes:
    """The file's content."""
    shelves = {str(shelf): dict(slots) for shelf, slots in sorted(memory.items())}
    return encode_record(FORMAT, FORMAT_VERSION, {"shelves": shelves})


def decode(content: bytes) -> Memory:
    """The memory in a file's content; raises ValueError with what is wrong."""
    shelves = decode_record(content, FORMAT, FORMAT_VERSION).get("shelves")
    if not isinstance(shelves, dict):
        raise ValueError("shelves is no object")
    return {_shelf(key): _slots(key, slots) for key, slots in shelves.items()}


def _shelf(key: str) -> int:
    if not re.fullmatch(r"0|[1-9][0-9]{0,4}", key) or int(key) > SHELF_MAX:
        raise ValueError(f"{key!r} is no shelf")
    return int(key)


def _slots(shelf: str, slots: object) -> dict[str, int]:
    if not isinstance(slots, dict):
        raise ValueError(f"shelf {shelf} is no object")
    for name, slot in slots.items():
        if type(slot) is not int or not 0 <= slot <= SLOT_MAX:
            raise ValueError(f"the slot of {name!r} is none")
    if len(set(slots.values())) < len(slots):
        raise ValueError(f"shelf {shelf} has a slot twice")
    return slots
