"""What is collected of the log, and who gets it."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator

import pytest

from ggaoe.events import Event, about
from ggaoe.server import events
from ggaoe.server.events import Events

DEADLINE_S = 20.0
_log = logging.getLogger("ggaoe.test")


@pytest.fixture
async def collected() -> AsyncIterator[Events]:
    made = Events()
    yield made
    made.close()


async def test_records_that_are_events_are_remembered(collected: Events) -> None:
    _log.warning("no event")
    _log.warning("%s: waiting", "disk", extra=about(Event.DEVICE_WAITING, device="disk"))
    await asyncio.sleep(0)
    (event,) = collected.recent()
    assert event.pop("time_s")
    assert event == {
        "event": "device-waiting",
        "level": "warning",
        "device": "disk",
        "text": "disk: waiting",
    }


async def test_a_follower_gets_what_was_and_what_comes(collected: Events) -> None:
    _log.warning("0", extra=about(Event.STARTED))
    await asyncio.sleep(0)
    following = collected.follow()
    texts = []
    async with asyncio.timeout(DEADLINE_S):
        texts.append((await anext(following))["text"])
        thread = threading.Thread(
            target=_log.warning, args=("1",), kwargs={"extra": about(Event.RELOADED)}
        )
        thread.start()
        texts.append((await anext(following))["text"])
    thread.join()
    assert texts == ["0", "1"]
    await following.aclose()


async def test_a_slow_follower_loses_the_newest_and_learns_how_many(
    collected: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "BEHIND_MAX", 2)
    following = collected.follow()
    for number in range(2):
        _log.warning("%d", number, extra=about(Event.STARTED))
    await asyncio.sleep(0)
    async with asyncio.timeout(DEADLINE_S):
        assert (await anext(following))["text"] == "0"
        for number in range(2, 6):
            _log.warning("%d", number, extra=about(Event.STARTED))
        await asyncio.sleep(0)
        assert [(await anext(following)).get("text") for _ in range(2)] == ["1", "2"]
        _log.warning("6", extra=about(Event.STARTED))
        await asyncio.sleep(0)
        assert await anext(following) == {"event": "lost", "count": 3}
        assert (await anext(following))["text"] == "6"
    await following.aclose()


async def test_nothing_is_collected_after_close() -> None:
    made = Events()
    made.close()
    _log.warning("x", extra=about(Event.STARTED))
    await asyncio.sleep(0)
    assert made.recent() == []
