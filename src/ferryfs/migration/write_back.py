"""What this host caches of network file systems is written before the guest moves.

Some facts. On NFS, SMB, Ceph, 9p and FUSE each host has a cache of its own: what was written goes to the server when
the kernel likes, and the next host reads what is there. When it can't be written (no room, no quota), that is told once
to each file that is open, and the destination's are opened later.

syncfs(2) takes as long as the server does, and can't be interrupted. So it is called in a thread that nobody has to
wait for: a migration that is cancelled while a server does not answer must not hold up the guest.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Final

from ferryfs.migration import _syscalls
from ferryfs.migration.share import Share

_LOOK_SECONDS: Final = 0.05


class WriteBack:
    """For one migration. Errors count from the first ``start`` on: what went wrong before is not its business."""

    def __init__(self, share: Share) -> None:
        self._share = share
        # Device number -> an open file there.
        self._opened: dict[int, int] = {}
        self._threads: list[threading.Thread] = []
        self._one_at_a_time = threading.Lock()
        self._error: OSError | None = None

    def __del__(self) -> None:
        # The threads hold it as well.
        for fd in self._opened.values():
            os.close(fd)

    def start(self, files: list[int]) -> None:
        """Begins. ``files`` are fds on the mounts, and are given away."""
        if files:
            thread = threading.Thread(target=self._write, args=(files,), name="migration-write-back", daemon=True)
            self._threads.append(thread)
            thread.start()

    def wait(self, cancelled: Callable[[], bool]) -> OSError | None:
        """Until all that was begun has ended, or the migration; what went wrong."""
        while any(thread.is_alive() for thread in self._threads) and not cancelled():
            for thread in self._threads:
                thread.join(_LOOK_SECONDS)
        return self._error

    def _write(self, files: list[int]) -> None:
        with self._one_at_a_time:
            try:
                for fd in files:
                    # Anew: the daemon's own are as old as itself, and tell of errors of long ago.
                    if (device := os.fstat(fd).st_dev) not in self._opened:
                        self._opened[device] = self._share.reopen(fd, os.O_RDONLY)
                for opened in self._opened.values():
                    _syscalls.syncfs(opened)
            except OSError as error:
                self._error = error
            finally:
                for fd in files:
                    os.close(fd)
