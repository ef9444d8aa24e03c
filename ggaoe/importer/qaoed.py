"""qaoed.conf: devices, their defaults, access lists for each operation, interfaces.

Owns the meaning of its keywords, qaoed.conf(5). An access list of qaoed has rules in order and a
policy for hosts without one; ours holds those hosts for whom the policy does not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ggaoe.config.document import near, quoted
from ggaoe.importer.blocks import Assignment, Block, Statement
from ggaoe.importer.blocks import read as read_blocks
from ggaoe.importer.model import Export, Imported, Options, export_of, mac_of, number
from ggaoe.importer.report import Place, Report, Word

DEFAULT_SOURCE = Path("/etc/qaoed.conf")

MTU_BYTES = 1500
"""What qaoed uses of an interface unless it is told otherwise, however large the interface's is."""
SLOT_FIRST = "0"
SHELF_UNSET = "0"

_LOGGING = ("log", "log-level", "logging", "apisocket", "persistent-cfg")
_OPERATIONS = {
    "cfgread": "discover",
    "discover": "discover",
    "read": "read",
    "write": "write",
    "cfgset": "change",
}
_GLOBAL = ("log-level", "apisocket", "persistent-cfg")
_IN_DEFAULT = ("shelf", "slot", "interface", "writecache", "broadcast", "log", "log-level", "acl")
_KEYS: dict[str, tuple[str, ...]] = {
    "": ("logging", "interface", "default", "device", "access-list", *_GLOBAL),
    "default": _IN_DEFAULT,
    "device": ("target", *_IN_DEFAULT),
    "acl": tuple(_OPERATIONS),
    "interface": ("interface", "mtu", "log", "log-level"),
    "access-list": ("name", "policy", "accept", "reject", "log"),
}
_BLOCKS = ("logging", "default", "device", "access-list", "acl")


@dataclass
class _Acl:
    """One access list: its name with us, and who is permitted, or refused where others are."""

    name: str
    others: bool
    macs: tuple[str, ...]

    @property
    def rule(self) -> tuple[str, ...] | None:
        """What a device's option says; None: nothing, since everybody is permitted."""
        if not self.others:
            return (self.name,)
        return (f"!{self.name}",) if self.macs else None


@dataclass
class _Block:
    """A block's settings; of a repeated one the last counts."""

    at: Place
    values: dict[str, Word] = field(default_factory=dict)
    acls: dict[str, Word] = field(default_factory=dict)


def read(source: Path, report: Report) -> Imported:
    """What the file `source` and those that it includes say."""
    return _Import(read_blocks(source, report), report).imported()


