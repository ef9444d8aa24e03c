"""The file that a copy writes, on file systems that lack something."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from helpers.needs import requires_program
from helpers.targets import REPOSITORY

_WRITE = """
import sys
from ggaoe.cli.image import OutputFile
output = OutputFile(sys.argv[1], force=False, resume=False)
output.write(b"data")
output.finish()
"""


@pytest.mark.parametrize("error", ["ENOLCK", "EOPNOTSUPP", "ENOSYS"])
def test_an_image_where_there_are_no_locks(tmp_path: Path, error: str) -> None:
    """As on NFS without its lock service, or on a file system of FUSE."""
    requires_program("strace")
    refusing = ("strace", "-f", "-qq", "-o", "/dev/null", "-e", f"inject=flock:error={error}")
    image = tmp_path / "image"
    command = (*refusing, sys.executable, "-c", _WRITE, image)
    subprocess.run(command, check=True, cwd=REPOSITORY)
    assert image.read_bytes() == b"data"
    assert list(tmp_path.iterdir()) == [image]
