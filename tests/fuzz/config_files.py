"""What holds of configuration files in both dialects; an input holds two, parted by BETWEEN."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path

from ggaoe.config import Config, diff, effective, load
from ggaoe.config.schema import OPTIONS, Value
from ggaoe.errors import ConfigError

BETWEEN = b"\0\0"
ETHERS = "02:00:00:00:00:0c alpha\n02:00:00:00:00:0d beta\n"
CONFIG_WORDS = (
    *(option.key for option in OPTIONS),
    *("true", "false", "auto", "native", "aio", "50us", "5ms", "10GiB", "64KiB", "eth0", "san*"),
    *("[defaults]", "[acls]", "[disk]", "[interfaces.eth0]", "[devices.disk]", "[[devices.disk]]"),
    *("02:00:00:00:00:01", "alpha", "lab", "4095", "65534", "\\s", "\\,", "\0\0", '"""', "'''"),
    *("include = *.toml", "include = input.conf", "[template vms]", "[templates.vms]"),
    *("0x", "1e9", "1979-05-27", "= [", "= {", "nan", "inf", "\\u0000", "\u2028", "\u00e4"),
)


@cache
def _directory() -> tempfile.TemporaryDirectory[str]:
    directory = tempfile.TemporaryDirectory(prefix="ggaoe-fuzz-")
    (Path(directory.name) / "ethers").write_text(ETHERS)
    return directory


def check_files(data: bytes, ending: str) -> None:
    """Read both files as `NAME.ending`, list and rewrite them, and plan the ways between them."""
    old, _, new = data.partition(BETWEEN)
    configs = [config for content in (old, new) if (config := read(content, ending)) is not None]
    for config in configs:
        assert len(effective(config)) == len(config.settings)
        again = read(as_toml(config).encode(), "toml")
        assert again == config, as_toml(config)
        assert diff(config, again).empty
        for other in configs:
            plan = diff(config, other)
            assert plan.empty == (not plan.lines())
            for name in ["", *config.interfaces, *other.interfaces]:
                plan.relinks(name)


def read(content: bytes, ending: str) -> Config | None:
    """The configuration, or None where everything that is wrong with the file has a place in it."""
    directory = Path(_directory().name)
    path = directory / f"input.{ending}"
    path.write_bytes(content)
    try:
        config = load(path, ethers=directory / "ethers")
    except ConfigError as error:
        config, problems = None, error.problems
    else:
        problems = config.warnings
    assert (config is None) != all(problem.warning for problem in problems)
    for problem in problems:
        assert "\n" not in str(problem)
        if problem.file != str(path):  # a file that this one includes
            continue
        is_rest = problem.message.startswith("not shown: ")
        assert is_rest or (1 <= problem.line <= content.count(b"\n") + 1 and problem.column >= 1)
    return config


def as_toml(config: Config) -> str:
    """A file with every setting of `config` that is no default."""
    tables = {f"interfaces.{name}": ("interfaces", name) for name in config.interfaces}
    tables |= {f"devices.{name}": ("devices", name) for name in config.devices}
    lines: dict[str, list[str]] = {"defaults": ["[defaults]"], "acls": ["[acls]"]}
    for section, (table, name) in tables.items():
        lines[section] = [f"[{table}.{_text(name)}]"]
    for (section, key), setting in config.settings.items():
        if setting.origin != "default":
            lines[section].append(f"{_text(key)} = {_value(setting.value)}")
    return "".join(f"{line}\n" for section in lines.values() for line in section)


def _value(value: Value) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, int | float) else _text(str(value))


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
