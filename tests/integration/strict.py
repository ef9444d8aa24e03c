"""The `ggaoe` command, confined without a way to its own code: a program, started by
test_confine.py. Whatever it would still have to import cannot be."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from ggaoe.cli.ggaoe import main
from ggaoe.server import confine
from ggaoe.server.landlock import Right

_rules = confine.rules


def _rules_of_data(limits: confine.Limits) -> Iterator[tuple[Path, Right]]:
    code = [*map(Path, sys.path), *map(Path, confine._SYSTEM_LIBRARIES)]
    for path, rights in _rules(limits):
        if not any(path.is_relative_to(place) for place in code if place.is_absolute()):
            yield path, rights


confine.rules = _rules_of_data
sys.exit(main())
