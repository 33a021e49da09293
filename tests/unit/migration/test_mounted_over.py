"""Something is mounted over the name of a file that the guest holds: it keeps the file beneath, by its handle.

No path leads there any more, and what is above is another file: it is what a new look-up gets, as at the source.
"""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from namespaces import needs_mounts

from ferryfs.passthrough.config import MigrationConfig, OnError, RestoreMode
from ferryfs.wire.fuse import ATTR_OUT, READ_IN, Op
from migration.sides import FILE_HANDLES, FIND_PATHS, MODES, Side, loaded, mode_of, refusal

pytestmark = needs_mounts()

both_modes = pytest.mark.parametrize("config", MODES, ids=mode_of)


@pytest.fixture
def share(tmp_path: Path) -> Iterator[Path]:
    """Somebody mounts things in it, and they are gone afterwards."""
    path = tmp_path / "share"
    (path / "dir").mkdir(parents=True)
    for name in ("dir/open", "dir/cached", "above!"):
        (path / name).write_text(name)
    yield path
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    for place in [line.split()[4] for line in reversed(lines) if line.split()[4].startswith(str(path))]:
        subprocess.run(["umount", "--lazy", place], check=True)


NAMES = ("dir/open", "dir/cached")


def cover(share: Path, *names: str) -> None:
    for name in names:
        subprocess.run(["mount", "--bind", share / "above!", share / name], check=True)


def uncover(share: Path, *names: str) -> None:
    for name in names:
        subprocess.run(["umount", "--lazy", share / name], check=True)


def inode(side: Side, node: int) -> int:
    return ATTR_OUT.unpack(side.guest.ask(Op.GETATTR, node, bytes(16)))["attr_ino"]


@both_modes
@pytest.mark.parametrize("moment", ["before", "saved", "only at the source"])
def test_what_is_beneath_stays_the_guests(share: Path, config: MigrationConfig, moment: str) -> None:
    """Open or only cached, covered before the migration or between save and load.

    What is only cached may be stale where the state has no place for it: nothing that the guest has open depends on it.
    """
    beneath = os.stat(share / "dir/cached").st_ino
    beside = os.open(share / "dir/open", os.O_RDONLY)
    try:
        with Side(share, config) as source:
            opened, cached = source.walk("dir/open"), source.walk("dir/cached")
            fh = source.guest.open(opened)
            if moment != "saved":
                cover(share, *NAMES)
            source.stop()
            data = source.save()
            if moment == "saved":
                cover(share, *NAMES)
            if moment == "only at the source":
                uncover(share, *NAMES)
            with loaded(data, share, config) as destination:
                assert destination.read(opened, fh) == b"dir/open"
                if moment != "saved" and config is FIND_PATHS:
                    assert destination.guest.refused(Op.GETATTR, cached, bytes(16)) == errno.ESTALE
                else:
                    assert inode(destination, cached) == beneath
                    assert destination.read(cached, destination.guest.open(cached)) == b"dir/cached"
                destination.write(opened, fh, b"written!")
                assert os.pread(beside, 100, 0) == b"written!"
                assert inode(destination, destination.walk("dir/open")) == os.stat(share / "dir/open").st_ino
    finally:
        os.close(beside)
    assert (share / "above!").read_text() == "above!"


@both_modes
def test_lazily(share: Path, config: MigrationConfig) -> None:
    """What is only cached is stale, and looked up anew, since its name is another file's."""
    lazy = replace(config, restore=RestoreMode.LAZY)
    with Side(share, lazy) as source:
        opened, cached = source.walk("dir/open"), source.walk("dir/cached")
        fh = source.guest.open(opened)
        source.stop()
        data = source.save()
        cover(share, *NAMES)
        with loaded(data, share, lazy) as destination:
            assert destination.read(opened, fh) == b"dir/open"
            assert destination.guest.refused(Op.GETATTR, cached, bytes(16)) == errno.ESTALE
            assert inode(destination, destination.walk("dir/cached")) == os.stat(share / "above!").st_ino


def test_its_directory_is_covered_as_well(share: Path) -> None:
    """The source says which directory the file is in, and that is found by its own handle."""
    with Side(share, FILE_HANDLES) as source:
        opened = source.walk("dir/open")
        fh = source.guest.open(opened)
        source.stop()
        data = source.save()
        cover(share, "dir/open")
        subprocess.run(["mount", "-t", "tmpfs", "none", share / "dir"], check=True)
        with loaded(data, share, FILE_HANDLES) as destination:
            assert destination.read(opened, fh) == b"dir/open"


@both_modes
def test_a_file_that_left_the_share_is_not_beneath(share: Path, config: MigrationConfig) -> None:
    """Its handle can be opened still, and something is mounted at its name: over another file."""
    with Side(share, config) as source:
        opened = source.walk("dir/open")
        source.guest.open(opened)
        source.stop()
        data = source.save()
        (share / "dir/open").rename(share.parent / "open")
        (share / "dir/open").write_text("another")
        cover(share, "dir/open")
        assert f"can't be restored: inode {opened}" in refusal(data, share, config)


@both_modes
def test_a_mounted_file_is_no_other_where_it_is_missing(share: Path, config: MigrationConfig) -> None:
    """The guest has the file that is mounted: what lies beneath has its name, type and size there, and is not taken."""
    cover(share, "dir/open")
    (share / "above!").write_text("of 8 by.")
    with Side(share, config) as source:
        opened = source.walk("dir/open")
        fh = source.guest.open(opened)
        source.stop()
        data = source.save()
        with loaded(data, share, config) as destination:
            assert destination.read(opened, fh) == b"of 8 by."
        uncover(share, "dir/open")
        assert "nothing is mounted at 'dir/open' here" in refusal(data, share, config)
        with loaded(data, share, replace(config, on_error=OnError.GUEST_ERROR)) as destination:
            assert destination.guest.refused(Op.READ, opened, READ_IN.pack(fh=fh, size=10))
            assert destination.guest.refused(Op.LOOKUP, destination.walk("dir"), b"open\0")
