"""What can happen that somebody should hear of: the kinds of events, which are log lines that
programs can tell from others.

A record that is logged with `extra=about(…)` goes to the log as text, to the journal with fields,
and to those who follow `ggaoectl events`.
"""

from __future__ import annotations

from enum import StrEnum


class Event(StrEnum):
    """Kinds; the values are part of the control protocol."""

    STARTED = "started"
    STOPPING = "stopping"
    RELOADED = "reloaded"
    RELOAD_REFUSED = "reload-refused"
    DEVICE_SERVING = "device-serving"
    DEVICE_WAITING = "device-waiting"
    DEVICE_STOPPED = "device-stopped"
    DEVICE_RESIZED = "device-resized"
    DEVICE_FAILED = "device-failed"
    """A store has failed a request or a flush."""
    DEVICE_UNSERVED = "device-unserved"
    """Another device has its address on an interface, or no interface serves it."""
    INTERFACE_SERVING = "interface-serving"
    INTERFACE_CLOSED = "interface-closed"
    INTERFACE_REFUSED = "interface-refused"
    HOST_SEEN = "host-seen"
    HOST_REFUSED = "host-refused"
    RATE_LIMITED = "rate-limited"
    CONFLICT = "conflict"
    """Another target answers for an address of ours."""
    CONFLICT_ENDED = "conflict-ended"
    FOREIGN_TARGET = "foreign-target"
    """Another program of this machine receives AoE on an interface that is served."""


FIELDS = ("device", "interface", "peer")


def about(event: Event, *, device: str = "", interface: str = "", peer: str = "") -> dict[str, str]:
    """The extra fields of a record: `device` and `interface` by name, `peer` as a MAC address."""
    return {"event": event.value, "device": device, "interface": interface, "peer": peer}
