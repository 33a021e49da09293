"""A device's part in migrations, as the vhost-user layer drives it: collecting, saving, loading, and giving up at any
point.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Final

from ferryfs.engine.device import Device
from ferryfs.errors import FerryError, FrontendError
from ferryfs.migration import _syscalls, options
from ferryfs.migration.capture import Capture
from ferryfs.migration.collect.pace import Pace
from ferryfs.migration.live_destination import LiveDestination
from ferryfs.migration.live_source import LiveSource
from ferryfs.migration.proving import Proving
from ferryfs.migration.restore import Restore
from ferryfs.migration.share import Share
from ferryfs.migration.trailer_records import FileSystemIdentity
from ferryfs.migration.transfer import Outcome, Transfer
from ferryfs.passthrough.config import MigrationConfig, ShareConfig

_LOG = logging.getLogger("ferryfs.migration")

SAVE: Final = 0
LOAD: Final = 1
PHASE_STOPPED: Final = 0
# Answers to SET_DEVICE_STATE_FD.
USE_YOURS: Final = 0x100

_NOT_STARTED: Final = "the state was loaded, and the guest had not started yet"


class Migrator:
    """Implements ``vhost.device.Migration``. All of it is called from the session's thread."""

    def __init__(self, device: Device, config: MigrationConfig, share_config: ShareConfig, share: Share) -> None:
        self._device = device
        self._config = config
        self._share_config = share_config
        self._share = share
        # What collects, or has collected for the next save.
        self._capture: Capture | None = None
        self._collector: threading.Thread | None = None
        # Ends collecting or saving.
        self._cancel = threading.Event()
        self._transfer: Transfer | None = None
        self._direction = SAVE
        # The load has yet to be done once its bytes are there.
        self._pending_load = False
        self._began = 0.0
        # By the nodeids of their roots: mounts that the guest uses and that were missing when it came here.
        self.lost_mounts: dict[int, FileSystemIdentity] = {}
        # Of what the last load left for later.
        self.proving: Proving | None = None
        # What is under way, for the log when the front-end goes; empty outside of a migration.
        self._under_way = ""
        # The daemon is to end.
        self._ends = False

    def log_all(self, on: bool) -> None:
        """Begins to collect in the background, or ends that."""
        if on:
            # Two that mark what they have looked at would take each other's marks for their own (``steady``).
            self._end_save("a new migration began")
        self._stop_collecting()
        self._capture = None
        self._under_way = "paths were being collected" if on else ""
        if on:
            self._cancel = threading.Event()
            self._capture = self._new_capture()
            self._collector = threading.Thread(
                target=_collect, args=(self._capture, self._cancel), name="migration-collect", daemon=True
            )
            self._collector.start()

    def reset(self) -> None:
        """What was collected is about inodes that go now."""
        self._stop_collecting()
        self._stop_transfer()
        self._stop_proving()
        self._capture = None
        self.proving = None
        self._under_way = ""

    def ring_starts(self) -> None:
        """The guest goes on: a save that is still under way would read tables that change below it."""
        self._end_save("a virtqueue was started")
        if self.proving is not None:
            self.proving.start()
        if self._under_way == _NOT_STARTED:
            self._under_way = ""

    def _end_save(self, why: str) -> None:
        """Gives up a save that is under way."""
        if self._direction == SAVE and self._transfer is not None and self._transfer.wait(0) is Outcome.RUNNING:
            _LOG.error("Migration: %s while the state was being saved; the save is given up.", why)
            self._stop_transfer()

    def begin(self, direction: int, phase: int, fd: int) -> tuple[int, int | None]:
        """SET_DEVICE_STATE_FD."""
        if phase != PHASE_STOPPED or direction not in (SAVE, LOAD):
            raise FrontendError(f"SET_DEVICE_STATE_FD has direction {direction} and phase {phase}, which do not exist")
        self._stop_collecting()
        self._stop_transfer()
        self._stop_proving()
        self._check_stopped(f"SET_DEVICE_STATE_FD ({'save' if direction == SAVE else 'load'})")
        own = os.dup(fd)
        self._direction = direction
        self._under_way = f"the state was being {'saved' if direction == SAVE else 'loaded'}"
        self._began = time.monotonic()
        if direction == SAVE:
            self._cancel = threading.Event()
            capture, self._capture = self._capture or self._new_capture(), None
            self._transfer = Transfer.save(own, capture.save(self._cancel.is_set))
        else:
            self._transfer = Transfer.load(own)
            self._pending_load = True
        return USE_YOURS, None

    def check(self) -> int:
        """CHECK_DEVICE_STATE: 0 when the transfer went well. Waits for it; a load is done here, in the session's
        thread.
        """
        transfer = self._transfer
        if transfer is None:
            _LOG.error("CHECK_DEVICE_STATE came without a transfer before it.")
            return 1
        if self._ends:
            transfer.cancel()
        outcome = transfer.wait()
        self._transfer = None
        self._under_way = ""
        if outcome is not Outcome.DONE:
            _LOG.error("The state could not be moved: %s.", transfer.error or outcome.value)
            return 1
        if self._pending_load:
            self._pending_load = False
            self._check_stopped("CHECK_DEVICE_STATE (load)")
            restore = Restore(
                LiveDestination(self._device), self._config, self._share, options.switches(self._share_config)
            )
            self.proving = None
            data, transfer.data = transfer.data, memoryview(b"")
            restore.run(data)
            self.lost_mounts = restore.lost_mounts
            if restore.deferred:
                self.proving = Proving(self._device)
            self._under_way = _NOT_STARTED
            del data, restore
        # A migration needs a lot of memory for a moment, in large and small pieces between what stays.
        _syscalls.give_memory_back()
        word = "saved" if self._direction == SAVE else "loaded"
        _LOG.info("State %s: %d bytes, %.0f ms.", word, transfer.bytes_moved, 1000 * (time.monotonic() - self._began))
        return 0

    def close(self) -> None:
        """The connection ended."""
        if self._under_way:
            _LOG.warning("Migration: the front-end went away in the middle of it: %s.", self._under_way)
            self._under_way = ""
        self._stop_collecting()
        self._stop_proving()
        self._stop_transfer()

    def give_up(self) -> None:
        """The daemon is to end: CHECK_DEVICE_STATE waits no longer for a front-end that neither writes nor reads on.

        For a signal's handler, which may come in the middle of any other method: only what is safe there.
        """
        self._ends = True
        if self._transfer is not None:
            self._transfer.cancel()

    def _check_stopped(self, message: str) -> None:
        """Raises FrontendError when a ring is served: below a save the tables would change, a load takes them away."""
        if LiveSource(self._device).guest_runs():
            raise FrontendError(f"{message} came while a virtqueue is served; stop them all first")

    def _new_capture(self) -> Capture:
        relied_on = options.relied_on(self._share_config)
        return Capture(LiveSource(self._device), self._config, self._share, relied_on, self.lost_mounts)

    def _stop_collecting(self) -> None:
        if self._collector is not None:
            self._cancel.set()
            self._collector.join()
            self._collector = None

    def _stop_proving(self) -> None:
        if self.proving is not None:
            self.proving.stop()

    def _stop_transfer(self) -> None:
        if self._transfer is not None:
            self._cancel.set()
            self._transfer.cancel()
            self._transfer.wait()
            self._transfer = None
        self._pending_load = False


def _collect(capture: Capture, cancelled: threading.Event) -> None:
    """The thread that collects."""
    try:
        capture.collect(Pace(cancelled))
    except (FerryError, OSError) as error:
        _LOG.warning("Migration: collecting in the background failed: %s.", error)
