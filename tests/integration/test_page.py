"""The status page as a browser shows it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from helpers.browser import Browser
from helpers.needs import requires_program
from integration.load import Load, running
from integration.scene import Scene, device

pytestmark = pytest.mark.one_engine

PORT = 9882
DEFAULTS = f"[defaults]\nmetrics = 127.0.0.1:{PORT}\n"
MARKUP = "<img src=x onerror=document.title='broken'>"
"""What a page that trusts names would run."""

OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture
def browser(scene: Scene) -> Iterator[Browser]:
    requires_program("chromium")
    with Browser(scene.target, scene.directory) as browser:
        yield browser


def colour_of(browser: Browser, selector: str, what: str) -> int:
    """The brightness of a colour as the browser shows it, 0 to 765."""
    script = f"getComputedStyle(document.querySelector('{selector}')).{what}.match(/\\d+/g)"
    found: list[str] = browser.run(script)
    return sum(map(int, found[:3]))


async def test_it_shows_what_goes_on(scene: Scene, browser: Browser) -> None:
    disk = scene.disk()
    scene.disk("other")
    missing = device("gone", 2, path=f"/\u202e{MARKUP}")
    with scene.serving(
        DEFAULTS, device(), device(MARKUP.replace("/", ""), 3, path="other"), missing
    ):
        async with scene.initiator() as initiator:
            load = Load(await initiator.open(0, 1), disk, workers=4)
            async with running(load):
                browser.look(1400, 900, dark=False)
                browser.open(f"http://127.0.0.1:{PORT}/")
                browser.wait_for("document.querySelectorAll('#devices article').length == 3")
        browser.wait_for("document.querySelector('#live').textContent == 'live'")
        text = browser.run("document.body.innerText")
        host = scene.host.mac("near0").hex(":")
        for word in ("disk", "e0.1", "serving", "e0.2", "waiting", "far0", host, MARKUP):
            assert word in text, word
        assert "\u202e" not in text
        assert f"/\\u{{202e}}{MARKUP}" in text
        assert browser.run("document.title") == "ggaoe"
        assert browser.run("document.querySelectorAll('img').length") == 0
        browser.wait_for("document.querySelectorAll('#devices .trace').length >= 2")

        for width in (380, 1400):
            browser.look(width, 900, dark=False)
            browser.wait_for(f"innerWidth == {width}")
            assert browser.run(OVERFLOW) == 0, f"{width} pixels are not enough"
        ground, ink = (colour_of(browser, "body", what) for what in ("backgroundColor", "color"))
        assert ground > ink + 400
        browser.look(1400, 900, dark=True)
        ground, ink = (colour_of(browser, "body", what) for what in ("backgroundColor", "color"))
        assert ink > ground + 400
    assert browser.complaints == []
    browser.wait_for("document.querySelector('#live').textContent == 'no answer'")


async def test_it_shows_who_is_slowed_down(scene: Scene, browser: Browser) -> None:
    disk = scene.disk()
    with scene.serving(DEFAULTS, device(iops_limit=200, iops_burst=1)):
        async with scene.initiator() as initiator:
            remote = await initiator.open(0, 1)
            browser.open(f"http://127.0.0.1:{PORT}/")
            heads = "document.querySelector('#hosts').innerText"
            browser.wait_for(f"{heads}.includes('Seen')")
            assert "Throttled/s" not in browser.run(heads)
            async with running(Load(remote, disk, workers=4)):
                foot = "document.querySelector('#devices .foot').innerText"
                browser.wait_for(f"/ throttled per s/.test({foot})")
                browser.wait_for(f"{heads}.includes('Throttled/s')")
    assert browser.complaints == []


def test_rates_are_those_of_the_interval(scene: Scene, browser: Browser) -> None:
    scene.disk()
    with scene.serving(DEFAULTS, device()):
        browser.open(f"http://127.0.0.1:{PORT}/")
        old = {"read_bytes": 100, "read_requests": 2, "read_latency": {"1000": 1, "2000": 1}}
        new = {"read_bytes": 4196, "read_requests": 6, "read_latency": {"1000": 1, "2000": 5}}
        found = browser.run(f"rates({json.dumps(old)}, {json.dumps(new)}, 2)")
        assert (found["read"], found["reads"], found["readTimes"]["2000"]) == (2048, 2, 4)
        assert browser.run(f"quantile({json.dumps(found['readTimes'])}, 0.5)") == 2000
        assert browser.run("rates({read_bytes: 9}, {read_bytes: 4}, 2).read") == 2
        assert browser.run("text(speed(2048))") == "2.00\u202fKiB/s"
        assert browser.run("[text(time(250e6)), text(time(null))]") == ["250\u202fms", "–"]


def test_a_machine_that_starts_anew_is_shown_again(scene: Scene, browser: Browser) -> None:
    """Its clock begins again, and so do its counters."""
    scene.disk()
    with scene.serving(DEFAULTS, device()):
        browser.open(f"http://127.0.0.1:{PORT}/")
        browser.wait_for("before !== null")
        browser.run("poll = () => {}")
        browser.run("fetch('status.json').then((a) => a.json()).then((a) => { kept = a; }), 0")
        browser.wait_for("typeof kept == 'object'")
        again = "kept.stats.monotonic_s = 1; kept.version.uptime_s = 7200; draw(kept);"
        assert "up 2 h" in browser.run(f"{again} byId('version').textContent")


def test_of_too_many_hosts_it_says_how_many(scene: Scene, browser: Browser) -> None:
    scene.disk()
    with scene.serving(DEFAULTS, device(), device("off", 2, auto=False)) as daemon:
        browser.open(f"http://127.0.0.1:{PORT}/")
        browser.wait_for("before !== null")
        cards = browser.run("byId('devices').innerText")
        assert "stopped" in cards
        assert "auto = false" in cards
        daemon.ask("set", "disk", "queue-length=7")
        browser.wait_for(
            "byId('devices-note').textContent.includes('not in the configuration file: 1')"
        )
        browser.run("poll = () => {}")
        browser.run("fetch('status.json').then((a) => a.json()).then((a) => { kept = a; }), 0")
        browser.wait_for("typeof kept == 'object'")
        host = {"last_seen_s": 0, "interface": "far0", "in_flight": 0, "read_bytes": 10**9}
        change = (
            f"kept.stats.hosts = 7000; kept.stats.monotonic_s += 1; "
            f"kept.stats.initiators.disk['02:00:00:00:00:09'] = {json.dumps(host)}; draw(kept);"
        )
        assert browser.run(f"{change} byId('hosts-note').textContent") == "1 of 7000"
        # It may have been there before, beyond those that were shown.
        assert "1.00" not in browser.run("byId('hosts').innerText")
