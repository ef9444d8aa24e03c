"""How a device is: the state that `ggaoectl list`, metrics and the status page show, and why.

Owns how that is put together of what the device, its interfaces and its backend say. Must not know
who shows it.
"""

from __future__ import annotations

from typing import NamedTuple

from ggaoe.engine.counters import Failures
from ggaoe.server.export import Export, State
from ggaoe.server.interfaces import Interfaces
from ggaoe.units import ago, counted


class Condition(NamedTuple):
    """A state, and what is wrong, where something is."""

    state: State
    reason: str | None


def condition_of(interfaces: Interfaces, export: Export) -> Condition:
    """That of `export`. While it serves, several things may be wrong at once."""
    if export.state is not State.SERVING:
        return Condition(export.state, export.reason)
    unserved = None if export.device.ports else interfaces.why_unserved(export.config)
    state = State.SERVING if unserved is None else State.NO_INTERFACE
    reasons = (unserved, export.reason, failed(export.device.failures))
    return Condition(state, "; ".join(filter(None, reasons)) or None)


def failed(failures: Failures) -> str | None:
    """What a backend has failed, in words; None where that is nothing."""
    if failures.last is None:
        return None
    return (
        f"{counted(failures.count, 'I/O error')}, the last {ago(failures.age_s)}: {failures.last}"
    )
