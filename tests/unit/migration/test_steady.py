"""Names in directories that nobody has changed since: believed without a look, but never when they may have changed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from engine_guest import Guest

from ferryfs.migration import stream
from ferryfs.migration.collect import ground
from ferryfs.migration.collect.ground import OLD_NS, TURNED_NS, Ground
from ferryfs.migration.live_source import LiveSource
from ferryfs.migration.share import Share
from ferryfs.migration.state import Path as Place
from ferryfs.migration.state import body
from ferryfs.wire.fuse import Op
from migration.sides import GUEST_ERROR, Side

# Change times of a moment ago prove something: a test can't wait until they are old.
ANY = 1 << 62


class Source:
    """A guest that holds a few names, and what its daemon knows of them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ("a", "b"):
            (root / folder).mkdir()
            for name in ("one", "two"):
                (root / folder / name).write_text(folder + name)
        os.link(root / "a" / "one", root / "a" / "link")
        self.guest = Guest(root)
        self.nodes: dict[str, int] = {}
        for folder in ("a", "b"):
            self.nodes[folder] = self.guest.lookup(folder.encode())
            for name in ("one", "two"):
                self.nodes[f"{folder}/{name}"] = self.guest.lookup(name.encode(), self.nodes[folder])
        self.live = LiveSource(self.guest.device)

    def look(self, newest: int = ANY, *, forget: bool = False, counts: bool = False) -> int:
        """One turn; how many names were looked at. ``counts``: takes what is steady before, as when stopped."""
        self.live.begin()
        if forget:
            self.live.forget_folders()
        self.live.look_at_folders(0, self.live.slots, newest)
        left = self.live.take_steady() if counts else 0
        looked = self.live.check(0, self.live.slots)
        assert not counts or left == looked
        return looked

    def unknown(self) -> set[str]:
        lost = set(self.live.unknown())
        return {name for name, node in self.nodes.items() if node in lost}


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Source]:
    made = Source(tmp_path)
    yield made
    made.guest.close()


def test_what_nobody_changed_is_not_looked_at_again(source: Source) -> None:
    assert source.look() == len(source.nodes)
    assert source.look() == 0
    assert source.unknown() == set()
    assert source.look(forget=True) == len(source.nodes)
    assert source.unknown() == set()


def test_taking_what_is_steady_is_no_look(source: Source) -> None:
    """What was not in place is looked for in each turn, however often the steady ones were taken before."""
    source.look()
    (source.root / "a/one").rename(source.root / "a/three")
    for _ in range(3):
        source.look(counts=True)
        assert source.unknown() == {"a/one"}


def test_a_young_change_time_proves_nothing(source: Source) -> None:
    """The next change may come within the same step of the clock."""
    young = (source.root / "b").stat().st_ctime_ns - 1
    source.look(young)
    assert source.look(young) > 0
    assert source.unknown() == set()


def swap(root: Path) -> None:
    os.rename(root / "a/one", root / "a/three")
    os.rename(root / "a/two", root / "a/one")
    os.rename(root / "a/three", root / "a/two")


