"""``--xattrmap``: how names of extended attributes differ between guest and host.

A map is a list of rules, tried in order; the first that matches decides. The character that begins a rule delimits
its fields::

    :TYPE:SCOPE:KEY:PREPEND:      TYPE prefix, ok, bad, unsupported; SCOPE client, server, all
    :map:KEY:PREPEND:             short for the usual set of rules, only as the last one

``client`` compares KEY with the beginning of a name that the guest uses, ``server`` compares PREPEND with the
beginning of a name that the host lists, ``all`` does both.

============  =========================================  ======================================
type          the guest uses a name                      the host lists a name
============  =========================================  ======================================
prefix        PREPEND is put in front of it              PREPEND is cut from it
ok            unchanged                                  unchanged
bad           EPERM                                      hidden
unsupported   ENOTSUP                                    hidden
no rule       EPERM                                      hidden
============  =========================================  ======================================

``map_client`` and ``map_server`` are the plain reference; the engine's compiled form is tested against them.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence

from ferryfs.errors import OptionError
from ferryfs.passthrough.config import XattrRule

TYPES = ("prefix", "ok", "bad", "unsupported")
SCOPES = ("client", "server", "all")
NAME_MAX = 255
"""XATTR_NAME_MAX: a longer name doesn't exist, so a longer field can never match."""

CAPABILITY = b"security.capability"
"""The one attribute that the kernel drops by itself on a write; remapped, the engine has to (see
``remaps_capability``)."""


class UnmappedName(Exception):
    """A name that the guest must not use: ``errno`` is what it gets."""

    def __init__(self, code: int, rule: XattrRule | None) -> None:
        super().__init__(errno.errorcode[code])
        self.errno = code
        self.rule = rule


def parse_rules(text: str) -> tuple[XattrRule, ...]:
    """The whole value of ``--xattrmap``. Raises ``OptionError`` with the number of the faulty rule."""
    rules: list[XattrRule] = []
    rest = text.strip()
    number = 0
    while rest:
        number += 1
        parsed, rest, is_map = _parse_rule(rest, number)
        if is_map and rest:
            raise OptionError(f"rule {number} is a map and not the last rule, move it to the end (one map is allowed)")
        rules.extend(parsed)
    if not rules:
        raise OptionError("there is no rule in it, the shortest useful map is ':map::user.virtiofs.:'")
    return tuple(rules)


def map_client(rules: Iterable[XattrRule], name: bytes) -> bytes:
    """The host's name for a name that the guest uses. Raises ``UnmappedName``."""
    rule = find_rule(rules, "client", name)
    if rule is None or rule.action == "bad":
        raise UnmappedName(errno.EPERM, rule)
    if rule.action == "unsupported":
        raise UnmappedName(errno.ENOTSUP, rule)
    mapped = rule.prepend + name if rule.action == "prefix" else name
    if len(mapped) > NAME_MAX:
        raise UnmappedName(errno.ERANGE, rule)
    return mapped


def map_server(rules: Iterable[XattrRule], name: bytes) -> bytes | None:
    """The guest's name for a name that the host lists; None when it stays hidden."""
    rule = find_rule(rules, "server", name)
    if rule is None or rule.action in ("bad", "unsupported"):
        return None
    mapped = name[len(rule.prepend) :] if rule.action == "prefix" else name
    # An attribute that is called like the prefix itself would have an empty name in the guest.
    return mapped or None


def find_rule(rules: Iterable[XattrRule], side: str, name: bytes) -> XattrRule | None:
    """The first rule that decides about ``name`` on ``side`` (client or server)."""
    for rule in rules:
        if rule.scope in (side, "all") and name.startswith(rule.key if side == "client" else rule.prepend):
            return rule
    return None


def remaps_capability(rules: Sequence[XattrRule]) -> bytes | None:
    """The host's name of the guest's ``security.capability`` when it has another one.

    The kernel drops file capabilities when a file is written or changes owner, but only under their own name. Under
    another name that is the engine's task, else a guest's user could keep the capabilities of a program that it
    rewrote.
    """
    try:
        mapped = map_client(rules, CAPABILITY)
    except UnmappedName:
        return None
    return mapped if mapped != CAPABILITY else None


def unterminated(rules: Sequence[XattrRule]) -> tuple[str, ...]:
    """The sides (client, server) where a name may match no rule at all; worth a warning."""
    missing = []
    for side in ("client", "server"):
        ends = any(
            rule.scope in (side, "all") and not (rule.key if side == "client" else rule.prepend) for rule in rules
        )
        if not ends:
            missing.append(side)
    return tuple(missing)


def _parse_rule(text: str, number: int) -> tuple[list[XattrRule], str, bool]:
    delimiter, rest = text[0], text[1:]
    # A letter delimits too, but who wrote `foo` has only forgotten the delimiter.
    example = ":" if delimiter.isalnum() else delimiter

    def field(what: str) -> str:
        nonlocal rest
        value, found, rest = rest.partition(delimiter)
        if not found:
            raise OptionError(
                f"rule {number} ends in its {what}, write it as "
                + ":TYPE:SCOPE:KEY:PREPEND: or :map:KEY:PREPEND:".replace(":", example)
            )
        return value

    action = field("type")
    if action == "map":
        key, prepend = _name(field("key"), number), _name(field("prepend"), number)
        return _expand_map(key, prepend), rest.lstrip(), True
    if action not in TYPES:
        raise OptionError(f"rule {number} has the type {action!r}, it must be {', '.join(TYPES)} or map")
    scope = field("scope")
    if scope not in SCOPES:
        raise OptionError(f"rule {number} has the scope {scope!r}, it must be {', '.join(SCOPES)}")
    key, prepend = _name(field("key"), number), _name(field("prepend"), number)
    return [XattrRule(scope, action, key, prepend)], rest.lstrip(), False


def _expand_map(key: bytes, prepend: bytes) -> list[XattrRule]:
    if not key:
        return [XattrRule("all", "prefix", b"", prepend), XattrRule("all", "bad", b"", b"")]
    return [
        XattrRule("all", "prefix", key, prepend),
        # What the host has under the guest's own name is not the guest's.
        XattrRule("server", "bad", b"", key),
        # A guest that names the target of the mapping directly would go round its own access checks.
        XattrRule("client", "bad", prepend, b""),
        XattrRule("all", "ok", b"", b""),
    ]


def _name(text: str, number: int) -> bytes:
    # Command line bytes that are not UTF-8 arrive as surrogates and go back to the same bytes.
    name = text.encode("utf-8", "surrogateescape")
    if b"\0" in name:
        raise OptionError(f"rule {number} has a NUL in a name, no attribute's name can contain one")
    if len(name) > NAME_MAX:
        raise OptionError(f"rule {number} has a name of {len(name)} bytes, attributes' names have at most {NAME_MAX}")
    return name
