"""Where the inodes are that the guest holds: three ways, each only for what the one before could not find.

1. The name by which the daemon saw it last, in the directory that the guest holds: one system call an inode, in
several threads. 2. /proc/self/fd, checked: what the kernel says of an fd may be a name that another file has by now,
one that ends in " (deleted)", or nothing at all, for a file that is held by its handle when the host has dropped its
dentry cache. 3. The directory in which it was last seen, then one walk through the share, for all that are missing
then and still have a name.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final

from ferryfs.migration.collect.ground import Ground
from ferryfs.migration.collect.progress import Progress
from ferryfs.migration.collect.walk import look, walk
from ferryfs.migration.live_source import LiveSource
from ferryfs.migration.share import Share, is_hidden, reason_of
from ferryfs.values import field, frozen, mutable

# Slots that a thread checks in one go, at least; and how often it comes back for more, at most: each time it waits for
# the interpreter's lock.
SLOTS_AT_ONCE: Final = 4096
TURNS: Final = 8
# The same while the guest works: between two of these the thread rests where it has to, and is waited for when
# collecting ends.
SLOTS_IN_BACKGROUND: Final = 64
NOWHERE: Final = "it has no name in the share"
UNMOUNTED: Final = "its file system is not mounted in the share any more"
COVERED: Final = "something is mounted over its name"


@mutable
class Findings:
    """What became of the inodes that are not under their last name."""

    # All of them.
    elsewhere: set[int] = field(default_factory=set)
    # Path from the root, of inodes whose directory the guest does not hold.
    paths: dict[int, bytes] = field(default_factory=dict)
    # No name is left, but the inode is alive.
    unlinked: set[int] = field(default_factory=set)
    # Of these, the ones that have a name which the file system takes away when the source closes them.
    hidden: set[int] = field(default_factory=set)
    # errno and reason.
    lost: dict[int, tuple[int, str]] = field(default_factory=dict)
    # st_ctime_ns of those that a whole walk did not find: a rename or a new name changes it.
    absent: dict[int, int] = field(default_factory=dict)


@frozen
class _Missing:
    """An inode that has a name somewhere."""

    # Its number on the host, as directory entries have it.
    number: int
    ctime_ns: int


def check(live: LiveSource, ground: Ground, threads: int, cancelled: Callable[[], bool], progress: Progress) -> bool:
    """The first way, for all inodes that are not known to be somewhere; False when it was cancelled."""
    newest, good = ground.look()
    if not good:
        live.forget_folders()

    def stamp(first: int, last: int) -> None:
        live.look_at_folders(first, last, newest)

    def look(first: int, last: int) -> None:
        live.check(first, last)
        progress.step("%d of %d places of the inode table looked through for names that still hold", first, live.slots)

    if not _over_slots(live, threads, cancelled, stamp):
        return False
    # What is steady is only counted, under one lock: several threads would do nothing but wait for each other.
    few = threads > 1 and live.take_steady() < SLOTS_AT_ONCE
    return _over_slots(live, 1 if few else threads, cancelled, look, SLOTS_AT_ONCE if few else 0)


def mounts(live: LiveSource, share: Share) -> dict[int, bytes]:
    """Path of each mount in the share by the id that the table has for it, the share's own first."""
    found: dict[int, bytes] = {}
    for path in share.mounts():
        with suppress(OSError):
            fd = os.dup(share.root_fd) if path == b"." else share.open(path)
            try:
                found.setdefault(live.mount_id(fd), path)
            finally:
                os.close(fd)
    return found


def measure(live: LiveSource, threads: int, every: bool, cancelled: Callable[[], bool]) -> None:
    """Sizes of the files that are in place; unless ``every``, only of open ones, and where no handle tells them from
    others.
    """
    _over_slots(live, threads, cancelled, lambda first, last: live.measure_files(first, last, every))


