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
    conflicts = [conflict.text for conflict in interfaces.conflicts(export.name)]
    state, unserved, failures = export.state, None, None
    if state is State.SERVING:
        failures = failed(export.device.failures)
        if not export.device.ports and not conflicts:
            unserved = interfaces.why_unserved(export.config)
            state = State.SERVING if unserved is None else State.NO_INTERFACE
    if conflicts:
        state = State.CONFLICT
    reasons = (*conflicts, unserved, export.reason, failures)
    return Condition(state, "; ".join(filter(None, reasons)) or None)


def failed(failures: Failures) -> str | None:
    """What a backend has failed, in words; None where that is nothing."""
    if failures.last is None:
        return None
    return (
        f"{counted(failures.count, 'I/O error')}, the last {ago(failures.age_s)}: {failures.last}"
    )