CHANGES: dict[str, tuple[Callable[[Path], object], set[str]]] = {
    "unlinked": (lambda root: (root / "a/one").unlink(), {"a/one"}),
    "renamed": (lambda root: (root / "a/one").rename(root / "a/three"), {"a/one"}),
    "replaced": (lambda root: (root / "b/two").rename(root / "a/one"), {"a/one", "b/two"}),
    "swapped": (swap, {"a/one", "a/two"}),
    "moved": (lambda root: (root / "a").rename(root / "c"), {"a"}),
    "made anew": (lambda root: ((root / "a/one").unlink(), (root / "a/one").write_text("aone")), {"a/one"}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_on_the_host_is_seen(source: Source, change: str) -> None:
    work, gone = CHANGES[change]
    source.look()
    work(source.root)
    source.look()
    assert source.unknown() == gone
    assert source.look() > 0
    assert source.unknown() == gone


def test_a_change_between_two_looks_at_the_directory_is_seen_in_the_next(source: Source) -> None:
    """The directory is stamped; then a name in it changes; then its names are looked at."""
    source.live.begin()
    source.live.look_at_folders(0, source.live.slots, ANY)
    (source.root / "a/new").touch()
    source.live.check(0, source.live.slots)
    (source.root / "a/one").rename(source.root / "a/three")
    source.look()
    assert source.unknown() == {"a/one"}


def test_what_an_earlier_migration_has_looked_at_proves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was given up, somebody replaced a file, and the next one stops the guest before it has looked at any name."""
    monkeypatch.setattr(ground, "OLD_NS", -(10**9))
    for name in ("kept", "replaced"):
        (tmp_path / name).write_text(name)
    with Side(tmp_path, GUEST_ERROR) as source:
        nodes = {name: source.walk(name) for name in ("kept", "replaced")}
        source.capture().collect(lambda: False)
        (tmp_path / "new").write_text("another!")
        (tmp_path / "new").rename(tmp_path / "replaced")
        capture = source.capture()
        looked = iter([False, False])  # at the directories; what follows are the names in them
        capture.collect(lambda: next(looked, True))
        source.stop()
        found = stream.load(b"".join(capture.save(lambda: False)))
    where = {inode.id: inode.location for inode in body(found.state).inodes}
    assert where[nodes["kept"]] == Place(1, "kept")
    assert where.get(nodes["replaced"]) != Place(1, "replaced")


def test_another_name_of_the_same_file_is_looked_at(source: Source) -> None:
    """The mark belongs to the name that was looked at, not to the inode."""
    source.look()
    assert source.guest.lookup(b"link", source.nodes["a"]) == source.nodes["a/one"]
    assert source.look() == 1
    assert source.look() == 0
    assert source.unknown() == set()


def test_the_guest_renames(source: Source) -> None:
    source.look()
    body = source.nodes["b"].to_bytes(8, "little") + b"one\0three\0"
    source.guest.ask(Op.RENAME, source.nodes["a"], body)
    assert source.look() > 0
    assert source.unknown() == set()
    assert source.live.where(source.nodes["a/one"]) == (source.nodes["b"], b"three")


def test_ground_shakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mount in the share, or a clock that was set back: nothing of before is good. No mounts to be read: none is."""
    mounts = tmp_path / "mountinfo"
    (tmp_path / "share").mkdir()

    def mount(number: int, point: Path) -> None:
        with mounts.open("ab") as more:
            more.write(b"%d 1 8:1 / %s rw - ext4 none rw\n" % (number, bytes(point)))

    for number in range(5000):
        mount(number, tmp_path / "elsewhere")
    fd = os.open(mounts, os.O_RDONLY)
    root = os.open(tmp_path / "share", os.O_PATH)
    proc = os.open("/proc/self/fd", os.O_PATH)
    try:
        share = Share(root, proc, fd, str(tmp_path / "share"), b"")
        ground = Ground(share)
        newest, good = ground.look()
        assert not good
        assert time.time_ns() - 2 * OLD_NS < newest <= time.time_ns() - OLD_NS
        assert ground.look()[1]
        mount(5000, tmp_path / "share2")
        assert ground.look()[1]
        mount(5001, tmp_path / "share" / "m")
        assert not ground.look()[1]
        assert ground.look()[1]
        elsewhere = Ground(replace(share, mountinfo_prefix="/moved"))
        elsewhere.look()
        mount(5002, tmp_path / "elsewhere")
        assert not elsewhere.look()[1]
        assert ground.look()[1]
        real = time.clock_gettime_ns
        behind = 2 * TURNED_NS  # not by a nanosecond more: the two clocks are not read at the same instant
        monkeypatch.setattr(
            time, "clock_gettime_ns", lambda clock: real(clock) - (behind if clock == time.CLOCK_REALTIME else 0)
        )
        assert not ground.look()[1]
        assert ground.look()[1]
    finally:
        for each in (fd, root, proc):
            os.close(each)
    assert Ground(Share(-1, -1, -1, "", b"")).look() == (0, False)
