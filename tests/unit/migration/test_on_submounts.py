"""Files on other file systems that are mounted in the share: found by handle as those on the share's own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from namespaces import needs_mounts

from ferryfs.passthrough.config import MigrationConfig
from ferryfs.wire.fuse import READ_IN, Op
from migration.sides import FIND_PATHS, GUEST_ERROR, MODES, Side, loaded, mode_of, refusal

pytestmark = needs_mounts("mkfs.ext4")

Mount = Callable[..., Path]


@pytest.fixture(params=["tmpfs", "ext4"])
def below(request: pytest.FixtureRequest, tmp_path: Path, mount: Mount) -> Path:
    """What is mounted at "m" in the share: it has d/file."""
    (tmp_path / "share").mkdir()
    words = ["-t", "tmpfs", "none"]
    if request.param == "ext4":
        words = ["-o", "loop", str(image(tmp_path / "image"))]
    return filled(mount("share/m", *words))


def image(path: Path) -> Path:
    with path.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", path], check=True)
    return path


def filled(folder: Path) -> Path:
    (folder / "d").mkdir()
    (folder / "d" / "file").write_text("as it was")
    return folder


def unlinked(below: Path) -> None:
    (below / "d" / "file").unlink()


def renamed(below: Path) -> None:
    (below / "d" / "file").rename(below / "other")


def parent_moved(below: Path) -> None:
    (below / "e").mkdir()
    (below / "d").rename(below / "e" / "dd")


def replaced(below: Path) -> None:
    (below / "new").write_text("another")
    (below / "new").rename(below / "d" / "file")


@pytest.mark.parametrize("change", [unlinked, renamed, parent_moved, replaced])
@pytest.mark.parametrize("config", MODES, ids=mode_of)
def test_an_open_file(config: MigrationConfig, change: Callable[[Path], None], below: Path) -> None:
    """Whatever becomes of its name between save and load, the guest goes on with the very same file."""
    with (below / "d" / "file").open() as host, Side(below.parent, config) as source:
        node = source.walk("m/d/file")
        fh = source.guest.open(node, os.O_RDWR)
        source.stop()
        data = source.save()
        change(below)
        with loaded(data, below.parent, config) as destination:
            assert destination.read(node, fh) == b"as it was"
            destination.write(node, fh, b"AS")
        assert host.read() == "AS it was"


def test_its_content_is_not_needed(below: Path) -> None:
    """It was unlinked before, and has more than may be carried."""
    config = replace(FIND_PATHS, unlinked_limit=1)
    with Side(below.parent, config) as source:
        node = source.walk("m/d/file")
        fh = source.guest.open(node)
        unlinked(below)
        source.stop()
        with loaded(source.save(), below.parent, config) as destination:
            assert destination.read(node, fh) == b"as it was"


def test_a_cached_one_that_is_gone(below: Path) -> None:
    with Side(below.parent) as source:
        node = source.walk("m/d/file")
        source.stop()
        data = source.save()
        unlinked(below)
        with loaded(data, below.parent) as destination:
            assert destination.guest.refused(Op.GETATTR, node, bytes(16))


@pytest.fixture(params=["tmpfs", "ext4", "ramfs"])
def on_a_read_only_root(request: pytest.FixtureRequest, tmp_path: Path, mount: Mount) -> Path:
    """As ``below``, but nothing can be made in the root."""
    (tmp_path / "share" / "m").mkdir(parents=True)
    share = mount("share", "--bind", tmp_path / "share")
    subprocess.run(["mount", "-o", "remount,ro,bind", share], check=True)
    words = ["-t", request.param, "none"]
    if request.param == "ext4":
        words = ["-o", "loop", str(image(tmp_path / "image"))]
    return filled(mount("share/m", *words))


@pytest.mark.parametrize("host", [None, b"another host"], ids=["same-host", "other-host"])
def test_it_is_made_anew_where_it_was(host: bytes | None, on_a_read_only_root: Path) -> None:
    """An open file whose last name is gone, and a directory that somebody sits in: in their own file system."""
    below = on_a_read_only_root
    with Side(below.parent) as source:
        node, folder = source.walk("m/d/file"), source.walk("m/d")
        fh = source.guest.open(node, os.O_RDWR)
        sitting = source.guest.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        shutil.rmtree(below / "d")
        source.stop()
        data = source.save()
    # The source is gone, and with it the file.
    with Side(below.parent, init=False, host=host) as destination:
        destination.stop()
        destination.load(data)
        destination.go_on()
        assert destination.read(node, fh) == b"as it was"
        destination.write(node, fh, b"AS")
        assert destination.read(node, fh) == b"AS it was"
        assert destination.guest.ask(Op.READDIR, folder, READ_IN.pack(fh=sitting, size=4096)) == b""
        assert devices_of_deleted(below.parent) == {below.stat().st_dev}
    assert [*below.iterdir()] == [*below.glob("lost+found")]
    assert [*below.parent.iterdir()] == [below]


def test_there_is_no_such_mount_or_nothing_can_be_made_in_it(below: Path, tmp_path: Path) -> None:
    """Then it is made in the share's own file system, as in a copy."""
    copy = tmp_path / "copy"
    (copy / "m" / "d").mkdir(parents=True)
    with Side(below.parent) as source:
        node = source.walk("m/d/file")
        fh = source.guest.open(node)
        unlinked(below)
        source.stop()
        data = source.save()
    with loaded(data, copy, GUEST_ERROR) as destination:
        assert destination.read(node, fh) == b"as it was"
    subprocess.run(["mount", "-o", "remount,ro,bind", below], check=True)
    with loaded(data, below.parent) as destination:
        assert destination.read(node, fh) == b"as it was"


