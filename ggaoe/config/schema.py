"""The one table of configuration options.

Validation, the sample file, the list of options for people and the reload plan are made from
OPTIONS; nothing else lists options. Knows no file syntax and no relation between options, nor how a
value is read: that is in `values`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Literal

from ggaoe.config.endpoint import Endpoint
from ggaoe.proto.frame import SECTOR_BYTES

Place = Literal["defaults", "interface", "device"]
Reload = Literal["live", "reopen", "replace", "relink", "restart"]
Value = bool | int | float | str | Path | Endpoint | tuple[str, ...] | None

RELOAD_MEANING: dict[Reload, str] = {
    "live": "in place, requests in flight do not notice",
    "reopen": "the device is drained and opened again; requests wait meanwhile",
    "replace": "the device is removed and added again",
    "relink": "the packet socket of the interface is opened again",
    "restart": "only by a restart; a reload keeps the old value and says so",
}

AUTO = "auto"
REQUIRED = "required"  # as `unset`: there is no default
SOCKET_PATH_BYTES_MAX = 107  # sun_path of Linux, less its final zero
RATE_BYTES_MIN = 64 << 10
"""Per second: eight requests by jumbo frames, as little as what iops-limit allows."""
RATE_BYTES_MAX = 32 << 30
BURST_BYTES_MAX = 4 << 30  # in billionths it fits into 63 bits
PART_BYTES_MAX = 2**48 * SECTOR_BYTES  # what a 48-bit address reaches


class Kind(Enum):
    """Type of an option's value."""

    BOOLEAN = "true or false"
    INTEGER = "whole number"
    DURATION = "duration: seconds, or a number with us, ms, s, min or h"
    SIZE = "size: bytes, or a number with k, KiB, MiB, GiB …"
    KIBIBYTES = "size: KiB, or a number with KiB, MiB, GiB …"
    CHOICE = "one of a few words"
    PATH = "path; a relative one starts at the configuration file's directory"
    ENDPOINT = "IP address and port, or the absolute path of a Unix socket"
    UUID = "UUID as blkid prints it"
    USER = "name of a user of this system"
    PATTERNS = "list of glob patterns"
    INTERFACES = "list of interfaces, by name or glob pattern"
    MEMBERS = "list of access lists, MAC addresses and names of /etc/ethers"
    RULES = "rules (see above)"


LISTS = frozenset({Kind.PATTERNS, Kind.INTERFACES, Kind.MEMBERS, Kind.RULES})
MEMBERS = frozenset({Kind.MEMBERS, Kind.RULES})


@dataclass(frozen=True)
class Option:
    """One option: `field` is its attribute in the model (none where it has done its work once the
    files are read), limits are in the unit of the field."""

    key: str
    places: tuple[Place, ...]
    kind: Kind
    default: Value
    reload: Reload
    doc: str
    field: str = ""
    low: float = 0
    high: float = 0
    zero: bool = False  # 0 is allowed beside low..high and has a meaning of its own
    multiple: int = 1
    refused: tuple[int, str] | None = None  # a value within the range that cannot work, and why
    raised: tuple[int, str] | None = None  # a value that is taken for `low`, and the warning
    bytes_max: int = 0  # of a path
    choices: tuple[str, ...] = ()
    words: tuple[str, ...] = ()  # what may stand in the place of a number
    unset: str = ""  # what no value means, where the default cannot be spelt
    sample: str = ""  # a value for the sample file, where the default cannot be spelt
    obsolete: str = ""  # what to tell about an option that is accepted and ignored


EVERYWHERE: tuple[Place, ...] = ("defaults", "device")
ON_LINKS: tuple[Place, ...] = ("defaults", "interface")
DEVICE: tuple[Place, ...] = ("device",)
DAEMON: tuple[Place, ...] = ("defaults",)

