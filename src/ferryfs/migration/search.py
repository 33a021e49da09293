"""What is not where the source left it, found by its file handle: beside where it was, else in the whole share."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import TypeVar

from ferryfs.migration import identity
from ferryfs.migration.collect.walk import walk
from ferryfs.migration.live_destination import LiveDestination
from ferryfs.migration.mounts import MountsHere
from ferryfs.migration.share import Share

_LOG = logging.getLogger("ferryfs.migration")

# Index in the trailer's Mounts, type and bytes of a file handle.
Key = tuple[int, int, bytes]
T = TypeVar("T")


class Search:
    """One search. ``run`` once."""

    def __init__(self, share: Share, live: LiveDestination, mounts: MountsHere, limit_s: float) -> None:
        self._share = share
        self._live = live
        self._places = {number: index for index, number in mounts.ids.items()}
        self._limit_s = limit_s
        # Whether each name in the share was looked at: what was not found has none there.
        self.seen_all = False

    def run(self, wanted: Mapping[Key, T], folders: Iterable[int], file: Callable[[T, int], None]) -> list[T]:
        """What was found of ``wanted``; ``file`` takes each with an O_PATH fd, which is its own from then on.

        ``folders``: restored directories (nodeids) that are looked at first: most files are renamed where they are.
        """
        started = time.monotonic()
        limit = started + self._limit_s
        left = dict(wanted)
        found: list[T] = []
        unread: list[bytes] = []

        def visit(folder_fd: int, folder: bytes, name: bytes) -> bool:
            try:
                made = identity.make_handle(folder_fd, name)
                if made is None:
                    unread.append(name)
                key = (self._places.get(made.mount_id, -1), made.handle_type, made.handle) if made else None
                if key is not None and key in left:
                    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder_fd)
                    # 1. "a" has the handle; 2. somebody on the host replaces it; 3. another file is opened as "a".
                    if identity.make_handle(fd) != made:
                        os.close(fd)
                        unread.append(name)
                        return True
                    file(left[key], fd)
                    found.append(left.pop(key))
            except OSError as error:
                if error.errno != errno.ENOENT:
                    unread.append(name)
            return bool(left) and time.monotonic() < limit

        if all(self._look_into(folder, visit) for folder in dict.fromkeys(folders)):
            self.seen_all = walk(self._share.root_fd, _Everything(), visit, unread) and not unread
        now = time.monotonic()
        _LOG.info(
            "Migration: %d inodes were not where the source left them; %d of them found by a search of %.0f ms%s.",
            len(wanted),
            len(found),
            1000 * (now - started),
            "" if now < limit else ", which --migration-search-limit ended",
        )
        return found

    def _look_into(self, folder: int, visit: Callable[[int, bytes, bytes], bool]) -> bool:
        """False when the visitor wants no more."""
        with suppress(KeyError, OSError):
            fd = self._live.open_path(folder)
            try:
                readable = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
                try:
                    return all(visit(fd, b"", os.fsencode(name)) for name in os.listdir(readable))
                finally:
                    os.close(readable)
            finally:
                os.close(fd)
        return True


class _Everything(set[int]):
    """The set that has every inode number: the walk then shows every entry."""

    def __contains__(self, item: object) -> bool:
        return True
