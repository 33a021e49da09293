"""READ where the file system has RWF_NOWAIT and where it has not."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_guest import ALL_FLAGS, Guest
from namespaces import needs_mounts

from ferryfs.passthrough.config import ShareConfig
from ferryfs.wire.fuse import ENTRY_OUT, OPEN_IN, OPEN_OUT, READ_IN, WRITE_IN, WRITE_OUT, InitFlag, Op

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


FIBMAP = 1
WRITE_CACHE = 1


@needs_mounts("mkfs.ext4")
def test_a_block_that_can_not_be_read_is_no_end_of_the_file(volume: Path, tmp_path: Path) -> None:
    """An answer that reaches into it is an error, and no part of the content."""
    image, file = tmp_path / "image", volume / "file"
    size = image.stat().st_size
    good = 96 << 10
    with file.open("xb") as out:
        out.write(b"g" * (2 << 20))
        os.fsync(out.fileno())
        block = os.statvfs(volume).f_bsize
        places = [
            struct.unpack("i", fcntl.ioctl(out, FIBMAP, struct.pack("i", number)))[0]
            for number in range((2 << 20) // block)
        ]
    bad = places[good // block]
    assert all((place < bad) == (number < good // block) for number, place in enumerate(places))
    subprocess.run(["sync", "-f", volume], check=True)
    os.truncate(image, bad * block)
    try:
        with Guest(volume, slot_bytes=1 << 18) as guest:
            nodeid = guest.lookup(b"file")
            fh = guest.open(nodeid, os.O_RDONLY)

            def read(offset: int, length: int) -> bytes:
                with file.open("rb") as inside:
                    os.posix_fadvise(inside.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                body = READ_IN.pack(fh=fh, offset=offset, size=length)
                return guest.ask(Op.READ, nodeid, body, room=16 + length)

            def failure(offset: int, length: int) -> int:
                body = READ_IN.pack(fh=fh, offset=offset, size=length)
                return guest.refused(Op.READ, nodeid, body, room=16 + length)

            assert read(0, good) == b"g" * good
            assert failure(good - (8 << 10), 16 << 10) == errno.EIO
            assert failure(good, 4096) == errno.EIO
            assert failure(0, 128 << 10) == errno.EIO
    finally:
        os.truncate(image, size)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 600 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "none", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


@needs_mounts()
def test_a_page_that_is_written_back_and_finds_no_room_is_an_error(small: Path) -> None:
    """Linux looks at nothing else; to a program that writes itself a short answer says how much was taken."""
    (small / "file").touch()
    with Guest(small, slot_bytes=2 << 20) as guest:
        nodeid = guest.lookup(b"file")
        fh = guest.open(nodeid, os.O_RDWR)

        def body(write_flags: int) -> bytes:
            return WRITE_IN.pack(fh=fh, size=1 << 20, write_flags=write_flags) + bytes(1 << 20)

        assert guest.refused(Op.WRITE, nodeid, body(WRITE_CACHE)) == errno.ENOSPC
        assert WRITE_OUT.unpack(guest.ask(Op.WRITE, nodeid, body(0)))["size"] == 600 << 10