OPTIONS: tuple[Option, ...] = (
    # What is exported, and where it is found
    Option(
        "path",
        DEVICE,
        Kind.PATH,
        None,
        "reopen",
        "File or block device to export; a device has either a path or a uuid.",
        field="path",
        unset="none",
        sample="/dev/sdb",
    ),
    Option(
        "uuid",
        DEVICE,
        Kind.UUID,
        None,
        "reopen",
        "UUID of the filesystem or volume to export, as blkid prints it.",
        field="uuid",
        unset="none",
        sample="0a3407de-014b-458b-b5c1-848e92a327a3",
    ),
    Option(
        "shelf",
        EVERYWHERE,
        Kind.INTEGER,
        None,
        "replace",
        "Shelf (major) number of the device's address, which every device needs, here or from "
        "[defaults]; 4095 is refused by Linux.",
        field="shelf",
        high=65534,
        refused=(4095, "Linux initiators refuse it"),
        unset="none",
        sample="1",
    ),
    Option(
        "slot",
        DEVICE,
        Kind.INTEGER,
        None,
        "replace",
        "Slot (minor) number of the device's address; auto takes the lowest one of the shelf that "
        "no other device has or has had. The state directory remembers it for the device's name: "
        "it stays over reloads and restarts, whatever else is added or removed.",
        field="slot",
        high=254,
        words=(AUTO,),
        unset=REQUIRED,
        sample="0",
    ),
    Option(
        "offset",
        DEVICE,
        Kind.SIZE,
        0,
        "reopen",
        "Where the exported part of the file or block device begins.",
        field="offset_bytes",
        high=PART_BYTES_MAX,
        multiple=SECTOR_BYTES,
    ),
    Option(
        "length",
        DEVICE,
        Kind.SIZE,
        None,
        "reopen",
        "Size of the exported part.",
        field="length_bytes",
        low=SECTOR_BYTES,
        high=PART_BYTES_MAX,
        multiple=SECTOR_BYTES,
        unset="all up to the end",
        sample="10GiB",
    ),
    Option(
        "exact-size",
        EVERYWHERE,
        Kind.BOOLEAN,
        True,
        "reopen",
        "Export every whole 512-byte sector; otherwise the size is rounded down to a multiple of "
        "4096 bytes. Rounding is for a disk that was exported so before, and on which an initiator "
        "has put something at that end, such as the backup of a GPT.",
        field="exact_size",
    ),
    Option(
        "auto",
        EVERYWHERE,
        Kind.BOOLEAN,
        True,
        "live",
        "Begin to serve the device when it is added: at the start of the daemon, and by a reload "
        "that finds it new. Otherwise `ggaoectl start` begins. A reload neither starts nor stops a "
        "device that was there before.",
        field="auto",
    ),
    # Who may use it
    Option(
        "read-only",
        DEVICE,
        Kind.BOOLEAN,
        False,
        "reopen",
        "Refuse writes, and open the file or block device for reading only.",
        field="read_only",
    ),
    Option(
        "accept",
        DEVICE,
        Kind.MEMBERS,
        None,
        "live",
        "Hosts that may use the device; a list without any address admits nobody.",
        field="accept",
        unset="everybody",
        sample="lab, 02:00:00:00:00:01",
    ),
    Option(
        "deny",
        DEVICE,
        Kind.MEMBERS,
        (),
        "live",
        "Hosts that may not use the device even though they are accepted.",
        field="deny",
        unset="nobody",
        sample="guests",
    ),
    Option(
        "discover",
        DEVICE,
        Kind.RULES,
        None,
        "live",
        "Of the hosts that may use the device, those that it answers when they look for it (config "
        "queries, IDENTIFY) and announces itself to. Others hear nothing of it but answers to what "
        "'read' and 'write' permit them, and may not change anything, either.",
        field="discover",
        unset="everybody",
        sample="lab, guests",
    ),
    Option(
        "read",
        DEVICE,
        Kind.RULES,
        None,
        "live",
        "Of the hosts that may use the device, those that may read it; others get an I/O error, "
        "or no answer where they may not discover it.",
        field="read",
        unset="everybody",
        sample="lab, guests",
    ),
    Option(
        "write",
        DEVICE,
        Kind.RULES,
        None,
        "live",
        "Of the hosts that may use the device, those that may write to it; others get an I/O "
        "error, as from a read-only one, or no answer where they may not discover it.",
        field="write",
        unset="everybody",
        sample="!guests, lab",
    ),
    Option(
        "change",
        DEVICE,
        Kind.RULES,
        None,
        "live",
        "Of the hosts that may use the device, those that may set its config string, its MAC mask "
        "list, its reservation and its SMART settings; they have to be able to discover it, too.",
        field="change",
        unset="everybody",
        sample="02:00:00:00:00:01",
    ),
    Option(
        "broadcast",
        DEVICE,
        Kind.BOOLEAN,
        False,
        "live",
        "Announce the device to everybody even where accept or discover names hosts; otherwise "
        "each permitted host is told by itself, and nobody where discover only refuses.",
        field="broadcast",
    ),
    Option(
        "interfaces",
        EVERYWHERE,
        Kind.INTERFACES,
        (),
        "live",
        "Network interfaces that serve the device. A pattern stands for Ethernet interfaces only.",
        field="interfaces",
        unset="every Ethernet interface that is up",
        sample="eth0, san*",
    ),
    # How it is read and written
    Option(
        "queue-length",
        EVERYWHERE,
        Kind.INTEGER,
        64,
        "live",
        "Most requests of the device in flight; the number is announced to hosts.",
        field="queue_length",
        low=2,
        high=65535,
        raised=(1, "a Linux initiator never brings up a device that announces one buffer"),
    ),
    Option(
        "direct-io",
        EVERYWHERE,
        Kind.BOOLEAN,
        True,
        "reopen",
        "Bypass the page cache (O_DIRECT).",
        field="direct_io",
    ),
    Option(
        "write-cache",
        EVERYWHERE,
        Kind.BOOLEAN,
        False,
        "reopen",
        "Answer writes before they are on stable storage: faster, and a power cut loses writes "
        "that hosts believe safe, since the Linux initiator never asks for a flush.",
        field="write_cache",
    ),
    Option(
        "max-delay",
        EVERYWHERE,
        Kind.DURATION,
        0.001,
        "live",
        "Window in which requests may be reordered by their place on the disk.",
        field="max_delay_s",
        high=1,
    ),
    Option(
        "merge-delay",
        EVERYWHERE,
        Kind.DURATION,
        0.0,
        "live",
        "Wait before requests are submitted, to merge more neighbours.",
        field="merge_delay_s",
        high=1,
    ),
    # How much of it hosts may have
    Option(
        "iops-limit",
        EVERYWHERE,
        Kind.INTEGER,
        0,
        "live",
        "Most requests per second that the device starts, whatever they are; what is more waits, "
        "each host in turn. Fewer buffers are announced, too, so that little waits: as many as "
        "start in a tenth of a second, and at least two. Where many hosts share a low limit, their "
        "requests may wait for seconds all the same: Linux hosts then send them again, which uses "
        "up the limit in vain, and take the device for dead after 180 s without an answer. "
        "0 sets no limit.",
        field="iops_limit",
        low=10,
        high=10**9,
        zero=True,
    ),
    Option(
        "iops-burst",
        EVERYWHERE,
        Kind.INTEGER,
        0,
        "live",
        "How many requests the device starts at once after a rest, before iops-limit slows it; 0 "
        "is a tenth of a second's worth.",
        field="iops_burst",
        low=1,
        high=10**9,
        zero=True,
    ),
    Option(
        "bandwidth-limit",
        EVERYWHERE,
        Kind.SIZE,
        0,
        "live",
        "Most bytes per second that the device reads and writes for hosts, both together; "
        "otherwise as iops-limit.",
        field="bandwidth_limit_bytes_per_s",
        low=RATE_BYTES_MIN,
        high=RATE_BYTES_MAX,
        zero=True,
    ),
    Option(
        "bandwidth-burst",
        EVERYWHERE,
        Kind.SIZE,
        0,
        "live",
        "How many bytes the device reads and writes at once after a rest, before bandwidth-limit "
        "slows it; 0 is a tenth of a second's worth.",
        field="bandwidth_burst_bytes",
        low=SECTOR_BYTES,
        high=BURST_BYTES_MAX,
        zero=True,
    ),
    Option(
        "initiator-iops-limit",
        EVERYWHERE,
        Kind.INTEGER,
        0,
        "live",
        "Most requests per second that the device starts for one initiator (a MAC address, so a "
        "host with two interfaces is two), each by itself, and a tenth of a second's worth at once "
        "after a rest. 0 sets no limit.",
        field="initiator_iops_limit",
        low=10,
        high=10**9,
        zero=True,
    ),
    Option(
        "initiator-bandwidth-limit",
        EVERYWHERE,
        Kind.SIZE,
        0,
        "live",
        "Most bytes per second that the device reads and writes for one initiator; otherwise as "
        "initiator-iops-limit.",
        field="initiator_bandwidth_limit_bytes_per_s",
        low=RATE_BYTES_MIN,
        high=RATE_BYTES_MAX,
        zero=True,
    ),
    Option(
        "trace-io",
        EVERYWHERE,
        Kind.BOOLEAN,
        False,
        "live",
        "Log every request.",
        field="trace_io",
    ),
    # The network
    Option(
        "mtu",
        ON_LINKS,
        Kind.INTEGER,
        0,
        "relink",
        "Largest frame to use, in bytes without the Ethernet header; can only lower the "
        "interface's own, which is meant by 0.",
        field="mtu_bytes",
        low=1056,
        high=65536,
        zero=True,
        unset="the interface's own",
    ),
    Option(
        "ring-buffer-size",
        ON_LINKS,
        Kind.KIBIBYTES,
        AUTO,
        "relink",
        "Memory for the ring of received frames that the native engine shares with the kernel, in "
        "KiB; 0 uses plain sockets. auto means 16384, or a share of 262144 where more than 16 "
        "interfaces are served.",
        field="ring_buffer_size_kib",
        high=1024**2,
        words=(AUTO,),
    ),
    Option(
        "send-buffer-size",
        ON_LINKS,
        Kind.KIBIBYTES,
        0,
        "relink",
        "Send buffer of the socket, in KiB. 0 means 512, or a share of 32768 where more than 64 "
        "interfaces are served. Without CAP_NET_ADMIN it cannot exceed sysctl net.core.wmem_max.",
        field="send_buffer_size_kib",
        high=1024**2,
    ),
    Option(
        "receive-buffer-size",
        ON_LINKS,
        Kind.KIBIBYTES,
        0,
        "relink",
        "Receive buffer of the socket, in KiB, used where there is no ring; 0 means 32768. Without "
        "CAP_NET_ADMIN it cannot exceed sysctl net.core.rmem_max.",
        field="receive_buffer_size_kib",
        high=1024**2,
    ),
    # The daemon
    Option(
        "include",
        DAEMON,
        Kind.PATTERNS,
        (),
        "live",
        "Files to read, too; a relative name starts at the directory of the file that includes it. "
        "A name without wildcards has to exist; a pattern may match nothing, and what it matches "
        "is read in alphabetical order. Each file has the form that its own name and content tell.",
        unset="none",
        sample="ggaoed.d/*.conf",
    ),
    Option(
        "advertise-interval",
        DAEMON,
        Kind.DURATION,
        0.0,
        "live",
        "Announce all devices again and again with this pause; 0 announces only changes.",
        field="advertise_interval_s",
        low=1,
        high=86400,
        zero=True,
    ),
    Option(
        "busy-poll",
        DAEMON,
        Kind.DURATION,
        0.0002,
        "live",
        "How long the native engine waits actively for the next frame after each batch, as long as "
        "they come that soon: waking up costs more than a request. Meanwhile it takes a processor "
        "that nobody else wants: where another program wants it, the engine sleeps between frames. "
        "An idle daemon takes none. 0 never waits actively.",
        field="busy_poll_s",
        high=0.001,
    ),
    Option(
        "engine",
        DAEMON,
        Kind.CHOICE,
        "auto",
        "restart",
        "What moves frames and blocks: native is the compiled engine, portable needs no "
        "compiler, auto takes native where it was built.",
        field="engine",
        choices=("auto", "portable", "native"),
    ),
    Option(
        "io-engine",
        DAEMON,
        Kind.CHOICE,
        "auto",
        "restart",
        "How the native engine hands direct I/O to the kernel: aio is Linux AIO, uring io_uring, "
        "threads waits in threads of its own; auto takes the first of these that the kernel has.",
        field="io_engine",
        choices=("auto", "aio", "uring", "threads"),
    ),
    Option(
        "pid-file",
        DAEMON,
        Kind.PATH,
        Path("/run/ggaoed/ggaoed.pid"),
        "restart",
        "Where the daemon writes its process id; a directory that is missing is made.",
        field="pid_file",
    ),
    Option(
        "control-socket",
        DAEMON,
        Kind.PATH,
        Path("/run/ggaoed/ggaoed.sock"),
        "restart",
        "Unix socket on which ggaoectl reaches the daemon; a directory that is missing is made.",
        field="control_socket",
        bytes_max=SOCKET_PATH_BYTES_MAX,
    ),
    Option(
        "state-directory",
        DAEMON,
        Kind.PATH,
        Path("/var/lib/ggaoed"),
        "restart",
        "Where config strings, MAC mask lists and reservations are kept, a file per device, and "
        "automatic slots: take the files along when you change it, or devices may get other slots. "
        "The default is made at the first start; any other directory has to exist. Each daemon "
        "needs a directory of its own.",
        field="state_directory",
    ),
    Option(
        "metrics",
        DAEMON,
        Kind.ENDPOINT,
        None,
        "restart",
        "Serve a status page (/) and metrics for Prometheus (/metrics) by HTTP, for reading, and "
        "to whoever can reach this address, without a password. A Unix socket is open to all users "
        "who can reach its directory.",
        field="metrics",
        unset="off",
        sample="127.0.0.1:9882",
        bytes_max=SOCKET_PATH_BYTES_MAX,
    ),
    # What the daemon may do once it has started
    Option(
        "user",
        DAEMON,
        Kind.USER,
        None,
        "restart",
        "Whom the daemon, started as root, becomes once it has started. This user needs access to "
        "the state directory and the devices. A pid file and a control socket are removed at the "
        "end only where they are in a directory of this user.",
        field="user",
        unset="the user who starts it",
        sample="ggaoed",
    ),
    Option(
        "landlock",
        DAEMON,
        Kind.BOOLEAN,
        True,
        "restart",
        "Have the kernel confine the daemon to the directories of the configured files (to /dev, "
        "where a device is configured), the state directory, and reading the directories of the "
        "files that are read. A device that a reload adds elsewhere waits for a restart.",
        field="landlock",
    ),
    Option(
        "seccomp",
        DAEMON,
        Kind.BOOLEAN,
        True,
        "restart",
        "Have the kernel refuse every system call that the daemon has no use for.",
        field="seccomp",
    ),
    # Accepted from old files, without effect
    Option(
        "tx-ring-bug",
        DAEMON,
        Kind.UUID,
        None,
        "live",
        "Worked round a defect of Linux 2.6.31.",
        obsolete="no supported kernel has the defect: remove the line",
    ),
    Option(
        "buffers",
        DAEMON,
        Kind.UUID,
        None,
        "live",
        "Was replaced by ring-buffer-size.",
        obsolete="use ring-buffer-size instead, or remove the line",
    ),
)

BY_KEY = {option.key: option for option in OPTIONS}
DEVICE_MARKS = frozenset({"path", "uuid", "shelf", "slot"})
"""One of these in a section makes it a device."""


def options_of(place: Place) -> list[Option]:
    """The options in force at a place, in the order of the table."""
    return [option for option in OPTIONS if place in option.places and not option.obsolete]
