"""One walk through the share for all inodes that nothing else could find.

Some facts about walking. ``d_ino`` comes with each directory entry at no cost and says in one look-up whether a file
can be among those that are missing; only then is it identified. On a mount point it is the number of what lies
beneath, and overlayfs may have other numbers there, so directories are looked at in any case. Directories are opened
by name in the one above, not following links: one descriptor for each level, and no path that could be too long.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

from ferryfs.migration import _syscalls

# Entries of one directory that are held at a time, as the kernel has them.
DIRECTORY_BYTES: Final = 1 << 30
# Levels, each of which costs a descriptor.
DEEPEST: Final = 2000
_DT_DIR: Final = 4
_DT_UNKNOWN: Final = 0

# (directory's fd, its path from the root, entry's name) -> whether to go on
Visit = Callable[[int, bytes, bytes], bool]


def walk(root_fd: int, inodes: set[int], visit: Visit, passed_over: list[bytes] | None = None) -> bool:
    """Calls ``visit`` for each entry that may be one of ``inodes`` (inode numbers) or is a directory; False when it
    said no.

    Directories that can't be read are passed over: ``passed_over`` takes their paths.
    """
    unread = [] if passed_over is None else passed_over
    with ExitStack() as stack:
        top = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root_fd)
        stack.callback(os.close, top)
        levels: list[tuple[int, bytes, list[bytes]]] = []
        below = _look(top, b"", inodes, visit, unread)
        if below is None:
            return False
        levels.append((top, b"", below))
        while levels:
            fd, path, names = levels[-1]
            if not names:
                levels.pop()
                if fd != top:
                    os.close(fd)
                continue
            name = names.pop()
            child_path = path + b"/" + name if path else name
            if len(levels) >= DEEPEST:
                unread.append(child_path)
                continue
            try:
                child = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            except OSError as error:
                # No directory, or none any more: nothing is in it.
                if error.errno not in (errno.ENOTDIR, errno.ELOOP, errno.ENOENT):
                    unread.append(child_path)
                continue
            below = _look(child, child_path, inodes, visit, unread)
            if below is None:
                os.close(child)
                for open_fd, _, _ in levels[1:]:
                    os.close(open_fd)
                return False
            levels.append((child, child_path, below))
    return True


def look(fd: int, inodes: set[int]) -> list[bytes]:
    """The names in an open directory that may be of one of ``inodes``. Raises OSError."""
    entries = _syscalls.read_directory(fd, DIRECTORY_BYTES) or []
    return [
        name
        for _, number, kind, name in entries
        if (number in inodes or kind in (_DT_DIR, _DT_UNKNOWN)) and name not in (b".", b"..")
    ]


def _look(fd: int, path: bytes, inodes: set[int], visit: Visit, unread: list[bytes]) -> list[bytes] | None:
    """Visits the entries of one directory; the names of directories in it, None when the visitor wants no more."""
    try:
        entries = _syscalls.read_directory(fd, DIRECTORY_BYTES)
    except OSError:
        entries = None
    if entries is None:
        unread.append(path)
        return []
    below = []
    for _, number, kind, name in entries:
        if name in (b".", b".."):
            continue
        directory = kind in (_DT_DIR, _DT_UNKNOWN)
        if (number in inodes or directory) and not visit(fd, path, name):
            return None
        if directory:
            below.append(name)
    return below
