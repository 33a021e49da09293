"""Changes of scenarios.py: somebody on the host mounts something over what the guest has open."""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

MS_BIND = 4096


def _mount(what: Path, onto: Path, kind: str, flags: int) -> None:
    """mount(2) by this process itself.

    1. The guest is stopped, 2. mount(8) is started by a child of ours, which closes what it has inherited, 3. that is a
    FLUSH of the guest's open file, which waits for the migration, and that for us.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(os.fsencode(what), os.fsencode(onto), kind.encode(), ctypes.c_ulong(flags), None):
        raise OSError(ctypes.get_errno(), f"mount {onto}: {os.strerror(ctypes.get_errno())}")


def mounts_over_the_file(host: Path) -> None:
    """Another file of the same size."""
    size = (host / "src" / "main.c").stat().st_size
    (host / "above").write_bytes(b"n" * size)
    _mount(host / "above", host / "src" / "main.c", "", MS_BIND)


def mounts_over_the_parent(host: Path) -> None:
    """A directory that has a file of this name and size as well."""
    size = (host / "src" / "main.c").stat().st_size
    _mount(Path("none"), host / "src", "tmpfs", 0)
    (host / "src" / "main.c").write_bytes(b"n" * size)


def unmount_below(host: Path) -> None:
    """What the host has mounted over the guest's files."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    for place in reversed([line.split()[4] for line in lines]):
        if place.startswith(f"{host}/src"):
            subprocess.run(["umount", "--lazy", place], check=True)
