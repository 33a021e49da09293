"""Files that were closed and are left open for the next time: no other notices, and nothing is kept too long."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_guest import Call, Guest
from namespaces import needs_mounts

from ferryfs.passthrough.config import HandleMode, ShareConfig
from ferryfs.wire import fuse
from ferryfs.wire.fuse import Op


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    (tmp_path / "file").write_bytes(b"0123456789")
    with Guest(tmp_path, ShareConfig(allow_direct_io=True), queues=3) as guest:
        if not guest.device.uses_file_handles:
            pytest.skip("the daemon can't open file handles here")
        yield guest
        guest.serves()


def opened(file: Path) -> list[int]:
    """The fds of this process that are open for input or output of a file."""
    return [
        int(entry.name)
        for entry in Path("/proc/self/fd").iterdir()
        if entry.exists() and entry.samefile(file) and not fcntl.fcntl(int(entry.name), fcntl.F_GETFL) & os.O_PATH
    ]


def release(guest: Guest, nodeid: int, fh: int) -> None:
    guest.ask(Op.RELEASE, nodeid, fuse.RELEASE_IN.pack(fh=fh))


def read(guest: Guest, nodeid: int, fh: int, flags: int = 0) -> bytes:
    return guest.ask(Op.READ, nodeid, fuse.READ_IN.pack(fh=fh, size=4096, flags=flags))


def test_the_next_one_gets_it(guest: Guest) -> None:
    nodeid = guest.lookup(b"file")
    fh = guest.open(nodeid, os.O_RDONLY)
    fds = opened(guest.shared / "file")
    assert len(fds) == 1
    release(guest, nodeid, fh)
    assert opened(guest.shared / "file") == fds
    again = guest.open(nodeid, os.O_RDONLY)
    assert opened(guest.shared / "file") == fds
    assert again != fh
    assert guest.refused(Op.READ, nodeid, fuse.READ_IN.pack(fh=fh, size=1)) == errno.EBADF
    assert read(guest, nodeid, again) == b"0123456789"
    release(guest, nodeid, again)
    assert opened(guest.shared / "file") == fds


def test_two_at_once_have_each_their_own(guest: Guest) -> None:
    nodeid = guest.lookup(b"file")
    release(guest, nodeid, guest.open(nodeid, os.O_RDONLY))
    first, second = guest.open(nodeid, os.O_RDONLY), guest.open(nodeid, os.O_RDONLY)
    assert len(opened(guest.shared / "file")) == 2
    release(guest, nodeid, first)
    assert read(guest, nodeid, second) == b"0123456789"
    third = guest.open(nodeid, os.O_RDONLY)
    assert read(guest, nodeid, third) == b"0123456789"
    release(guest, nodeid, second)
    release(guest, nodeid, third)
    assert len(opened(guest.shared / "file")) == 1


@pytest.mark.parametrize("flags", [os.O_RDWR, os.O_WRONLY, os.O_RDONLY | os.O_DIRECT, os.O_RDONLY | os.O_TRUNC])
def test_nothing_else_is_left_open_or_taken(guest: Guest, flags: int) -> None:
    nodeid = guest.lookup(b"file")
    release(guest, nodeid, guest.open(nodeid, flags))
    assert opened(guest.shared / "file") == []
    release(guest, nodeid, guest.open(nodeid, os.O_RDONLY))
    fh = guest.open(nodeid, flags)
    assert len(opened(guest.shared / "file")) == 2
    release(guest, nodeid, fh)
    assert len(opened(guest.shared / "file")) == 1


def test_o_direct_that_the_guest_took_on_meanwhile(guest: Guest) -> None:
    """fcntl(F_SETFL) of one open file is not the next one's, whether the fd was its own or one that was left."""
    nodeid = guest.lookup(b"file")
    for _ in range(2):
        fh = guest.open(nodeid, os.O_RDONLY)
        # Our buffers are not aligned as such a READ wants them; that it comes is enough.
        guest.send(Call(Op.READ, nodeid, fuse.READ_IN.pack(fh=fh, size=4096, flags=os.O_DIRECT)))
        (fd,) = opened(guest.shared / "file")
        assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT
        release(guest, nodeid, fh)
        assert opened(guest.shared / "file") == [fd]
        assert not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT


def test_what_the_host_changes_is_seen(guest: Guest) -> None:
    nodeid = guest.lookup(b"file")
    release(guest, nodeid, guest.open(nodeid, os.O_RDONLY))
    (guest.shared / "file").write_bytes(b"written again")
    assert read(guest, nodeid, guest.open(nodeid, os.O_RDONLY)) == b"written again"
    (guest.shared / "other").write_bytes(b"another file")
    (guest.shared / "other").rename(guest.shared / "file")
    replaced = guest.lookup(b"file")
    assert replaced != nodeid
    assert read(guest, replaced, guest.open(replaced, os.O_RDONLY)) == b"another file"


