"""What a load could not restore: told to the operator one line a cause, with every name up to a bound."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

_LOG = logging.getLogger("ferryfs.migration")

# Names of a line, and of one load in all.
NAMED_A_LINE: Final = 50
NAMED: Final = 1000
# How many files of another time of change the warning names.
AGED_NAMED: Final = 20


def log_aged(names: Sequence[str], same: bool) -> None:
    """Warns of files that were changed at another time than the source's. ``same``: the directory is not known to be a
    copy.
    """
    if names:
        more = f" and {len(names) - AGED_NAMED} more" if len(names) > AGED_NAMED else ""
        copy = "files of the copy were changed at another time than the source's, so their content may differ:"
        clone = (
            "files of what may be a clone of the source's directory were changed at another time than the "
            "source's, so their content may differ:"
        )
        _LOG.warning(
            "Migration: %d %s %s%s.",
            len(names),
            clone if same else copy,
            ", ".join(names[:AGED_NAMED]),
            more,
        )


class Losses:
    """Who is lost, by cause."""

    def __init__(self) -> None:
        self._causes: dict[str, list[str]] = {}
        self._count = 0

    def add(self, who: str, why: str) -> None:
        self._causes.setdefault(why, []).append(who)
        self._count += 1

    def log(self) -> None:
        """A line for each cause with its count; further ones where it has many names."""
        room = NAMED
        for why, names in self._causes.items():
            shown = names[:room]
            room -= len(shown)
            head = f"Migration: {len(names)} can't be restored, because {why}"
            for first in range(0, max(len(shown), 1), NAMED_A_LINE):
                listed = ", ".join(shown[first : first + NAMED_A_LINE])
                more = len(names) - len(shown) if first + NAMED_A_LINE >= len(shown) else 0
                tail = f"{', ' if listed else ''}and {more} more" if more else ""
                _LOG.warning("%s: %s%s.", head, listed, tail)

    def sentence(self) -> str:
        """The first one and how many more; empty when nothing is lost."""
        for why, names in self._causes.items():
            more = f" and {self._count - 1} more" if self._count > 1 else ""
            return f"can't be restored: {names[0]}: {why}{more}"
        return ""