def _over_slots(
    live: LiveSource, threads: int, cancelled: Callable[[], bool], work: Callable[[int, int], None], at_once: int = 0
) -> bool:
    if not at_once:
        at_once = max(SLOTS_AT_ONCE, live.slots // (TURNS * threads)) if threads > 1 else SLOTS_IN_BACKGROUND
    ranges = range(0, live.slots, at_once)

    def one(first: int) -> None:
        if not cancelled():
            work(first, first + at_once)

    if threads <= 1 or len(ranges) <= 1:
        for first in ranges:
            one(first)
    else:
        with ThreadPoolExecutor(threads, "migration-check") as pool:
            list(pool.map(one, ranges))
    return not cancelled()


class Search:
    """The second and the third way, for what ``check`` left. ``run`` once."""

    def __init__(
        self, live: LiveSource, share: Share, cancelled: Callable[[], bool], progress: Progress, before: Findings
    ) -> None:
        """``before``: what an earlier search found, which is tried first."""
        self._live = live
        self._share = share
        self._cancelled = cancelled
        self._progress = progress
        self._before = before
        self._found = Findings()
        self._missing: dict[int, _Missing] = {}
        # Why a place was not to be looked at, by nodeid: errno and reason.
        self._barred: dict[int, tuple[int, str]] = {}
        self._mounts: dict[int, bytes] = {}

    def run(self, walks: bool) -> Findings:
        """``walks``: whether the share may be walked through. Incomplete when it was cancelled."""
        unknown = self._live.unknown()
        self._found.elsewhere.update(unknown)
        self._mounts = mounts(self._live, self._share) if unknown else {}
        for index, number in enumerate(unknown):
            if self._cancelled():
                return self._found
            self._progress.step("%d of %d inodes that are elsewhere looked for", index, len(unknown))
            try:
                self._by_descriptor(number)
            except KeyError:
                continue  # forgotten by the guest meanwhile
            except OSError as error:
                self._found.lost[number] = (error.errno or errno.EIO, reason_of(error))
        if self._missing:
            self._by_folders()
        if self._missing and walks:
            self._by_walk()
        for number in self._missing:
            why = self._barred.get(number, (errno.ENOENT, NOWHERE))
            # Who goes by handle needs no name, but the destination has to be told where its mount is.
            if walks or why[1] == UNMOUNTED:
                self._found.lost[number] = why
        return self._found

    def _by_descriptor(self, number: int) -> None:
        """Places the inode, or knows it to be unlinked, or notes it as missing. Raises KeyError, OSError."""
        fd = self._live.open(number)
        try:
            status = os.fstat(fd)
            mount = self._live.mount_id(fd)
            path = self._share.path_of(fd)
            hidden = path is not None and is_hidden(fd, path.rpartition(b"/")[2])
        finally:
            os.close(fd)
        if stat.S_ISREG(status.st_mode):
            self._live.note_file(number, status.st_size, status.st_mtime_ns)
        if hidden:
            self._found.hidden.add(number)
        if hidden or status.st_nlink == 0:
            self._found.unlinked.add(number)
            return
        if mount and mount not in self._mounts:
            self._barred[number] = (errno.ENOENT, UNMOUNTED)
        for place in (path, self._before.paths.get(number)):
            if place is None:
                continue
            try:
                if self._place_path(number, place):
                    return
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EPERM):
                    self._barred[number] = (error.errno, reason_of(error))
        self._missing[number] = _Missing(status.st_ino, status.st_ctime_ns)

    def _place_path(self, number: int, path: bytes) -> bool:
        """Takes a path over when the inode really is there."""
        folder, _, name = path.rpartition(b"/")
        folder_fd = self._share.open(folder, os.O_PATH | os.O_DIRECTORY) if folder else os.dup(self._share.root_fd)
        try:
            if self._live.identify(folder_fd, name) == number:
                return self._place(number, folder_fd, path)
            self._note_cover(number, folder_fd, name)
            return False
        finally:
            os.close(folder_fd)

    def _note_cover(self, number: int, folder_fd: int, name: bytes) -> None:
        """Why an inode is not to be seen under a name that it has, if another mount begins there."""
        above = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder_fd)
        try:
            if self._live.mount_id(above) != self._live.mount_id(folder_fd):
                self._barred[number] = (errno.ENOENT, COVERED)
        finally:
            os.close(above)

    def _place(self, number: int, folder_fd: int, path: bytes) -> bool:
        """Notes where an inode was seen: in a directory that the guest holds, else by its path."""
        parent = self._live.identify(folder_fd, b"")
        if not parent or not self._live.found(number, parent, path.rpartition(b"/")[2]):
            self._found.paths[number] = path
        return True

    def _by_folders(self) -> None:
        """Each directory in which a missing inode was last seen, once: most files are renamed where they are."""
        folders = set()
        for number in self._missing:
            with suppress(KeyError):
                folders.add(self._live.where(number)[0])
        for folder in folders:
            if self._cancelled() or not self._missing:
                return
            with suppress(KeyError, OSError):
                fd = self._live.open(folder)
                try:
                    self._one_folder(fd, folder)
                finally:
                    os.close(fd)

    def _one_folder(self, fd: int, folder: int) -> None:
        wanted = {missing.number for missing in self._missing.values()}
        readable = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
        try:
            for name in look(readable, wanted):
                with suppress(KeyError, OSError):
                    number = self._live.identify(fd, name)
                    hidden = number in self._missing and is_hidden(fd, name)
                    if number in self._missing and not hidden and self._live.found(number, folder, name):
                        del self._missing[number]
        finally:
            os.close(readable)

    def _by_walk(self) -> None:
        """Takes out of ``missing`` what is found.

        Who is not open, was not found by a walk before, and was not renamed since is no reason for another one.
        """
        for number, ctime_ns in self._before.absent.items():
            missing = self._missing.get(number)
            with suppress(KeyError):
                if missing is not None and missing.ctime_ns == ctime_ns and not self._live.facts(number)[3]:
                    self._found.absent[number] = ctime_ns
        seen = 0

        def looked_for() -> int:
            return len(self._missing) - len(self._found.absent)

        def visit(folder_fd: int, folder: bytes, name: bytes) -> bool:
            nonlocal seen
            seen += 1
            with suppress(KeyError, OSError):
                number = self._live.identify(folder_fd, name)
                if number in self._missing and not is_hidden(folder_fd, name):
                    path = folder + b"/" + name if folder else name
                    if self._place(number, folder_fd, path):
                        del self._missing[number]
                        self._found.absent.pop(number, None)
            self._progress.step("%d entries of the share seen, %d inodes still looked for", seen, looked_for())
            return looked_for() > 0 and not self._cancelled()

        if looked_for() and walk(self._share.root_fd, {missing.number for missing in self._missing.values()}, visit):
            self._found.absent = {number: missing.ctime_ns for number, missing in self._missing.items()}
