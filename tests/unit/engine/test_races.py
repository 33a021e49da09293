"""Somebody on the host moves things while the guest looks: what it gets is always something of the share.

The secret outside has a content that nothing inside has, so that an escape shows as such.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from engine_guest import Call, Guest

from ferryfs.passthrough.config import HandleMode, ShareConfig
from ferryfs.wire import fuse
from ferryfs.wire.fuse import Op

SECRET = b"secret"
INSIDE = b"inside"
ROUNDS = 700
RENAME_EXCHANGE = 2

_libc = ctypes.CDLL(None, use_errno=True)


def exchange(one: Path, two: Path) -> None:
    """Both names change places at once."""
    if _libc.renameat2(-100, os.fsencode(one), -100, os.fsencode(two), RENAME_EXCHANGE):
        raise OSError(ctypes.get_errno(), "renameat2")


@contextlib.contextmanager
def meanwhile(action: Callable[[], None]) -> Iterator[None]:
    """Another thread does this again and again."""
    stop = threading.Event()
    failed: list[BaseException] = []

    def run() -> None:
        try:
            while not stop.is_set():
                action()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert failed == []


@pytest.fixture(params=list(HandleMode), ids=lambda mode: mode.value)
def guest(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Guest]:
    shared = tmp_path / "shared"
    outside = tmp_path / "outside"
    for folder, content in ((shared, INSIDE), (outside, SECRET)):
        (folder / "dir").mkdir(parents=True)
        (folder / "dir" / "file").write_bytes(content)
        (folder / "file").write_bytes(content)
    with Guest(shared, ShareConfig(xattr=True, handles=request.param)) as guest:
        yield guest
        guest.serves()


def content(guest: Guest, nodeid: int) -> bytes | None:
    """What the guest reads there; None for what can't be opened (any more)."""
    answer = guest.send(Call(Op.OPEN, nodeid, bytes(8)))
    if answer.error:
        return None
    fh = fuse.OPEN_OUT.unpack(answer.body)["fh"]
    data = guest.ask(Op.READ, nodeid, fuse.READ_IN.pack(fh=fh, size=100))
    guest.ask(Op.RELEASE, nodeid, fuse.RELEASE_IN.pack(fh=fh))
    return data


def look(guest: Guest, parent: int, name: bytes) -> tuple[int, int] | None:
    """Nodeid and mode of a name, or None when it is not there just now."""
    answer = guest.send(Call(Op.LOOKUP, parent, name + b"\0"))
    if answer.error:
        assert answer.error in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)
        return None
    entry = fuse.ENTRY_OUT.unpack(answer.body)
    return entry["nodeid"], entry["attr_mode"]


def forget(guest: Guest, nodeid: int) -> None:
    guest.send(Call(Op.FORGET, nodeid, (1).to_bytes(8, "little")))


def test_a_directory_turns_into_a_symlink(guest: Guest) -> None:
    """`dir` is now a directory, now a link to the outside's: below it there is only what is inside."""
    (guest.shared / "link").symlink_to("../outside/dir")
    seen: set[bool] = set()
    with meanwhile(lambda: exchange(guest.shared / "dir", guest.shared / "link")):
        for _ in range(ROUNDS):
            found = look(guest, 1, b"dir")
            if found is None:
                continue
            nodeid, mode = found
            seen.add(stat.S_ISDIR(mode))
            below = look(guest, nodeid, b"file")
            if below is not None:
                assert content(guest, below[0]) in (INSIDE, None)
                forget(guest, below[0])
            forget(guest, nodeid)
    assert seen == {True, False}, "both were there at some time"


def test_a_file_turns_into_a_symlink(guest: Guest) -> None:
    """`file` is now a file, now a link to the outside's: a link is never opened, its target never changed."""
    (guest.shared / "link").symlink_to("../outside/file")
    secret = guest.shared.parent / "outside" / "file"
    opened = 0
    with meanwhile(lambda: exchange(guest.shared / "file", guest.shared / "link")):
        for _ in range(ROUNDS):
            found = look(guest, 1, b"file")
            if found is None:
                continue
            data = content(guest, found[0])
            assert data in (INSIDE, None)
            assert (data is not None) <= stat.S_ISREG(found[1])
            opened += data is not None
            guest.send(Call(Op.SETATTR, found[0], fuse.SETATTR_IN.pack(valid=fuse.FATTR_MODE, mode=0o600)))
            guest.send(Call(Op.SETXATTR, found[0], fuse.SETXATTR_IN.pack(size=1) + b"user.x\0v"))
            forget(guest, found[0])
    assert opened
    assert secret.read_bytes() == SECRET
    assert stat.S_IMODE(secret.stat().st_mode) == 0o644
    assert os.listxattr(secret) == []


