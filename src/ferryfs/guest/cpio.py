"""Writes the archive format that Linux unpacks as its first root: "newc" cpio (kernel's early-userspace/buffer-format).

An archive is a sequence of (header of 110 hexadecimal characters, name with NUL, content), each of the last two padded
to 4 bytes, closed by an entry named ``TRAILER!!!``.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

MAGIC = b"070701"
TRAILER = "TRAILER!!!"
ALIGNMENT = 4


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of the archive: its name relative to the root, its mode with the type bits, and its content.

    The content of a symlink is its target; directories have none.
    """

    name: str
    mode: int
    content: bytes = b""


def directory(name: str, mode: int = 0o755) -> Entry:
    """A directory."""
    return Entry(name, stat.S_IFDIR | mode)


def script(name: str, text: str) -> Entry:
    """An executable text file."""
    return Entry(name, stat.S_IFREG | 0o755, text.encode())


def tree(folder: Path, skip: frozenset[str] = frozenset(), below: str = "") -> Iterator[Entry]:
    """Everything below a folder, named relative to it (or to ``below``), without the relative paths in ``skip``."""
    for path in sorted(folder.iterdir()):
        name = f"{below}{path.name}"
        if name in skip:
            continue
        status = path.lstat()
        if stat.S_ISDIR(status.st_mode):
            yield Entry(name, status.st_mode)
            yield from tree(path, skip, f"{name}/")
        elif stat.S_ISLNK(status.st_mode):
            yield Entry(name, status.st_mode, os.fsencode(os.readlink(path)))
        elif stat.S_ISREG(status.st_mode):
            yield Entry(name, status.st_mode, path.read_bytes())


def _padding(length: int) -> bytes:
    return b"\0" * (-length % ALIGNMENT)


def _encode(entry: Entry, inode: int) -> bytes:
    name = os.fsencode(entry.name) + b"\0"
    # ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check
    fields = (inode, entry.mode, 0, 0, 1, 0, len(entry.content), 0, 0, 0, 0, len(name), 0)
    header = MAGIC + b"".join(b"%08X" % field for field in fields)
    content = entry.content
    return header + name + _padding(len(header) + len(name)) + content + _padding(len(content))


def archive(entries: Iterable[Entry]) -> bytes:
    """The whole archive. A name that comes twice is written once, as it was first."""
    seen: set[str] = set()
    parts: list[bytes] = []
    for entry in entries:
        if entry.name not in seen:
            seen.add(entry.name)
            parts.append(_encode(entry, len(seen)))
    parts.append(_encode(Entry(TRAILER, 0), 0))
    return b"".join(parts)
