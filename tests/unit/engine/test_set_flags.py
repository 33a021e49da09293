"""--allow-set-flags: inode flags are the guest's to read, and to change only where that is allowed, by either ioctl.

Project ids, which the second one has too, need a kernel and a file system with quotas.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import struct
from pathlib import Path

import pytest
from engine_calls import FS_IOC_FSGETXATTR, FS_IOC_GETFLAGS, FS_IOC_SETFLAGS
from engine_guest import Call, Guest
from namespaces import needs_mounts

from ferryfs.passthrough.config import ShareConfig
from ferryfs.wire import fuse
from ferryfs.wire.fuse import Op

FS_IOC_FSSETXATTR = 0x401C5820
# linux/fs.h: FS_IMMUTABLE_FL, FS_NODUMP_FL, FS_XFLAG_NODUMP; struct fsxattr.
IMMUTABLE, NODUMP, XFLAG_NODUMP = 0x10, 0x40, 0x80
FSXATTR = struct.Struct("=IIIII8x")
# The two forms, with what a guest sets by each.
SETTING = {
    FS_IOC_SETFLAGS: struct.pack("=I", NODUMP),
    FS_IOC_FSSETXATTR: FSXATTR.pack(XFLAG_NODUMP, 0, 0, 0, 0),
}

pytestmark = needs_mounts("mkfs.ext4")


def call(nodeid: int, fh: int, command: int, data: bytes = b"", out_size: int = 0) -> Call:
    head = fuse.IOCTL_IN.pack(fh=fh, cmd=command, in_size=len(data), out_size=out_size)
    return Call(Op.IOCTL, nodeid, head + data)


def flags(path: Path) -> int:
    """The inode flags as the host sees them."""
    value = array.array("I", [0])
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, FS_IOC_GETFLAGS, value)
    finally:
        os.close(fd)
    return value[0]


@pytest.mark.parametrize("command", SETTING, ids=["SETFLAGS", "FSSETXATTR"])
@pytest.mark.parametrize(
    ("config", "error"),
    [(ShareConfig(), errno.EPERM), (ShareConfig(allow_set_flags=True, readonly=True), errno.EROFS)],
    ids=["not-allowed", "readonly"],
)
def test_refused(volume: Path, command: int, config: ShareConfig, error: int) -> None:
    (volume / "file").touch()
    with Guest(volume, config) as guest:
        nodeid = guest.lookup(b"file")
        fh = guest.open(nodeid, os.O_RDONLY)
        assert guest.send(call(nodeid, fh, command, SETTING[command])).error == error
        guest.serves()
    assert not flags(volume / "file") & NODUMP


def test_allowed(volume: Path) -> None:
    (volume / "file").touch()
    with Guest(volume, ShareConfig(allow_set_flags=True)) as guest:
        nodeid = guest.lookup(b"file")
        fh = guest.open(nodeid)
        assert guest.send(call(nodeid, fh, FS_IOC_FSSETXATTR, SETTING[FS_IOC_FSSETXATTR])).error == 0
        assert flags(volume / "file") & NODUMP
        answer = guest.send(call(nodeid, fh, FS_IOC_FSGETXATTR, out_size=FSXATTR.size))
        assert FSXATTR.unpack(answer.body[-FSXATTR.size :])[0] & XFLAG_NODUMP

        immutable = struct.pack("=I", IMMUTABLE)
        assert guest.send(call(nodeid, fh, FS_IOC_SETFLAGS, immutable)).error == 0
        assert flags(volume / "file") & (IMMUTABLE | NODUMP) == IMMUTABLE
        opened = fuse.OPEN_IN.pack(flags=os.O_RDWR)
        assert guest.refused(Op.OPEN, nodeid, opened) == errno.EPERM
        answer = guest.send(call(nodeid, fh, FS_IOC_GETFLAGS, out_size=8))
        assert struct.unpack("=I", answer.body[-4:])[0] & IMMUTABLE
        assert guest.send(call(nodeid, fh, FS_IOC_SETFLAGS, bytes(4))).error == 0
        guest.open(nodeid)
