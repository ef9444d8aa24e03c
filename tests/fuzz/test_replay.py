"""Every input of the committed corpus, through every target that it is for."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from fuzz.run import corpus_of, names

CORPUS_BYTES_MAX = 300_000
INPUTS = [(name, path) for name in names() for path in sorted(corpus_of(name).iterdir())]


@pytest.mark.parametrize(
    ("name", "path"), INPUTS, ids=[f"{name}-{path.name}" for name, path in INPUTS]
)
def test_input_breaks_no_invariant(name: str, path: Path) -> None:
    try:
        target = import_module(f"fuzz.fuzz_{name}")
    except ImportError:
        if name != "native":
            raise
        pytest.skip("the native engine is not built")
    target.one_input(path.read_bytes())


def test_the_corpus_is_small() -> None:
    folders = {corpus_of(name) for name in names()}
    assert sum(path.stat().st_size for folder in folders for path in folder.iterdir()) < (
        CORPUS_BYTES_MAX
    )
