"""Opening inodes by the file handles of a state, and showing that they lie in the share.

Some facts about handles. open_by_handle_at reaches the whole file system, also what lies beside the shared directory.
A directory has one place, and ``..`` leads up from it. A file may have any number of names, and none leads back to
them: it is shown to be in the share by a name that has its handle. Where something is mounted over that name, every
path leads to what is above; but the directory itself still lists what is beneath, by its inode number, which is no
other's on that file system as long as we have it open. An inode without a name left is nowhere, and what virtiofsd
writes says no names: both are taken on trust in whoever wrote the stream.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Iterable
from contextlib import suppress

from ferryfs.migration import _syscalls, identity
from ferryfs.migration.live_destination import LiveDestination
from ferryfs.migration.mounts import MountsHere, mount_id
from ferryfs.migration.share import Share, reason_of
from ferryfs.migration.state import FileHandle, MountPath
from ferryfs.migration.verify import Expected

_LOG = logging.getLogger("ferryfs.migration")


class Handles:
    """The mounts on which handles can be opened. Has descriptors: ``close`` it."""

    def __init__(self, share: Share, live: LiveDestination) -> None:
        self._share = share
        self._live = live
        # The source's mount id -> a readable descriptor here.
        self.fds: dict[int, int] = {}
        self._why: dict[int, str] = {}
        # (st_dev, st_ino) of directories that are known to lie in the share.
        self._inside: set[tuple[int, int]] = set()
        self._here = MountsHere()
        # Index in the trailer's Mounts -> a readable descriptor here, of those that were asked for.
        self._roots: dict[int, int] = {}

    def close(self) -> None:
        for fd in {*self.fds.values(), *self._roots.values()}:
            os.close(fd)
        self.fds.clear()
        self._roots.clear()

    def open_mounts(self, named: Iterable[MountPath], here: MountsHere) -> None:
        """A descriptor on each mount that the state names; what can't be used is left out, and logged. ``here``: what
        became of the trailer's.
        """
        self._here = here
        for mount in named:
            path = mount.path.encode()
            why = here.missing.get(path) or here.other.get(mount.mount_id) or ""
            if not why:
                try:
                    flags = os.O_RDONLY | os.O_NONBLOCK
                    self.fds[mount.mount_id] = self._open_root() if path == b"." else self._share.open(path, flags)
                except OSError as error:
                    why = f"the mount at {mount.path!r} can't be used here: {reason_of(error)}"
            if why:
                self._why[mount.mount_id] = why
                _LOG.warning("Migration: %s.", why)

    def _open_root(self) -> int:
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._share.root_fd)

    def open_located(self, handle: FileHandle, expected: Expected | None) -> int:
        """An O_PATH fd of an inode that the state locates by handle. Raises OSError, whose text says why.

        ``expected`` has its parent and name at the source; one of them, or the kernel's own belief, must prove that it
        lies in the share.
        """
        mount_fd = self.fds.get(handle.mount_id)
        if mount_fd is None:
            raise OSError(errno.ENODEV, self._why.get(handle.mount_id, "its mount is not here"))
        fd = _syscalls.open_by_handle_at(mount_fd, handle.handle_type, handle.handle, os.O_PATH | os.O_NOFOLLOW)
        try:
            if not self._proven(fd, handle, expected):
                raise OSError(errno.EXDEV, "it is not in the share")
        except OSError:
            os.close(fd)
            raise
        return fd

    def open(self, expected: Expected) -> int:
        """An O_PATH fd of an inode by its handle, shown to lie in the share. Raises OSError.

        Only on mounts that are proven to be the source's own file systems. A file that the kernel knows no path of
        (nobody has looked it up here) can't be shown to: a walk has to find it.
        """
        root = self._root_of(expected.mount)
        fd = _syscalls.open_by_handle_at(root, expected.handle_type, expected.handle, os.O_PATH | os.O_NOFOLLOW)
        try:
            status = os.fstat(fd)
            inside = self.within(fd) if stat.S_ISDIR(status.st_mode) else self._is_at_its_path(fd)
            if status.st_nlink > 0 and not inside:
                raise OSError(errno.EXDEV, "it is not in the share")
        except OSError:
            os.close(fd)
            raise
        return fd

    def knows(self, mount: int) -> bool:
        """Whether a handle on this mount (index in the trailer's Mounts) says anything here."""
        return mount in self._here.same

    def _root_of(self, mount: int) -> int:
        """A readable descriptor on a mount that is the source's own file system. Raises OSError."""
        if mount in self._roots:
            return self._roots[mount]
        if not self.knows(mount):
            raise OSError(errno.ENODEV, "its mount is not proven to be the source's")
        self._roots[mount] = self._open_root() if mount == 0 else self._open_submount(mount)
        return self._roots[mount]

    def _open_submount(self, mount: int) -> int:
        """Opens the root of a mount below the share's own. Raises OSError.

        1. The mount is looked at, and is the source's; 2. somebody mounts another file system over it; 3. handles are
        opened there. So it is the mount id that was looked at that counts.
        """
        fd = self._share.open(self._here.paths[mount])
        try:
            if mount_id(fd) != self._here.ids[mount]:
                raise OSError(errno.ENODEV, "something else is mounted there now")
            if not stat.S_ISDIR(os.fstat(fd).st_mode) and not stat.S_ISREG(os.fstat(fd).st_mode):
                # Opening a device may do more than give a descriptor.
                raise OSError(errno.ENODEV, "its mount can't be opened")
            return self._share.reopen(fd, os.O_RDONLY | os.O_NONBLOCK)
        finally:
            os.close(fd)

    def _proven(self, fd: int, handle: FileHandle, expected: Expected | None) -> bool:
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):
            return status.st_nlink == 0 or self.within(fd)
        if status.st_nlink == 0 or expected is None or not expected.name:
            return True
        with suppress(KeyError, OSError):
            parent = self._live.open_path(expected.parent)
            try:
                made = identity.make_handle(parent, expected.name)
                if made and (made.handle_type, made.handle) == (handle.handle_type, handle.handle):
                    return True
                if _is_beneath(fd, parent, expected.name):
                    return True
            finally:
                os.close(parent)
        return self._is_at_its_path(fd)

    def _is_at_its_path(self, fd: int) -> bool:
        """Whether a file is where the kernel believes it to be, in the share."""
        with suppress(OSError):
            path = self._share.path_of(fd)
            if path is not None:
                folder, _, name = path.rpartition(b"/")
                there = self._share.open(path)
                above = self._share.open(folder) if folder else os.dup(self._share.root_fd)
                try:
                    return os.path.sameopenfile(there, fd) or _is_beneath(fd, above, name)
                finally:
                    os.close(there)
                    os.close(above)
        return False

    def within(self, fd: int) -> bool:
        """Whether a directory leads up to the root by ``..``. Each directory on the way is asked once in a load."""
        top = os.fstat(self._share.root_fd)
        self._inside.add((top.st_dev, top.st_ino))
        way: list[tuple[int, int]] = []
        at = os.dup(fd)
        try:
            while True:
                status = os.fstat(at)
                here = (status.st_dev, status.st_ino)
                if here in self._inside:
                    self._inside.update(way)
                    return True
                if way and way[-1] == here:
                    return False
                way.append(here)
                above = os.open("..", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=at)
                os.close(at)
                at = above
        except OSError:
            return False
        finally:
            os.close(at)


def _is_beneath(fd: int, folder_fd: int, name: bytes) -> bool:
    """Whether something is mounted at a name of a directory, and ``fd`` is what lies beneath. Raises OSError."""
    status = os.fstat(fd)
    above = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder_fd)
    try:
        covered = mount_id(above) != mount_id(folder_fd)
    finally:
        os.close(above)
    if not covered or os.fstat(folder_fd).st_dev != status.st_dev:
        return False
    readable = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder_fd)
    try:
        with os.scandir(readable) as entries:
            return any(entry.name == os.fsdecode(name) and entry.inode() == status.st_ino for entry in entries)
    finally:
        os.close(readable)
