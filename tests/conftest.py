"""Every async test runs on asyncio and on uvloop, where that is installed; a test that chooses the
engine by itself is done when it has run on each."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Mapping

import hypothesis
import pytest

try:
    import uvloop
except ImportError:
    uvloop = None

# Tests start hundreds of processes: each would compile all that it imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# How long an example takes is a matter of the machine.
hypothesis.settings.register_profile("ggaoe", deadline=None, print_blob=True)
hypothesis.settings.load_profile("ggaoe")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
        "asyncio": asyncio.new_event_loop
    }
    if uvloop is not None:
        factories["uvloop"] = uvloop.new_event_loop
    return factories


def pytest_itemcollected(item: pytest.Item) -> None:
    fixtures = getattr(item, "fixturenames", ())
    if "engine" in fixtures:
        item.add_marker(pytest.mark.one_engine)
    if "images" in fixtures:
        item.add_marker(pytest.mark.xdist_group("guest"))  # one virtual machine at a time
        item.add_marker(pytest.mark.flaky(reruns=2, only_rerun=["GuestHungError"]))
