"""How far the search for inodes has come, said every few seconds."""

from __future__ import annotations

import logging
import time
from typing import Final

_LOG = logging.getLogger("ferryfs.migration")

EVERY_S: Final = 3.0


class Progress:
    """Of one search. May be called from several threads: then a line may come twice, or be left out."""

    def __init__(self, every_s: float = EVERY_S) -> None:
        self._every_s = every_s
        self._said = self._began = time.monotonic()

    def step(self, what: str, done: int, total: int) -> None:
        """``what`` has two %d, for ``done`` and ``total``; logged when it is time."""
        now = time.monotonic()
        if now - self._said >= self._every_s:
            self._said = now
            _LOG.info("Migration: " + what + ", after %.0f s.", done, total, now - self._began)
