"""Files that we keep: they are replaced as a whole, so that a power cut leaves the old one or the
new one, and records among them say what they are.

Owns the last step of replacing (who writes the new file has to fsync it before), and the frame of
records. Must not know what is in them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path


def put_in_place(new: Path, path: Path) -> None:
    """Rename `new` to `path`, in the same directory, durably (rename(2), fsync(2)); OSError."""
    new.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def encode_record(format_name: str, version: int, fields: Mapping[str, object]) -> bytes:
    """A file's content: JSON for people, too."""
    document = {"format": format_name, "version": version, **fields}
    return json.dumps(document, indent=1).encode() + b"\n"


def decode_record(content: bytes, format_name: str, version: int) -> dict[str, object]:
    """The fields in a file's content; raises ValueError where it is no such record."""
    try:
        document = json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(document, dict) or document.get("format") != format_name:
        raise ValueError(f"it is no {format_name}")
    if document.get("version") != version:
        raise ValueError(f"version {document.get('version')!r} is not known here")
    return document
