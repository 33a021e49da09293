"""Migrations that are given up or fail, at every point: the source serves as if nothing had been and migrates again;
a destination that refused is loaded again.
"""

from __future__ import annotations

import fcntl
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from ferryfs.errors import FerryError, FrontendError
from ferryfs.migration import capture
from ferryfs.migration.collect.progress import Progress
from ferryfs.migration.migrator import LOAD, PHASE_STOPPED, SAVE
from ferryfs.passthrough.config import MigrationConfig, Unlinked
from ferryfs.wire.fuse import Op
from migration.sides import FIND_PATHS, GUEST_ERROR, MODES, Side, loaded, mode_of

STEPS = ("looked through for names that still hold", "that are elsewhere looked for", "entries of the share seen")
FILES = 100


@pytest.fixture
def share(tmp_path: Path) -> Path:
    """With something to do for every step of the search."""
    path = tmp_path / "share"
    (path / "far").mkdir(parents=True)
    for number in range(FILES):
        (path / f"file {number}").write_text(f"content {number}")
    # Unlinked by the guest, its content makes the stream longer than what a pipe takes.
    (path / "file 2").write_text("content 2".ljust(100_000, "."))
    return path


class Source(Side):
    """A guest with much in its cache, an open file, an unlinked open file, and one that the host has moved."""

    def __init__(self, share: Path, config: MigrationConfig = FIND_PATHS) -> None:
        super().__init__(share, replace(config, unlinked=Unlinked.CARRY))
        for number in range(3, FILES):
            self.walk(f"file {number}")
        self.node, self.moved, self.gone = (self.walk(f"file {number}") for number in range(3))
        for node in (self.node, self.moved, self.gone, self.walk(f"file {FILES - 1}")):
            self.guest.ask(Op.GETATTR, node, bytes(16))  # what is looked at has a cached descriptor from then on
        self.fhs = [self.guest.open(node) for node in (self.node, self.moved, self.gone)]
        os.link(share / "file 1", share / "far" / "file 1")
        (share / "file 1").unlink()
        self.unlink("file 2")
        self.descriptors = len(os.listdir("/proc/self/fd"))
        self.inodes, self.handles = self.guest.device.inode_count, self.guest.device.handle_count

    def serves_as_before(self) -> None:
        """Every file is open still, nothing is there that was not, and a whole migration goes well."""
        self.check(self)
        assert (self.guest.device.inode_count, self.guest.device.handle_count) == (self.inodes, self.handles)
        assert not any(thread.name.startswith(("migration", "state-")) for thread in threading.enumerate())
        assert len(os.listdir("/proc/self/fd")) <= self.descriptors
        self.stop()
        with loaded(self.save(), self.guest.shared, self.config) as destination:
            self.check(destination)
        self.go_on()
        self.check(self)

    def check(self, side: Side) -> None:
        for number, (node, fh) in enumerate(zip((self.node, self.moved, self.gone), self.fhs, strict=True)):
            assert side.read(node, fh, 9) == f"content {number}".encode()
        assert side.walk(f"file {FILES - 1}")
        side.forget(side.walk(f"file {FILES - 1}"), 2)


def waits_in(monkeypatch: pytest.MonkeyPatch, step: str, side: Side) -> threading.Event:
    """Holds the search in a step until it is cancelled; the event is set when it is there."""
    reached = threading.Event()

    class Held(Progress):
        def step(self, what: str, done: int, total: int) -> None:
            if step in what:
                reached.set()
                assert side.migrator._cancel.wait(20)

    monkeypatch.setattr(capture, "Progress", Held)
    return reached


