"""What the tests of imports share: the command as an operator runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from ggaoe.cli.ggaoe import main
from ggaoe.config import Config, load

ONE, TWO = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")


@dataclass(frozen=True)
class Result:
    """How `ggaoe import` ended: what it wrote, and its lines on stderr."""

    status: int
    text: str
    lines: list[str]
    file: Path

    @property
    def config(self) -> Config:
        """What was written, as the daemon reads it."""
        return load(self.file)

    def told(self, *words: str) -> bool:
        """Whether one line has all of these words."""
        return any(all(word in line for word in words) for line in self.lines)


Import = Callable[..., Result]


@pytest.fixture
def imports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Import:
    """Function: arguments of `ggaoe import` → its result, which is a valid file."""

    def run(program: str, source: Path, *options: str) -> Result:
        output = tmp_path / ("ours.toml" if "--toml" in options else "ours.conf")
        if "-o" in options:
            output = Path(options[options.index("-o") + 1])
        output.unlink(missing_ok=True)
        status = main(["import", program, str(source), "-o", str(output), *options])
        captured = capsys.readouterr()
        assert captured.out == ""
        if status == 0:
            known = {line.replace(str(source), str(output)) for line in captured.err.splitlines()}
            assert {str(warning) for warning in load(output).warnings} <= known
        text = output.read_text() if output.exists() else ""
        return Result(status, text, captured.err.splitlines(), output)

    return run
