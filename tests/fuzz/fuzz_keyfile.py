"""Configuration files in the dialect of the original ggaoed.conf.

Invariant: any bytes are a configuration, or a ConfigError of problems that each have a line and a
column of the file; never another exception. A configuration that was accepted, written as TOML and
read again is the same; a reload from any configuration to any other has a plan, and from one to its
equal an empty one.
"""

from __future__ import annotations

from fuzz.config_files import CONFIG_WORDS, check_files

CORPUS = "keyfile"
MAX_BYTES = 4096
WORDS = CONFIG_WORDS


def one_input(data: bytes) -> None:
    check_files(data, "conf")
