"""File systems below the share come and go while the guest looks: never one for the other, none held for ever."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from engine_guest import Call, Guest
from namespaces import needs_mounts

from ferryfs.passthrough.config import HandleMode, ShareConfig
from ferryfs.wire import fuse
from ferryfs.wire.fuse import Op

pytestmark = needs_mounts("mkfs.ext4")

IMAGE_BYTES = 8 << 20


@dataclass
class Host:
    """The share ``folder``, with a directory ``inner`` in it that file systems are mounted on."""

    folder: Path

    @property
    def inner(self) -> Path:
        return self.folder / "inner"

    def mount(self, *words: str | Path) -> int:
        """Its mount id."""
        subprocess.run(["mount", *words, self.inner], check=True)
        return mount_id(self.inner)

    def unmount(self, *words: str) -> bool:
        """False when it is busy."""
        done = subprocess.run(["umount", *words, self.inner], check=False, capture_output=True, text=True)
        assert done.returncode == 0 or "busy" in done.stderr, done.stderr
        return done.returncode == 0


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """``name`` is there beneath the mount point too, with a content of its own."""
    host = Host(tmp_path / "shared")
    host.inner.mkdir(parents=True)
    (host.inner / "name").write_text("beneath")
    yield host
    while os.path.ismount(host.inner):
        host.unmount("--lazy")


@pytest.fixture(params=list(HandleMode), ids=lambda mode: mode.value)
def guest(host: Host, request: pytest.FixtureRequest) -> Iterator[Guest]:
    with Guest(host.folder, ShareConfig(handles=request.param)) as guest:
        yield guest
        guest.serves()


def mount_id(path: Path | str) -> int:
    """The mount that a path is on, or an fd of this process, by its link in /proc."""
    fd = os.open(path, os.O_PATH)
    try:
        lines = Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
    finally:
        os.close(fd)
    return int(next(line for line in lines if line.startswith("mnt_id:")).split()[1])


def fds_on(mount: int) -> int:
    """How many fds of this process lie on a mount, which they keep alive."""
    count = 0
    for name in os.listdir("/proc/self/fdinfo"):
        try:
            text = Path(f"/proc/self/fdinfo/{name}").read_text()
        except FileNotFoundError:
            continue
        count += f"mnt_id:\t{mount}\n" in text
    return count


def entry(guest: Guest, name: bytes, parent: int = 1) -> dict[str, int]:
    return fuse.ENTRY_OUT.unpack(guest.ask(Op.LOOKUP, parent, name + b"\0"))


def is_submount(found: dict[str, int]) -> bool:
    return bool(found["attr_flags"] & fuse.ATTR_SUBMOUNT)


def read(guest: Guest, nodeid: int, fh: int) -> bytes:
    return guest.ask(Op.READ, nodeid, fuse.READ_IN.pack(fh=fh, size=100))


def content(guest: Guest, nodeid: int) -> bytes:
    fh = guest.open(nodeid, os.O_RDONLY)
    data = read(guest, nodeid, fh)
    guest.ask(Op.RELEASE, nodeid, fuse.RELEASE_IN.pack(fh=fh))
    return data


def forget(guest: Guest, *nodeids: int) -> None:
    for nodeid in nodeids:
        assert guest.send(Call(Op.FORGET, nodeid, fuse.FORGET_IN.pack(nlookup=1), room=0)).silent


def test_one_appears(guest: Guest, host: Host) -> None:
    """What the guest knew beneath it stays what it was; the name is a mount point from now on."""
    beneath = entry(guest, b"inner")
    assert not is_submount(beneath)
    host.mount("-t", "tmpfs", "none")
    (host.inner / "name").write_text("mounted")
    above = entry(guest, b"inner")
    assert is_submount(above)
    assert above["nodeid"] != beneath["nodeid"]
    assert content(guest, guest.lookup(b"name", above["nodeid"])) == b"mounted"
    assert content(guest, guest.lookup(b"name", beneath["nodeid"])) == b"beneath"


def test_one_vanishes(guest: Guest, host: Host) -> None:
    """Lazily, so at once: what the guest holds of it goes on, its names lead to what lies beneath, and the last FORGET
    gives it back.
    """
    mount = host.mount("-t", "tmpfs", "none")
    (host.inner / "name").write_text("mounted")
    (host.inner / "folder").mkdir()
    above = entry(guest, b"inner")
    assert is_submount(above)
    held = guest.lookup(b"name", above["nodeid"])
    closed = guest.lookup(b"folder", above["nodeid"])
    fh = guest.open(held)

    assert host.unmount("--lazy")
    below = entry(guest, b"inner")
    assert not is_submount(below)
    assert below["nodeid"] != above["nodeid"]
    name = guest.lookup(b"name", below["nodeid"])
    assert name != held
    assert content(guest, name) == b"beneath"
    assert guest.refused(Op.LOOKUP, below["nodeid"], b"folder\0") == errno.ENOENT

    assert read(guest, held, fh) == b"mounted"
    guest.ask(Op.WRITE, held, fuse.WRITE_IN.pack(fh=fh, size=5) + b"still")
    assert content(guest, held) == b"stilled"
    guest.ask(Op.GETATTR, closed, fuse.GETATTR_IN.pack())
    assert guest.lookup(b"name", above["nodeid"]) == held
    assert guest.refused(Op.LOOKUP, above["nodeid"], b"new\0") == errno.ENOENT
    # One tree can't be left for the other, as on the host.
    rename = fuse.RENAME_IN.pack(newdir=below["nodeid"]) + b"name\0moved\0"
    assert guest.refused(Op.RENAME, above["nodeid"], rename) == errno.EXDEV
    link = fuse.LINK_IN.pack(oldnodeid=held) + b"linked\0"
    assert guest.refused(Op.LINK, below["nodeid"], link) == errno.EXDEV
    guest.ask(Op.SYNCFS, above["nodeid"], fuse.SYNCFS_IN.pack())
    assert (host.inner / "name").read_text() == "beneath"

    assert fds_on(mount) > 0
    forget(guest, held, closed, held)
    guest.ask(Op.RELEASE, held, fuse.RELEASE_IN.pack(fh=fh))
    forget(guest, above["nodeid"])
    assert fds_on(mount) == 0


def test_a_half_read_directory_of_it_goes_on(guest: Guest, host: Host) -> None:
    host.mount("-t", "tmpfs", "none")
    names = {b"entry %d" % i for i in range(200)}
    for name in names:
        (host.inner / os.fsdecode(name)).touch()
    folder = guest.lookup(b"inner")
    fh = guest.open(folder, os.O_DIRECTORY)
    seen: set[bytes] = set()
    offset = 0
    while data := guest.ask(Op.READDIR, folder, fuse.READ_IN.pack(fh=fh, offset=offset, size=512)):
        while data:
            offset, length = (int.from_bytes(data[at:end], "little") for at, end in ((8, 16), (16, 20)))
            seen.add(data[24 : 24 + length])
            data = data[24 + -(-length // 8) * 8 :]
        if os.path.ismount(host.inner):
            assert host.unmount("--lazy")
    assert seen - {b".", b".."} == names


def test_one_that_is_in_use_is_busy_until_it_is_forgotten(guest: Guest, host: Host) -> None:
    """umount(8) says on the host what it says of any program that is in there."""
    host.mount("-t", "tmpfs", "none")
    (host.inner / "name").touch()
    folder = guest.lookup(b"inner")
    held = guest.lookup(b"name", folder)
    fh = guest.open(held)
    assert not host.unmount()
    forget(guest, held, folder)
    assert not host.unmount(), "the file is open still"
    guest.ask(Op.RELEASE, held, fuse.RELEASE_IN.pack(fh=fh))
    assert host.unmount()


def test_another_takes_its_place(guest: Guest, host: Host, tmp_path: Path) -> None:
    """A block clone, so that every file handle of one is one of the other: they are different files all the same."""
    images = [tmp_path / name for name in ("one.img", "two.img")]
    with images[0].open("wb") as file:
        file.truncate(IMAGE_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=0", images[0]], check=True)
    host.mount("-o", "loop", images[0])
    (host.inner / "name").write_text("one")
    assert host.unmount()
    shutil.copyfile(*images)

    host.mount("-o", "loop", images[0])
    first = entry(guest, b"inner")
    held = guest.lookup(b"name", first["nodeid"])
    fh = guest.open(held)
    assert host.unmount("--lazy")
    host.mount("-o", "loop", images[1])
    (host.inner / "name").write_text("two")
    second = entry(guest, b"inner")
    assert is_submount(second)
    assert second["nodeid"] != first["nodeid"]
    other = guest.lookup(b"name", second["nodeid"])
    assert other != held
    assert (content(guest, other), read(guest, held, fh), content(guest, held)) == (b"two", b"one", b"one")
    guest.ask(Op.RELEASE, held, fuse.RELEASE_IN.pack(fh=fh))


def test_many_come_and_go(guest: Guest, host: Host) -> None:
    """Nothing is left of each, and no number of them is too much."""
    before = os.listdir("/proc/self/fd")
    last = 1
    for number in range(50):
        mount = host.mount("-t", "tmpfs", "none")
        (host.inner / "name").write_text(f"{number}")
        found = entry(guest, b"inner")
        assert is_submount(found)
        assert found["nodeid"] > last
        last = guest.lookup(b"name", found["nodeid"])
        assert content(guest, last) == b"%d" % number
        assert host.unmount("--lazy")
        forget(guest, last, found["nodeid"])
        assert fds_on(mount) == 0
    assert guest.device.inode_count == 1
    assert os.listdir("/proc/self/fd") == before
