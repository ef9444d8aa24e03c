"""Images of ext4 file systems after a power cut, looked at from outside.

Owns: e2fsck and debugfs. Must not know: how an image came about, or what ought to be in it.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from helpers.needs import requires_program

COMMAND_TIMEOUT_S = 60.0
MAKE = "mkfs.ext4 -q -O ^metadata_csum -E lazy_itable_init=0,lazy_journal_init=0"
"""Its superblock has no checksum: ext4 takes for granted that a disk writes the two sectors of it
at once, and we tear them."""
JOURNAL_REPLAYED = (0, 1)
"""Exit statuses of e2fsck: 1 says that it has changed something, as a replay does."""


def requires_e2fsprogs() -> None:
    for program in ("mkfs.ext4", "e2fsck", "debugfs"):
        requires_program(program)


def repair(image: Path) -> None:
    """Replay the journal as a mount would; then there is nothing wrong."""
    replay, check = ["-y", "-E", "journal_only"], ["-f", "-n"]
    for options, allowed in ((replay, JOURNAL_REPLAYED), (check, (0,))):
        done = subprocess.run(
            ["e2fsck", *options, image],
            check=False,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
        )
        assert done.returncode in allowed, done.stdout + done.stderr


def look_inside(image: Path, directory: Path) -> None:
    """Copy what is in a file system to `directory`."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    subprocess.run(
        ["debugfs", "-R", f"rdump / {directory}", image],
        check=True,
        capture_output=True,
        timeout=COMMAND_TIMEOUT_S,
    )
