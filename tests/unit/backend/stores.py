"""Files and loop devices for the backend tests; each is removed when its context ends."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ggaoe.backend.base import Backend
from helpers.loop import loop_device, losetup
from helpers.needs import requires_namespaces, requires_program
from helpers.netns import Namespace

DISK_DIRECTORY = Path("/var/tmp")
"""Where files lie on a disk on practically every machine; /tmp is often memory."""
MEMORY_DIRECTORY = Path("/dev/shm")


@contextmanager
def sparse_file(directory: Path, size_bytes: int) -> Iterator[Path]:
    """A file of zeros without blocks."""
    fd, name = tempfile.mkstemp(prefix="ggaoe-test-", dir=directory)
    try:
        os.ftruncate(fd, size_bytes)
        os.close(fd)
        yield Path(name)
    finally:
        Path(name).unlink()


@contextmanager
def loop_of_zeros(size_bytes: int, *options: str) -> Iterator[tuple[Path, Path]]:
    """(block device, the file behind it); skips where there are none."""
    with sparse_file(DISK_DIRECTORY, size_bytes) as file:
        file.write_bytes(bytes(size_bytes))
        with loop_device(file, *options) as device:
            yield device, file


def grow_loop_device(device: Path, file: Path, size_bytes: int) -> None:
    """Make a loop device larger, as an administrator grows a volume."""
    os.truncate(file, size_bytes)
    losetup("--set-capacity", device)


def make_swap(device: Path, uuid: str) -> None:
    """Give `device` a UUID, by the signature of a swap area."""
    requires_program("mkswap")
    subprocess.run(["mkswap", "--uuid", uuid, str(device)], check=True, capture_output=True)


@contextmanager
def ramfs_file(size_bytes: int) -> Iterator[Path]:
    """A file on a file system that knows no direct I/O, mounted where nobody else sees it."""
    requires_namespaces()
    with Namespace() as namespace:
        namespace.run("mount", "-t", "ramfs", "ramfs", "/mnt")
        with sparse_file(Path(f"/proc/{namespace.pid}/root/mnt"), size_bytes) as path:
            yield path


@contextmanager
def overlay_file(size_bytes: int) -> Iterator[Path]:
    """A file on a file system that takes O_DIRECT and no RWF_NOWAIT, and says nothing of alignment,
    mounted where nobody else sees it."""
    requires_namespaces()
    with Namespace() as namespace:
        root = Path(f"/proc/{namespace.pid}/root/mnt")
        namespace.run("mount", "-t", "tmpfs", "tmpfs", "/mnt")
        for name in ("lower", "upper", "work", "all"):
            (root / name).mkdir()
        layers = "lowerdir=/mnt/lower,upperdir=/mnt/upper,workdir=/mnt/work"
        try:
            namespace.run("mount", "-t", "overlay", "-o", layers, "overlay", "/mnt/all")
        except subprocess.CalledProcessError:
            pytest.skip("needs overlayfs")
        with sparse_file(root / "all", size_bytes) as path:
            yield path


def requires_way(backend: Backend, description: str) -> None:
    """Skip where the machine's kernel or file system serves a store in another way."""
    if backend.description != description:
        pytest.skip(f"needs {description}; here: {backend.description}, {backend.warnings}")
