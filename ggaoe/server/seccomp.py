"""A seccomp filter: the system calls that this process still needs, and no others.

Owns the list of calls, by name and number, and the filter made from it. Must not know the daemon.
What is not in the list fails with EPERM, so that a harmless call that was forgotten is an error
somewhere and not the end of a storage daemon; the kernel logs it. Sources: seccomp(2), the kernel's
document userspace-api/seccomp_filter, and its tables of system calls.

Numbers are those of x86_64, and of the generic table, which aarch64 and riscv64 have.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import struct
from collections.abc import Sequence

_Line = tuple[int, int, int, int]

# linux/seccomp.h, filter.h, net.h, sched.h, prctl.h, asm-generic/ioctls.h
_SET_MODE_FILTER = 1
_FLAG_LOG, _FLAG_SPEC_ALLOW = 2, 4
_LOAD, _EQUAL, _AND, _RETURN = 0x20, 0x15, 0x54, 0x06
_NUMBER_AT, _ARCH_AT, _ARGUMENTS_AT = 0, 4, 16
_ALLOW: _Line = (_RETURN, 0, 0, 0x7FFF0000)
_DENY: _Line = (_RETURN, 0, 0, 0x00050000 | errno.EPERM)
_UNKNOWN: _Line = (_RETURN, 0, 0, 0x00050000 | errno.ENOSYS)
_SOCK_TYPE_MASK = 0xF
_CLONE_THREAD = 0x00010000
_CLONE_NEW_ANYTHING = 0x7E020000
_PR_GET_DUMPABLE, _PR_SET_NAME, _PR_GET_NAME, _PR_SET_VMA = 3, 15, 16, 0x53564D41
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C

_ARCHITECTURES = {
    "x86_64": (0xC000003E, 0, 317),
    "aarch64": (0xC00000B7, 1, 277),
    "riscv64": (0xC00000F3, 1, 277),
}
"""linux/audit.h; the column of CALLS; the number of seccomp itself."""

# fmt: off
CALLS: dict[str, tuple[int | None, int | None]] = {
    # Requests and replies: first, since kernels before 5.11 go through the list one by one.
    "recvmsg": (47, 212), "sendmmsg": (307, 269), "sendmsg": (46, 211), "recvmmsg": (299, 243),
    "ppoll": (271, 73), "poll": (7, None), "read": (0, 63), "write": (1, 64),
    "io_submit": (209, 2), "io_getevents": (208, 4), "io_pgetevents": (333, 292),
    "io_uring_enter": (426, 426), "preadv": (295, 69), "preadv2": (327, 286),
    "pwritev": (296, 70), "pwritev2": (328, 287), "pread64": (17, 67), "pwrite64": (18, 68),
    "readv": (19, 65), "writev": (20, 66), "fdatasync": (75, 83), "fsync": (74, 82),
    "futex": (202, 98), "epoll_wait": (232, None), "epoll_pwait": (281, 22),
    "epoll_pwait2": (441, 441), "epoll_ctl": (233, 21), "sched_yield": (24, 124),
    "clock_gettime": (228, 113),
    # Stores and state: opening them, asking about them, replacing files.
    "open": (2, None), "openat": (257, 56), "close": (3, 57), "close_range": (436, 436),
    "stat": (4, None), "fstat": (5, 80), "lstat": (6, None), "newfstatat": (262, 79),
    "statx": (332, 291), "statfs": (137, 43), "fstatfs": (138, 44), "lseek": (8, 62),
    "fcntl": (72, 25), "flock": (73, 32), "ftruncate": (77, 46), "fallocate": (285, 47),
    "fadvise64": (221, 223), "readahead": (187, 213), "access": (21, None),
    "faccessat": (269, 48), "faccessat2": (439, 439), "readlink": (89, None),
    "readlinkat": (267, 78), "getdents64": (217, 61), "getcwd": (79, 17), "rename": (82, None),
    "renameat": (264, 38), "renameat2": (316, 276), "unlink": (87, None), "unlinkat": (263, 35),
    "rmdir": (84, None), "umask": (95, 166), "sendfile": (40, 71), "io_setup": (206, 0),
    "io_destroy": (207, 1), "io_uring_register": (427, 427),
    # Sockets, pipes and events.
    "bind": (49, 200), "listen": (50, 201), "accept": (43, 202), "accept4": (288, 242),
    "connect": (42, 203), "getsockname": (51, 204), "getpeername": (52, 205),
    "getsockopt": (55, 209), "setsockopt": (54, 208), "sendto": (44, 206), "recvfrom": (45, 207),
    "shutdown": (48, 210), "pipe": (22, None), "pipe2": (293, 59),
    "dup": (32, 23), "dup2": (33, None), "dup3": (292, 24), "eventfd": (284, None),
    "eventfd2": (290, 19), "epoll_create1": (291, 20), "select": (23, None),
    "pselect6": (270, 72), "timerfd_create": (283, 85), "timerfd_settime": (286, 86),
    "timerfd_gettime": (287, 87),
    # Memory, threads, signals, time, and what the C library asks about us.
    "brk": (12, 214), "mmap": (9, 222), "munmap": (11, 215), "mprotect": (10, 226),
    "mremap": (25, 216), "madvise": (28, 233), "mincore": (27, 232), "mlock": (149, 228),
    "mlock2": (325, 284), "munlock": (150, 229), "set_robust_list": (273, 99),
    "get_robust_list": (274, 100), "rseq": (334, 293), "set_tid_address": (218, 96),
    "membarrier": (324, 283), "futex_waitv": (449, 449), "exit": (60, 93),
    "exit_group": (231, 94), "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139), "rt_sigtimedwait": (128, 137), "rt_sigpending": (127, 136),
    "rt_sigsuspend": (130, 133), "sigaltstack": (131, 132), "restart_syscall": (219, 128),
    "clock_getres": (229, 114), "clock_nanosleep": (230, 115), "nanosleep": (35, 101),
    "gettimeofday": (96, 169), "time": (201, None), "times": (100, 153), "getrusage": (98, 165),
    "sched_getaffinity": (204, 123), "sched_setaffinity": (203, 122),
    "sched_getparam": (143, 121), "sched_getscheduler": (145, 120),
    "sched_get_priority_max": (146, 125), "sched_get_priority_min": (147, 126),
    "getcpu": (309, 168), "getpriority": (140, 141), "getrandom": (318, 278), "getpid": (39, 172),
    "getppid": (110, 173), "gettid": (186, 178), "getuid": (102, 174), "geteuid": (107, 175),
    "getgid": (104, 176), "getegid": (108, 177), "getresuid": (118, 148), "getresgid": (120, 150),
    "getgroups": (115, 158), "getpgid": (121, 155), "getpgrp": (111, None), "getsid": (124, 156),
    "capget": (125, 90),
    "getrlimit": (97, 163), "prlimit64": (302, 261), "uname": (63, 160), "sysinfo": (99, 179),
    # With conditions.
    "socket": (41, 198), "socketpair": (53, 199), "clone": (56, 220), "clone3": (435, 435),
    "prctl": (157, 167), "tgkill": (234, 131), "ioctl": (16, 29),
}
"""Numbers by name, (x86_64, generic); None where there is no such call."""
# fmt: on


def has_list() -> bool:
    """Whether the numbers of this machine's calls are known here."""
    return platform.machine() in _ARCHITECTURES and struct.calcsize("P") == 8


