"""The directory that the micro rows work in, the same for every daemon and for the bare system calls."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

FILES: Final = 2000
FILE_BYTES: Final = 4096
ENTRIES: Final = 10_000
STREAM_BYTES: Final = 64 << 20
OWN_BYTES: Final = 1 << 20
LANES_MAX: Final = 64
XATTR: Final = b"user.ferryfs"


def prepare(share: Path, names: Sequence[str]) -> None:
    """Fills an empty directory with what the rows need; ``names``: of the daemons, for folders of their own."""
    # Names of one length: every directory entry takes the same room.
    (share / "files").mkdir()
    for i in range(FILES):
        (share / "files" / f"file{i:04}").write_bytes(os.urandom(64) * (FILE_BYTES // 64))
    for i in range(LANES_MAX):
        (share / "files" / f"link{i:04}").symlink_to(f"file{i:04}")
        # A file system without extended attributes: the row that reads one will say so.
        with contextlib.suppress(OSError):
            os.setxattr(share / "files" / f"file{i:04}", XATTR, bytes(16))
    (share / "entries").mkdir()
    for i in range(ENTRIES):
        (share / "entries" / f"file{i:05}").touch()
    block = os.urandom(OWN_BYTES)
    with (share / "stream").open("wb") as stream:
        for _ in range(STREAM_BYTES // OWN_BYTES):
            stream.write(block)
    for name in names:
        own = share / f"own-{name}"
        own.mkdir()
        for i in range(LANES_MAX):
            (own / f"data{i:04}").write_bytes(block)
            (own / f"move{i:04}").write_bytes(b"")


def spread(blocks: int, lane: int, lanes: int, count: int, *, random: bool) -> list[int]:
    """Which blocks of a file one of several lanes touches, in this order; the lanes begin in different parts of it."""
    first = lane * blocks // lanes
    # 7919 is prime: a walk in such steps meets every block before it meets one again.
    return [(first + k * (7919 if random else 1)) % blocks for k in range(count)]
