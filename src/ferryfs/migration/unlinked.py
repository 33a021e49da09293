"""Open files whose last name is gone: read at the source into records, made anew at the destination as nameless
files.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from ferryfs.errors import StateError
from ferryfs.migration.share import Share
from ferryfs.migration.trailer_records import CONTENT_BYTES, Content, Unlinked

# (uid_t)-1, which no file has.
_NOBODY: Final = 0xFFFFFFFF
_TMPFILE_TRIES: Final = 100


def attributes(fd: int, number: int, refcount: int, has_content: bool) -> Unlinked:
    """The record of an inode by any fd of it (O_PATH will do, but has no extended attributes). Raises OSError."""
    status = os.fstat(fd)
    xattrs: list[tuple[bytes, bytes]] = []
    with suppress(OSError):
        for name in os.listxattr(fd):
            with suppress(OSError):
                xattrs.append((os.fsencode(name), os.getxattr(fd, name)))
    return Unlinked(
        inode=number,
        refcount=refcount,
        mode=status.st_mode,
        uid=status.st_uid,
        gid=status.st_gid,
        rdev=status.st_rdev,
        size=status.st_size,
        atime_ns=status.st_atime_ns,
        mtime_ns=status.st_mtime_ns,
        has_content=has_content,
        target=os.readlink(b"", dir_fd=fd) if stat.S_ISLNK(status.st_mode) else b"",
        xattrs=tuple(xattrs),
    )


def content_bytes(fd: int) -> int:
    """How much of a file is data, not holes: what carrying it costs. Raises OSError."""
    return sum(length for _, length in extents(fd, os.fstat(fd).st_size))


def extents(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """(offset, length) of what is data, in pieces of at most CONTENT_BYTES. Raises OSError."""
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            if error.errno != errno.EINVAL:
                raise
            start = at  # a file system that knows no holes
        if start >= size:
            return
        try:
            end = min(size, os.lseek(fd, start, os.SEEK_HOLE))
        except OSError:
            end = size
        while start < end:
            length = min(CONTENT_BYTES, end - start)
            yield start, length
            start += length
        at = end


def contents(fd: int, record: Unlinked) -> Iterator[Content]:
    """The content of a file, in order; never beyond the size that its record says. Raises OSError.

    A read gives less than there is when an error comes behind it: what is left out would be zeros at the destination.
    """
    for offset, length in extents(fd, record.size):
        data = os.pread(fd, length, offset)
        while data and len(data) < length and (more := os.pread(fd, length - len(data), offset + len(data))):
            data += more
        if len(data) < length and offset + len(data) < os.fstat(fd).st_size:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if data:
            yield Content(record.inode, offset, data)


def is_hollow(record: Unlinked) -> bool:
    """Whether what is made of the record is a file without its content."""
    return stat.S_ISREG(record.mode) and record.size > 0 and not record.has_content


def make(share: Share, record: Unlinked, pieces: list[Content], folder_fd: int) -> int:
    """An O_PATH fd of a nameless inode like the one in the record, in the file system of a directory (any fd of it).
    Raises OSError, StateError.
    """
    if stat.S_ISDIR(record.mode):
        return _nameless_directory(share, record, folder_fd)
    if not stat.S_ISREG(record.mode):
        return _nameless_special(record, folder_fd)
    fd = _nameless_file(folder_fd)
    try:
        os.ftruncate(fd, record.size)
        for piece in pieces:
            view = memoryview(piece.data)
            offset = piece.offset
            while view:
                count = os.pwrite(fd, view, offset)
                view, offset = view[count:], offset + count
        _apply(fd, record)
        return share.reopen(fd, os.O_PATH)
    finally:
        os.close(fd)


def _apply(fd: int, record: Unlinked) -> None:
    """Owner, mode, attributes, times, in the order in which one does not undo the other."""
    with suppress(PermissionError):
        os.fchown(fd, *_owner(record))
    os.fchmod(fd, stat.S_IMODE(record.mode))
    for name, value in record.xattrs:
        with suppress(OSError):
            os.setxattr(fd, name, value)
    os.utime(fd, ns=(record.atime_ns, record.mtime_ns))


def _owner(record: Unlinked) -> tuple[int, int]:
    """As chown(2) has them: the largest number means "leave it"."""
    return -1 if record.uid == _NOBODY else record.uid, -1 if record.gid == _NOBODY else record.gid


def _nameless_file(folder_fd: int) -> int:
    try:
        return os.open(".", os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600, dir_fd=folder_fd)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL):
            raise
    name = _fresh_name()
    for attempt in range(_TMPFILE_TRIES):
        try:
            fd = os.open(f"{name}{attempt}", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder_fd)
        except FileExistsError:
            continue
        os.unlink(f"{name}{attempt}", dir_fd=folder_fd)
        return fd
    raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))


def _nameless_directory(share: Share, record: Unlinked, folder_fd: int) -> int:
    name = _fresh_name()
    os.mkdir(name, 0o700, dir_fd=folder_fd)
    try:
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder_fd)
    finally:
        os.rmdir(name, dir_fd=folder_fd)
    try:
        _apply(fd, record)
        return share.reopen(fd, os.O_PATH)
    finally:
        os.close(fd)


def _nameless_special(record: Unlinked, folder_fd: int) -> int:
    """A symbolic link, FIFO, socket or device, which nobody can open: all is done under its name of a moment."""
    name = _fresh_name()
    if stat.S_ISLNK(record.mode):
        if not record.target:
            raise StateError("the target of a symbolic link is missing")
        os.symlink(record.target, os.fsencode(name), dir_fd=folder_fd)
    else:
        os.mknod(name, stat.S_IFMT(record.mode) | 0o600, record.rdev, dir_fd=folder_fd)
    try:
        with suppress(PermissionError):
            os.chown(name, *_owner(record), dir_fd=folder_fd, follow_symlinks=False)
        if not stat.S_ISLNK(record.mode):
            os.chmod(name, stat.S_IMODE(record.mode), dir_fd=folder_fd)
        os.utime(name, ns=(record.atime_ns, record.mtime_ns), dir_fd=folder_fd, follow_symlinks=False)
        return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder_fd)
    finally:
        os.unlink(name, dir_fd=folder_fd)


def _fresh_name() -> str:
    """A name for the moment that a file system without O_TMPFILE needs."""
    return f".ferryfs-{os.getpid()}-{os.urandom(6).hex()}"
