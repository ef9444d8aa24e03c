"""Looks for what keeps a daemon from serving, or from serving well, and says what to do about it.

Owns the list of the checks. They read and ask, and change nothing. Must not know how findings are
shown, nor how a daemon is reached.
"""

from __future__ import annotations

from collections.abc import Iterator

from ggaoe.server.doctor import live, network, storage, system
from ggaoe.server.doctor.base import Check, Finding, Live, Severity, Situation

__all__ = ["CHECKS", "Check", "Finding", "Live", "Severity", "Situation", "examine"]

CHECKS = (
    Check("configuration", system.configuration),
    Check("privilege", system.privilege, needs_config=False),
    Check("engine", system.engine, needs_config=False),
    Check("confinement", system.confinement, needs_config=False),
    Check("interfaces", network.interfaces),
    Check("frame memory", network.frame_memory),
    Check("asynchronous I/O", system.asynchronous_io, needs_config=False),
    Check("backing", storage.backings),
    Check("write cache", storage.write_caches),
    Check("state directory", storage.state_directory),
    Check("run files", storage.run_files),
    Check("addresses", network.duplicate_addresses),
    Check("daemon", live.daemon, needs_config=False),
)
"""In the order in which they are shown."""


def examine(situation: Situation, *, has_config: bool) -> Iterator[tuple[str, Finding]]:
    """(name of the check, finding), as they come; a check that the system hinders says so.
    Without a configuration that could be read, only what does not depend on one is examined."""
    for check in CHECKS:
        if check.needs_config and not has_config:
            continue
        try:
            for finding in check.examine(situation):
                yield check.name, finding
        except OSError as error:
            text = f"could not be examined: {error.strerror or error}"
            yield check.name, Finding("warning", str(error.filename or check.name), text)
