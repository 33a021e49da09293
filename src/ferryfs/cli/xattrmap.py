"""``ferryfs xattrmap test RULES NAME…``: what a rule set makes of names, before a guest depends on it."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence

from ferryfs.errors import OptionError
from ferryfs.passthrough.config import XattrRule
from ferryfs.passthrough.xattrmap import (
    UnmappedName,
    find_rule,
    map_client,
    map_server,
    parse_rules,
    remaps_capability,
    unterminated,
)

USAGE = """usage: ferryfs xattrmap test RULES [NAME…]

Shows what --xattrmap=RULES does to each NAME: as the guest uses it, and as the host lists it.
RULES is the rules themselves, or @FILE for a file with them."""

FILE_MAX = 1 << 20


def main(argv: Sequence[str]) -> int:
    """Print a line for each name and direction; 0 where the rules are good, whatever they do to the names."""
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if argv else OptionError.exit_code
    if argv[0] != "test" or len(argv) < 2:
        raise OptionError("write: ferryfs xattrmap test RULES NAME…")
    rules = parse_rules(_rules_text(argv[1]))
    for number, rule in enumerate(rules, 1):
        print(f"rule {number}: {_written(rule)}")
    for side in unterminated(rules):
        fate = "refused" if side == "client" else "hidden"
        print(f"no rule is left for other names on the {side} side: they are {fate}")
    remapped = remaps_capability(rules)
    if remapped:
        print(f"security.capability becomes {_shown(remapped)}: the daemon drops it when a file is written")
    for name in argv[2:]:
        _show(rules, os.fsencode(name))
    sys.stdout.flush()
    return 0


def _show(rules: tuple[XattrRule, ...], name: bytes) -> None:
    try:
        there = _shown(map_client(rules, name))
    except UnmappedName as refused:
        there = errno.errorcode[refused.errno]
    back = map_server(rules, name)
    print(f"guest uses  {_shown(name)} -> {there}  {_by(rules, 'client', name)}")
    print(f"host lists  {_shown(name)} -> {'hidden' if back is None else _shown(back)}  {_by(rules, 'server', name)}")


def _by(rules: tuple[XattrRule, ...], side: str, name: bytes) -> str:
    rule = find_rule(rules, side, name)
    return "(no rule)" if rule is None else f"(rule {rules.index(rule) + 1})"


def _written(rule: XattrRule) -> str:
    return f":{rule.action}:{rule.scope}:{_shown(rule.key)}:{_shown(rule.prepend)}:"


def _shown(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def _rules_text(argument: str) -> str:
    if not argument.startswith("@"):
        return argument
    try:
        with open(argument[1:], encoding="utf-8", errors="surrogateescape") as file:
            text = file.read(FILE_MAX + 1)
    except OSError as error:
        raise OptionError(f"{argument[1:]}: can't be read: {error.strerror}") from None
    if len(text) > FILE_MAX:
        raise OptionError(f"{argument[1:]}: is larger than {FILE_MAX} bytes, it can't be a rule set")
    return text
