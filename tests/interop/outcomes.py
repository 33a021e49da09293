"""What may become of what a guest holds when its mount migrates, and who says so."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

RIGHT = "right"
CARRIED = "right, as a copy"
WARNED = "other content, with a warning"
REFUSED = "refused"
FAILED = "error for the guest"
WRONG = "WRONG"
SEVERITY = (RIGHT, CARRIED, REFUSED, FAILED, WARNED, WRONG)


class Held(Protocol):
    """What the guest holds."""

    def judge(self) -> str:
        """What has become of it, as the guest sees it."""

    def copied(self, folder: Path) -> None:
        """``folder`` is now what the line's own one is, in a copy of the share."""

    def arrived(self) -> None:
        """The destination serves that copy."""


class Scenario(Protocol):
    """One line of the table."""

    def __call__(self, guest: Path, host: Path, stack: ExitStack) -> Held:
        """Makes what the guest holds in the folder ``guest``, which is ``host`` on the host."""


def worst(outcomes: Sequence[str]) -> str:
    return max(outcomes, key=SEVERITY.index)
