"""Notices guest memory that is not shared, which otherwise shows as a guest that hangs and a daemon that says nothing.

Some facts about guest memory that is not shared: QEMU sends no region for memory without a file. For a memfd with
``share=off`` it sends the region, and the daemon maps the file; but all that the guest writes goes to private copies of
the file's pages. They exist in the file, as the copies' origin, and are zeros to the last one, whereas the memory of a
guest that has come as far as its virtio-fs driver has firmware, kernel and page tables in it.
"""

from __future__ import annotations

import os
import stat
from typing import Final, NamedTuple

from ferryfs.vhost.session import SHARE_HINT
from ferryfs.wire.vhost_user import REGIONS_MAX, MemoryRegion

# Where memory is shared, the first pages settle it. 8 MiB of zeros take 2 ms to read, once.
_ZEROS_ENOUGH: Final = 8 << 20
# A front-end without a guest (ours) may have rings and nothing else so far: less than this says nothing.
_ZEROS_LEAST: Final = 1 << 20
_CHUNK: Final = 64 << 10


class _Part(NamedTuple):
    region: MemoryRegion
    fd: int


class SharingCheck:
    """Looks at the memory of one connection when its first ring is to run; holds the regions' files until then."""

    def __init__(self) -> None:
        self._parts: list[_Part] = []
        self._done = False

    def close(self) -> None:
        """Let go of the files, and look at nothing any more. Idempotent."""
        self._done = True
        self.clear()

    def clear(self) -> None:
        """The regions are replaced."""
        for part in self._parts:
            os.close(part.fd)
        self._parts.clear()

    def add(self, region: MemoryRegion, fd: int) -> None:
        """A region came; ``fd`` stays the caller's. The first ones are enough."""
        if not self._done and len(self._parts) < REGIONS_MAX:
            self._parts.append(_Part(region, os.dup(fd)))

    def conclude(self) -> str | None:
        """The sentence to log when the first ring is to run, or None when all is well. Silent the second time."""
        if self._done:
            return None
        what = None
        if not self._parts:
            what = "The front-end gave no guest memory"
        elif self._is_all_zeros():
            what = "The guest memory that the front-end gave has nothing but zeros in it"
        self.close()
        return what and f"{what}, so it is not shared with this process, and the guest will hang: {SHARE_HINT}."

    def _is_all_zeros(self) -> bool:
        seen = 0
        for region, fd in self._parts:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return False
            try:
                offset, end = region.mmap_offset, region.mmap_offset + region.size
                while seen < _ZEROS_ENOUGH:
                    # Beyond the last data this fails with ENXIO: the region's end for us.
                    offset = os.lseek(fd, offset, os.SEEK_DATA)
                    if offset >= end:
                        break
                    hole = os.lseek(fd, offset, os.SEEK_HOLE)
                    data = os.pread(fd, min(_CHUNK, end - offset, hole - offset), offset)
                    if data.count(0) != len(data):
                        return False
                    if not data:
                        break
                    seen += len(data)
                    offset += len(data)
            except OSError:
                continue
        return seen >= _ZEROS_LEAST
