"""Loop devices. Each is taken away when its context ends."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from helpers.needs import requires_program, requires_root
from helpers.netns import Namespace


def losetup(*argv: str | Path, namespace: Namespace | None = None) -> str:
    """What `losetup ARGV` prints, as `namespace` sees files. CalledProcessError if it fails."""
    if namespace is not None:
        return namespace.run("losetup", *argv).strip()
    done = subprocess.run(["losetup", *argv], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@contextmanager
def loop_device(backing: Path, *options: str, namespace: Namespace | None = None) -> Iterator[Path]:
    """A block device that is the file `backing`; skips where there are none."""
    requires_root()
    requires_program("losetup")
    try:
        device = Path(losetup("--find", "--show", *options, backing, namespace=namespace))
    except subprocess.CalledProcessError as error:
        pytest.skip(f"needs loop devices: {error.stderr or error}".strip())
    try:
        yield device
    finally:
        with suppress(subprocess.CalledProcessError):  # the test has taken it away
            losetup("--detach", device, namespace=namespace)
