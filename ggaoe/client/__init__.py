"""A user-space AoE initiator for tests and tools: needs a packet socket, no kernel module."""

from ggaoe.client.device import AtaReply, RemoteDevice
from ggaoe.client.errors import AtaCommandError, MaskEditError, NoAnswerError, RefusedError
from ggaoe.client.identity import RemoteIdentity
from ggaoe.client.initiator import Found, Initiator
from ggaoe.client.window import Timing

__all__ = [
    "AtaCommandError",
    "AtaReply",
    "Found",
    "Initiator",
    "MaskEditError",
    "NoAnswerError",
    "RefusedError",
    "RemoteDevice",
    "RemoteIdentity",
    "Timing",
]
