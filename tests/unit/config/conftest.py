"""What the configuration tests share: the problems of a text as the lines that people read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ggaoe.config import parse
from ggaoe.config.acl import Hosts
from ggaoe.errors import ConfigError

NO_INTERFACES = "no interfaces are set"

Problems = Callable[..., list[str]]


@pytest.fixture
def problems() -> Problems:
    """Function: text (and file name, hosts) → its problems without the file's name, warnings
    included; empty when the text is a configuration without any. Nearly all texts of these tests
    leave out `interfaces`, and the warning about that is left out here."""

    def found(
        text: str, source: str = "f.conf", hosts: dict[str, bytes] | None = None
    ) -> list[str]:
        try:
            known = Hosts(Path("/etc/ethers"), hosts or {})
            listed = parse(text, source, hosts=known).warnings
        except ConfigError as error:
            listed = error.problems
        listed = [problem for problem in listed if NO_INTERFACES not in problem.message]
        return [str(problem).removeprefix(source + ":") for problem in listed]

    return found
