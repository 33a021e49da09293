"""System calls that Python's `os` does not offer, by way of the C library. Errors are OSError, as with `os`."""

import ctypes
import fcntl
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

AT_FDCWD: Final = -100
AT_SYMLINK_NOFOLLOW: Final = 0x100
AT_EACCESS: Final = 0x200
AT_SYMLINK_FOLLOW: Final = 0x400
AT_EMPTY_PATH: Final = 0x1000

RENAME_NOREPLACE: Final = 1
RENAME_EXCHANGE: Final = 2
RENAME_WHITEOUT: Final = 4

FALLOC_KEEP_SIZE: Final = 0x01
FALLOC_PUNCH_HOLE: Final = 0x02
FALLOC_COLLAPSE_RANGE: Final = 0x08
FALLOC_ZERO_RANGE: Final = 0x10
FALLOC_INSERT_RANGE: Final = 0x20

UTIME_NOW: Final = (1 << 30) - 1
UTIME_OMIT: Final = (1 << 30) - 2

FS_IOC_GETFLAGS: Final = 0x80086601
FS_IOC_FSGETXATTR: Final = 0x801C581F
FIGETBSZ: Final = 2
FIONREAD: Final = 0x541B

# The same number on every architecture, as for all system calls since 5.1.
NR_OPENAT2: Final = 437
NR_FACCESSAT2: Final = 439
RESOLVE_NO_SYMLINKS: Final = 0x04
RESOLVE_BENEATH: Final = 0x08

IN_MODIFY: Final = 0x002
IN_MOVED_FROM: Final = 0x040
IN_MOVED_TO: Final = 0x080
IN_CREATE: Final = 0x100
IN_DELETE: Final = 0x200

_libc = ctypes.CDLL(None, use_errno=True)

AnyPath = str | bytes | os.PathLike[str]


def _call(name: str, *arguments: Any) -> int:
    function = getattr(_libc, name)
    function.restype = ctypes.c_long if name in _RETURNS_LONG else ctypes.c_int
    result: int = function(*arguments)
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return result


_RETURNS_LONG: Final = frozenset({"getdents64", "syscall", "getxattr", "listxattr", "readlink"})


def renameat2(source: AnyPath, target: AnyPath, flags: int) -> None:
    """renameat2(2) of two paths."""
    _call("renameat2", AT_FDCWD, os.fsencode(source), AT_FDCWD, os.fsencode(target), ctypes.c_uint(flags))


def linkat(dir_fd: int, source: AnyPath, target: AnyPath, flags: int) -> None:
    """linkat(2) to a path, with flags."""
    _call("linkat", dir_fd, os.fsencode(source), AT_FDCWD, os.fsencode(target), flags)


def link_fd(fd: int, target: AnyPath) -> None:
    """Gives an open file a name, the way that needs no privilege."""
    linkat(AT_FDCWD, f"/proc/self/fd/{fd}", target, AT_SYMLINK_FOLLOW)


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2)."""
    _call("fallocate", fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length))


def utimensat(path: AnyPath, atime: tuple[int, int], mtime: tuple[int, int], flags: int = 0) -> None:
    """utimensat(2); times are (seconds, nanoseconds), also the special values of nanoseconds."""
    _call("utimensat", AT_FDCWD, os.fsencode(path), struct.pack("@llll", *atime, *mtime), flags)


def syncfs(fd: int) -> None:
    """syncfs(2)."""
    _call("syncfs", fd)


def sync_file_range(fd: int, offset: int, length: int, flags: int) -> None:
    """sync_file_range(2)."""
    _call("sync_file_range", fd, ctypes.c_int64(offset), ctypes.c_int64(length), ctypes.c_uint(flags))


def readlink_into(path: AnyPath, size: int) -> bytes:
    """readlink(2) with a buffer of that size."""
    buffer = ctypes.create_string_buffer(size + 1)
    length = _call("readlink", os.fsencode(path), buffer, ctypes.c_size_t(size))
    return buffer.raw[:length]


def faccessat2(path: AnyPath, mode: int, flags: int) -> None:
    """faccessat2(2), without the C library's emulation."""
    _call("syscall", ctypes.c_long(NR_FACCESSAT2), AT_FDCWD, os.fsencode(path), mode, flags)


def openat2(dir_fd: int, path: AnyPath, flags: int, resolve: int) -> int:
    """openat2(2)."""
    how = struct.pack("@QQQ", flags, 0, resolve)
    return _call("syscall", ctypes.c_long(NR_OPENAT2), dir_fd, os.fsencode(path), how, ctypes.c_size_t(len(how)))


def getxattr_into(path: AnyPath, name: str, size: int) -> int:
    """getxattr(2) with a buffer of that size; the length that it reports."""
    buffer = ctypes.create_string_buffer(size + 1)
    return _call("getxattr", os.fsencode(path), os.fsencode(name), buffer if size else None, ctypes.c_size_t(size))


