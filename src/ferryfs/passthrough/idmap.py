"""``--translate-uid`` and ``--translate-gid``: rules between guest ids and host ids.

A rule is ``TYPE:BASE:BASE:COUNT`` (``forbid-guest:BASE:COUNT``). Each direction is its own table: a rule of the guest
side says nothing about the way back, only ``map`` does both. An id that no rule names passes unchanged. Within one
direction no two rules may name the same id, so the order of the rules never matters.

``Translation`` is the plain reference of what the engine does with the rules; the tests compare the two.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from ferryfs.errors import OptionError
from ferryfs.passthrough.config import IdRange

ID_MAX = 0xFFFF_FFFF
"""Ids are 32 bits; the highest means "unchanged" to the kernel and is never translated."""

# type: (number of fields, sides whose ids the rule translates)
_TYPES: dict[str, tuple[int, tuple[str, ...]]] = {
    "guest": (3, ("guest",)),
    "host": (3, ("host",)),
    "squash-guest": (3, ("guest",)),
    "squash-host": (3, ("host",)),
    "forbid-guest": (2, ("guest",)),
    "map": (3, ("guest", "host")),
}
_FORM = "guest|host|squash-guest|squash-host|map:BASE:BASE:COUNT or forbid-guest:BASE:COUNT"


def parse_rule(text: str) -> IdRange:
    """One rule of the command line. Raises ``OptionError`` with one sentence."""
    kind = text[: _prefix_length(text)]
    separator = text[len(kind) : len(kind) + 1]
    if kind.lower() not in _TYPES:
        raise OptionError(f"{text!r} begins with an unknown type, it must be {_FORM}, for example map:0:100000:65536")
    kind = kind.lower()
    expected, sides = _TYPES[kind]
    fields = text[len(kind) + 1 :].split(separator) if separator else []
    if len(fields) != expected:
        raise OptionError(f"{text!r} has {len(fields)} numbers where {kind} takes {expected}, it must be {_FORM}")
    numbers = [_id_number(text, field) for field in fields]
    count = numbers[-1]
    first = numbers[0]
    second = numbers[1] if expected == 3 else 0
    # The side that the rule starts from stands first in the text; a ``map`` starts from the guest.
    rule = IdRange(kind, second, first, count) if sides == ("host",) else IdRange(kind, first, second, count)
    for side, base in (("guest", rule.guest_base), ("host", rule.host_base)):
        # A squash has one target, whatever the count.
        length = 1 if kind.startswith("squash") and side not in sides else count
        if base + length - 1 >= ID_MAX and count:
            raise OptionError(f"{text!r} reaches beyond the highest {side} id {ID_MAX - 1}, make its count smaller")
    return rule


def check_rules(rules: Iterable[IdRange], option: str) -> tuple[IdRange, ...]:
    """The rules of one option, refused when two of them translate the same id of the same side."""
    kept = tuple(rule for rule in rules if rule.count)
    for side in ("guest", "host"):
        ranges = sorted((_base(rule, side), rule.count, rule.kind) for rule in kept if side in _TYPES[rule.kind][1])
        for (base, count, kind), (next_base, next_count, next_kind) in pairwise(ranges):
            if base + count > next_base:
                raise OptionError(
                    f"{option}: the rules {kind} ({base} to {base + count - 1}) and {next_kind} ({next_base} to "
                    f"{next_base + next_count - 1}) both translate {side} id {next_base}, make their ranges disjoint"
                )
    return kept


class Translation:
    """What a set of rules does to one id, in slow and obvious Python."""

    def __init__(self, rules: tuple[IdRange, ...]) -> None:
        self._rules = rules

    def to_host(self, guest_id: int) -> int | None:
        """The host's id for ``guest_id``; None when the guest must not use it (EPERM)."""
        for rule in self._rules:
            if "guest" in _TYPES[rule.kind][1] and rule.guest_base <= guest_id < rule.guest_base + rule.count:
                if rule.kind == "forbid-guest":
                    return None
                return rule.host_base + (0 if rule.kind == "squash-guest" else guest_id - rule.guest_base)
        return guest_id

    def to_guest(self, host_id: int) -> int:
        """The guest's id for ``host_id``."""
        for rule in self._rules:
            if "host" in _TYPES[rule.kind][1] and rule.host_base <= host_id < rule.host_base + rule.count:
                return rule.guest_base + (0 if rule.kind == "squash-host" else host_id - rule.host_base)
        return host_id


def _base(rule: IdRange, side: str) -> int:
    return rule.guest_base if side == "guest" else rule.host_base


def _prefix_length(text: str) -> int:
    for index, char in enumerate(text):
        if not (char.isalnum() or char in "-_"):
            return index
    return len(text)


def _id_number(text: str, field: str) -> int:
    # int() would also take "+1", "1_000" and " 1".
    if not (field.isascii() and field.isdigit()):
        raise OptionError(f"{text!r}: {field!r} is not a number, write ids and counts as decimal digits")
    number = int(field)
    if number > ID_MAX:
        raise OptionError(f"{text!r}: {field} is more than the highest id {ID_MAX}")
    return number
