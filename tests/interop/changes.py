"""What somebody does to a file that the guest holds open: src/main.c (and README) of a folder."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path

Change = Callable[[Path], None]


def nothing(host: Path) -> None:
    """Nothing."""


def renames(host: Path) -> None:
    (host / "src" / "main.c").rename(host / "elsewhere.c")


def moves_the_parent(host: Path) -> None:
    (host / "other").mkdir()
    (host / "src").rename(host / "other" / "sources")


def swaps(host: Path) -> None:
    (host / "src" / "main.c").rename(host / "third")
    (host / "README").rename(host / "src" / "main.c")
    (host / "third").rename(host / "README")


def unlinks(host: Path) -> None:
    (host / "src" / "main.c").unlink()


def unlinks_and_recreates(host: Path) -> None:
    (host / "src" / "main.c").unlink()
    (host / "src" / "main.c").write_text("somebody else's\n")


def replaces(host: Path) -> None:
    """As an editor does: another file of the same size, renamed over it; no name is left."""
    size = (host / "src" / "main.c").stat().st_size
    (host / "new").write_bytes(b"n" * size)
    (host / "new").rename(host / "src" / "main.c")


def replaces_with_a_backup(host: Path) -> None:
    os.link(host / "src" / "main.c", host / "src" / "main.c~")
    replaces(host)


def chmods(host: Path) -> None:
    (host / "src" / "main.c").chmod(0)
    (host / "src").chmod(0)


def mounts_over(host: Path) -> None:
    """Another file system over the file's directory, with a file of the same name and size."""
    size = (host / "src" / "main.c").stat().st_size
    # Not by mount(8): 1. the guest is stopped, 2. we fork, 3. the child closes the files of the mount that it has from
    # us, which is a request to the daemon, and never executes anything.
    if ctypes.CDLL(None, use_errno=True).mount(b"none", os.fsencode(host / "src"), b"tmpfs", ctypes.c_ulong(0), None):
        raise OSError(ctypes.get_errno(), "mount", host)
    (host / "src" / "main.c").write_bytes(b"o" * size)


CHANGES: tuple[Change, ...] = (
    nothing,
    renames,
    moves_the_parent,
    swaps,
    unlinks,
    unlinks_and_recreates,
    replaces,
    replaces_with_a_backup,
    chmods,
    mounts_over,
)
# What the guest may do just as well.
GUEST_CHANGES: tuple[Change, ...] = (renames, moves_the_parent, unlinks, unlinks_and_recreates, replaces)
