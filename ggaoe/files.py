"""Files that we keep: they are replaced as a whole, so that a power cut leaves the old one or the
new one, and records among them say what they are.

Owns the last step of replacing (who writes the new file has to fsync it before), the frame of
records, and the only change of an owner by path. Must not know what is in the files.
"""

from __future__ import annotations

import json
import os
import stat
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


def give(path: Path, user_id: int, group_id: int) -> None:
    """Change the owner of a socket or an empty directory that this process has made; OSError.

    Another user who may write to the directory can have put something else there meanwhile. A link
    is not followed, and a file of another user, or one with a second name, keeps its owner."""
    handle = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status, same = os.fstat(handle), f"/proc/self/fd/{handle}"
        is_new = (
            not any(Path(same).iterdir())
            if stat.S_ISDIR(status.st_mode)
            else stat.S_ISSOCK(status.st_mode) and status.st_nlink == 1
        )
        if is_new and status.st_uid == os.geteuid():
            os.chown(same, user_id, group_id)
    finally:
        os.close(handle)


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
