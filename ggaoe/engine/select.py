"""Which engine is live: the compiled one where it was built, else the portable one."""

from __future__ import annotations

from ggaoe.engine.base import Engine, Hooks
from ggaoe.engine.portable import PortableEngine
from ggaoe.errors import StartError

ENGINES: dict[str, type[Engine]] = {PortableEngine.name: PortableEngine}
"""The engines that this installation has, the preferred one first."""


def create_engine(name: str, hooks: Hooks) -> Engine:
    """The engine called `name`, or the best there is for `auto`; raises StartError."""
    if name == "auto":
        name = next(iter(ENGINES))
    if name not in ENGINES:
        raise StartError(
            f"engine {name} is not built in this installation: set engine = auto, "
            f"or one of: {', '.join(ENGINES)}"
        )
    return ENGINES[name](hooks)
