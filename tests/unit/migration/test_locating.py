"""What a source finds of the inodes that its guest holds, whatever became of their names; and what that costs."""

from __future__ import annotations

import itertools
import logging
import os
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from namespaces import needs_mounts

from ferryfs.migration import capture, stream
from ferryfs.migration.collect import locate
from ferryfs.migration.collect.ground import Ground
from ferryfs.migration.collect.progress import Progress
from ferryfs.migration.live_source import LiveSource
from ferryfs.migration.state import FullPath, Inode, Invalid, Location, body
from ferryfs.migration.state import Path as Place
from ferryfs.migration.trailer_records import Content, LostInodes, Record, Unlinked
from ferryfs.passthrough.config import MigrationConfig, OnError
from ferryfs.wire.fuse import READ_IN, Op
from migration.sides import FIND_PATHS, MODES, Side, loaded, mode_of, moved, refusal

DROP_CACHES = Path("/proc/sys/vm/drop_caches")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="file handles and /proc/sys/vm/drop_caches need root")


def inodes(data: bytes) -> dict[int, Inode]:
    return {inode.id: inode for inode in body(stream.load(data).state).inodes}


def records(data: bytes) -> tuple[Record, ...]:
    trailer = stream.load(data).trailer
    assert trailer is not None
    return trailer.records


def place(data: bytes, node: int) -> Location:
    return inodes(data)[node].location