@pytest.mark.parametrize("ends", ["off", "reset", "on again", "saved"])
@pytest.mark.parametrize("step", STEPS)
def test_while_collecting(step: str, ends: str, share: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Source(share) as source:
        with monkeypatch.context() as patch:
            reached = waits_in(patch, step, source)
            source.migrator.log_all(True)
            assert reached.wait(20)
        source.check(source)
        if ends == "off":
            source.migrator.log_all(False)
        elif ends == "reset":
            # Of the migration alone: what the device drops is not this test's.
            source.migrator.reset()
        elif ends == "on again":
            source.migrator.log_all(True)
            source.migrator.log_all(False)
        else:
            source.stop()
            assert source.save()
            source.go_on()
        source.serves_as_before()


@pytest.mark.parametrize("ends", ["reset", "ring", "another migration", "another save", "close"])
@pytest.mark.parametrize("step", STEPS)
def test_while_saving(step: str, ends: str, share: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a ring that is started in the middle of it: the tables must not be read while they change."""
    with Source(share) as source:
        source.stop()
        read_end, write_end = os.pipe()
        with monkeypatch.context() as patch:
            reached = waits_in(patch, step, source)
            source.migrator.begin(SAVE, PHASE_STOPPED, write_end)
            os.close(write_end)
            assert reached.wait(20)
        if ends == "ring":
            source.migrator.ring_starts()
        elif ends == "another migration":
            source.migrator.log_all(True)
            source.migrator.log_all(False)
        elif ends == "reset":
            source.migrator.reset()
        elif ends == "close":
            source.migrator.close()
        else:
            assert source.save()
        with open(read_end, "rb") as pipe:
            # It ends, so that the front-end does not wait for ever; and is no state.
            assert pipe.read() == b""
        if ends != "another save":
            assert source.migrator.check() == 1
        source.go_on()
        source.serves_as_before()


def test_a_search_that_was_cut_short_is_no_result(share: Path) -> None:
    """Half of the paths would be lost inodes."""
    with Source(share) as source:
        source.stop()
        with pytest.raises(FerryError, match="cancelled"):
            b"".join(source.capture().save(lambda: True))
        source.go_on()
        source.serves_as_before()


def test_a_save_of_a_running_guest_is_refused(share: Path) -> None:
    with Source(share) as source:
        fd = os.memfd_create("state")
        try:
            with pytest.raises(FrontendError, match="while a virtqueue is served"):
                source.migrator.begin(SAVE, PHASE_STOPPED, fd)
        finally:
            os.close(fd)
        source.serves_as_before()


def test_a_load_below_a_running_guest_is_refused(share: Path) -> None:
    """It would take away what the guest has; also when its rings are started before the load is done."""
    with Source(share) as source:
        source.stop()
        data = source.save()
        source.go_on()
        with pytest.raises(FrontendError, match=r"load\) came while a virtqueue is served"):
            source.load(data)
        source.serves_as_before()
        source.stop()
        fd = os.memfd_create("state")
        os.pwrite(fd, data, 0)
        source.migrator.begin(LOAD, PHASE_STOPPED, fd)
        os.close(fd)
        source.go_on()
        with pytest.raises(FrontendError, match=r"load\) came while a virtqueue is served"):
            source.migrator.check()
        source.serves_as_before()


@pytest.mark.parametrize("config", MODES, ids=mode_of)
def test_the_reader_goes_after_any_number_of_bytes(config: MigrationConfig, share: Path) -> None:
    """The front-end's end of the pipe is closed: CHECK says so, the guest goes on."""
    with Source(share, config) as source:
        source.stop()
        whole = len(source.save())
        assert whole > 3 * 4096
        for count in (0, 1, 100, 4096, whole // 3, whole // 2, whole - 8192):
            read_end, write_end = os.pipe()
            fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 4096)
            source.migrator.begin(SAVE, PHASE_STOPPED, write_end)
            os.close(write_end)
            with open(read_end, "rb", buffering=0) as pipe:
                got = 0
                while got < count:
                    got += len(pipe.read(min(count - got, 4096)))
            assert source.migrator.check() == 1
        source.go_on()
        source.serves_as_before()


def test_a_migration_that_stops_as_soon_as_it_began(share: Path) -> None:
    """Nothing is collected yet."""
    with Source(share) as source:
        source.migrator.log_all(True)
        source.stop()
        data = source.save()
        with loaded(data, share) as destination:
            source.check(destination)
        source.migrator.log_all(False)
        source.go_on()
        source.serves_as_before()


@pytest.mark.parametrize("config", MODES, ids=mode_of)
def test_a_destination_that_fails_at_any_point_is_loaded_again(config: MigrationConfig, share: Path) -> None:
    """By a stream that ends after any number of bytes, a reset in the middle, a file that is not there."""
    with Source(share, config) as source:
        source.stop()
        data = source.save()
        with Side(share, config, init=False) as destination:
            destination.stop()
            before = len(os.listdir("/proc/self/fd"))

            def nothing_stays() -> None:
                assert destination.guest.device.inode_count == 1
                assert destination.guest.device.handle_count == 0
                # The root, and what the share's mount is reached by.
                assert len(os.listdir("/proc/self/fd")) <= before + 1

            for count in (0, 1, 2, 100, len(data) // 2, len(data) - 14, len(data) - 1):
                with pytest.raises(FerryError):
                    destination.load(data[:count])
                nothing_stays()
            read_end, write_end = os.pipe()
            destination.migrator.begin(LOAD, PHASE_STOPPED, read_end)
            os.close(read_end)
            os.write(write_end, data[:1000])
            destination.migrator.reset()
            os.close(write_end)
            assert destination.migrator.check() == 1
            nothing_stays()
            away = share / "far" / "file 1"
            away.rename(share.parent / "away")
            (share / "file 0").rename(share.parent / "file 0")
            with pytest.raises(FerryError, match="can't be restored: "):
                destination.load(data)
            nothing_stays()
            (share.parent / "away").rename(away)
            (share.parent / "file 0").rename(share / "file 0")
            destination.load(data)
            destination.go_on()
            source.check(destination)
        source.go_on()
        source.serves_as_before()


@pytest.mark.parametrize(("direction", "phase"), [(SAVE, 1), (LOAD, 1), (2, 0), (7, 9)])
def test_what_does_not_exist_is_refused(direction: int, phase: int, share: Path) -> None:
    with Source(share) as source:
        source.stop()
        with pytest.raises(FrontendError, match="which do not exist"):
            source.migrator.begin(direction, phase, 0)
        source.go_on()
        source.serves_as_before()


def test_a_guest_that_unmounts_while_it_is_collected(share: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DESTROY in the middle, then INIT again: the state is that of what is mounted when it is stopped."""
    with Source(share) as source:
        with monkeypatch.context() as patch:
            reached = waits_in(patch, STEPS[0], source)
            source.migrator.log_all(True)
            assert reached.wait(20)
        source.guest.ask(Op.DESTROY, 0)
        source.guest.init()
        node = source.walk("file 5")
        fh = source.guest.open(node)
        source.stop()
        with loaded(source.save(), share, GUEST_ERROR) as destination:
            assert destination.read(node, fh) == b"content 5"
            assert destination.guest.device.inode_count == 2


def test_a_guest_that_has_not_mounted(share: Path) -> None:
    """A state without inodes, and the guest mounts at the destination; also between mounts."""
    with Side(share, init=False) as source:
        source.stop()
        data = source.save()
    with loaded(data, share) as destination:
        destination.guest.init()
        node = destination.walk("file 1")
        destination.guest.ask(Op.DESTROY, 0)
        destination.stop()
        again = destination.save()
    with loaded(again, share) as third:
        third.guest.init()
        assert third.walk("file 1") >= node
