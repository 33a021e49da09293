"""Who changes a file decides whether set-user-ID stays; a guest does not always say who it is."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from engine_guest import Call, Guest

from ferryfs.passthrough.config import ShareConfig
from ferryfs.wire import fuse
from ferryfs.wire.fuse import Op

UNKNOWN = 0xFFFFFFFF
KILLPRIV = ShareConfig(killpriv_v2=True)


def truncate(guest: Guest, nodeid: int) -> Call:
    return Call(Op.OPEN, nodeid, fuse.OPEN_IN.pack(flags=os.O_WRONLY | os.O_TRUNC))


def allocate(guest: Guest, nodeid: int) -> Call:
    return Call(Op.FALLOCATE, nodeid, fuse.FALLOCATE_IN.pack(fh=guest.open(nodeid), length=100))


def copy(guest: Guest, nodeid: int) -> Call:
    fhs = {"fh_in": guest.open(guest.lookup(b"source")), "fh_out": guest.open(nodeid)}
    return Call(Op.COPY_FILE_RANGE, nodeid, fuse.COPY_FILE_RANGE_IN.pack(nodeid_out=nodeid, len=10, **fhs))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root keeps the bits.")
@pytest.mark.parametrize(
    ("config", "build", "uid", "stays"),
    [
        (ShareConfig(), truncate, 0, True),
        (ShareConfig(), truncate, 1000, False),
        # The file is empty: the guest clears the bits with the first byte.
        (ShareConfig(), truncate, UNKNOWN, True),
        # Without HANDLE_KILLPRIV_V2 the guest has cleared them by now.
        (ShareConfig(), allocate, 1000, True),
        (KILLPRIV, truncate, UNKNOWN, True),
        *((KILLPRIV, build, uid, uid == 0) for build in (allocate, copy) for uid in (0, 1000, UNKNOWN)),
    ],
)
def test_set_user_id(
    tmp_path: Path, config: ShareConfig, build: Callable[[Guest, int], Call], uid: int, stays: bool
) -> None:
    (tmp_path / "source").write_bytes(bytes(100))
    file = tmp_path / "file"
    file.write_bytes(bytes(100))
    file.chmod(0o4755)
    with Guest(tmp_path, config) as guest:
        call = build(guest, guest.lookup(b"file"))
        assert guest.send(replace(call, uid=uid, gid=uid)).error == 0
    assert file.stat().st_mode == (0o104755 if stays else 0o100755)


@pytest.mark.parametrize("writeback", [False, True])
def test_holes_are_not_shown_to_a_guest_that_keeps_writes_back(tmp_path: Path, writeback: bool) -> None:
    """What it has written and not sent would be a hole; after ENOSYS it takes everything for data."""
    (tmp_path / "file").write_bytes(bytes(100))
    with Guest(tmp_path, ShareConfig(writeback=writeback)) as guest:
        nodeid = guest.lookup(b"file")
        body = fuse.LSEEK_IN.pack(fh=guest.open(nodeid), whence=os.SEEK_DATA)
        answer = guest.send(Call(Op.LSEEK, nodeid, body))
        assert answer.error == (errno.ENOSYS if writeback else 0)
