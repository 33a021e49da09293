"""Where the inodes are that the guest holds: three ways, each only for what the one before could not find.

1. The name by which the daemon saw it last, in the directory that the guest holds: one system call an inode, in
several threads. 2. /proc/self/fd, checked: what the kernel says of an fd may be a name that another file has by now,
one that ends in " (deleted)",
   or nothing at all, for a file that is held by its handle when the host has dropped its dentry cache.
3. One walk through the share, for all that are missing then and still have a name.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from ferryfs.migration.collect.walk import walk
from ferryfs.migration.live_source import LiveSource
from ferryfs.migration.share import Share, reason_of

# Slots that a thread checks in one go.
SLOTS_AT_ONCE: Final = 4096
# NFS renames an open file that is unlinked; the last client removes it: ours would, at exit, after a good migration.
SILLY_PREFIX: Final = b".nfs"


@dataclass
class Findings:
    """What became of the inodes that are not under their last name."""

    # Path from the root, of inodes whose directory the guest does not hold.
    paths: dict[int, bytes] = field(default_factory=dict)
    # No name is left, but the inode is alive.
    unlinked: set[int] = field(default_factory=set)
    # errno and reason.
    lost: dict[int, tuple[int, str]] = field(default_factory=dict)


def check(live: LiveSource, threads: int, cancelled: Callable[[], bool]) -> bool:
    """The first way, for all inodes that are not known to be somewhere; False when it was cancelled."""
    ranges = range(0, live.slots, SLOTS_AT_ONCE)

    def one(first: int) -> None:
        if not cancelled():
            live.check(first, first + SLOTS_AT_ONCE)

    if threads <= 1 or len(ranges) <= 1:
        for first in ranges:
            one(first)
    else:
        with ThreadPoolExecutor(threads, "migration-check") as pool:
            list(pool.map(one, ranges))
    return not cancelled()


def find(live: LiveSource, share: Share, cancelled: Callable[[], bool]) -> Findings:
    """The second and the third way, for what ``check`` left."""
    findings = Findings()
    missing: dict[int, int] = {}
    for number in live.unknown():
        if cancelled():
            return findings
        try:
            inode = _by_proc(live, share, number, findings)
        except KeyError:
            continue  # forgotten by the guest meanwhile
        except OSError as error:
            findings.lost[number] = (error.errno or errno.EIO, reason_of(error))
            continue
        if inode is not None:
            missing[number] = inode
    if missing:
        _by_walk(live, share, missing, findings, cancelled)
        for number in missing:
            findings.lost[number] = (errno.ENOENT, "it has no name in the share")
    return findings


def _by_proc(live: LiveSource, share: Share, number: int, findings: Findings) -> int | None:
    """None when the inode is placed or known to be unlinked, else its number on the host, to look for."""
    fd = live.open(number)
    try:
        status = os.fstat(fd)
        path = share.path_of(fd)
    finally:
        os.close(fd)
    if stat.S_ISREG(status.st_mode):
        live.note_file(number, status.st_size, status.st_mtime_ns)
    if status.st_nlink == 0:
        findings.unlinked.add(number)
        return None
    if path is not None:
        if path.rpartition(b"/")[2].startswith(SILLY_PREFIX):
            findings.unlinked.add(number)
            return None
        with suppress(OSError):
            if _place_path(live, share, number, path, findings):
                return None
    return status.st_ino


def _place_path(live: LiveSource, share: Share, number: int, path: bytes, findings: Findings) -> bool:
    """Takes a path over when the inode really is there."""
    folder, _, name = path.rpartition(b"/")
    folder_fd = share.open(folder, os.O_PATH | os.O_DIRECTORY) if folder else os.dup(share.root_fd)
    try:
        return _place(live, number, folder_fd, path, name, findings)
    finally:
        os.close(folder_fd)


def _place(live: LiveSource, number: int, folder_fd: int, path: bytes, name: bytes, findings: Findings) -> bool:
    if live.identify(folder_fd, name) != number:
        return False
    parent = live.identify(folder_fd, b"")
    if not parent or not live.found(number, parent, name):
        findings.paths[number] = path
    return True


def _by_walk(
    live: LiveSource, share: Share, missing: dict[int, int], findings: Findings, cancelled: Callable[[], bool]
) -> None:
    """Takes out of ``missing`` (nodeid to host inode number) what is found."""

    def visit(folder_fd: int, folder: bytes, name: bytes) -> bool:
        with suppress(OSError):
            number = live.identify(folder_fd, name)
            if number in missing and not name.startswith(SILLY_PREFIX):
                path = folder + b"/" + name if folder else name
                if _place(live, number, folder_fd, path, name, findings):
                    del missing[number]
        return bool(missing) and not cancelled()

    walk(share.root_fd, set(missing.values()), visit)