def restrict() -> int:
    """From now on this thread, and those it makes, have only these calls; returns how many. Needs
    no_new_privs. Raises OSError where the kernel has no filters, or ours has no numbers for it."""
    machine = platform.machine()
    if not has_list():
        raise OSError(errno.ENOSYS, f"no list of system calls for {machine}")
    architecture, column, own_number = _ARCHITECTURES[machine]
    lines = program(architecture, column)
    code = b"".join(struct.pack("=HBBI", *line) for line in lines)
    memory = ctypes.create_string_buffer(code, len(code))
    descriptor = struct.pack("@HP", len(lines), ctypes.addressof(memory))
    # Without SPEC_ALLOW, kernels before 5.16 slow the whole process down: a remedy against code
    # that is compiled at run time and looks at its own process's memory, which there is none of.
    flags = _FLAG_LOG | _FLAG_SPEC_ALLOW
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(ctypes.c_long(own_number), _SET_MODE_FILTER, flags, descriptor) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), "seccomp")
    return sum(1 for numbers in CALLS.values() if numbers[column] is not None)


def program(architecture: int, column: int) -> list[_Line]:
    """The filter, in classic BPF: (code, jump if true, jump if false, operand)."""
    conditions = _conditions()
    lines = [
        (_LOAD, 0, 0, _ARCH_AT),
        (_EQUAL, 1, 0, architecture),
        _DENY,
        (_LOAD, 0, 0, _NUMBER_AT),
    ]
    for name, numbers in CALLS.items():
        number = numbers[column]
        if number is not None:
            body = conditions.get(name, [_ALLOW])
            lines += [(_EQUAL, 0, len(body), number), *body]
    return [*lines, _DENY]


def _conditions() -> dict[str, list[_Line]]:
    """What decides about a call that depends on its arguments; each ends with a return."""
    return {
        "socket": [
            _argument(0),
            *_allow_one_of([socket.AF_PACKET]),
            (_EQUAL, 0, 4, socket.AF_NETLINK),
            _argument(2),
            *_allow_one_of([socket.NETLINK_ROUTE]),
            _DENY,
            # The log and the service manager take datagrams. D-Bus, systemd and container engines
            # take commands on stream sockets, with the authority of the process that connects.
            (_EQUAL, 1, 0, socket.AF_UNIX),
            _DENY,
            _argument(1),
            (_AND, 0, 0, _SOCK_TYPE_MASK),
            *_allow_one_of([socket.SOCK_DGRAM]),
            _DENY,
        ],
        # The ends of a pair are connected to each other, and cannot be to anything else.
        "socketpair": [_argument(0), *_allow_one_of([socket.AF_UNIX]), _DENY],
        # Threads only, and in the namespaces we have. The arguments of clone3 are in memory, where
        # a filter cannot look: the C library takes clone where there is none.
        "clone": [
            _argument(0),
            (_AND, 0, 0, _CLONE_THREAD | _CLONE_NEW_ANYTHING),
            *_allow_one_of([_CLONE_THREAD]),
            _DENY,
        ],
        "clone3": [_UNKNOWN],
        "prctl": [
            _argument(0),
            *_allow_one_of([_PR_GET_DUMPABLE, _PR_SET_NAME, _PR_GET_NAME, _PR_SET_VMA]),
            _DENY,
        ],
        # Signals to ourselves only.
        "tgkill": [_argument(0), *_allow_one_of([os.getpid()]), _DENY],
        # Nothing is typed into the terminal that we were started from.
        "ioctl": [
            _argument(1),
            (_EQUAL, 0, 1, _TIOCSTI),
            _DENY,
            (_EQUAL, 0, 1, _TIOCLINUX),
            _DENY,
            _ALLOW,
        ],
    }


def _argument(index: int) -> _Line:
    """Load the lower half of an argument: all three architectures are little-endian."""
    return (_LOAD, 0, 0, _ARGUMENTS_AT + 8 * index)


def _allow_one_of(values: Sequence[int]) -> list[_Line]:
    return [line for value in values for line in ((_EQUAL, 0, 1, value), _ALLOW)]
