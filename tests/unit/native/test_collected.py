"""The cyclic collector runs in whichever thread makes garbage: a worker's, too."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("ggaoe.engine.native.core", reason="the native engine is not built")

TIMEOUT_S = 60
COLLECTING = """
import threading
from ggaoe.engine.native.core import Core, CoreDevice

core = Core(10**9, False)
device = CoreDevice(core)
is_over = threading.Event()

def collect():
    while not is_over.is_set():
        CoreDevice(core)

thread = threading.Thread(target=collect)
thread.start()
for _ in range(20000):
    device.load
is_over.set()
thread.join()
"""


def test_a_device_that_another_thread_collects_stops_nobody() -> None:
    subprocess.run([sys.executable, "-c", COLLECTING], timeout=TIMEOUT_S, check=True)
