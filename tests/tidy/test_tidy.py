"""Style is executable: formatting, types, import direction, sizes, and what must not appear."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "ggaoe"
SOURCES = sorted(PACKAGE.rglob("*.py"))
FUNCTION_LINES_MAX = 70

LAYERS = [
    {"__init__", "errors", "events", "files", "parts", "units"},
    {"proto"},
    {"sched"},
    {"config"},
    {"backend", "net", "importer"},
    {"engine", "client"},
    {"server"},
    {"cli"},
]
"""A module imports from its own layer and from those before it; two folders of one layer do not
know each other. `testing` may know everything below `server`."""


def _run(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _needs(module: str) -> None:
    if find_spec(module) is None:
        pytest.skip(f"{module} is not installed")


def test_ruff_finds_nothing() -> None:
    _needs("ruff")
    _run("ruff", "check", "--quiet", ".")


def test_everything_is_formatted() -> None:
    _needs("ruff")
    _run("ruff", "format", "--check", "--quiet", ".")


def test_types() -> None:
    _needs("mypy")
    _run("mypy")
    # Scripts that no test runs break unseen when what they call changes.
    scripts = [str(path) for path in sorted((ROOT / "packaging").rglob("*.py"))]
    _run("mypy", "--explicit-package-bases", *scripts)


def _folder(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def _imports(path: Path) -> Iterator[str]:
    """The project's modules that `path` imports at run time."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("ggaoe"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ggaoe"):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _rank(folder: str) -> int:
    return next(index for index, layer in enumerate(LAYERS) if folder in layer)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    for module in _imports(path):
        other = _folder(module)
        if not (PACKAGE / other).is_dir() and not (PACKAGE / f"{other}.py").is_file():
            other = "__init__"
        if own == "testing":
            assert other == "testing" or _rank(other) < _rank("server"), module
        elif other != own:
            assert other != "testing", module
            assert _rank(other) < _rank(own), f"{path}: {module} is not below {own}"


@pytest.mark.parametrize(
    ("module", "banned"),
    [
        ("ggaoe.cli.ggaoectl", ("asyncio", "uvloop", "ggaoe.server", "ggaoe.engine")),
        ("ggaoe.proto.target", ("asyncio", "socket", "uvloop")),
        ("ggaoe.sched.queue", ("asyncio", "socket", "uvloop")),
        ("ggaoe.config", ("asyncio", "uvloop", "aiofiles")),
    ],
)
def test_modules_stay_light(module: str, banned: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print([m for m in {banned!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_functions_fit_on_a_screen(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            lines = node.end_lineno - node.lineno + 1
            assert lines <= FUNCTION_LINES_MAX, f"{node.name}: {lines} lines"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


BY_PATH = {"chmod", "chown", "lchmod", "lchown"}
"""Calls that change the mode or owner of whatever is at a path by then."""


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_mode_or_owner_is_changed_by_path(path: Path) -> None:
    """`files.give` is the exception, by a handle. Everything else has descriptors."""
    found = [
        f"{function.name}: {node.attr}"
        for function in ast.walk(ast.parse(path.read_text()))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Attribute) and node.attr in BY_PATH
    ]
    assert found == (["give: chown"] if path == PACKAGE / "files.py" else [])


def test_no_markers_of_unfinished_work() -> None:
    marker = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    found = [str(path) for path in SOURCES if marker.search(path.read_text())]
    assert not found


NOUNS = (
    "address|block|byte|device|directive|entri|event|frame|host|interface|line|request|rule|word"
)


def test_counts_of_things_know_the_singular() -> None:
    """`counted` does. A plural behind a number that may be one is a mistake."""
    plural = re.compile(rf"(%d|len\([^)]*\)\}}) (more )?({NOUNS})e?s\b")
    found = [
        f"{path}:{number}: {line.strip()}"
        for path in SOURCES
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if plural.search(line)
    ]
    assert not found