def test_forget_closes_it(guest: Guest) -> None:
    nodeid = guest.lookup(b"file")
    release(guest, nodeid, guest.open(nodeid, os.O_RDONLY))
    guest.send(Call(Op.FORGET, nodeid, fuse.FORGET_IN.pack(nlookup=1)))
    assert opened(guest.shared / "file") == []
    # Forgotten while it is lent.
    nodeid = guest.lookup(b"file")
    release(guest, nodeid, guest.open(nodeid, os.O_RDONLY))
    fh = guest.open(nodeid, os.O_RDONLY)
    guest.send(Call(Op.FORGET, nodeid, fuse.FORGET_IN.pack(nlookup=1)))
    assert read(guest, nodeid, fh) == b"0123456789"
    release(guest, nodeid, fh)
    assert opened(guest.shared / "file") == []


def test_what_the_guest_removes_stays_readable(guest: Guest) -> None:
    nodeid = guest.lookup(b"file")
    release(guest, nodeid, guest.open(nodeid, os.O_RDONLY))
    fh = guest.open(nodeid, os.O_RDONLY)
    guest.ask(Op.UNLINK, 1, b"file\0")
    assert read(guest, nodeid, fh) == b"0123456789"
    release(guest, nodeid, fh)
    assert fuse.ATTR_OUT.unpack(guest.ask(Op.GETATTR, nodeid, bytes(16)))["attr_nlink"] == 0


def test_destroy_closes_what_is_lent_and_what_is_left(guest: Guest) -> None:
    (guest.shared / "lent").write_bytes(b"lent")
    for name in (b"file", b"lent"):
        nodeid = guest.lookup(name)
        release(guest, nodeid, guest.open(nodeid, os.O_RDONLY))
    guest.open(nodeid, os.O_RDONLY)
    guest.ask(Op.DESTROY, 0)
    assert opened(guest.shared / "file") == []
    assert opened(guest.shared / "lent") == []


def test_without_file_handles_nothing_is_left_open(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with Guest(tmp_path, ShareConfig(handles=HandleMode.NEVER)) as guest:
        nodeid = guest.lookup(b"file")
        release(guest, nodeid, guest.open(nodeid, os.O_RDONLY))
        assert opened(tmp_path / "file") == []


@pytest.fixture
def overlay(tmp_path: Path) -> Iterator[Path]:
    """A mounted overlay whose file handles can be opened, with a file in its lower layer."""
    lower, upper, work, merged = (tmp_path / name for name in ("lower", "upper", "work", "merged"))
    for folder in (lower, upper, work, merged):
        folder.mkdir()
    (lower / "file").write_bytes(b"lower")
    layers = f"lowerdir={lower},upperdir={upper},workdir={work},index=on,nfs_export=on"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, merged], check=True)
    yield merged
    subprocess.run(["umount", merged], check=True)


@needs_mounts()
def test_over_an_overlay_nothing_is_left_open(overlay: Path) -> None:
    """There a file's first change copies it, and an fd from before goes on reading the old one."""
    with Guest(overlay, ShareConfig()) as guest:
        nodeid = guest.lookup(b"file")
        release(guest, nodeid, guest.open(nodeid, os.O_RDONLY))
        assert opened(overlay / "file") == []
        with (overlay / "file").open("r+b") as file:
            file.write(b"upper")
        assert read(guest, nodeid, guest.open(nodeid, os.O_RDONLY)) == b"upper"


def test_what_is_lent_is_not_evicted(guest: Guest) -> None:
    """More files are asked for than there are cached fds, twice, while one that was left open is in use."""
    nodeid = guest.lookup(b"file")
    release(guest, nodeid, guest.open(nodeid, os.O_RDONLY))
    fh = guest.open(nodeid, os.O_RDONLY)
    fds = opened(guest.shared / "file")
    for number in range(2500):
        (guest.shared / f"f{number}").touch()
        guest.ask(Op.GETATTR, guest.lookup(f"f{number}".encode()), bytes(16))
    assert opened(guest.shared / "file") == fds
    assert read(guest, nodeid, fh) == b"0123456789"
    release(guest, nodeid, fh)


def test_from_two_queues_at_once(guest: Guest) -> None:
    """Two processors of the guest open, read and close more files than are cached: each gets its own bytes."""
    count = 1500
    for number in range(count):
        (guest.shared / f"f{number}").write_bytes(str(number).encode())
    nodeids = [guest.lookup(f"f{number}".encode()) for number in range(count)]
    wrong: list[int] = []

    def work(queue: int) -> None:
        chosen = random.Random(queue)
        for turn in range(3000):
            # Some are much in use, on both queues.
            number = chosen.randrange(10 if turn % 2 else count)
            body = os.O_RDONLY.to_bytes(4, "little") + bytes(4)
            fh = fuse.OPEN_OUT.unpack(guest.send(Call(Op.OPEN, nodeids[number], body), queue=queue).body)["fh"]
            data = guest.send(Call(Op.READ, nodeids[number], fuse.READ_IN.pack(fh=fh, size=10)), queue=queue)
            attr = guest.send(Call(Op.GETATTR, nodeids[number], bytes(16)), queue=queue)
            if data.body != str(number).encode() or attr.error:
                wrong.append(number)
            guest.send(Call(Op.RELEASE, nodeids[number], fuse.RELEASE_IN.pack(fh=fh)), queue=queue)

    threads = [threading.Thread(target=work, args=(queue,)) for queue in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