def test_creating_meets_a_symlink(guest: Guest) -> None:
    """CREATE of a name that is now nothing, now a dangling link: nothing appears outside."""
    name, away = guest.shared / "new", guest.shared / "away"
    target = guest.shared.parent / "outside" / "made"
    away.symlink_to("../outside/made")

    def swap() -> None:
        with contextlib.suppress(FileNotFoundError):
            away.rename(name)
        with contextlib.suppress(FileNotFoundError):
            if name.is_symlink():
                name.rename(away)
        if not away.is_symlink():
            away.unlink(missing_ok=True)
            away.symlink_to("../outside/made")

    create = fuse.CREATE_IN.pack(flags=os.O_RDWR | os.O_TRUNC, mode=0o100644) + b"new\0"
    with meanwhile(swap):
        for _ in range(ROUNDS):
            answer = guest.send(Call(Op.CREATE, 1, create))
            if not answer.error:
                out = fuse.CREATE_OUT.unpack(answer.body)
                guest.ask(Op.RELEASE, 1, fuse.RELEASE_IN.pack(fh=out["fh"]))
                forget(guest, out["nodeid"])
                guest.send(Call(Op.UNLINK, 1, b"new\0"))
    assert not target.exists()


def test_attributes_are_of_the_entry_that_is_given(guest: Guest) -> None:
    """Two files change places: nodeid, inode number and size in one reply are of one of them."""
    (guest.shared / "long").write_bytes(b"x" * 1000)
    sizes = {os.stat(guest.shared / name).st_ino: os.stat(guest.shared / name).st_size for name in ("file", "long")}
    nodeids: dict[int, int] = {}
    keep = [guest.lookup(b"file"), guest.lookup(b"long")]
    with meanwhile(lambda: exchange(guest.shared / "file", guest.shared / "long")):
        for _ in range(ROUNDS):
            answer = guest.send(Call(Op.LOOKUP, 1, b"file\0"))
            assert answer.error == 0
            entry = fuse.ENTRY_OUT.unpack(answer.body)
            assert entry["attr_size"] == sizes[entry["attr_ino"]]
            assert nodeids.setdefault(entry["attr_ino"], entry["nodeid"]) == entry["nodeid"]
            forget(guest, entry["nodeid"])
    assert set(nodeids.values()) <= set(keep)


def test_attributes_are_of_an_entry_that_the_guest_did_not_know(guest: Guest) -> None:
    """The same, of files that the guest has forgotten each time: GETATTR of the nodeid finds what LOOKUP said of it."""
    (guest.shared / "long").write_bytes(b"x" * 1000)
    sizes = {os.stat(guest.shared / name).st_ino: os.stat(guest.shared / name).st_size for name in ("file", "long")}
    seen: set[int] = set()
    with meanwhile(lambda: exchange(guest.shared / "file", guest.shared / "long")):
        for _ in range(ROUNDS):
            entry = fuse.ENTRY_OUT.unpack(guest.ask(Op.LOOKUP, 1, b"file\0"))
            attributes = fuse.ATTR_OUT.unpack(guest.ask(Op.GETATTR, entry["nodeid"], bytes(16)))
            assert entry["attr_size"] == sizes[entry["attr_ino"]]
            assert (attributes["attr_ino"], attributes["attr_size"]) == (entry["attr_ino"], entry["attr_size"])
            seen.add(entry["attr_ino"])
            forget(guest, entry["nodeid"])
    assert seen == set(sizes), "both were there at some time"


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, os.mkfifo], ids=["file", "directory", "fifo"])
def test_what_the_guest_removes_goes_on_answering(guest: Guest, make: Callable[[Path], None]) -> None:
    """A process of the guest may have it by O_PATH, of which the daemon hears nothing."""
    make(guest.shared / "victim")
    nodeid = guest.lookup(b"victim")
    guest.ask(Op.RMDIR if (guest.shared / "victim").is_dir() else Op.UNLINK, 1, b"victim\0")
    assert fuse.ATTR_OUT.unpack(guest.ask(Op.GETATTR, nodeid, bytes(16)))["attr_nlink"] == 0


def test_a_parent_that_is_moved_outside(guest: Guest) -> None:
    """What was inside when it was looked up stays reachable, and leads no further up."""
    nodeid = guest.lookup(b"dir")
    (guest.shared / "dir").rename(guest.shared.parent / "moved")
    assert look(guest, nodeid, b"file") is not None
    for name in (b"..", b"../outside", b"."):
        assert guest.refused(Op.LOOKUP, nodeid, name + b"\0") == errno.EINVAL
    plus = guest.ask(Op.READDIRPLUS, nodeid, fuse.READ_IN.pack(fh=guest.open(nodeid, os.O_DIRECTORY), size=4096))
    at = 0
    while at < len(plus):
        entry = fuse.DIRENTPLUS.unpack(plus, at)
        name = plus[at + fuse.DIRENTPLUS.size :][: entry["namelen"]]
        if name in (b".", b".."):
            assert entry["entry_nodeid"] == 0, "no lookup of what may lie outside"
        at += fuse.direntplus_size(entry["namelen"])
