"""Our configuration as text, in either dialect. Must not know where the sections come from."""

from __future__ import annotations

from collections.abc import Mapping

from ggaoe.config.keyfile import escape
from ggaoe.config.toml import written, written_key
from ggaoe.importer.model import Options, Sections, Value


def key_file(sections: Sections, title: str) -> str:
    """The sections as a key file; devices that are disabled are commented out."""
    lines = [f"# {title}"]
    if sections.acls:
        lines += ["", "[acls]", *_pairs(sections.acls)]
    for name, options in sections.interfaces.items():
        lines += ["", f"[{name}]", *_pairs(options)]
    for name, options in sections.devices.items():
        mark = "#" if name in sections.disabled else ""
        lines += ["", *(mark + line for line in (f"[{name}]", *_pairs(options)))]
    return "\n".join(lines) + "\n"


def toml(sections: Sections, title: str) -> str:
    """The same as TOML."""
    lines = [f"# {title}"]
    if sections.acls:
        lines += ["", "[acls]", *_toml_pairs(sections.acls)]
    for kind, tables in (("interfaces", sections.interfaces), ("devices", sections.devices)):
        for name, options in tables.items():
            mark = "#" if kind == "devices" and name in sections.disabled else ""
            table = (f"[{written_key(kind, name)}]", *_toml_pairs(options))
            lines += ["", *(mark + line for line in table)]
    return "\n".join(lines) + "\n"


def _pairs(options: Options) -> list[str]:
    return [f"{key} = {_value(value)}".rstrip() for key, value in options.items()]


def _value(value: Value) -> str:
    if isinstance(value, tuple):
        return ", ".join(escape(item).replace(",", "\\,") for item in value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return escape(str(value))


def _toml_pairs(options: Mapping[str, Value]) -> list[str]:
    return [f"{written_key(key)} = {_toml_value(value)}" for key, value in options.items()]


def _toml_value(value: Value) -> str:
    return written(list(value) if isinstance(value, tuple) else value)
