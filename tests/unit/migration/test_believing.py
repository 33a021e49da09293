"""Directories that nobody has changed since the source looked: the destination takes the source's word for what is in
them, and for nothing else.
"""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import zlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from namespaces import needs_mounts

from ferryfs.migration import folders, stream
from ferryfs.migration.collect import ground
from ferryfs.migration.identity import make_handle
from ferryfs.migration.live_source import LiveSource
from ferryfs.migration.mounts import mount_id
from ferryfs.migration.share import Share
from ferryfs.migration.trailer_identities import Folders, InodeIdentities
from ferryfs.migration.trailer_records import FileSystemIdentity, Mount, Mounts, Record
from ferryfs.passthrough.config import MigrationConfig
from ferryfs.wire.fuse import ATTR_OUT, Op
from migration.sides import GUEST_ERROR, MODES, Side, loaded, mode_of

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="file handles can only be opened by root"),
    pytest.mark.parametrize("config", MODES, ids=mode_of),
]


@pytest.fixture(autouse=True)
def _young_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Change times of a moment ago prove something: a test can't wait until they are old."""
    monkeypatch.setattr(ground, "OLD_NS", -(10**9))


NAMES = ("five", "four", "one", "three", "two")


def fill(root: Path) -> Path:
    (root / "d").mkdir(parents=True)
    for name in NAMES:
        (root / "d" / name).write_text(name)
    return root


@pytest.fixture
def share(tmp_path: Path) -> Path:
    return fill(tmp_path / "share")


class Moved:
    """What a guest held when it was stopped, and the stream."""

    def __init__(self, share: Path, config: MigrationConfig) -> None:
        self.share = share
        with Side(share, config) as source:
            self.nodes = {name: source.walk(f"d/{name}") for name in NAMES}
            self.folder = source.walk("d")
            source.stop()
            self.data = source.save()

    def handle(self, name: str) -> bytes:
        fd = os.open(self.share, os.O_PATH)
        try:
            made = make_handle(fd, os.fsencode(name))
        finally:
            os.close(fd)
        assert made is not None
        return made.handle

    def with_handle(self, name: str, handle: bytes) -> bytes:
        """The stream with another file handle for one of the files, wherever it stands."""
        body = self.data[:-4].replace(self.handle(f"d/{name}"), handle)
        assert body != self.data[:-4]
        return body + zlib.crc32(body).to_bytes(4, "little")

    def with_generation(self, name: str, at: int = 4) -> bytes:
        """The stream that tells another generation of a file: a look at it would show that it is not the source's."""
        handle = bytearray(self.handle(f"d/{name}"))
        handle[at] ^= 1
        return self.with_handle(name, bytes(handle))


def rewritten(data: bytes, change: Callable[[Record], Record]) -> bytes:
    """A stream with other records."""
    found = stream.load(data)
    assert found.trailer is not None
    return b"".join(stream.save(found.state, [change(record) for record in found.trailer.records]))


def lost(side: Side) -> set[int]:
    live = LiveSource(side.guest.device)
    live.begin()
    return {number for number, *_ in live.lost_before()}


def inode_of(side: Side, node: int) -> int:
    return ATTR_OUT.unpack(side.guest.ask(Op.GETATTR, node, bytes(16)))["attr_ino"]


def test_the_stream_tells_when_directories_were_changed(share: Path, config: MigrationConfig) -> None:
    """The root, too; all of them before the names in them were looked at."""
    moved = Moved(share, config)
    trailer = stream.load(moved.data).trailer
    assert trailer is not None
    [told] = [record for record in trailer.records if isinstance(record, Folders)]
    assert dict(zip(told.ids, told.changed_ns, strict=True)) == {
        1: share.stat().st_ctime_ns,
        moved.folder: (share / "d").stat().st_ctime_ns,
    }


