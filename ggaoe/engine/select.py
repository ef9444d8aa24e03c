"""Which engine is live: the compiled one where it was built, else the portable one."""

from __future__ import annotations

import os

from ggaoe.engine.base import Engine, Hooks
from ggaoe.engine.portable import PortableEngine
from ggaoe.errors import StartError

ENGINES: dict[str, type[Engine]] = {}
"""The engines that this installation has, the preferred one first."""

try:
    from ggaoe.engine.native import NativeEngine
except ImportError:
    pass
else:
    ENGINES[NativeEngine.name] = NativeEngine
ENGINES[PortableEngine.name] = PortableEngine


def live_engine(name: str = "auto") -> str:
    """The engine that `name` stands for: `auto` is the one that the environment's GGAOE_ENGINE
    names, or the best there is. Raises StartError."""
    if name == "auto":
        name = os.environ.get("GGAOE_ENGINE") or next(iter(ENGINES))
    if name not in ENGINES:
        raise StartError(
            f"engine {name} is not built in this installation: set engine = auto, "
            f"or one of: {', '.join(ENGINES)}"
        )
    return name


def create_engine(name: str, hooks: Hooks) -> Engine:
    """The engine that `name` stands for; raises StartError."""
    return ENGINES[live_engine(name)](hooks)
