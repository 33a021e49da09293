"""O_DIRECT that a guest turns on and off with fcntl(2), and pages that are written back meanwhile."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from engine_guest import Guest

from ferryfs.passthrough.config import ShareConfig
from ferryfs.wire import fuse
from ferryfs.wire.fuse import Op


def test_a_page_that_is_written_back_meets_an_fd_with_o_direct(tmp_path: Path) -> None:
    """As if a direct request of another queue had turned it on between our look and our write."""
    file = tmp_path / "file"
    file.write_bytes(b"x" * 10_000)
    with Guest(tmp_path, ShareConfig(allow_direct_io=True)) as guest:
        nodeid = guest.lookup(b"file")
        fh = guest.open(nodeid)
        for entry in Path("/proc/self/fd").iterdir():
            if entry.exists() and entry.samefile(file) and not fcntl.fcntl(int(entry.name), fcntl.F_GETFL) & os.O_PATH:
                flags = fcntl.fcntl(int(entry.name), fcntl.F_GETFL)
                fcntl.fcntl(int(entry.name), fcntl.F_SETFL, flags | os.O_DIRECT)
        body = fuse.WRITE_IN.pack(fh=fh, offset=8192, size=100, write_flags=1) + b"y" * 100
        assert fuse.WRITE_OUT.unpack(guest.ask(Op.WRITE, nodeid, body))["size"] == 100
    assert file.read_bytes() == b"x" * 8192 + b"y" * 100 + b"x" * (10_000 - 8292)