def test_no_name_in_an_unchanged_directory_is_looked_at(share: Path, config: MigrationConfig) -> None:
    """Proof by a lie: a file that never was, with the number of one that is. The guest gets ESTALE, no other file."""
    moved = Moved(share, config)
    with loaded(moved.with_generation("one"), share, config) as destination:
        assert lost(destination) == set()
        assert destination.guest.refused(Op.GETATTR, moved.nodes["one"], bytes(16)) == errno.ESTALE
        for name in set(NAMES) - {"one"}:
            assert inode_of(destination, moved.nodes[name]) == (share / "d" / name).stat().st_ino


@needs_mounts("mkfs.xfs")
@pytest.mark.parametrize(("system", "generation_at"), [("tmpfs", 0), ("xfs", 8)])
def test_other_file_systems(tmp_path: Path, config: MigrationConfig, system: str, generation_at: int) -> None:
    """Their handles are written another way."""
    image, root = tmp_path / "image", tmp_path / "root"
    root.mkdir()
    if system == "xfs":
        with image.open("wb") as file:
            file.truncate(400 << 20)
        subprocess.run(["mkfs.xfs", "-q", image], check=True)
    subprocess.run(["mount", *(("-o", "loop") if system == "xfs" else ("-t", system)), image, root], check=True)
    try:
        share = fill(root / "share")
        moved = Moved(share, config)
        with loaded(moved.with_generation("one", generation_at), share, config) as destination:
            assert lost(destination) == set()
            assert destination.guest.refused(Op.GETATTR, moved.nodes["one"], bytes(16)) == errno.ESTALE
    finally:
        subprocess.run(["umount", root], check=True)


def replaced(folder: Path) -> None:
    (folder / "one").unlink()
    (folder / "one").write_text("another")


def swapped(folder: Path) -> None:
    (folder / "one").rename(folder / "x")
    (folder / "two").rename(folder / "one")
    (folder / "x").rename(folder / "two")


def moved_out(folder: Path) -> None:
    (folder / "one").rename(folder.parent / "one")


@pytest.mark.parametrize("change", [replaced, swapped, moved_out])
def test_a_change_since_the_source_looked_is_seen(
    share: Path, config: MigrationConfig, change: Callable[[Path], None]
) -> None:
    """Each node is the file that it was, or lost; never the one that has its name now."""
    numbers = {name: (share / "d" / name).stat().st_ino for name in NAMES}
    moved = Moved(share, config)
    change(share / "d")
    with loaded(moved.data, share, GUEST_ERROR) as destination:
        gone = {moved.nodes["one"]} if change is replaced else set()
        assert lost(destination) == gone
        for name, node in moved.nodes.items():
            if node not in gone:
                assert inode_of(destination, node) == numbers[name]


def test_another_change_time_proves_nothing(share: Path, config: MigrationConfig) -> None:
    """All names are looked at, also where none has changed."""
    moved = Moved(share, config)
    moved.data = moved.with_generation("one")
    (share / "d").chmod(0o700)
    with loaded(moved.data, share, GUEST_ERROR) as destination:
        assert lost(destination) == {moved.nodes["one"]}


def test_another_kernel_is_not_believed(share: Path, config: MigrationConfig) -> None:
    """Its clock is another one. What is looked at is lost, or, in a copy, has the handle that it has here."""
    moved = Moved(share, config)
    data = moved.with_generation("one")
    with Side(share, GUEST_ERROR, host=b"another kernel!!", init=False) as destination:
        destination.stop()
        destination.load(data)
        destination.go_on()
        assert lost(destination) == {moved.nodes["one"]} or inode_of(destination, moved.nodes["one"])


def test_a_clock_that_was_set_back(share: Path, config: MigrationConfig) -> None:
    """A change after that may have any time."""
    moved = Moved(share, config)
    ahead = 2 * ground.TURNED_NS
    data = rewritten(
        moved.with_generation("one"),
        lambda record: replace(record, ahead_ns=record.ahead_ns + ahead) if isinstance(record, Folders) else record,
    )
    with loaded(data, share, GUEST_ERROR) as destination:
        assert lost(destination) == {moved.nodes["one"]}


def test_a_file_beside_the_share_is_not_taken(share: Path, config: MigrationConfig) -> None:
    """The stream says that it lies in an unchanged directory; the directory itself says no."""
    secret = share.parent / "secret"
    secret.write_text("secret")
    moved = Moved(share, config)
    data = moved.with_handle("one", moved.handle("../secret"))
    with loaded(data, share, GUEST_ERROR) as destination:
        assert lost(destination) == {moved.nodes["one"]}


