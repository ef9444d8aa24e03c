"""Configuration files in TOML. Invariant: as for `fuzz_keyfile`."""

from __future__ import annotations

from fuzz.config_files import CONFIG_WORDS, check_files

CORPUS = "toml"
MAX_BYTES = 4096
WORDS = CONFIG_WORDS


def one_input(data: bytes) -> None:
    check_files(data, "toml")