@pytest.fixture
def no_walk(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the call on, nobody may walk through the share."""

    def forbid() -> None:
        def walk(*_: object) -> bool:
            raise AssertionError("the share was walked through")

        monkeypatch.setattr(locate, "walk", walk)

    return forbid


def drop_dentries() -> None:
    """The host forgets names that nobody uses."""
    os.sync()
    DROP_CACHES.write_text("2\n")


@pytest.fixture
def deep_path(tmp_path: Path) -> Iterator[Path]:
    """Emptied by a program that does not stumble over depth."""
    (tmp_path / "share").mkdir()
    yield tmp_path / "share"
    subprocess.run(["rm", "-r", tmp_path / "share"], check=True)


@pytest.fixture
def memory_path(tmp_path: Path) -> Iterator[Path]:
    """A folder in which a file costs little, where there is a tmpfs."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="ferryfs-", dir="/dev/shm") as name:
        yield Path(name)


@needs_root
def test_dropped_dentries(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is held by file handle has no path in /proc/self/fd then; names are checked all the same, and one that was
    changed is found by a search.
    """
    (tmp_path / "dir").mkdir()
    for name in ("kept", "renamed", "moved", "dir/inside"):
        (tmp_path / name).write_text(name)
    with Side(tmp_path) as source:
        assert source.guest.device.uses_file_handles
        nodes = {name: source.walk(name) for name in ("kept", "renamed", "moved", "dir/inside")}
        folder = source.walk("dir")
        os.rename(tmp_path / "renamed", tmp_path / "elsewhere")
        os.rename(tmp_path / "moved", tmp_path / "dir" / "moved")
        drop_dentries()
        source.stop()
        data = source.save()
    assert place(data, nodes["kept"]) == Place(1, "kept")
    assert place(data, nodes["renamed"]) == Place(1, "elsewhere")
    assert place(data, nodes["moved"]) == Place(folder, "moved")
    assert place(data, nodes["dir/inside"]) == Place(folder, "inside")
    assert "can't be located" not in caplog.text
    with loaded(data, tmp_path) as destination:
        for name, node in nodes.items():
            fh = destination.guest.open(node, os.O_RDONLY)
            assert destination.read(node, fh) == name.encode()


@needs_root
def test_a_rename_in_place_sets_off_no_walk(tmp_path: Path, no_walk: Callable[[], None]) -> None:
    """The directory in which a file was last seen is looked at before the whole share is."""
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "old").touch()
    with Side(tmp_path) as source:
        node, folder = source.walk("dir/old"), source.walk("dir")
        os.rename(tmp_path / "dir" / "old", tmp_path / "dir" / "new")
        drop_dentries()
        no_walk()
        source.stop()
        assert place(source.save(), node) == Place(folder, "new")


def test_a_name_that_ends_as_the_kernel_marks_removed_ones(tmp_path: Path, no_walk: Callable[[], None]) -> None:
    """ "x (deleted)" is a name like any other, also when it is new, and is no reason to walk."""
    (tmp_path / "x (deleted)").touch()
    (tmp_path / "y").touch()
    no_walk()
    with Side(tmp_path) as source:
        one, other = source.walk("x (deleted)"), source.walk("y")
        os.rename(tmp_path / "y", tmp_path / "y (deleted)")
        source.stop()
        data = source.save()
    assert place(data, one) == Place(1, "x (deleted)")
    assert place(data, other) == Place(1, "y (deleted)")


@pytest.mark.parametrize("dropped", [False, True], ids=["known", "dropped"])
def test_one_of_two_names_is_removed(dropped: bool, tmp_path: Path) -> None:
    """By the host, in another directory than the one that is left."""
    if dropped and os.geteuid() != 0:
        pytest.skip("/proc/sys/vm/drop_caches needs root")
    (tmp_path / "dir").mkdir()
    (tmp_path / "one").write_text("content")
    os.link(tmp_path / "one", tmp_path / "dir" / "two")
    with Side(tmp_path) as source:
        node = source.walk("one")
        fh = source.guest.open(node)
        (tmp_path / "one").unlink()
        if dropped:
            drop_dentries()
        source.stop()
        data = source.save()
    # The guest does not hold that directory.
    assert place(data, node) == FullPath("dir/two")
    with loaded(data, tmp_path) as destination:
        assert destination.read(node, fh) == b"content"


@needs_root
def test_collecting_spares_the_stopped_guest_the_walk(tmp_path: Path, no_walk: Callable[[], None]) -> None:
    """What was found by a walk in a directory that the guest does not hold, is tried there first; what has no name in
    the share, and is not open, is not looked for twice.
    """
    share = tmp_path / "share"
    (share / "dir").mkdir(parents=True)
    for name in ("away", "outside"):
        (share / name).write_text(name)
    with Side(share) as source:
        away, outside = source.walk("away"), source.walk("outside")
        os.rename(share / "away", share / "dir" / "away")
        os.rename(share / "outside", tmp_path / "outside")
        drop_dentries()
        collected = source.capture()
        collected.collect(lambda: False)
        drop_dentries()
        no_walk()
        source.stop()
        data = b"".join(collected.save(lambda: False))
    assert place(data, away) == FullPath("dir/away")
    assert outside not in inodes(data)
    assert [one.reason for record in records(data) if isinstance(record, LostInodes) for one in record.inodes] == [
        locate.NOWHERE
    ]


@pytest.mark.parametrize("config", MODES, ids=mode_of)
def test_a_chain_of_directories(config: MigrationConfig, deep_path: Path) -> None:
    """1,000 deep, and it is there again."""
    fd = os.open(deep_path, os.O_RDONLY)
    for _ in range(1000):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=fd))
    os.write(file := os.open("file", os.O_WRONLY, dir_fd=fd), b"deep")
    os.close(file)
    os.close(fd)
    with Side(deep_path, config) as source:
        node = source.walk("/".join(itertools.repeat("d", 1000)) + "/file")
        fh = source.guest.open(node, os.O_RDONLY)
        with moved(source, config) as destination:
            assert destination.read(node, fh) == b"deep"
            assert destination.guest.device.inode_count == 1002


def test_a_directory_of_many(memory_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """100,000 entries, 1,000 of them held and all renamed by the host: the directory is read once, and each one is
    looked at a few times, not each one for each one.
    """
    monkeypatch.setattr(locate, "walk", lambda *_: pytest.fail("the share was walked through"))
    many = memory_path / "many"
    many.mkdir()
    fd = os.open(many, os.O_RDONLY)
    for number in range(100_000):
        os.mknod(str(number), dir_fd=fd)
    with Side(memory_path) as source:
        folder = source.walk("many")
        nodes = [source.guest.lookup(str(number).encode(), folder) for number in range(1000)]
        for number in range(1000):
            os.rename(str(number), f"renamed {number}", src_dir_fd=fd, dst_dir_fd=fd)
        os.close(fd)
        reads = 0
        real = locate.look

        def counted(fd: int, wanted: set[int]) -> list[bytes]:
            nonlocal reads
            reads += 1
            return real(fd, wanted)

        monkeypatch.setattr(locate, "look", counted)
        monkeypatch.setattr(type(source.share), "path_of", lambda *_: None)
        source.stop()
        data = source.save()
    found = inodes(data)
    assert [found[node].location for node in nodes] == [Place(folder, f"renamed {number}") for number in range(1000)]
    assert reads == 1


def test_many_dead_inodes(tmp_path: Path) -> None:
    """Left out one and all in one look at the table; none is a loss, none is logged as one."""
    for number in range(500):
        (tmp_path / str(number)).touch()
    with Side(tmp_path) as source:
        nodes = [source.walk(str(number)) for number in range(500)]
        for number in range(499):
            source.unlink(str(number))
        source.stop()
        data = source.save()
    assert set(inodes(data)) == {1, nodes[-1]}
    with loaded(data, tmp_path) as destination:
        destination.forget(nodes[0])
        assert destination.guest.device.inode_count == 500


@pytest.mark.parametrize("config", MODES, ids=mode_of)
def test_a_hidden_file(config: MigrationConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS's silly rename: it is gone when the source ends, so its content travels, and no handle of it."""
    (tmp_path / "file").write_text("content")
    hidden = tmp_path / ".nfs000000000123456700000001"
    monkeypatch.setattr("ferryfs.migration._syscalls.file_system", lambda fd: (0x6969, 1, 255))
    with Side(tmp_path, config) as source:
        node = source.walk("file")
        fh = source.guest.open(node)
        (tmp_path / "file").rename(hidden)
        # The guest has seen the new name too.
        assert source.walk(hidden.name) == node
        source.stop()
        data = source.save()
        # As the host of an NFS client does when the daemon there ends.
        hidden.unlink()
    assert any(isinstance(record, Content) for record in records(data))
    with loaded(data, tmp_path, config) as destination:
        assert destination.read(node, fh) == b"content"


@pytest.mark.parametrize("name", [".nfs000000000123456700000001", ".fuse_hidden0000000100000001"])
def test_a_name_that_only_looks_hidden(name: str, tmp_path: Path) -> None:
    """On any other file system it is a name: the very file is opened again, and no copy of it."""
    (tmp_path / name).write_text("content")
    with Side(tmp_path) as source:
        node = source.walk(name)
        fh = source.guest.open(node)
        source.stop()
        data = source.save()
    assert place(data, node) == FullPath(name)
    assert not any(isinstance(record, Unlinked) for record in records(data))
    with loaded(data, tmp_path) as destination:
        destination.write(node, fh, b"CON")
    assert (tmp_path / name).read_text() == "CONtent"


def test_no_permission_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not "it has no name"."""
    (tmp_path / "file").touch()
    with Side(tmp_path) as source:
        node = source.walk("file")
        source.guest.open(node)
        os.rename(tmp_path / "file", tmp_path / "other")
        real = type(source.share).open

        def refuse(share: object, path: bytes, flags: int = os.O_PATH) -> int:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(type(source.share), "path_of", lambda *_: b"dir/other")
        monkeypatch.setattr(type(source.share), "open", refuse)
        monkeypatch.setattr(locate, "walk", lambda *_: True)
        monkeypatch.setattr(locate, "look", lambda *_: [])
        source.stop()
        source.save()
        monkeypatch.setattr(type(source.share), "open", real)
    assert "the daemon has no permission" in caplog.text


@pytest.fixture
def share(tmp_path: Path) -> Iterator[Path]:
    """Somebody mounts things in it, and they are gone afterwards."""
    path = tmp_path / "share"
    path.mkdir()
    yield path
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    for place in [line.split()[4] for line in lines if line.split()[4].startswith(str(path))]:
        subprocess.run(["umount", "--lazy", place], check=True)


@needs_mounts()
def test_what_is_mounted_over_is_said(share: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The file above it is never taken for it."""
    for name in ("file", "above"):
        (share / name).write_text(name)
    with Side(share) as source:
        node = source.walk("file")
        source.guest.open(node)
        subprocess.run(["mount", "--bind", share / "above", share / "file"], check=True)
        source.stop()
        data = source.save()
    assert isinstance(place(data, node), Invalid)
    assert "something is mounted over its name" in caplog.text


@needs_mounts()
@pytest.mark.parametrize("config", MODES, ids=mode_of)
def test_a_mount_that_vanished_is_said(config: MigrationConfig, share: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What the guest holds of it can go nowhere: not to what lies beneath, which has the same names."""
    inner = share / "inner"
    inner.mkdir()
    (inner / "file").write_text("beneath")
    subprocess.run(["mount", "-t", "tmpfs", "none", inner], check=True)
    (inner / "file").write_text("mounted")
    with Side(share, config) as source:
        folder, node = source.walk("inner"), source.walk("inner/file")
        fh = source.guest.open(node, os.O_RDONLY)
        subprocess.run(["umount", "--lazy", inner], check=True)
        source.stop()
        data = source.save()
        source.go_on()
        assert source.read(node, fh) == b"mounted"
    assert "its file system is not mounted in the share any more" in caplog.text
    assert "can't be restored: inode" in refusal(data, share, config)
    with loaded(data, share, replace(config, on_error=OnError.GUEST_ERROR)) as destination:
        for number in (folder, node):
            assert destination.guest.refused(Op.GETATTR, number, bytes(16))
        assert destination.guest.refused(Op.READ, node, READ_IN.pack(fh=fh, size=10))


@pytest.mark.parametrize("confirm", [False, True], ids=["", "confirm"])
def test_confirm_paths(
    confirm: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A file is renamed while others are searched for: its path is right with the option, whose time is said."""
    (tmp_path / "file").touch()
    real = locate.Search.run
    turns = itertools.count()

    def run(search: locate.Search, walks: bool) -> locate.Findings:
        found = real(search, walks)
        if next(turns) == 0:
            os.rename(tmp_path / "file", tmp_path / "later")
        return found

    monkeypatch.setattr(locate.Search, "run", run)
    caplog.set_level(logging.INFO)
    with Side(tmp_path, replace(FIND_PATHS, confirm_paths=confirm)) as source:
        node = source.walk("file")
        source.stop()
        data = source.save()
    assert place(data, node) == Place(1, "later" if confirm else "file")
    assert ("2 inodes looked at once more in" in caplog.text) == confirm
    assert ("1 had been moved" in caplog.text) == confirm


def test_the_log_counts_what_the_guest_holds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Not the places in the table, of which some are free again."""
    for number in range(20):
        (tmp_path / str(number)).touch()
    caplog.set_level(logging.INFO)
    with Side(tmp_path) as source:
        nodes = [source.walk(str(number)) for number in range(20)]
        for node in nodes[::2]:
            source.forget(node)
        capture = source.capture()
        capture.collect(lambda: False)
        source.stop()
        source.save()
    assert "Migration: 11 inodes looked at in" in caplog.text
    assert "ms to locate 11 inodes," in caplog.text


def test_progress(caplog: pytest.LogCaptureFixture) -> None:
    """A line when it is time, and only then."""
    caplog.set_level(logging.INFO)
    Progress().step("%d of %d things seen", 1, 2)
    assert caplog.text == ""
    Progress(0).step("%d of %d things seen", 1, 2)
    assert "Migration: 1 of 2 things seen, after 0 s." in caplog.text


@pytest.mark.parametrize(
    "step", ["looked through for names that still hold", "that are elsewhere looked for", "entries of the share seen"]
)
def test_every_long_step_says_how_far_it_is(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(capture, "Progress", lambda: Progress(0))
    (tmp_path / "dir").mkdir()
    (tmp_path / "one").touch()
    with Side(tmp_path) as source:
        # With a descriptor of the name that it loses: /proc then says nothing of the other one.
        source.guest.ask(Op.GETATTR, source.walk("one"), bytes(16))
        os.link(tmp_path / "one", tmp_path / "dir" / "two")
        (tmp_path / "one").unlink()
        source.capture().collect(lambda: False)
    assert step in caplog.text


def test_the_guest_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Collecting: one thread, in small steps. Stopped: all cores."""
    seen: list[int] = []
    real = locate.check

    def check(
        live: LiveSource, ground: Ground, threads: int, cancelled: Callable[[], bool], progress: Progress
    ) -> bool:
        seen.append(threads)
        return real(live, ground, threads, cancelled, progress)

    monkeypatch.setattr(locate, "check", check)
    with Side(tmp_path) as source:
        source.migrator.log_all(True)
        source.migrator.log_all(False)
        source.stop()
        source.save()
    assert seen == [1, len(os.sched_getaffinity(0))]
    assert locate.SLOTS_IN_BACKGROUND < locate.SLOTS_AT_ONCE


def test_collecting_while_the_table_grows(tmp_path: Path) -> None:
    """The guest looks things up, renames and forgets them as fast as it can, while it is collected over and over."""
    for number in range(200):
        (tmp_path / f"d{number}").mkdir()
        for name in "abcdefgh":
            (tmp_path / f"d{number}" / name).touch()
    ended = threading.Event()
    with Side(tmp_path) as source:

        def collect() -> None:
            while not ended.is_set():
                source.capture().collect(ended.is_set)

        thread = threading.Thread(target=collect)
        thread.start()
        try:
            for number in range(200):
                folder = source.walk(f"d{number}")
                nodes = [source.guest.lookup(name.encode(), folder) for name in "abcdefgh"]
                for name in "abcd":
                    os.rename(tmp_path / f"d{number}" / name, tmp_path / f"d{number}" / f"renamed {name}")
                for node in nodes[::2]:
                    source.forget(node)
        finally:
            ended.set()
            thread.join()
        source.stop()
        data = source.save()
    assert not any(isinstance(inode.location, Invalid) for inode in inodes(data).values())
    assert len(inodes(data)) == 1 + 200 + 800
