"""Configurations of devices, made by the program's own reader, whatever options it has."""

from __future__ import annotations

from dataclasses import replace

from ggaoe.config import DeviceConfig, from_mapping


def device_config(name: str, path: str, address: tuple[int, int], **fields: object) -> DeviceConfig:
    """A device with the default of every option but `fields`, which are those of DeviceConfig. Its
    delays and direct I/O are off, and every sector counts: what tests reckon with."""
    shelf, slot = address
    options = {"path": path, "shelf": shelf, "slot": slot}
    config = from_mapping({"devices": {name: options}}, "test").devices[name]
    plain = replace(config, exact_size=True, direct_io=False, max_delay_s=0.0, merge_delay_s=0.0)
    return replace(plain, **fields)  # type: ignore[arg-type]
