"""Exceptions, typed by who is at fault: operator, environment or control client.

Peers have no exception: whatever arrives in a frame becomes a reply, a drop or a counter.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import asyncio


class GgaoeError(Exception):
    """Base of every error that is shown to a person as one line, without a traceback."""


class Problem(NamedTuple):
    """One finding in a configuration file; `line` and `column` count from 1, 0 means unknown."""

    file: str
    line: int
    column: int
    message: str
    warning: bool = False

    def __str__(self) -> str:
        kind = "warning: " if self.warning else ""
        if self.line == 0:
            return f"{self.file}: {kind}{self.message}"
        column = f":{self.column}" if self.column else ""
        return f"{self.file}:{self.line}{column}: {kind}{self.message}"


class ConfigError(GgaoeError):
    """The configuration cannot be used; carries every problem found, not only the first."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class StartError(GgaoeError):
    """The daemon cannot start: missing privilege, used socket, unknown interface."""


class BackendError(GgaoeError):
    """A backing store cannot be opened or used now; the text says why and what to do."""


class StateError(GgaoeError):
    """Saved protocol state (config string, masks, reservation) cannot be read or written."""


class ControlError(GgaoeError):
    """A control request is refused; `code` is the JSON-RPC error code."""

    def __init__(self, code: int, message: str, data: object = None) -> None:
        self.code = code
        self.data = data
        super().__init__(message)


class ClientError(GgaoeError):
    """The user-space initiator failed: no answer, refused, or an ATA error."""


def attempt(call: Callable[..., object], *arguments: object) -> bool:
    """Call one of several that are due in the event loop: if it raises, report that to the loop's
    exception handler and return False, so that the others are called all the same."""
    try:
        call(*arguments)
    except Exception as error:
        from asyncio import get_running_loop  # heavy, where nothing else needs it

        text = f"{getattr(call, '__qualname__', call)} failed"
        get_running_loop().call_exception_handler({"message": text, "exception": error})
        return False
    return True


def report_end(task: asyncio.Task[Any]) -> None:
    """Report what a task that nobody awaits has raised to the exception handler of its loop."""
    if not task.cancelled() and (error := task.exception()) is not None:
        text = f"{task.get_name()} failed"
        task.get_loop().call_exception_handler({"message": text, "exception": error})


def needed(feature: str, error: ImportError) -> str:
    """What to tell where `feature` lacks a package of Python's."""
    package = (error.name or "").partition(".")[0].replace("_", "-")
    return f"{feature} needs the Python package {package}: pip install {package}"


def limit_reached(error: BaseException) -> str | None:
    """Return which limit of the system `error` is about, and how to raise it; None for anything
    else."""
    number = error.errno if isinstance(error, OSError) else 0
    if number in (errno.EMFILE, errno.ENFILE):
        return "too many open files: raise their limit (ulimit -n, LimitNOFILE= in a unit)"
    # Python's own error of a thread that cannot be started has no type and no number.
    if number == errno.EAGAIN or str(error) == "can't start new thread":
        return "too many processes or threads: raise their limit (ulimit -u, TasksMax= in a unit)"
    return None
