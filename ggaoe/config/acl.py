"""Access lists: from named lists that include each other to plain sets of MAC addresses, and from
what a device's options name to rules.

Owns the meaning of an item (a MAC address, else an access list, else a host of /etc/ethers; behind
a `!` those that are refused), cycles and the bound on a list's size. Reads no file and knows no
device.
"""

from __future__ import annotations

import graphlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ggaoe import units
from ggaoe.config.document import Item, Placed, Problems, near, quoted
from ggaoe.proto.rules import Rule, Rules

AccessList = frozenset[bytes]
"""MAC addresses of six bytes."""

ADDRESSES_MAX = 65536
"""Addresses of one resolved access list."""

REFUSE = "!"
"""Before an item of an option that has rules: whom it names is refused."""

_GROUP_BIT = 0x01


@dataclass(frozen=True, slots=True)
class Hosts:
    """Host names of an ethers file; `failure` says why there are none."""

    source: Path
    macs: Mapping[str, bytes] = field(default_factory=dict)
    failure: str = ""


def parse_ethers(text: str) -> dict[str, bytes]:
    """Host name → MAC from the text of /etc/ethers; as in the C library, the first line of a host
    counts and what is no `MAC name` line is skipped."""
    macs: dict[str, bytes] = {}
    for line in text.split("\n"):
        words = line.partition("#")[0].split()
        if len(words) < 2:
            continue
        try:
            macs.setdefault(words[1], units.parse_mac(words[0]))
        except ValueError:
            continue
    return macs


class Resolver:
    """Resolves all named lists at once; every list is read once, so a problem is told once."""

    def __init__(
        self, definitions: Mapping[str, Sequence[Item]], hosts: Hosts, problems: Problems
    ) -> None:
        self._definitions = definitions
        self._hosts = hosts
        self._problems = problems
        self.resolved: dict[str, AccessList] = {}
        for name in self._order():
            self.resolved[name] = self.members(definitions[name])

    def members(self, items: Sequence[Item]) -> AccessList:
        """The addresses that the items stand for; what an item lacks goes to the problems."""
        return frozenset().union(*(rule.macs for rule in self._rules(items)))

    def accepted(self, items: Sequence[Item]) -> Rules:
        """The items are permitted, nobody else is."""
        return Rules(self._rules(items), others=False)

    def denied(self, items: Sequence[Item]) -> Rules:
        """The items are refused, nobody else is."""
        return Rules(
            tuple(rule._replace(permits=False) for rule in self._rules(items)), others=True
        )

    def ordered(self, items: Sequence[Item]) -> Rules:
        """Items are permitted, or refused behind a `!`, in order; others are permitted where every
        item refuses."""
        refusing = [str(item.value).startswith(REFUSE) for item in items]
        bare = [
            replace(item, value=str(item.value).removeprefix(REFUSE).lstrip()) if refuses else item
            for item, refuses in zip(items, refusing, strict=True)
        ]
        rules = tuple(
            rule._replace(permits=not refuses, text=f"{REFUSE if refuses else ''}{rule.text}")
            for rule, refuses in zip(self._rules(bare), refusing, strict=False)
        )
        others = bool(items) and all(refusing)
        if not others and refusing and refusing[-1]:
            text = f"{quoted(items[-1].value)} has no effect: hosts that no item names are refused"
            self._problems.warn(items[-1], f"{text} anyway; put it before the items that permit")
        return Rules(rules, others)

    def _rules(self, items: Sequence[Item]) -> tuple[Rule, ...]:
        """Each item with its addresses; those that are too many are a problem, and left out."""
        rules: list[Rule] = []
        members: set[bytes] = set()
        for item in items:
            found = self._resolve(item)
            members |= found
            if len(members) > ADDRESSES_MAX:
                text = f"an access list holds at most {ADDRESSES_MAX} addresses: split it"
                self._problems.error(item, text)
                break
            rules.append(Rule(str(item.value), True, found))
        return tuple(rules)

    def _resolve(self, item: Item) -> AccessList:
        if not isinstance(item.value, str):
            text = f"{quoted(item.value)} is no text: write a MAC address or a name in quotes"
            return self._refuse(item, text)
        word = item.value
        if word.startswith(REFUSE) and word not in self._definitions:
            text = f"{quoted(word)} cannot stand here: what refuses has an order only in"
            return self._refuse(item, f"{text} discover, read, write and change")
        if word in self._definitions:
            return self.resolved.get(word, frozenset())  # absent: part of a cycle, already told
        if ":" not in word:
            mac = self._hosts.macs.get(word)
            return self._refuse(item, self._unknown(word)) if mac is None else frozenset({mac})
        try:
            mac = units.parse_mac(word)
        except ValueError:
            text = f"{quoted(word)} is no MAC address: write it as 02:00:00:00:00:01"
            return self._refuse(item, text)
        if mac[0] & _GROUP_BIT:
            return self._refuse(item, f"{word} is a multicast address: no host sends from one")
        return frozenset({mac})

    def _refuse(self, at: Placed, text: str) -> AccessList:
        self._problems.error(at, text)
        return frozenset()

    def _unknown(self, word: str) -> str:
        hint = near(word, [*self._definitions, *self._hosts.macs])
        source = self._hosts.source
        why = f" ({self._hosts.failure})" if self._hosts.failure else ""
        advice = hint or ": define it in [acls], or write the MAC address"
        return f"{quoted(word)} is neither an access list nor a host of {source}{why}{advice}"

    def _order(self) -> list[str]:
        """Names in an order that puts included lists first; lists of a cycle are left out."""
        includes = {
            name: {str(item.value) for item in items} & self._definitions.keys()
            for name, items in self._definitions.items()
        }
        while True:
            try:
                return list(graphlib.TopologicalSorter(includes).static_order())
            except graphlib.CycleError as error:
                if self._problems.full:
                    return []
                cycle = [str(name) for name in error.args[1]][::-1]
                self._tell_cycle(cycle)
                for name in cycle:
                    includes[name] = set()

    def _tell_cycle(self, cycle: list[str]) -> None:
        """Report the cycle at the inclusion that comes last in the file and so closes it."""
        inclusions = [
            next(item for item in self._definitions[name] if item.value == included)
            for name, included in itertools.pairwise(cycle)
        ]
        last = max(range(len(inclusions)), key=lambda n: (inclusions[n].line, inclusions[n].column))
        names = [*cycle[last:-1], *cycle[: last + 1]]
        text = f"access list {quoted(names[0])} includes itself"
        way = f" ({' → '.join(names)})" if len(names) > 2 else ""
        self._problems.error(inclusions[last], f"{text}{way}: remove one of the inclusions")
