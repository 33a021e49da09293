"""A process of the host has a lease on a file (Samba, knfsd) and gives it up when asked: the guest waits for that."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from engine_guest import Guest

from ferryfs.wire import fuse
from ferryfs.wire.fuse import Op

SIZE = 8  # FATTR_SIZE
HOLDER = """
import fcntl, os, signal, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
signal.signal(signal.SIGIO, lambda *_: None)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGIO])
fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
os.write(1, b"l")
signal.sigwait([signal.SIGIO])
os.write(1, b"a")
sys.stdin.read(1)
fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
"""


@contextlib.contextmanager
def lease(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A read lease, until somebody wants to write and one byte is written to the holder."""
    command = [sys.executable, "-c", HOLDER, path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as holder:
        assert holder.stdout is not None
        try:
            assert holder.stdout.read(1) == b"l"
            yield holder
            assert holder.wait(20) == 0
        finally:
            holder.kill()


def waits(guest: Guest, op: Op, nodeid: int, body: bytes, holder: subprocess.Popen[bytes]) -> bytes:
    """The request waits, and nobody else does."""
    queue = guest.queues[1]
    header = fuse.IN_HEADER.pack(len=fuse.IN_HEADER.size + len(body), opcode=op, unique=4710, nodeid=nodeid)
    token = queue.add([header, body], [fuse.OUT_HEADER.size, 4096])
    queue.kick()
    assert holder.stdout is not None
    assert holder.stdin is not None
    assert holder.stdout.read(1) == b"a"
    guest.serves()
    assert queue.poll() is None
    holder.stdin.write(b"g")
    done = queue.wait(20)
    assert done is not None
    assert done[0] == token
    head, out = queue.take(token)
    assert fuse.OUT_HEADER.unpack(head)["error"] == 0
    return bytes(out)


def test_open_for_writing_and_change_of_size(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    with Guest(tmp_path) as guest:
        nodeid = guest.lookup(b"file")
        with lease(tmp_path / "file") as holder:
            out = waits(guest, Op.OPEN, nodeid, fuse.OPEN_IN.pack(flags=os.O_WRONLY), holder)
        fh = fuse.OPEN_OUT.unpack(out[: fuse.OPEN_OUT.size])["fh"]
        guest.ask(Op.RELEASE, nodeid, fuse.RELEASE_IN.pack(fh=fh))
        with lease(tmp_path / "file") as holder:
            waits(guest, Op.SETATTR, nodeid, fuse.SETATTR_IN.pack(valid=SIZE, size=3), holder)
    assert (tmp_path / "file").read_bytes() == b"con"
