"""Whom a request acts as: the guest's user and group where something is created, else the daemon."""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_guest import ALL_FLAGS, HIPRIO, REQUESTS, Call, Guest

from ferryfs.passthrough.config import IdRange, ShareConfig
from ferryfs.wire import fuse
from ferryfs.wire.fuse import InitFlag, Op

USER, GROUP, TEAM = 12345, 23456, 34567
RENAME_WHITEOUT = 4


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """`team` may be written by a group's members only."""
    shared = tmp_path / "shared"
    (shared / "team").mkdir(parents=True)
    os.chown(shared / "team", 0, TEAM)
    (shared / "team").chmod(0o770)
    shared.chmod(0o777)
    return shared


@pytest.fixture
def guest(shared: Path) -> Iterator[Guest]:
    with Guest(shared) as guest:
        yield guest
        guest.serves()


def member_of(group: int) -> bytes:
    return fuse.EXT_HEADER.pack(size=16, type=fuse.EXT_GROUPS) + struct.pack("=II", 1, group)


def mkdir(guest: Guest, parent: int, name: str, ext: bytes = b"", mode: int = 0o755, umask: int = 0) -> int:
    """The errno of a MKDIR by the user."""
    body = fuse.MKDIR_IN.pack(mode=mode, umask=umask) + name.encode() + b"\0" + ext
    return guest.send(Call(Op.MKDIR, parent, body, uid=USER, gid=GROUP, extlen=len(ext) // 8)).error


def test_a_supplementary_group_opens_the_door(guest: Guest, shared: Path) -> None:
    team = guest.lookup(b"team")
    assert mkdir(guest, team, "stranger") == errno.EACCES
    assert mkdir(guest, team, "other", member_of(TEAM + 1)) == errno.EACCES
    assert mkdir(guest, team, "member", member_of(TEAM)) == 0
    assert mkdir(guest, team, "again") == errno.EACCES, "the group is given back"
    found = (shared / "team" / "member").stat()
    assert (found.st_uid, found.st_gid) == (USER, GROUP)
    assert os.listdir(shared / "team") == ["member"]


def test_a_guest_that_sends_no_groups(shared: Path) -> None:
    """Its kernel has checked already; we can't, so that it is let in: the file is the user's all the same."""
    with Guest(shared, flags=ALL_FLAGS & ~InitFlag.CREATE_SUPP_GROUP) as guest:
        assert mkdir(guest, guest.lookup(b"team"), "new") == 0
        assert (shared / "team" / "new").stat().st_uid == USER
        guest.serves()


def test_the_mode_is_the_guests(guest: Guest, shared: Path) -> None:
    """The guest's kernel has applied the umask, and the daemon's own is nobody's business."""
    before = os.umask(0o077)
    try:
        for queue in (HIPRIO, REQUESTS):
            name = f"file{queue}"
            body = fuse.CREATE_IN.pack(flags=os.O_RDWR, mode=0o100666, umask=0o22) + name.encode() + b"\0"
            guest.send(Call(Op.CREATE, 1, body, uid=USER, gid=GROUP), queue=queue)
            assert stat.S_IMODE((shared / name).stat().st_mode) == 0o666
        assert os.umask(0o077) == 0o077, "this process keeps its own"
    finally:
        os.umask(before)


def test_all_else_is_done_by_the_daemon(guest: Guest, shared: Path) -> None:
    """Permission is the guest kernel's business: who may not enter does not get here."""
    (shared / "team" / "file").write_bytes(b"content")
    nodeid = guest.lookup(b"file", guest.lookup(b"team"))
    open_by_user = Call(Op.OPEN, nodeid, fuse.OPEN_IN.pack(flags=os.O_RDWR), uid=USER, gid=GROUP)
    fh = fuse.OPEN_OUT.unpack(guest.send(open_by_user).body)["fh"]
    read = Call(Op.READ, nodeid, fuse.READ_IN.pack(fh=fh, size=100), uid=USER, gid=GROUP)
    assert guest.send(read).body == b"content"


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR, os.O_RDWR | os.O_TRUNC])
def test_creating_opens_nothing_that_is_there(flags: int, guest: Guest, shared: Path) -> None:
    """The guest's kernel saw no such name: it has asked whether the user may make one, not whether he may open it."""
    (shared / "file").write_bytes(b"content")
    (shared / "file").chmod(0o600)
    body = fuse.CREATE_IN.pack(flags=flags, mode=0o100644) + b"file\0"
    assert guest.send(Call(Op.CREATE, 1, body, uid=USER, gid=GROUP)).error == errno.ESTALE
    assert (shared / "file").read_bytes() == b"content"
    assert guest.device.handle_count == 0
    assert guest.device.inode_count == 1


