"""ggaoe: an ATA-over-Ethernet storage target. Importing it has no side effects."""

__version__ = "0.1.0"
