"""A user-space AoE initiator for tests and tools: needs a packet socket, no kernel module."""

from ggaoe.client.device import AtaReply, RemoteDevice
from ggaoe.client.errors import AtaCommandError, MaskEditError, NoAnswerError, RefusedError
from ggaoe.client.identity import RemoteIdentity
from ggaoe.client.initiator import Found, Initiator
from ggaoe.client.latency import Latencies
from ggaoe.client.load import Load, LoadResult, LoadSpec
from ggaoe.client.probe import PathSizes, probe_path
from ggaoe.client.window import Timing

__all__ = [
    "AtaCommandError",
    "AtaReply",
    "Found",
    "Initiator",
    "Latencies",
    "Load",
    "LoadResult",
    "LoadSpec",
    "MaskEditError",
    "NoAnswerError",
    "PathSizes",
    "RefusedError",
    "RemoteDevice",
    "RemoteIdentity",
    "Timing",
    "probe_path",
]
