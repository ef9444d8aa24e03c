"""What a test needs from the machine: present, or the test is skipped with the reason printed.

Each `requires_…` is called at the top of a test or fixture. Must not know: any test.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

UML_MODULES = Path("/usr/lib/uml/modules")

# Debian's package for each program the tests call, where the names differ.
_PACKAGES = {
    "aoecfg": "aoetools",
    "aoeping": "aoetools",
    "aoe-sancheck": "aoetools",
    "busybox": "busybox-static",
    "promtool": "prometheus",
    "debugfs": "e2fsprogs",
    "e2fsck": "e2fsprogs",
    "ip": "iproute2",
    "linux.uml": "user-mode-linux",
    "losetup": "mount",
    "mkfs.ext4": "e2fsprogs",
    "nsenter": "util-linux",
    "rpmspec": "rpm",
    "systemd-analyze": "systemd",
    "unshare": "util-linux",
}


def requires_root() -> None:
    """Packet sockets, namespaces and mounts."""
    if os.geteuid() != 0:
        pytest.skip("needs root: run the tests with sudo")


def requires_program(name: str) -> None:
    """`name` on the PATH."""
    if shutil.which(name) is None:
        pytest.skip(f"needs {name}: apt-get install {_PACKAGES.get(name, name)}")


def requires_namespaces() -> None:
    """Everything `helpers.netns` calls."""
    requires_root()
    for program in ("unshare", "nsenter", "ip"):
        requires_program(program)


def requires_user_mode_linux() -> None:
    """Everything `interop.guest` calls: the kernel as a process, with its AoE driver."""
    requires_namespaces()
    for program in ("linux.uml", "busybox", "mkfs.ext4", "aoe-discover", "fio"):
        requires_program(program)
    if not list(UML_MODULES.glob("*/kernel/drivers/block/aoe/aoe.ko*")):
        pytest.skip(f"needs the AoE driver of user-mode-linux: no aoe.ko under {UML_MODULES}")


def sanitizer() -> bool:
    """Whether this process runs under a sanitizer, which changes what memory is used."""
    mapped = Path("/proc/self/maps").read_text(errors="replace")
    return "/libasan.so" in mapped or "/libtsan.so" in mapped