class _Import:
    def __init__(self, statements: Sequence[Statement], report: Report) -> None:
        self.report = report
        self.blocks: dict[str, list[Block]] = {key: [] for key in (*_BLOCKS, "interface")}
        for one in self._known("", statements):
            if isinstance(one, Block) and one.key.text in self.blocks:
                self.blocks[one.key.text].append(one)
        for block in self.blocks["logging"]:
            self._no_logging(block.key)

    def imported(self) -> Imported:
        self.acls = self._access_lists()
        defaults = self.blocks["default"]
        for block in defaults[1:]:
            self.report.note(block.key.at, "only the first default block counts: left out")
        self.default = self._settings(defaults[0]) if defaults else _Block(Place(""))
        self.slot = self._first_slot()
        exports = [export for block in self.blocks["device"] if (export := self._device(block))]
        self._tell_ways(exports)
        return Imported(
            exports,
            {acl.name: acl.macs for acl in self.acls.values()},
            self._interfaces(exports),
        )

    # Statements

    def _known(self, kind: str, statements: Iterable[Statement]) -> list[Statement]:
        """Those that may stand in a block of `kind`; what has to do with logs is told here."""
        known = []
        for one in statements:
            key = one.key.text
            if key not in _KEYS[kind]:
                where = f"in a block {quoted(kind)}" if kind else "outside blocks"
                advice = near(key, _KEYS[kind]) or ": remove it"
                self.report.error(one.key.at, f"{quoted(key)} cannot stand {where}{advice}")
            elif isinstance(one, Block) != self._is_block(kind, key):
                form = f"{key} {{ … }}" if isinstance(one, Assignment) else f"{key} = VALUE;"
                self.report.error(one.key.at, f"{quoted(key)} is misused: write {form}")
            elif key in _LOGGING and isinstance(one, Assignment):
                self._no_logging(one.key)
            else:
                known.append(one)
        return known

    def _is_block(self, kind: str, key: str) -> bool:
        return key in _BLOCKS or (kind == "" and key == "interface")

    def _no_logging(self, key: Word) -> None:
        advice = {
            "apisocket": "set control-socket for ggaoectl",
            "persistent-cfg": "ggaoe always keeps config strings",
        }.get(key.text, "ggaoe logs to the journal or syslog; trace-io = true logs every request")
        self.report.note(key.at, f"{key.text} is not carried over: {advice}")

    def _settings(self, block: Block) -> _Block:
        found = _Block(block.key.at)
        for one in self._known(block.key.text, block.body):
            if isinstance(one, Assignment):
                found.values[one.key.text] = one.value
                continue
            for inner in self._known("acl", one.body):
                if isinstance(inner, Assignment):
                    found.acls[_OPERATIONS[inner.key.text]] = inner.value
        return found

    def _word(self, word: Word, choices: tuple[str, ...]) -> str:
        if word.text not in choices:
            text = f"{quoted(word.text)} is unknown here: write {' or '.join(choices)}"
            self.report.error(word.at, text)
        return word.text

    # Access lists

    def _access_lists(self) -> dict[str, _Acl]:
        lists: dict[str, _Acl] = {}
        for block in self.blocks["access-list"]:
            name, acl = self._access_list(block, [acl.name for acl in lists.values()])
            if name is None:
                self.report.error(block.key.at, "the access list has no name: give it one")
            elif name.text in lists:
                text = f"access list {quoted(name.text)} exists already, the first one counts"
                self.report.note(name.at, f"{text}: left out")
            else:
                lists[name.text] = acl
        return lists

    def _access_list(self, block: Block, taken: list[str]) -> tuple[Word | None, _Acl]:
        name, policy = None, "reject"
        decided: dict[str, str] = {}
        for one in self._known("access-list", block.body):
            assert isinstance(one, Assignment)
            if one.key.text == "name":
                name = one.value
            elif one.key.text == "policy":
                policy = self._word(one.value, ("accept", "reject"))
            elif mac := mac_of(one.value, self.report):
                decided.setdefault(mac, one.key.text)
        macs = tuple(mac for mac, verdict in decided.items() if verdict != policy)
        return name, _Acl(plain_name(name.text if name else "", taken), policy == "accept", macs)

    def _rules(self, device: _Block, options: Options) -> None:
        given = {**self.default.acls, **device.acls}
        words = {one: given[one] for one in dict.fromkeys(_OPERATIONS.values()) if one in given}
        for operation, word in words.items():
            acl = self.acls.get(word.text)
            if acl is None:
                hint = near(word.text, self.acls) or ": define it"
                text = f"there is no access list {quoted(word.text)}{hint}"
                self.report.error(word.at, text)
            elif acl.rule is None:
                text = f"access list {quoted(word.text)} refuses nobody, so it has no effect"
                self.report.note(word.at, f"{text}: left out")
            else:
                options[operation] = acl.rule
        if "read" in options and options.get("discover") != options["read"]:
            text = "qaoed refuses IDENTIFY to those who may not read, ggaoe answers it to those "
            advice = "who may discover: name the list for discover, too, if that matters"
            self.report.note(words["read"].at, text + advice)
        self._restrict_changes(words, options)

    def _restrict_changes(self, words: Mapping[str, Word], options: Options) -> None:
        """Those who may not use the disk must not keep others from it, as they could not before."""
        also = "which includes mask list and reservation: qaoed has neither"
        if "change" in words:
            text = f"cfgset becomes change, {also}: name those who may set these"
            self.report.note(words["change"].at, text)
            return
        operation = next((one for one in ("write", "read") if one in options), None)
        if operation is not None:
            options["change"] = options[operation]
            text = f"there is no cfgset, so those who may {operation} may change, {also}"
            self.report.note(
                words[operation].at, f"{text}: name a list for cfgset to choose others"
            )

    # Devices

    def _first_slot(self) -> int:
        word = self.default.values.get("slot", Word(SLOT_FIRST, self.default.at))
        return number("slot", word, self.report) or 0

    def _device(self, block: Block) -> Export | None:
        device = self._settings(block)
        values = {**self.default.values, **device.values}
        target, interface = values.get("target"), values.get("interface")
        slot = device.values.get("slot")
        if slot is None:
            # qaoed goes on counting whatever slots other devices name.
            slot = Word(str(self.slot), device.at)
            self.slot += 1
        for key, word in (("target", target), ("interface", interface)):
            if word is None:
                self.report.error(device.at, f"the device has no {key}: add {key} = …;")
        if target is None or interface is None:
            return None
        options = self._options(device, values)
        shelf = values.get("shelf", Word(SHELF_UNSET, device.at))
        export = export_of(shelf, slot, interface, target, options, self.report)
        if export is not None:
            export.at = device.at
        return export

    def _options(self, device: _Block, values: Mapping[str, Word]) -> Options:
        options: Options = {"direct-io": False, "write-cache": False}
        cache = values.get("writecache")
        if cache is None or self._word(cache, ("on", "off")) == "on":
            self.report.note(
                cache.at if cache else device.at,
                "writecache is on: qaoed acknowledges writes before they are on stable storage, "
                "ggaoe does not: set write-cache = true if their loss in a power cut is better "
                "than waiting",
            )
        told = values.get("broadcast")
        if told is not None and self._word(told, ("on", "off")) == "off":
            text = "broadcast = off is not carried over: ggaoe announces a device to those who may"
            self.report.note(told.at, f"{text} discover it: name them in an access list")
        self._rules(device, options)
        return options

    # Interfaces

    def _tell_ways(self, exports: Sequence[Export]) -> None:
        """qaoed listens on all interfaces that are named anywhere, and sorts by address only."""
        names = list(dict.fromkeys(export.interfaces[0] for export in exports))
        if len(names) > 1:
            text = f"qaoed answers for every device on every interface ({', '.join(names)}), ggaoe "
            advice = "on those of the device: add to its interfaces what hosts use"
            self.report.note(exports[0].at, text + advice)

    def _interfaces(self, exports: Iterable[Export]) -> dict[str, Options]:
        words: dict[str, tuple[Place, Word | None]] = {}
        for block in self.blocks["interface"]:
            values = self._settings(block).values
            if "interface" not in values:
                text = "the block names no interface: add interface = NAME;"
                self.report.error(block.key.at, text)
            else:
                words.setdefault(values["interface"].text, (block.key.at, values.get("mtu")))
        found: dict[str, Options] = {}
        for export in exports:
            (name,) = export.interfaces
            at, mtu = words.get(name, (export.at, None))
            if name not in found and (options := self._mtu(name, at, mtu)):
                found[name] = options
        return found

    def _mtu(self, name: str, at: Place, word: Word | None) -> Options:
        if word is not None:
            mtu = 0 if word.text == "auto" else number("mtu", word, self.report)
            return {"mtu": mtu} if mtu else {}
        text = f"qaoed uses {MTU_BYTES} bytes of {name} unless it is told otherwise"
        self.report.note(at, f"{text}, and so does [{name}] now: remove its mtu for jumbo frames")
        return {"mtu": MTU_BYTES}


def plain_name(name: str, taken: Sequence[str]) -> str:
    """`name` without what has a meaning in our lists, and unlike the names that are taken."""
    plain = re.sub(r"[^\w .@+-]", "_", name).strip() or "_"
    found, count = plain, 1
    while found in taken:
        count += 1
        found = f"{plain}_{count}"
    return found
