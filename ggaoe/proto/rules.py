"""Who may do something: ordered rules over MAC addresses, of which the first that matches decides.

Owns what a list of rules means and how it explains itself; not where its addresses come from, and
not what the hosts may then do.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


class Rule(NamedTuple):
    """One rule: `text` as an administrator has written it, and the hosts whom it concerns."""

    text: str
    permits: bool
    macs: frozenset[bytes]


@dataclass(frozen=True)
class Rules:
    """Rules in order; `others` is what holds for hosts that none of them names."""

    rules: tuple[Rule, ...]
    others: bool
    exceptions: frozenset[bytes] = field(init=False, compare=False, repr=False)
    """The hosts for whom something else than `others` holds: all that a fast path has to know."""

    def __post_init__(self) -> None:
        decided: set[bytes] = set()
        exceptions: set[bytes] = set()
        for rule in self.rules:
            if rule.permits != self.others:
                exceptions |= rule.macs - decided
            decided |= rule.macs
        object.__setattr__(self, "exceptions", frozenset(exceptions))

    def permits(self, mac: bytes) -> bool:
        return (mac in self.exceptions) != self.others

    def deciding(self, mac: bytes) -> Rule | None:
        """The rule that decides about `mac`; None: it is one of the others."""
        return next((rule for rule in self.rules if mac in rule.macs), None)

    def reason(self, mac: bytes) -> str | None:
        """Why `permits` says what it says, for people; None where there are no rules at all."""
        rule = self.deciding(mac)
        if rule is not None:
            return rule.text
        if not self.rules:
            return None if self.others else "empty list"
        return "not in the list"


EVERYBODY = Rules((), others=True)
