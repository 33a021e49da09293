"""A file is gone, and new ones of the same inode number come and go: its handle is stale at every moment.

ext4 says ENOMEM of it, not ESTALE, while a new one is being made. To a guest that is another error: Linux looks the
name up anew after ESTALE only; and a migration takes a file that is gone for gone, but no memory for a failure.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from engine_guest import Guest
from namespaces import needs_mounts

from ferryfs.migration import _syscalls
from ferryfs.passthrough.config import HandleMode, ShareConfig
from ferryfs.wire import fuse
from ferryfs.wire.fuse import Op

TRIES = 30_000
CHURN = """
import os, sys
os.write(1, b"!")
while os.getppid() == int(sys.argv[2]):
    os.close(os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY))
    os.unlink(sys.argv[1])
"""


@contextlib.contextmanager
def new_ones(path: Path) -> Iterator[None]:
    """Meanwhile a process makes and removes files of a name that was just removed: its inode number is taken again."""
    process = subprocess.Popen([sys.executable, "-c", CHURN, path, str(os.getpid())], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        process.stdout.read(1)
        yield
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@needs_mounts("mkfs.ext4")
def test_a_handle_is_stale(volume: Path) -> None:
    file = volume / "file"
    file.touch()
    number = file.stat().st_ino
    kind, handle, _ = _syscalls.name_to_handle_at(-100, os.fsencode(file), 0)
    file.unlink()
    file.touch()
    assert file.stat().st_ino == number
    file.unlink()
    mount = os.open(volume, os.O_RDONLY)
    said: Counter[str] = Counter()
    try:
        with new_ones(file):
            for _ in range(TRIES):
                try:
                    os.close(_syscalls.open_by_handle_at(mount, kind, handle, os.O_PATH))
                except OSError as error:
                    said[errno.errorcode[error.errno or 0]] += 1
    finally:
        os.close(mount)
    assert said == {"ESTALE": TRIES}


@needs_mounts("mkfs.ext4")
def test_a_guest_is_told_so(volume: Path) -> None:
    file = volume / "file"
    file.touch()
    with Guest(volume, ShareConfig(handles=HandleMode.MANDATORY)) as guest:
        nodeid = guest.lookup(b"file")
        file.unlink()
        with new_ones(file):
            said = Counter(guest.refused(Op.GETATTR, nodeid, fuse.GETATTR_IN.pack()) for _ in range(TRIES))
        assert said == {errno.ESTALE: TRIES}
