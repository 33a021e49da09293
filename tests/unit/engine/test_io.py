"""READ where the file system has RWF_NOWAIT and where it has not."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_guest import ALL_FLAGS, Guest

from ferryfs.passthrough.config import ShareConfig
from ferryfs.wire.fuse import ENTRY_OUT, OPEN_IN, OPEN_OUT, READ_IN, WRITE_IN, InitFlag, Op

CONTENT = bytes(range(256)) * 40


@pytest.fixture(params=["/dev/shm", None], ids=["tmpfs", "here"])
def folder(request: pytest.FixtureRequest) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=request.param) as name:
        yield Path(name)


def test_reads_are_whole_from_the_first_on(folder: Path) -> None:
    """The first READ of an open file finds out whether RWF_NOWAIT is to be had: no READ may look like the end of it."""
    (folder / "file").write_bytes(CONTENT)
    with Guest(folder) as guest:
        nodeid = ENTRY_OUT.unpack(guest.ask(Op.LOOKUP, 1, b"file\0"))["nodeid"]
        fh = OPEN_OUT.unpack(guest.ask(Op.OPEN, nodeid, OPEN_IN.pack(flags=os.O_RDONLY)))["fh"]
        for offset, size in ((0, 100), (0, 100), (4000, 3000), (10000, 4096), (len(CONTENT), 10), (0, len(CONTENT))):
            data = guest.ask(Op.READ, nodeid, READ_IN.pack(fh=fh, offset=offset, size=size), room=16 + size)
            assert data == CONTENT[offset : offset + size]


@pytest.mark.parametrize("keeps_writes_back", [False, True])
def test_append_of_a_guest_that_keeps_writes_back_or_not(folder: Path, keeps_writes_back: bool) -> None:
    """The option alone says nothing: a guest that did not take it up relies on us for the end of the file."""
    (folder / "file").write_bytes(b"0123456789")
    flags = ALL_FLAGS if keeps_writes_back else ALL_FLAGS & ~InitFlag.WRITEBACK_CACHE
    with Guest(folder, ShareConfig(writeback=True), flags=flags) as guest:
        nodeid = guest.lookup(b"file")
        fh = guest.open(nodeid, os.O_WRONLY | os.O_APPEND)
        body = WRITE_IN.pack(fh=fh, offset=0, size=3, flags=os.O_WRONLY | os.O_APPEND)
        guest.ask(Op.WRITE, nodeid, body + b"APP")
    assert (folder / "file").read_bytes() == (b"APP3456789" if keeps_writes_back else b"0123456789APP")
