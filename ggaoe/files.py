"""Files that are replaced as a whole, so that a power cut leaves the old one or the new one.

Owns the last step only; who writes the new file has to fsync it before.
"""

from __future__ import annotations

import os
from pathlib import Path


def put_in_place(new: Path, path: Path) -> None:
    """Rename `new` to `path`, in the same directory, durably (rename(2), fsync(2)); OSError."""
    new.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
