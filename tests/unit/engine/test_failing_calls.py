"""A system call of the daemon fails: the guest is told so, the file is as it was, the next request is served as ever.

The calls are such as nobody else in this process makes meanwhile.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_calls import extensions
from engine_guest import Call, Guest
from injected import failing, needs_strace
from namespaces import needs_mounts

from ferryfs.passthrough.config import HandleMode, ShareConfig, Ternary
from ferryfs.passthrough.xattrmap import parse_rules
from ferryfs.wire import fuse
from ferryfs.wire.fuse import Op

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="the requests of other users need root"),
    needs_strace,
]

STRANGER = 1000
KILL_SUIDGID = 4
MODE, UID, SIZE, MTIME, MTIME_NOW = 1, 2, 8, 32, 256
CAPABILITY_RULES = parse_rules(":map::user.virtiofs.:")


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    (tmp_path / "file").write_bytes(b"content")
    config = ShareConfig(xattr=True, killpriv_v2=True, security_label=Ternary.AUTO)
    with Guest(tmp_path, config) as guest:
        yield guest
        guest.serves()


def test_the_host_s_enosys_is_not_the_daemon_s(guest: Guest) -> None:
    """A guest that gets ENOSYS sends no request of the kind any more, and takes each for done."""
    nodeid = guest.lookup(b"file")
    fh = guest.open(nodeid)
    guest.ask(Op.WRITE, nodeid, fuse.WRITE_IN.pack(fh=fh, size=1) + b"C")
    copy = fuse.COPY_FILE_RANGE_IN.pack(fh_in=fh, nodeid_out=nodeid, fh_out=fh, off_out=100, len=3)
    with failing("fsync:error=ENOSYS"):
        assert guest.refused(Op.FSYNC, nodeid, fuse.FSYNC_IN.pack(fh=fh)) == errno.EIO
    with failing("copy_file_range:error=ENOSYS"):
        assert guest.refused(Op.COPY_FILE_RANGE, nodeid, copy) == errno.EOPNOTSUPP
    guest.ask(Op.FSYNC, nodeid, fuse.FSYNC_IN.pack(fh=fh))


def test_a_link_that_can_not_be_looked_at_is_not_there(guest: Guest) -> None:
    nodeid = guest.lookup(b"file")
    body = fuse.LINK_IN.pack(oldnodeid=nodeid) + b"new\0"
    with failing("name_to_handle_at:error=EIO"):
        assert guest.refused(Op.LINK, 1, body) == errno.EIO
    assert not (guest.shared / "new").exists()
    guest.ask(Op.LINK, 1, body)


@pytest.mark.parametrize(
    ("op", "body"),
    [
        (Op.MKNOD, fuse.MKNOD_IN.pack(mode=0o100600) + b"new\0"),
        (Op.MKDIR, fuse.MKDIR_IN.pack(mode=0o755) + b"new\0"),
        (Op.SYMLINK, b"new\0target\0"),
    ],
)
def test_nothing_is_left_without_its_label(guest: Guest, op: Op, body: bytes) -> None:
    call = Call(op, 1, body + extensions(), extlen=len(extensions()) // 8)
    with failing("openat:error=EIO"):
        assert guest.send(call).error == errno.EIO
    assert not os.path.lexists(guest.shared / "new")
    assert guest.send(call).error == 0


@pytest.mark.parametrize("call", ["capget", "capset"])
def test_no_memory_for_a_change_of_capabilities(guest: Guest, call: str) -> None:
    """The bits go all the same, and the thread has its capability back afterwards."""
    nodeid = guest.lookup(b"file")
    fh = guest.open(nodeid)
    (guest.shared / "file").chmod(0o6777)
    body = fuse.WRITE_IN.pack(fh=fh, size=1, write_flags=KILL_SUIDGID) + b"C"
    with failing(f"{call}:error=ENOMEM:when=1+2"):
        answer = guest.send(Call(Op.WRITE, nodeid, body, uid=STRANGER))
        assert answer.error == 0
    assert (guest.shared / "file").stat().st_mode & 0o7777 == 0o777
    os.chown(guest.shared / "file", 0, STRANGER)
    guest.ask(Op.SETATTR, nodeid, fuse.SETATTR_IN.pack(valid=MODE, mode=0o102755))
    assert (guest.shared / "file").stat().st_mode & 0o7777 == 0o2755


def test_a_change_of_several_attributes_that_fails(guest: Guest) -> None:
    """Of truncate(2) and chown(2), which change times and mode along with it: either all or nothing."""
    nodeid = guest.lookup(b"file")
    with failing("utimensat:error=EIO", "fchownat:error=EDQUOT"):
        for size, time_of in ((4, MTIME), (3, MTIME_NOW)):
            guest.ask(Op.SETATTR, nodeid, fuse.SETATTR_IN.pack(valid=SIZE | time_of, size=size))
        body = fuse.SETATTR_IN.pack(valid=MODE | UID, mode=0o100600, uid=STRANGER)
        assert guest.refused(Op.SETATTR, nodeid, body) == errno.EDQUOT
    status = (guest.shared / "file").stat()
    assert (status.st_size, status.st_mode & 0o7777) == (3, 0o644)


def test_truncate_sets_the_time(guest: Guest) -> None:
    """Also to the size that the file has: the host does it, without a call more."""
    nodeid = guest.lookup(b"file")
    os.utime(guest.shared / "file", (1, 1))
    guest.ask(Op.SETATTR, nodeid, fuse.SETATTR_IN.pack(valid=SIZE | MTIME_NOW, size=7))
    assert (guest.shared / "file").stat().st_mtime > 1


def test_an_open_that_truncates_and_fails_leaves_the_content(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    os.setxattr(tmp_path / "file", "user.virtiofs.security.capability", b"x")
    config = ShareConfig(xattr=True, killpriv_v2=True, xattr_rules=CAPABILITY_RULES)
    with Guest(tmp_path, config) as guest:
        nodeid = guest.lookup(b"file")
        body = fuse.OPEN_IN.pack(flags=os.O_WRONLY | os.O_TRUNC)
        with failing("fremovexattr:error=EIO"):
            assert guest.refused(Op.OPEN, nodeid, body) == errno.EIO
        assert (tmp_path / "file").read_bytes() == b"content"
        guest.ask(Op.OPEN, nodeid, body)
    assert (tmp_path / "file").read_bytes() == b""
    assert os.listxattr(tmp_path / "file") == []


def test_attributes_that_may_not_be_changed_and_are_not_there(tmp_path: Path) -> None:
    """The daemon of an ordinary user, and a file that the guest has made read-only: it may write by the open file."""
    config = ShareConfig(xattr=True, killpriv_v2=True, xattr_rules=CAPABILITY_RULES)
    (tmp_path / "file").touch()
    with Guest(tmp_path, config) as guest:
        nodeid = guest.lookup(b"file")
        fh = guest.open(nodeid)
        body = fuse.WRITE_IN.pack(fh=fh, size=1) + b"x"
        with failing("fremovexattr:error=EACCES"):
            guest.ask(Op.WRITE, nodeid, body)
            os.setxattr(tmp_path / "file", "user.virtiofs.security.capability", b"x")
            assert guest.refused(Op.WRITE, nodeid, body) == errno.EACCES


@pytest.fixture
def failing_disk(tmp_path: Path) -> Iterator[Path]:
    """An ext4 of 64 MiB on a disk that has 12."""
    disk, folder = tmp_path / "disk", tmp_path / "folder"
    for place in (disk, folder):
        place.mkdir()
    with contextlib.ExitStack() as stack:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "none", disk], check=True)
        stack.callback(subprocess.run, ["umount", disk], check=True)
        with (disk / "image").open("wb") as image:
            image.truncate(64 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", disk / "image"], check=True)
        subprocess.run(["mount", "-o", "loop", disk / "image", folder], check=True)
        stack.callback(subprocess.run, ["umount", folder], check=True)
        yield folder


@needs_mounts("mkfs.ext4")
@pytest.mark.parametrize("handles", [HandleMode.PREFER, HandleMode.NEVER])
@pytest.mark.parametrize("below", [False, True])
def test_what_could_not_be_written_back_is_told_to_the_guest_too(
    failing_disk: Path, handles: HandleMode, below: bool
) -> None:
    """Though somebody on the host has asked before; also of a mount in the share that the guest does not know of."""
    shared = failing_disk.parent if below else failing_disk
    with Guest(shared, ShareConfig(handles=handles, announce_submounts=False)) as guest:
        (failing_disk / "file").touch()
        nodeid = guest.lookup(b"file", guest.lookup(b"folder") if below else 1)
        fh = guest.open(nodeid)
        for number in range(24 << 4):
            body = fuse.WRITE_IN.pack(fh=fh, offset=number << 16, size=1 << 16) + bytes([number % 255 + 1]) * (1 << 16)
            guest.ask(Op.WRITE, nodeid, body)
        host = subprocess.run(["sync", "-f", failing_disk], capture_output=True, check=False)
        assert host.returncode != 0, "the disk was to be full"
        assert guest.refused(Op.SYNCFS, 1, bytes(8)) in (errno.EIO, errno.ENOSPC)
        guest.ask(Op.RELEASE, nodeid, fuse.RELEASE_IN.pack(fh=fh))
