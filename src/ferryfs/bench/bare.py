"""The system calls that each micro row needs at least, made on the same directory without a daemon: the limit.

"Needs" is what no daemon can do without: where an inode is known, its descriptor is at hand, as it would be in a daemon
that keeps one open; a new name is asked for once. What carries the request (a look at the ring, a notification) is left
out, and so is what checks it.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

from ferryfs.bench.calls import LAST_FD, Call
from ferryfs.bench.results import BARE
from ferryfs.bench.share import FILE_BYTES, FILES, LANES_MAX, OWN_BYTES, STREAM_BYTES, XATTR, spread

Operation = list[Call]

AT_EMPTY_PATH: Final = 0x1000
AT_REMOVEDIR: Final = 0x200
AT_SYMLINK_NOFOLLOW: Final = 0x100
BASIC_STATS: Final = 0x7FF
GETDENTS_BYTES: Final = 32 << 10


class BareShare:
    """The share's directories, and buffers for the calls. Close it."""

    def __init__(self, share: Path) -> None:
        self._stack = contextlib.ExitStack()
        self._share = share
        self.files = self.open("files", os.O_DIRECTORY)
        self.own = self.open(f"own-{BARE}", os.O_DIRECTORY)
        self.stat = bytearray(256)

    def entries(self) -> list[bytes]:
        """The names in the long directory."""
        return [os.fsencode(name) + b"\0" for name in os.listdir(self._share / "entries")]

    def open(self, path: str, flags: int) -> int:
        """A descriptor of something in the share, closed with it."""
        fd = os.open(self._share / path, flags | os.O_CLOEXEC)
        self._stack.callback(os.close, fd)
        return fd

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def stat_name(self, folder: int, name: bytes, expected_errno: int = 0) -> Call:
        """What LOOKUP answers, of a name."""
        return Call("statx", folder, name, AT_SYMLINK_NOFOLLOW, BASIC_STATS, self.stat, expected_errno=expected_errno)

    def stat_fd(self, fd: int) -> Call:
        """What GETATTR answers, of a descriptor."""
        return Call("statx", fd, b"\0", AT_EMPTY_PATH, BASIC_STATS, self.stat)


def _lanes(prefix: str) -> list[bytes]:
    return [f"{prefix}{i:04}\0".encode() for i in range(LANES_MAX)]


def getattr_(share: BareShare) -> list[Operation]:
    """GETATTR and STATX."""
    return [[share.stat_fd(share.open(f"files/file{i:04}", os.O_PATH))] for i in range(LANES_MAX)]


def lookup_hit(share: BareShare) -> list[Operation]:
    """LOOKUP of a name that is there."""
    return [[share.stat_name(share.files, name)] for name in _lanes("file")]


def lookup_miss(share: BareShare) -> list[Operation]:
    """LOOKUP of a name that is not there."""
    return [[share.stat_name(share.files, name, errno.ENOENT)] for name in _lanes("none")]


def readlink(share: BareShare) -> list[Operation]:
    """READLINK."""
    target = bytearray(4096)
    return [
        [Call("readlinkat", share.open(f"files/link{i:04}", os.O_PATH | os.O_NOFOLLOW), b"\0", target, len(target))]
        for i in range(LANES_MAX)
    ]


def getxattr(share: BareShare) -> list[Operation]:
    """GETXATTR."""
    value = bytearray(64)
    return [
        [Call("fgetxattr", share.open(f"files/file{i:04}", os.O_RDONLY), XATTR + b"\0", value, len(value))]
        for i in range(LANES_MAX)
    ]


def setattr_(share: BareShare) -> list[Operation]:
    """SETATTR of the mode, whose answer holds all attributes."""
    return [
        [Call("fchmodat", share.own, name, mode), share.stat_name(share.own, name)]
        for name in _lanes("data")
        for mode in (0o600, 0o644)
    ]


def open_release(share: BareShare) -> list[Operation]:
    """OPEN and RELEASE."""
    return [
        [Call("openat", share.files, name, os.O_RDONLY | os.O_CLOEXEC), Call("close", LAST_FD)]
        for name in _lanes("file")
    ]


