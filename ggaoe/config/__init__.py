"""Configuration: file to immutable objects, every problem of the file at once, and what a reload
from one configuration to another has to do. Nothing here opens a device or an interface."""

from ggaoe.config.load import (
    Row,
    as_mapping,
    edit,
    effective,
    from_mapping,
    load,
    load_async,
    parse,
)
from ggaoe.config.model import Config, DeviceConfig, InterfaceConfig
from ggaoe.config.overlay import Edit
from ggaoe.config.plan import DeviceChange, InterfaceChange, OptionChange, ReloadPlan, diff

__all__ = [
    "Config",
    "DeviceChange",
    "DeviceConfig",
    "Edit",
    "InterfaceChange",
    "InterfaceConfig",
    "OptionChange",
    "ReloadPlan",
    "Row",
    "as_mapping",
    "diff",
    "edit",
    "effective",
    "from_mapping",
    "load",
    "load_async",
    "parse",
]
