"""How long a torture test may take: a moment in every test run, hours when somebody asks for it.

`GGAOE_TORTURE=SECONDS` in the environment is the time of each torture test.
"""

from __future__ import annotations

import os
import random
import time

OVERHEAD_S = 300.0
"""What starting, judging and ending may add to a test's time before it counts as hung."""


def torture_s(default_s: float) -> float:
    """Seconds that a test spends on what it repeats."""
    return float(os.environ.get("GGAOE_TORTURE") or default_s)


def deadline_s(default_s: float) -> float:
    """When that time will be over, by time.monotonic."""
    return time.monotonic() + torture_s(default_s)


def seeded() -> random.Random:
    """A source of randomness whose seed is printed; `GGAOE_TORTURE_SEED` repeats one."""
    seed = int(os.environ.get("GGAOE_TORTURE_SEED") or random.randrange(1 << 32))
    print(f"seed {seed}")
    return random.Random(seed)