def listxattr_into(path: AnyPath, size: int) -> int:
    """listxattr(2) with a buffer of that size; the length that it reports."""
    buffer = ctypes.create_string_buffer(size + 1)
    return _call("listxattr", os.fsencode(path), buffer if size else None, ctypes.c_size_t(size))


@dataclass(frozen=True, slots=True)
class Entry:
    """A directory entry as getdents64(2) gives it; `next_offset` is d_off."""

    name: bytes
    inode: int
    kind: int
    next_offset: int


def getdents(fd: int, size: int = 32768) -> list[Entry]:
    """One getdents64(2) call: what fits into the size in bytes; empty at the end."""
    buffer = ctypes.create_string_buffer(size)
    length = _call("getdents64", fd, buffer, ctypes.c_size_t(size))
    raw, entries, at = buffer.raw[:length], [], 0
    while at < length:
        inode, offset, record_length, kind = struct.unpack_from("=QqHB", raw, at)
        entries.append(Entry(raw[at + 19 : at + record_length].partition(b"\0")[0], inode, kind, offset))
        at += record_length
    return entries


def getdents_all(fd: int, size: int = 32768) -> list[Entry]:
    """All entries from the present position on, `.` and `..` too."""
    entries = []
    while batch := getdents(fd, size):
        entries += batch
    return entries


@dataclass(frozen=True, slots=True)
class Statx:
    """statx(2), the fields that the checks look at. Times in nanoseconds."""

    mask: int
    block_size: int
    links: int
    uid: int
    gid: int
    mode: int
    inode: int
    size: int
    blocks: int
    accessed_ns: int
    born_ns: int
    changed_ns: int
    modified_ns: int
    device: tuple[int, int]
    special_device: tuple[int, int]


STATX_BASIC: Final = 0x7FF
STATX_BTIME: Final = 0x800


def statx(path: AnyPath, dir_fd: int = AT_FDCWD, flags: int = AT_SYMLINK_NOFOLLOW) -> Statx:
    """statx(2) of a path, or of an fd with an empty path and AT_EMPTY_PATH."""
    raw = bytearray(256)
    view = (ctypes.c_char * 256).from_buffer(raw)
    _call("statx", dir_fd, os.fsencode(path), flags, ctypes.c_uint(STATX_BASIC | STATX_BTIME), view)
    mask, block_size, _, links, uid, gid, mode = struct.unpack_from("=IIQIIIH", raw, 0)
    inode, size, blocks = struct.unpack_from("=QQQ", raw, 32)

    def time(at: int) -> int:
        seconds, nanoseconds = struct.unpack_from("=qI", raw, at)
        return int(seconds) * 10**9 + int(nanoseconds)

    special = struct.unpack_from("=II", raw, 128)
    device = struct.unpack_from("=II", raw, 136)
    return Statx(
        mask, block_size, links, uid, gid, mode, inode, size, blocks,
        time(64), time(80), time(96), time(112), (device[0], device[1]), (special[0], special[1]),
    )  # fmt: skip


def ofd_lock(fd: int, kind: int, start: int, length: int, command: int = fcntl.F_OFD_SETLK) -> int:
    """An open-file-description lock; the lock type that the kernel leaves in the struct (for F_OFD_GETLK)."""
    request = struct.pack("@hhqqi4x", kind, os.SEEK_SET, start, length, 0)
    return int(struct.unpack_from("@h", fcntl.fcntl(fd, command, request))[0])


def getlk(fd: int, kind: int, start: int, length: int) -> tuple[int, int, int, int]:
    """F_GETLK: (type, start, length, pid) of a lock that stands in the way, type F_UNLCK if none."""
    request = struct.pack("@hhqqi4x", kind, os.SEEK_SET, start, length, 0)
    found, _, at, size, pid = struct.unpack("@hhqqi4x", fcntl.fcntl(fd, fcntl.F_GETLK, request))
    return int(found), int(at), int(size), int(pid)


class Inotify:
    """A watch on one directory."""

    def __init__(self, path: Path, mask: int) -> None:
        self._fd = _call("inotify_init1", os.O_NONBLOCK | os.O_CLOEXEC)
        _call("inotify_add_watch", self._fd, os.fsencode(path), ctypes.c_uint(mask))

    def events(self) -> list[tuple[int, bytes]]:
        """(mask, name) of what has happened since the last call."""
        try:
            raw = os.read(self._fd, 65536)
        except BlockingIOError:
            return []
        events, at = [], 0
        while at < len(raw):
            _, mask, _, length = struct.unpack_from("@iIII", raw, at)
            events.append((mask, raw[at + 16 : at + 16 + length].rstrip(b"\0")))
            at += 16 + length
        return events

    def close(self) -> None:
        """Ends the watch."""
        os.close(self._fd)
