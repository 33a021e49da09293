"""Small steps that most checks begin or end with."""

import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from .assertions import ensure

# Long past, so that any update of a time stamp shows without waiting for a clock to move.
LONG_AGO_NS: Final = 1_000_000_000_123_456_789
PATIENCE_SECONDS: Final = 10.0


@contextmanager
def opened(path: os.PathLike[str] | str | bytes, flags: int = os.O_RDONLY, mode: int = 0o644) -> Iterator[int]:
    """An fd for the body."""
    fd = os.open(path, flags, mode)
    try:
        yield fd
    finally:
        os.close(fd)


def make(path: Path, content: bytes = b"content") -> Path:
    """A file with this content."""
    path.write_bytes(content)
    return path


def age(path: Path) -> None:
    """Sets atime and mtime to long ago."""
    os.utime(path, ns=(LONG_AGO_NS, LONG_AGO_NS), follow_symlinks=False)


def mode_of(path: os.PathLike[str] | str | bytes) -> int:
    """Permission bits, of a link itself."""
    return stat.S_IMODE(os.lstat(path).st_mode)


def kind_of(path: Path) -> int:
    """Type bits, of a link itself."""
    return stat.S_IFMT(path.lstat().st_mode)


def until_changed(what: str, look: Callable[[], int], act: Callable[[], None]) -> None:
    """Acts until the looked-at time stamp moves on: clocks of file systems tick in steps of up to 10 ms."""
    before = look()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while look() <= before:
        ensure(time.monotonic() < deadline, f"{what} does not move on")
        act()


# A prime length, so that no power of two ever meets the same byte again soon.
_PATTERN: Final = bytes((index * 31 + (index >> 8) * 7) & 0xFF for index in range(65_521))


def pattern(size: int, seed: int = 1) -> bytes:
    """Bytes that differ from place to place and from seed to seed."""
    shift = seed * 7919 % len(_PATTERN)
    repeated = _PATTERN * ((size + shift) // len(_PATTERN) + 1)
    return repeated[shift : shift + size]


def read_at(fd: int, size: int, offset: int) -> bytes:
    """pread(2) until there is that much or the end of the file."""
    parts = []
    while size and (part := os.pread(fd, size, offset)):
        parts.append(part)
        size -= len(part)
        offset += len(part)
    return b"".join(parts)


def write_at(fd: int, content: bytes, offset: int) -> None:
    """pwrite(2) until all is written."""
    view = memoryview(content)
    while view:
        written = os.pwrite(fd, view, offset)
        view = view[written:]
        offset += written
