"""State files: what hosts have set of a device, and which device has which automatic slot.

Invariant: any bytes are a state, or a ValueError that says what is wrong, which the store makes a
StateError; never another exception. A state obeys the limits of the protocol, and what is saved of
it and read again is the same.
"""

from __future__ import annotations

from contextlib import suppress

from ggaoe.config import slots
from ggaoe.server.state import decode, encode

CORPUS = "state"
MAX_BYTES = 4096
WORDS = (
    *(
        '"format": "ggaoe-state"',
        '{"format": "ggaoe-slots", "version": 1, "shelves": {"',
        '"version": 1',
        '"config_string": "',
        '"mask": [',
        '"reserved": [',
    ),
    *('"smart_enabled": true', '"smart_logs": {', "02:00:00:00:00:01", '"128": "', "00" * 64),
    *("NaN", "1e999", "null", "\\ud800", "[[[[[[[[", "99999999999999999999"),
)


def one_input(data: bytes) -> None:
    with suppress(ValueError):
        memory = slots.decode(data)
        assert slots.decode(slots.encode(memory)) == memory
    try:
        state = decode(data)
    except ValueError:
        return
    assert len(state.config_string) <= 1024
    for macs in (state.mask, state.reserved):
        assert len(macs) <= 255
        assert len(set(macs)) == len(macs)
        assert all(isinstance(mac, bytes) and len(mac) == 6 for mac in macs)
    assert all(0 <= log <= 255 and len(page) == 512 for log, page in state.smart_logs.items())
    assert decode(encode(state)) == state