def create_unlink(share: BareShare) -> list[Operation]:
    """CREATE, RELEASE and UNLINK."""
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
    return [
        [
            Call("openat", share.own, name, flags, 0o644),
            share.stat_fd(LAST_FD),
            Call("close", LAST_FD),
            Call("unlinkat", share.own, name, 0),
        ]
        for name in _lanes("new")
    ]


def mkdir_rmdir(share: BareShare) -> list[Operation]:
    """MKDIR and RMDIR."""
    return [
        [
            Call("mkdirat", share.own, name, 0o755),
            share.stat_name(share.own, name),
            Call("unlinkat", share.own, name, AT_REMOVEDIR),
        ]
        for name in _lanes("dir")
    ]


def symlink_unlink(share: BareShare) -> list[Operation]:
    """SYMLINK and UNLINK."""
    return [
        [
            Call("symlinkat", b"target\0", share.own, name),
            share.stat_name(share.own, name),
            Call("unlinkat", share.own, name, 0),
        ]
        for name in _lanes("sym")
    ]


def rename(share: BareShare) -> list[Operation]:
    """RENAME2 there, and RENAME2 back."""
    return [
        [Call("renameat2", share.own, names[back], share.own, names[not back], 0)]
        for names in zip(_lanes("move"), _lanes("away"), strict=True)
        for back in (False, True)
    ]


def fsync(share: BareShare) -> list[Operation]:
    """FSYNC."""
    return [[Call("fsync", share.open(f"own-{BARE}/data{i:04}", os.O_RDWR))] for i in range(LANES_MAX)]


def small_files(share: BareShare) -> list[Operation]:
    """LOOKUP, OPEN, READ and RELEASE of every file."""
    data = bytearray(FILE_BYTES)
    return [
        [
            share.stat_name(share.files, name),
            Call("openat", share.files, name, os.O_RDONLY | os.O_CLOEXEC),
            Call("pread", LAST_FD, data, len(data), 0),
            Call("close", LAST_FD),
        ]
        for name in (f"file{i:04}\0".encode() for i in range(FILES))
    ]


def reading(size: int, *, random: bool) -> Callable[[BareShare], list[Operation]]:
    """READ of so many bytes, each into memory of its own, as a guest's page cache is."""

    def operations(share: BareShare) -> list[Operation]:
        fd = share.open("stream", os.O_RDONLY)
        return [
            [Call("pread", fd, bytearray(size), size, block * size)]
            for block in spread(STREAM_BYTES // size, 0, 1, _buffers(size), random=random)
        ]

    return operations


def writing(size: int, *, random: bool) -> Callable[[BareShare], list[Operation]]:
    """WRITE of so many bytes."""

    def operations(share: BareShare) -> list[Operation]:
        fds = [share.open(f"own-{BARE}/data{i:04}", os.O_RDWR) for i in range(16)]
        return [
            [Call("pwrite", fd, bytearray(os.urandom(size)), size, block * size)]
            for fd in fds
            for block in spread(OWN_BYTES // size, 0, 1, max(1, _buffers(size) // len(fds)), random=random)
        ]

    return operations


def _buffers(size: int) -> int:
    """As many as 16 lanes of the row have."""
    return max(16, min(1024, (32 << 20) // size))


def readdir(share: BareShare) -> list[Operation]:
    """OPENDIR, READDIR to the end, RELEASEDIR."""
    return [[*_listing(share), Call("close", LAST_FD)]]


def readdirplus(share: BareShare) -> list[Operation]:
    """OPENDIR, READDIRPLUS to the end, RELEASEDIR."""
    return [[*_listing(share), *(share.stat_name(LAST_FD, name) for name in share.entries()), Call("close", LAST_FD)]]


def _listing(share: BareShare) -> Operation:
    entries = bytearray(GETDENTS_BYTES)
    # A record is 19 bytes, the name and its end, rounded to 8; the last call finds the directory's end.
    records = sum((19 + len(name) + 7) // 8 * 8 for name in share.entries()) + 48
    each = GETDENTS_BYTES // 32 * 32
    calls = -(-records // each) + 1
    return [
        Call("openat", share.files, b"../entries\0", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC),
        *(Call("getdents64", LAST_FD, entries, len(entries)) for _ in range(calls)),
    ]
