"""Standard streams that are closed, or that cannot be written any more. Must import nothing that is
slow to start."""

from __future__ import annotations

import os
import sys


def give_up() -> None:
    """Drop what is left in the buffer, which the end of the process would try to write again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def open_missing() -> None:
    """Open /dev/null for standard streams that whoever started us has closed. The next file that is
    opened, which may be a disk, would otherwise get what is printed."""
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # becomes `fd`, which is the lowest that is free
        if getattr(sys, name) is None:
            stream = os.fdopen(fd, "r" if fd == 0 else "w", closefd=False)
            setattr(sys, name, stream)
