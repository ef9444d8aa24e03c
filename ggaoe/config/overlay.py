"""Changes of a running configuration that stand in no file.

Owns what becomes of several changes of one section. Must not know what options mean: the sections
that come of it are checked as those of a file are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, NamedTuple

from ggaoe.config import keyfile
from ggaoe.config.document import Section

Values = Mapping[str, str | None]
"""Option → value as a key file has it; None removes what is set: then the default is in force."""


_NOTHING: Values = MappingProxyType({})


class Edit(NamedTuple):
    """One change: a device is added or removed, or a section (`defaults`, `acls`, a device, an
    interface) gets other values."""

    action: Literal["add", "remove", "set"]
    name: str
    values: Values = _NOTHING
    kind: str = "device"
    """Of a section that is added: of a device, or of an interface."""

    def __str__(self) -> str:
        return f"{self.action} {self.name}"


@dataclass(frozen=True, slots=True)
class Overlay:
    """All that was changed of one section: what the file says counts unless `removed`, a section
    of its own begins where `fresh` names its kind, and `values` come last."""

    removed: bool = False
    fresh: str = ""
    values: Values = field(default_factory=dict)

    def applied(self, section: Section) -> Section | None:
        """`section` as it is with this; None where there is none any more."""
        return None if self.removed else self.changed(section)

    def section(self, name: str) -> Section:
        """The section that begins here."""
        return self.changed(Section(self.fresh, name, f"set {name}", 0, 0, {}))

    def changed(self, section: Section) -> Section:
        """`section` with the values."""
        if not self.values:
            return section
        label = f"set {section.name}"
        new = section.without(self.values)
        for key, raw in self.values.items():
            if raw is not None:
                new.entries[key] = keyfile.KeyfileEntry(key, raw, label, 0, 0, 0)
        return new


Overlays = Mapping[str, Overlay]
"""By the section's name. Where nothing is left to say there is none, so they are not many."""


def overlaid(overlays: Overlays, edit: Edit) -> Overlays:
    """What is in force after `edit`."""
    now = overlays.get(edit.name, Overlay())
    if edit.action == "add":
        new = Overlay(now.removed, edit.kind, dict(edit.values))
    elif edit.action == "set":
        new = Overlay(now.removed, now.fresh, {**now.values, **edit.values})
    else:
        new = Overlay(now.removed or not now.fresh)
    others = {name: overlay for name, overlay in overlays.items() if name != edit.name}
    return others if new == Overlay() else {**others, edit.name: new}