def test_translated_ids_act(shared: Path) -> None:
    """User, group and the supplementary one, which opens the door; a whiteout is the host's user's as well."""
    users = (IdRange("guest", 50, USER, 1),)
    groups = (IdRange("guest", 60, GROUP, 1), IdRange("guest", 70, TEAM, 1), IdRange("forbid-guest", 80, 0, 1))
    with Guest(shared, ShareConfig(uid_rules=users, gid_rules=groups)) as guest:
        team = guest.lookup(b"team")
        body = fuse.MKDIR_IN.pack(mode=0o755) + b"made\0"

        def make(group: int) -> int:
            return guest.send(Call(Op.MKDIR, team, body + member_of(group), uid=50, gid=60, extlen=2)).error

        assert (make(71), make(80), make(70)) == (errno.EACCES, errno.EPERM, 0)
        found = (shared / "team" / "made").stat()
        assert (found.st_uid, found.st_gid) == (USER, GROUP)
        left = whiteout(guest, team, uid=50, gid=60)
        assert (left.st_uid, left.st_gid) == (USER, GROUP)
        nobody = {"uid": fuse.INVALID_ID, "gid": fuse.INVALID_ID}
        assert whiteout(guest, team, **nobody).st_uid == 0
        (shared / "team" / "old").touch()
        body = fuse.RENAME2_IN.pack(newdir=team, flags=RENAME_WHITEOUT) + b"old\0new\0"
        assert guest.refused(Op.RENAME2, team, body, uid=50, gid=80) == errno.EPERM
        assert os.listdir(shared / "team").count("old") == 1
        guest.serves()
    squashed = (IdRange("squash-guest", 0, USER, 1000),)
    with Guest(shared, ShareConfig(uid_rules=squashed)) as guest:
        assert whiteout(guest, guest.lookup(b"team"), **nobody).st_uid == USER


def whiteout(guest: Guest, parent: int, **ids: int) -> os.stat_result:
    """Renames team/old to team/new for somebody: what is under the old name then."""
    team = guest.shared / "team"
    (team / "old").touch()
    body = fuse.RENAME2_IN.pack(newdir=parent, flags=RENAME_WHITEOUT) + b"old\0new\0"
    answer = guest.send(Call(Op.RENAME2, parent, body, **ids))
    assert answer.error == 0, os.strerror(answer.error)
    left = (team / "old").lstat()
    assert (stat.S_IFMT(left.st_mode), left.st_rdev) == (stat.S_IFCHR, 0)
    for name in ("old", "new"):
        (team / name).unlink()
    return left


def test_a_whiteout_is_made_by_the_guests_user(guest: Guest, shared: Path) -> None:
    """As on the bare file system. The rest of a rename is allowed already: by a supplementary group, or to who owns
    neither the file nor the sticky directory.
    """
    team = guest.lookup(b"team")
    (shared / "team").chmod(0o1770)
    left = whiteout(guest, team, uid=USER, gid=GROUP)
    assert (left.st_uid, left.st_gid) == (USER, GROUP)
    (shared / "team").chmod(0o2770)
    left = whiteout(guest, team, uid=USER, gid=GROUP)
    assert (left.st_uid, left.st_gid) == (USER, TEAM), "the directory hands its group down"
    for ids in ({}, {"uid": fuse.INVALID_ID, "gid": fuse.INVALID_ID}):
        left = whiteout(guest, team, **ids)
        assert left.st_uid == 0
    assert (os.geteuid(), os.getegid()) == (0, 0)


def test_the_process_keeps_its_own_ids(guest: Guest) -> None:
    """Only the one thread becomes another, and only for the one request."""
    for number in range(50):
        mkdir(guest, 1, f"made{number}")
        assert (os.geteuid(), os.getegid()) == (0, 0)
    for task in os.listdir("/proc/self/task"):
        status = Path(f"/proc/self/task/{task}/status").read_text()
        ids = [line.split()[2] for line in status.splitlines() if line.startswith(("Uid:", "Gid:"))]
        assert ids == ["0", "0"]
