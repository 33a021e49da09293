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


# Of mount(2).
MS_BIND = 4096


def mounts_over(host: Path) -> None:
    """Another file system over the file's directory, with a file of the same name and size."""
    size = (host / "src" / "main.c").stat().st_size
    _mount(b"none", host / "src", b"tmpfs")
    (host / "src" / "main.c").write_bytes(b"o" * size)


def mounts_over_the_file(host: Path) -> None:
    """Another file of the share over the file itself, of the same size."""
    above = host / "above"
    above.write_bytes(b"a" * (host / "src" / "main.c").stat().st_size)
    _mount(os.fsencode(above), host / "src" / "main.c", None, MS_BIND)


def _mount(what: bytes, where: Path, kind: bytes | None, flags: int = 0) -> None:
    # Not by mount(8): 1. the guest is stopped, 2. we fork, 3. the child closes the files of the mount that it has from
    # us, which is a request to the daemon, and never executes anything.
    if ctypes.CDLL(None, use_errno=True).mount(what, os.fsencode(where), kind, ctypes.c_ulong(flags), None):
        raise OSError(ctypes.get_errno(), "mount", where)


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
    mounts_over_the_file,
)
# What the guest may do just as well.
GUEST_CHANGES: tuple[Change, ...] = (renames, moves_the_parent, unlinks, unlinks_and_recreates, replaces)
