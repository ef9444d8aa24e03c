"""How a value of each type is read and written, in the unit of its option's field.

Owns the texts about wrong values, which say what to write instead. Knows no file syntax: texts come
without escapes, and lists item by item.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from ggaoe import units
from ggaoe.config.document import Item, quoted
from ggaoe.config.endpoint import Endpoint, parse_endpoint
from ggaoe.config.schema import Kind, Option, Value

VALUE_CHARACTERS_MAX = 4096  # PATH_MAX of Linux


def convert(option: Option, item: Item) -> Value:
    """The value of one scalar (of a list option: of one of its items), in the unit of the field.
    ValueError with a text that says what to write instead."""
    value = _READERS[option.kind](option, item)
    if isinstance(value, str | Path):
        _check_text(option, str(value))
    if isinstance(value, int | float) and not isinstance(value, bool):
        _check_range(option, value)
    return value


def format_value(option: Option, value: Value) -> str:
    """`value` as it can be written in a key file; for no value, what that means in brackets."""
    if value is None or value == option.default == ():
        return f"({option.unset})"
    if value == ():
        return "(empty list)"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.9f}".rstrip("0").rstrip(".")
    if isinstance(value, tuple):
        return ", ".join(value)
    return str(value)


def describe_range(option: Option) -> str:
    """The values that a number may have: `2 to 65535`, `0 or 1 to 86400 s`."""
    zero = "0 or " if option.zero else ""
    if option.kind is Kind.SIZE:
        low, high = units.format_size(int(option.low)), units.format_size(int(option.high))
        steps = f", in steps of {option.multiple} bytes" if option.multiple > 1 else ""
        return f"{zero}{low} to {high}{steps}"
    unit = {Kind.DURATION: " s", Kind.KIBIBYTES: " KiB"}.get(option.kind, "")
    zero = "".join(f"{word} or " for word in option.words) + zero
    return f"{zero}{option.low:.15g} to {option.high:.15g}{unit}"


def _check_text(option: Option, text: str) -> None:
    """ValueError for what no file system and no kernel takes as a name."""
    if "\0" in text:
        raise ValueError(f"{option.key} cannot contain a zero byte")
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        raise ValueError(f"{option.key} has half a character: write it in UTF-8") from None


def _check_range(option: Option, value: float) -> None:
    if (option.zero and value == 0) or (option.raised and value == option.raised[0]):
        return
    stepped = option.multiple == 1 or value % option.multiple == 0
    if not (option.low <= value <= option.high and stepped):
        allowed = f"{option.key} can be {describe_range(option)}"
        raise ValueError(f"{quoted(value)} is out of range: {allowed}")
    if option.refused and value == option.refused[0]:
        raise ValueError(f"{option.key} cannot be {value}: {option.refused[1]}, take another")


def _boolean(option: Option, item: Item) -> bool:
    if isinstance(item.value, bool):
        return item.value
    if not item.typed and item.value in ("true", "1", "false", "0"):
        return item.value in ("true", "1")
    advice = "true or false"
    word = str(item.value).lower()
    if word in ("yes", "on", "y", "enable", "enabled", "true"):
        advice = "true"
    elif word in ("no", "off", "n", "disable", "disabled", "false"):
        advice = "false"
    raise ValueError(f"{quoted(item.value)} is no boolean: write {option.key} = {advice}")


def _integer(option: Option, item: Item) -> int | str:
    if isinstance(item.value, str) and item.value in option.words:
        return item.value
    if isinstance(item.value, int) and not isinstance(item.value, bool):
        return item.value
    if not item.typed and re.fullmatch(r"[+-]?[0-9]{1,20}", str(item.value)):
        return int(str(item.value))
    quotes = ", without quotes" if item.typed and isinstance(item.value, str) else ""
    raise ValueError(
        f"{quoted(item.value)} is no whole number: {option.key} can be "
        f"{describe_range(option)}{quotes}"
    )


def _duration(option: Option, item: Item) -> float:
    if isinstance(item.value, int | float) and not isinstance(item.value, bool):
        return item.value
    return units.parse_duration_s(_text(option, item))


def _size(option: Option, item: Item) -> int:
    if isinstance(item.value, int) and not isinstance(item.value, bool):
        return item.value
    return units.parse_size_bytes(_text(option, item))


def _kibibytes(option: Option, item: Item) -> int | str:
    if isinstance(item.value, str) and item.value in option.words:
        return item.value
    if isinstance(item.value, int) and not isinstance(item.value, bool):
        return item.value
    text = _text(option, item)
    if re.fullmatch(r"[0-9]{1,20}", text):
        return int(text)
    size_bytes = units.parse_size_bytes(text)
    if size_bytes % 1024:
        raise ValueError(f"{quoted(text)} is no multiple of 1 KiB: {option.key} counts in KiB")
    return size_bytes // 1024


def _choice(option: Option, item: Item) -> str:
    if isinstance(item.value, str) and item.value in option.choices:
        return item.value
    allowed = ", ".join(option.choices)
    raise ValueError(f"{quoted(item.value)} is unknown: {option.key} can be {allowed}")


def _path(option: Option, item: Item) -> Path:
    text = _text(option, item)
    if text[:1] == text[-1:] and text[:1] in ('"', "'"):
        raise ValueError(f"write {option.key} = {text.strip(text[0])}, without quotes")
    if option.bytes_max and len(text.encode("utf-8", "surrogatepass")) > option.bytes_max:
        raise ValueError(f"{option.key} can have at most {option.bytes_max} bytes: shorten it")
    return Path(text)


def _endpoint(option: Option, item: Item) -> Endpoint:
    text = _text(option, item)
    if text.startswith("/"):
        _path(option, item)
    return parse_endpoint(text)


def _uuid(option: Option, item: Item) -> str:
    text = _text(option, item)
    if not re.fullmatch(r"[0-9A-Za-z-]+", text):
        raise ValueError(f"{quoted(text)} is no UUID: write it as blkid prints it, without quotes")
    return text


def _user(option: Option, item: Item) -> str:
    text = _text(option, item)
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]{0,30}[A-Za-z0-9_.$-]?", text):
        raise ValueError(f"{quoted(text)} is no name of a user: write it without quotes, as in ls")
    return text


def _interface(option: Option, item: Item) -> str:
    """A name of interfaces, or a pattern. Linux permits quotes in names, and nobody means them."""
    text = _text(option, item)
    if any(character.isspace() or character in "\"';/" for character in text):
        raise ValueError(
            f"{quoted(text)} is not the name of an interface: separate names by commas, and write "
            f"them without quotes"
        )
    return text


def _text(option: Option, item: Item) -> str:
    if not isinstance(item.value, str):
        raise ValueError(
            f"{quoted(item.value)} cannot be used: {option.key} is a {option.kind.value}"
        )
    if not item.value:
        raise ValueError(f"{option.key} has no value: give it one, or remove the line")
    if len(item.value) > VALUE_CHARACTERS_MAX:
        raise ValueError(
            f"{option.key} has more than {VALUE_CHARACTERS_MAX} characters: shorten it"
        )
    return item.value


_READERS: dict[Kind, Callable[[Option, Item], Value]] = {
    Kind.BOOLEAN: _boolean,
    Kind.INTEGER: _integer,
    Kind.DURATION: _duration,
    Kind.SIZE: _size,
    Kind.KIBIBYTES: _kibibytes,
    Kind.CHOICE: _choice,
    Kind.PATH: _path,
    Kind.ENDPOINT: _endpoint,
    Kind.UUID: _uuid,
    Kind.USER: _user,
    Kind.PATTERNS: _text,
    Kind.INTERFACES: _interface,
    Kind.MEMBERS: _text,
    Kind.RULES: _text,
}
