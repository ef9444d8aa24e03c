"""Every async test runs on asyncio and on uvloop, where that is installed; properties hold however
slow the machine is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import hypothesis
import pytest

try:
    import uvloop
except ImportError:
    uvloop = None

hypothesis.settings.register_profile("ggaoe", deadline=None)
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
