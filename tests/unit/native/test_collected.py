"""The cyclic collector runs in whichever thread makes garbage: a worker's, too."""

from __future__ import annotations

import faulthandler
import sys
import threading

import pytest

from helpers.needs import sanitizer

core = pytest.importorskip("ggaoe.engine.native.core", reason="the native engine is not built")

TIMEOUT_S = 60
ROUNDS = 2_000 if sanitizer() else 20_000


def test_a_device_that_another_thread_collects_stops_nobody() -> None:
    # Who waits for the engine's lock with the GIL stops all threads: nobody is left to fail.
    faulthandler.dump_traceback_later(TIMEOUT_S, exit=True, file=sys.__stderr__)
    engine = core.Core(10**9, False)
    engine.start()
    device = core.CoreDevice(engine)
    is_over = threading.Event()

    def collect() -> None:
        while not is_over.is_set():
            core.CoreDevice(engine)

    thread = threading.Thread(target=collect)
    thread.start()
    try:
        for _ in range(ROUNDS):
            engine.kick()  # so that the lock is often the leader's when it is wanted here
            assert device.load == (0, 0)
    finally:
        is_over.set()
        thread.join()
        engine.close()
        faulthandler.cancel_dump_traceback_later()
