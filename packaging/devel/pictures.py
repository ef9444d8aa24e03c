"""Makes the pictures of the documentation: a daemon with some devices and hosts, under load.

`PYTHONPATH=.:tests python packaging/devel/pictures.py DIRECTORY`, as root, with Chromium. Writes
the status page, wide and narrow, light and dark, as PNG, and ggaoectl top as top.svg.
"""

from __future__ import annotations

import asyncio
import io
import json
import random
import re
import sys
import tempfile
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

from rich.console import Console

from ggaoe.cli import top
from ggaoe.client import Initiator, RemoteDevice
from helpers.browser import Browser
from helpers.netns import Namespace, bridge, veth
from integration.scene import Daemon, Scene, device

SIZE_BYTES = 2 << 30
HOSTS = 3
COLUMNS = 112
LINES = 40
SETTLE_S = 125.0
DEFAULTS = "[defaults]\ninterfaces = san*\nmetrics = 127.0.0.1:9882\n"
DEVICES = (
    device("mail", 0, shelf=1, path="/srv/mail"),
    device("database", 1, shelf=1, path="/srv/database"),
    device("backup", 2, shelf=1, path="/dev/disk/by-label/backup"),
)


async def work(remote: RemoteDevice, share: float, sectors: int, pause_s: float) -> None:
    """Reads and writes, in swells."""
    rng = random.Random(7)
    loop = asyncio.get_running_loop()
    while True:
        swell = (
            1.3 + rng.random() * 0.6 - 0.9 * (loop.time() % 37 < 14) + 0.4 * (loop.time() % 11 < 4)
        )
        at = rng.randrange(SIZE_BYTES // 512 - sectors)
        if rng.random() < share:
            await remote.read(at, sectors)
        else:
            await remote.write(at, rng.randbytes(sectors * 512))
        await asyncio.sleep(pause_s * swell * rng.random())


async def show(scene: Scene, daemon: Daemon, hosts: list[Namespace], directory: Path) -> None:
    async with AsyncExitStack() as stack:
        tasks = []
        for number, host in enumerate(hosts):
            with host.entered():
                initiator = await stack.enter_async_context(Initiator(["eth0"]))
            for slot, share, sectors, pause_s in ((0, 0.8, 16, 0.004), (1, 0.45, 64, 0.02)):
                if number != 2 or slot == 1:
                    remote = await initiator.open(1, slot)
                    tasks += [
                        asyncio.create_task(work(remote, share, sectors, pause_s)) for _ in range(3)
                    ]
        await asyncio.to_thread(draw, scene, daemon, directory)
        await asyncio.to_thread(draw_top, daemon, directory / "top.svg")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def draw(scene: Scene, daemon: Daemon, directory: Path) -> None:
    with Browser(scene.target, scene.directory) as browser:
        browser.look(1400, 900, dark=False)
        browser.open("http://127.0.0.1:9882/")
        browser.wait_for(f"performance.now() > {SETTLE_S * 1000:.0f}", 2 * SETTLE_S)
        for name, width, height, dark in (
            ("page-light", 1400, 1010, False),
            ("page-dark", 1400, 1010, True),
            ("page-narrow-light", 380, 1500, False),
            ("page-narrow-dark", 380, 1500, True),
        ):
            browser.look(width, height, dark=dark)
            browser.wait_for(f"innerWidth == {width}")
            browser.screenshot(directory / f"{name}.png")
        assert not browser.complaints, browser.complaints


def draw_top(daemon: Daemon, file: Path) -> None:
    found = json.loads(daemon.ctl("--json", "top", "2", "--count", "1").stdout)
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), color_system="truecolor")
    console.print(top.view(found, COLUMNS, LINES))
    svg = console.export_svg(title="ggaoectl top")
    # Fonts of somebody else's site: any monospaced one will do.
    file.write_text(re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL))


def main() -> None:
    directory = Path(sys.argv[1])
    with ExitStack() as stack:
        target = stack.enter_context(Namespace())
        hosts = [stack.enter_context(Namespace()) for _ in range(HOSTS)]
        switch = stack.enter_context(Namespace())
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for index, name in enumerate(("san0", "san1")):
            ports = [f"t{index}", *(f"h{index}{n}" for n in range(HOSTS))]
            veth(target, name, switch, ports[0], 9000)
            for number, host in enumerate(hosts):
                veth(host, f"eth{index}", switch, ports[1 + number], 9000)
            bridge(switch, f"br{index}", ports, 9000)
        scene = Scene(hosts[0], target, scratch)
        for name in ("mail", "database"):
            scene.disk(name, SIZE_BYTES)
        target.run("mount", "--bind", scratch, "/srv")
        daemon = scene.daemon(DEFAULTS, *DEVICES)
        daemon.start()
        asyncio.run(show(scene, daemon, hosts, directory))
        assert daemon.stop() == 0


if __name__ == "__main__":
    main()
