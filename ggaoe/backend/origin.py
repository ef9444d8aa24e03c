"""Where a store was opened, and whether that is still where it is.

Owns what tells one file or block device from another. Must not know how either is opened or used.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path


class Place(Enum):
    """What is to be found now where a store was opened."""

    SAME = "the same"
    NOTHING = "nothing"
    ANOTHER = "another"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a store was opened, and what was there: a block device by its number, so that its node
    may be made anew, and a file by its inode."""

    path: Path
    is_block: bool
    number: tuple[int, int]

    def is_at(self, path: Path) -> bool:
        """Return whether `path` is another name of the same store. Blocks."""
        return replace(self, path=path).look() is Place.SAME

    def look(self) -> Place:
        """What is there now; blocks. What cannot be seen counts as the same."""
        try:
            status = self.path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return Place.NOTHING
        except OSError:
            return Place.SAME
        return Place.SAME if origin_of(self.path, status) == self else Place.ANOTHER


def origin_of(path: Path, status: os.stat_result) -> Origin:
    """That of what is at `path` and has `status`."""
    if stat.S_ISBLK(status.st_mode):
        return Origin(path, True, (status.st_rdev, 0))
    return Origin(path, False, (status.st_dev, status.st_ino))
