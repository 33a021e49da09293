"""What the change times of directories rest on (``steady``): the system's clock, and the mounts in the share."""

from __future__ import annotations

import os
import time
from typing import Final

from ferryfs.migration.share import Share

# A change time counts as old when it lies so far back: the clock moves in steps of up to 10 ms.
OLD_NS: Final = 2_000_000_000
# Who corrects the clock turns it by less; who sets it back by more is noticed.
TURNED_NS: Final = 1_000_000_000
_READ_BYTES: Final = 1 << 16


def ahead_ns() -> int:
    """How far the system's clock is ahead of the one that nobody sets."""
    return time.clock_gettime_ns(time.CLOCK_REALTIME) - time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Ground:
    """Looks whether it has shaken. One for each migration."""

    def __init__(self, share: Share) -> None:
        self._share = share
        self._mounts: bytes | None = None
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

    def _read_mounts(self) -> bytes | None:
        """All mounts of our namespace, with their numbers; None when that can't be told."""
        if self._share.mountinfo_fd < 0:
            return None
        read = b""
        try:
            while part := os.pread(self._share.mountinfo_fd, _READ_BYTES, len(read)):
                read += part
        except OSError:
            return None
        return read
