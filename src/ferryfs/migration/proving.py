"""Proving in the background what a lazy load has filed without a look, while the guest works on.

Nobody waits for it: an inode that is used before it was proven is proven then. It makes the first uses fast, and tells
the operator how much could not be found.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Final

from ferryfs.engine.device import Device
from ferryfs.migration import deferred
from ferryfs.migration.collect.pace import Pace

_LOG = logging.getLogger("ferryfs.migration")

# Slots between two rests; ``stop`` waits for as many.
SLOTS_AT_ONCE: Final = 64
FIRST_REST_S: Final = 0.2


class Proving:
    """One pass over a device's inodes. All but the pass itself is for one thread."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._cancelled = threading.Event()
        self._thread: threading.Thread | None = None
        # Slots before this one were looked at.
        self._at = 0
        self._proven = 0
        self._failed = 0
        self._worked_s = 0.0
        self._done = False

    def start(self) -> None:
        """Begins, or goes on where it was stopped. Nothing when it runs, or is done."""
        if self._thread is None and not self._done:
            self._cancelled.clear()
            self._thread = threading.Thread(target=self._run, name="migration-prove", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Comes back when nothing is looked at any more."""
        self._cancelled.set()
        self.wait()

    def wait(self) -> None:
        """Comes back when the pass is done or was stopped."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        # A guest that resumes has much to ask itself.
        self._cancelled.wait(FIRST_REST_S)
        started = time.monotonic()
        pace = Pace(self._cancelled)
        slots = deferred.slots(self._device)
        while self._at < slots and not pace():
            proven, failed = deferred.prove(self._device, self._at, self._at + SLOTS_AT_ONCE)
            self._proven += proven
            self._failed += failed
            self._at += SLOTS_AT_ONCE
        self._worked_s += time.monotonic() - started
        self._done = self._at >= slots
        if self._done:
            _LOG.info(
                "Migration: %d cached inodes proven in the background in %.1f s; %d could not be found, and are stale "
                "to the guest.",
                self._proven,
                self._worked_s,
                self._failed,
            )
