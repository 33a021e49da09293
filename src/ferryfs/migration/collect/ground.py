"""What the change times of directories rest on (``steady``): the system's clock, and the mounts in the share."""

from __future__ import annotations

import os
import time
from typing import Final

from ferryfs.errors import FerryError
from ferryfs.migration import mountinfo
from ferryfs.migration.mountinfo import MountEntry
from ferryfs.migration.share import Share

# A change time counts as old when it lies so far back: the clock moves in steps of up to 10 ms.
OLD_NS: Final = 2_000_000_000
# Who corrects the clock turns it by less; who sets it back by more is noticed.
TURNED_NS: Final = 1_000_000_000


def ahead_ns() -> int:
    """How far the system's clock is ahead of the one that nobody sets."""
    return time.clock_gettime_ns(time.CLOCK_REALTIME) - time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Ground:
    """Looks whether it has shaken. One for each migration."""

    def __init__(self, share: Share) -> None:
        self._share = share
        self._mounts: list[MountEntry] | None = None
        # At the last look.
        self.ahead_ns = 0

    def look(self) -> tuple[int, bool]:
        """(change times up to this one (ns) prove something of what is looked at from now on, 0 when none does; whether
        what was noted of directories before is good still).
        """
        now = time.clock_gettime_ns(time.CLOCK_REALTIME)
        ahead = ahead_ns()
        mounts = self._read_mounts()
        good = mounts is not None and mounts == self._mounts and ahead > self.ahead_ns - TURNED_NS
        self.ahead_ns = max(ahead, self.ahead_ns) if good else ahead
        self._mounts = mounts
        return (now - OLD_NS if mounts is not None else 0), good

    def _read_mounts(self) -> list[MountEntry] | None:
        """The mounts in the share, reachable or not; None when that can't be told.

        A host mounts something elsewhere all the time: that covers no name of ours. Where the share has been moved, so
        that its mounts are listed under another path, all are taken.
        """
        if self._share.mountinfo_fd < 0:
            return None
        try:
            entries = mountinfo.read(self._share.mountinfo_fd)
            root = os.readlink(str(self._share.root_fd).encode(), dir_fd=self._share.proc_self_fd).rstrip(b"/")
        except (FerryError, OSError):
            return None
        if root != os.fsencode(self._share.mountinfo_prefix).rstrip(b"/"):
            return entries
        return [entry for entry in entries if entry.mount_point.startswith(root + b"/")]
