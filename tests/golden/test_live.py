"""ferryfsd to ferryfsd, by a guest that knows what it holds: what it has open must be what it had open, or an error.

The table of changes is what somebody on the host does between save and load (and, with ``before``, before the save).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ferryfs.migration import stream
from ferryfs.migration.state import FullPath, Invalid, body
from ferryfs.migration.trailer_records import HalfRead
from golden.held import FILE_HANDLES, GUEST_ERROR, MODES, Held, guest, hold, load, saved
from golden.peer import OURS, SAVE, VERSIONS, missing, running
from golden.scenarios import INIT_FLAGS, Known, busy

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="file handles and --sandbox=none need root")


def nothing(share: Path) -> None:
    pass


def renamed(share: Path) -> None:
    (share / "src" / "main.c").rename(share / "elsewhere.c")


def parent_moved(share: Path) -> None:
    (share / "src").rename(share / "mnt" / "sources")


def replaced(share: Path) -> None:
    """As an editor does it: the old file lives on under another name."""
    os.link(share / "src" / "main.c", share / "src" / "main.c~")
    (share / "src" / "new").write_text("another one\n")
    (share / "src" / "new").rename(share / "src" / "main.c")


def swapped(share: Path) -> None:
    (share / "src" / "main.c").rename(share / "third")
    (share / "README").rename(share / "src" / "main.c")
    (share / "third").rename(share / "README")


def moved_deep(share: Path) -> None:
    deep = share / "x" / "y" / "z"
    deep.mkdir(parents=True)
    (share / "src" / "main.c").rename(deep / "w")


CHANGES: list[Callable[[Path], None]] = [nothing, renamed, parent_moved, replaced, swapped, moved_deep]


@pytest.mark.parametrize("before", [False, True], ids=["between", "before"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_the_right_file_whatever_the_host_does(
    share: Path, change: Callable[[Path], None], mode: str, before: bool
) -> None:
    """The file that the guest has open is found again wherever it went; nothing is lost, nothing is another file."""
    with guest(share, mode) as source:
        held = [
            hold(source, share, path, os.O_RDWR) for path in ("src/main.c", "README", "src/deep/deeper/naïve ☃.txt")
        ]
        if before:
            change(share)
        data = saved(source)
    if not before:
        change(share)
    good, destination = load(data, share)
    try:
        assert good, destination.close()
        for one in held:
            assert destination.read(one.node, one.handle) == one.content
    finally:
        destination.close()


@contextmanager
def bound(what: Path, onto: Path) -> Iterator[Callable[[], None]]:
    """A bind mount for the length of a block, or until what is yielded is called."""
    subprocess.run(["mount", "--bind", what, onto], check=True)
    mounted = [onto]

    def end() -> None:
        if mounted:
            subprocess.run(["umount", "--lazy", mounted.pop()], check=True)

    try:
        yield end
    finally:
        end()


@pytest.mark.skipif(shutil.which("mount") is None, reason="no mount(8)")
@pytest.mark.parametrize("mode", MODES)
def test_a_mount_that_the_destination_lacks(share: Path, mode: str, tmp_path: Path) -> None:
    """What is on it is lost, what lies beneath is not shown for it; and it is found again where it is mounted."""
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "file").write_text("on the volume\n")
    (share / "mnt" / "file").write_text("what is beneath\n")
    with bound(volume, share / "mnt") as unmount:
        with guest(share, mode) as source:
            other = hold(source, share, "README")
            mount, victim = source.walk(b"mnt"), hold(source, share, "mnt/file")
            data = saved(source)
        good, destination = load(data, share)
        try:
            assert good, destination.close()
            assert destination.read(victim.node, victim.handle) == victim.content
        finally:
            destination.close()
        unmount()
    good, destination = load(data, share)
    said = destination.close()
    assert not good
    assert "nothing is mounted at 'mnt' here" in said
    good, destination = load(data, share, GUEST_ERROR, mode)
    try:
        assert good, destination.close()
        assert destination.read(other.node, other.handle) == other.content
        for refused in (
            lambda: destination.read(victim.node, victim.handle),
            lambda: destination.lookup(1, b"mnt"),
            lambda: destination.lookup(mount, b"file"),
        ):
            with pytest.raises(OSError, match=r"No such device"):
                refused()
        again = saved(destination)
        destination.start_queues()
        destination.release(victim.node, victim.handle)
        destination.forget(victim.node)
        # Looked up twice: by itself, and on the way to the file.
        destination.forget(mount, 2)
        beneath = destination.walk(b"mnt/file")
        assert destination.read(beneath, destination.open(beneath, os.O_RDONLY)) == b"what is beneath\n"
    finally:
        destination.close()
    good, third = load(again, share, GUEST_ERROR)
    try:
        assert good, third.close()
        with pytest.raises(OSError, match=r"No such device"):
            third.lookup(1, b"mnt")
    finally:
        third.close()
    with bound(volume, share / "mnt"):
        good, third = load(again, share, GUEST_ERROR)
        try:
            assert good, third.close()
            assert third.lookup(1, b"mnt") == mount
            file = third.lookup(mount, b"file")
            assert third.read(file, third.open(file, os.O_RDONLY)) == victim.content
        finally:
            third.close()


def test_a_lost_file_stays_lost_until_it_is_proven(share: Path) -> None:
    """Another file under its name is not taken for it by the destination after the next either."""
    with guest(share) as source:
        victim = hold(source, share, "src/main.c")
        data = saved(source)
    (share / "src" / "main.c").unlink()
    (share / "src" / "main.c").write_bytes(victim.content)
    good, destination = load(data, share, GUEST_ERROR)
    try:
        assert good, destination.close()
        with pytest.raises(OSError, match=r"."):
            destination.size_of(victim.node)
        again = saved(destination)
    finally:
        destination.close()
    good, third = load(again, share, GUEST_ERROR)
    try:
        assert good, third.close()
        with pytest.raises(OSError, match=r"."):
            third.size_of(victim.node)
        # A new look-up is free to find what is there now.
        assert third.walk(b"src/main.c") != victim.node
    finally:
        third.close()


@pytest.mark.parametrize("moved", ["src/main.c", "src"])
def test_a_handle_that_leads_out_of_the_share(share: Path, moved: str) -> None:
    """file-handles: what was moved out of the share opens by its handle, and is refused all the same."""
    with guest(share, FILE_HANDLES) as source:
        victim, other = hold(source, share, "src/main.c"), hold(source, share, "README")
        data = saved(source)
    (share / moved).rename(share.parent / "outside")
    good, destination = load(data, share)
    assert not good
    assert "it is not in the share" in destination.close()
    good, destination = load(data, share, GUEST_ERROR)
    try:
        assert good, destination.close()
        assert destination.read(other.node, other.handle) == other.content
        with pytest.raises(OSError, match=r"."):
            destination.read(victim.node, victim.handle)
    finally:
        destination.close()


def test_the_guest_renames(share: Path) -> None:
    """What the guest itself moves is found without a search, hard links by whatever name is left."""
    with guest(share) as source:
        held, hard = hold(source, share, "src/main.c"), hold(source, share, "src/hard")
        folder = source.lookup(1, b"src")
        source.rename(folder, b"main.c", 1, b"moved.c")
        source.unlink(folder, b"hard")
        data = saved(source)
    assert not any(isinstance(inode.location, Invalid | FullPath) for inode in body(stream.load(data).state).inodes)
    good, destination = load(data, share)
    try:
        assert good, destination.close()
        for one in (held, hard):
            assert destination.read(one.node, one.handle) == one.content
    finally:
        destination.close()


def test_names_that_are_not_utf8(share: Path) -> None:
    """Files and directories; ours goes on, virtiofsd loses them and nothing else."""
    folder = os.fsencode(share) + b"/caf\xe9"
    os.mkdir(folder)
    for name in (b"plain", b"\xff\xfe"):
        with open(folder + b"/" + name, "wb") as file:
            file.write(name)
    with guest(share) as source:
        held = []
        for name in (b"plain", b"\xff\xfe"):
            node = source.walk(b"caf\xe9/" + name)
            held.append(Held(node, source.open(node, os.O_RDONLY), name))
        data = saved(source)
    good, destination = load(data, share)
    try:
        assert good, destination.close()
        for one in held:
            assert destination.read(one.node, one.handle) == one.content
    finally:
        destination.close()


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "copy"])
def test_a_half_read_directory(share: Path, elsewhere: bool, tmp_path: Path) -> None:
    """No entry is lost and none comes twice, also in a copy whose offsets mean something else."""
    many = share / "many"
    many.mkdir()
    names = {f"entry-{number}".encode() for number in range(500)}
    for name in names:
        (many / os.fsdecode(name)).write_bytes(b"")
    with guest(share) as source:
        node = source.walk(b"many")
        handle = source.open(node, os.O_RDONLY | os.O_DIRECTORY, directory=True)
        first = source.read_directory(node, handle, 0, 4096)
        # The guest has used half of the answer only.
        first = first[: len(first) // 2]
        data = saved(source)
    records = stream.load(data).trailer
    assert records is not None
    assert any(isinstance(record, HalfRead) for record in records.records)
    target = share
    if elsewhere:
        target = tmp_path / "copy"
        shutil.copytree(share, target, symlinks=True, ignore=shutil.ignore_patterns("fifo"))
    good, destination = load(data, target)
    try:
        assert good, destination.close()
        seen = [name for _, name in first]
        offset = first[-1][0]
        while got := destination.read_directory(node, handle, offset, 4096):
            seen += [name for _, name in got]
            offset = got[-1][0]
        assert sorted(seen) == sorted([*names, b".", b".."])
    finally:
        destination.close()


def test_a_copy(share: Path, tmp_path: Path) -> None:
    """find-paths goes on in it; file-handles refuses it, and so does --migration-identity=require; another size is
    noticed.
    """
    copy = tmp_path / "copy"
    shutil.copytree(share, copy, symlinks=True, ignore=shutil.ignore_patterns("fifo"))
    with guest(share) as source:
        held = hold(source, share, "src/main.c")
        data = saved(source)
    with guest(share, FILE_HANDLES) as source:
        hold(source, share, "src/main.c")
        by_handle = saved(source)
    good, destination = load(data, copy)
    try:
        assert good, destination.close()
        assert destination.read(held.node, held.handle) == held.content
    finally:
        destination.close()
    good, destination = load(data, copy, "--migration-identity=require")
    assert not good
    assert "--migration-identity=require" in destination.close()
    good, destination = load(by_handle, copy)
    assert not good
    destination.close()
    (copy / "src" / "main.c").write_text("shorter")
    good, destination = load(data, copy)
    assert not good
    assert "7 bytes here" in destination.close()
    good, destination = load(data, copy, "--migration-identity=off")
    destination.close()
    assert good


def test_flags_and_modes(share: Path) -> None:
    """A file that is 0000 by now, one that appends, one opened with O_TRUNC (which must not truncate again)."""
    with guest(share) as source:
        locked, appended = (
            hold(source, share, "README", os.O_RDWR),
            hold(source, share, "log", os.O_WRONLY | os.O_APPEND),
        )
        truncated = hold(source, share, "src/main.c", os.O_RDWR | os.O_TRUNC)
        source.write(truncated.node, truncated.handle, b"fresh")
        data = saved(source)
    (share / "README").chmod(0)
    good, destination = load(data, share)
    try:
        assert good, destination.close()
        assert destination.read(locked.node, locked.handle) == locked.content
        assert destination.read(truncated.node, truncated.handle) == b"fresh"
        destination.write(appended.node, appended.handle, b"line\n")
    finally:
        destination.close()
    assert (share / "log").read_text() == "line\n"


@pytest.mark.parametrize("mode", MODES)
def test_deep_and_long(share: Path, mode: str) -> None:
    """40 directories deep, and a path of more than 4,800 bytes."""
    at = share
    name = "n" * 120
    fd = os.open(at, os.O_RDONLY)
    for _ in range(40):
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    with open("file", "wb", opener=lambda path, flags: os.open(path, flags, dir_fd=fd)) as file:
        file.write(b"deep")
    os.close(fd)
    with guest(share, mode) as source:
        node = source.walk(b"/".join([name.encode()] * 40 + [b"file"]))
        handle = source.open(node, os.O_RDONLY)
        data = saved(source)
    good, destination = load(data, share)
    try:
        assert good, destination.close()
        assert destination.read(node, handle) == b"deep"
    finally:
        destination.close()


def test_options_must_be_there(share: Path) -> None:
    """An option that the guest relies on, and the destination lacks, is refused by its switch."""
    with guest(share, "--writeback") as source:
        hold(source, share, "README")
        data = saved(source)
    good, destination = load(data, share)
    assert not good
    assert "add --writeback" in destination.close()
    good, destination = load(data, share, "--writeback")
    destination.close()
    assert good


def test_a_guest_without_a_mount(share: Path) -> None:
    """A state without any inode, there and back; the guest mounts afterwards."""
    with running(OURS, share) as source:
        source.start_queues()
        data = saved(source)
    good, destination = load(data, share)
    try:
        assert good, destination.close()
        destination.init(INIT_FLAGS)
        assert destination.lookup(1, b"README")
    finally:
        destination.close()


def test_bad_streams_leave_nothing_behind(share: Path) -> None:
    """Refused in a sentence; the same daemon can be loaded again."""
    with guest(share) as source:
        held = hold(source, share, "README")
        data = saved(source)
    with running(OURS, share) as destination:
        for bad in (b"", data[:-1], data[: len(data) // 2], data + b"x", b"\xff" * 100):
            assert not destination.load(bad)
        assert destination.load(data)
        destination.start_queues()
        assert destination.read(held.node, held.handle) == held.content


def test_a_failed_save_leaves_the_source_serving(share: Path) -> None:
    """The front-end closes the pipe at once: CHECK fails, and the guest goes on; then it saves well."""
    with guest(share) as source:
        held = hold(source, share, "README")
        source.stop_queues()
        read_end, write_end = os.pipe()
        os.close(read_end)
        source.hand_over(SAVE, write_end)
        os.close(write_end)
        assert not source.check()
        source.start_queues()
        assert source.read(held.node, held.handle) == held.content
        assert stream.load(saved(source)).trailer is not None


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.skipif(bool(missing()), reason=missing())
def test_to_virtiofsd_and_back(share: Path, mode: str) -> None:
    """A to B to C and back to A: every daemon takes the others' streams, and the guest notices nothing."""
    known = Known()
    with running(OURS, share, mode) as source:
        source.start_queues()
        busy(source, share, known)
        source.stop_queues()
        data = source.save()
    for version in (*VERSIONS, OURS, OURS):
        with running(version, share, mode, "--modcaps=+dac_read_search") as peer:
            assert peer.load(data), version
            peer.start_queues()
            node, handle = next(
                (node, handle) for handle, (node, flags) in known.handles.items() if flags == os.O_RDONLY
            )
            assert peer.read(node, handle) == b"read me\n"
            peer.stop_queues()
            data = peer.save()
    assert {inode.id for inode in body(stream.load(data).state).inodes} == {1, *known.paths}