def test_a_small_part_of_a_large_directory(share: Path, config: MigrationConfig) -> None:
    """It is not read to its end, and what was not seen is looked at."""
    for number in range(500):
        (share / "d" / f"other {number}").touch()
    moved = Moved(share, config)
    with loaded(moved.data, share, config) as destination:
        for name in NAMES:
            assert inode_of(destination, moved.nodes[name]) == (share / "d" / name).stat().st_ino


def test_the_guest_goes_on(share: Path, config: MigrationConfig) -> None:
    """Lookups find the nodes that the guest has, opening works, and the next source knows all."""
    moved = Moved(share, config)
    with loaded(moved.data, share, config) as destination:
        for name in ("three", "one"):
            assert destination.guest.lookup(name.encode(), moved.folder) == moved.nodes[name]
        node = moved.nodes["two"]
        assert destination.read(node, destination.guest.open(node, os.O_RDONLY)) == b"two"
        destination.stop()
        data = destination.save()
    with loaded(data, share, config) as third:
        assert lost(third) == set()
        for name, node in moved.nodes.items():
            assert inode_of(third, node) == (share / "d" / name).stat().st_ino


def test_a_stream_can_not_make_a_file_of_a_fifo(share: Path, config: MigrationConfig) -> None:
    """Opening a FIFO would block, and a device would act."""
    (share / "d" / "one").unlink()
    os.mkfifo(share / "d" / "one")
    moved = Moved(share, config)
    node = moved.nodes["one"]

    def claim(record: Record) -> Record:
        if not isinstance(record, InodeIdentities) or node not in record.ids:
            return record
        kinds = bytearray(record.kinds)
        kinds[record.ids.index(node)] = stat.S_IFREG >> 12
        return replace(record, kinds=bytes(kinds))

    with loaded(rewritten(moved.data, claim), share, GUEST_ERROR) as destination:
        flags = os.O_RDONLY.to_bytes(4, "little") + bytes(4)
        assert destination.guest.refused(Op.OPEN, node, flags)
        destination.guest.serves()


@pytest.fixture
def here(share: Path) -> Iterator[Callable[[bytes], Share]]:
    """A share whose mountinfo says this, and nothing of other mounts."""
    root = os.open(share, os.O_PATH)
    opened = [root]

    def make(more: bytes) -> Share:
        own = mount_id(root)
        file = share.parent / "mountinfo"
        file.write_bytes(b"%d 1 8:1 / / rw - ext4 none rw\n%s" % (own, more.replace(b"OWN", b"%d" % own)))
        opened.append(os.open(file, os.O_RDONLY))
        return Share(root, -1, opened[-1], "/share", b"")

    yield make
    for fd in opened:
        os.close(fd)


def test_what_must_hold_at_the_destination(config: MigrationConfig, here: Callable[[bytes], Share]) -> None:
    """No mount in the share that the source did not have: it may cover a name."""
    told = Folders(ground.ahead_ns(), array("Q", [1]), array("q", [1]))
    nothing = FileSystemIdentity(0, 0, b"", False, b"", 0, 0, -1)
    listed = Mounts((Mount(1, b".", nothing), Mount(2, b"m", nothing)))
    known, unknown = b"9998 OWN 0:1 / /share/m rw - tmpfs none rw\n", b"9999 OWN 0:2 / /share/n rw - tmpfs none rw\n"
    assert folders.usable(told, here(b""), listed) is told
    assert folders.usable(told, here(known), listed) is told
    assert folders.usable(told, here(known + unknown), listed) is None
    assert folders.usable(None, here(b""), listed) is None
    assert folders.usable(told, here(b""), None) is None
    assert folders.usable(told, replace(here(b""), mountinfo_fd=-1), listed) is None
    assert folders.usable(replace(told, ahead_ns=told.ahead_ns + 2 * ground.TURNED_NS), here(b""), listed) is None