def devices_of_deleted(share: Path) -> set[int]:
    """Of the file systems on which this process has something open that was below ``share`` and has no name."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            path = os.readlink(f"/proc/self/fd/{fd}")
            if path.startswith(f"{share}/") and path.endswith(" (deleted)"):
                found.add(os.stat(f"/proc/self/fd/{fd}").st_dev)
    return found


def test_another_file_system_is_mounted_there(tmp_path: Path, mount: Mount) -> None:
    """With the very same handles: a block clone, in which another file may have become of it."""
    share = tmp_path / "share"
    share.mkdir()
    one, clone = image(tmp_path / "one"), tmp_path / "clone"
    below = filled(mount("share/m", "-o", "loop", one))
    os.sync()
    shutil.copyfile(one, clone)
    with Side(share) as source:
        node = source.walk("m/d/file")
        source.guest.open(node)
        source.stop()
        data = source.save()
    with mounted_over(clone, below):
        (below / "d" / "file").rename(below / "elsewhere")
        assert "can't be restored" in refusal(data, share)
    unlinked(below)
    assert "can't be restored" in refusal(data, share)


def test_what_lies_beside_a_mounted_part_is_not_in_the_share(tmp_path: Path, mount: Mount) -> None:
    """Of the file system only a directory is mounted; a handle reaches all of it."""
    (tmp_path / "share").mkdir()
    whole = mount("whole", "-o", "loop", image(tmp_path / "image"))
    (whole / "part").mkdir()
    below = filled(mount("share/m", "--bind", whole / "part"))
    with Side(below.parent) as source:
        held, folder = source.walk("m/d/file"), source.walk("m/d")
        source.guest.open(held)
        source.guest.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        source.stop()
        data = source.save()
        (below / "d").rename(below / "e")
        with loaded(data, below.parent) as destination:
            assert destination.guest.lookup(b"file", folder) == held
        (whole / "part" / "e").rename(whole / "outside")
        assert "can't be restored" in refusal(data, below.parent)
        (whole / "outside").rename(whole / "part" / "d")
        (whole / "part" / "d" / "file").rename(whole / "file")
        assert "can't be restored" in refusal(data, below.parent)


@contextmanager
def mounted_over(image: Path, folder: Path) -> Iterator[None]:
    """An image on a directory, for a while."""
    subprocess.run(["mount", "-o", "loop", image, folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)
