"""A block clone has the source's file handles. On another host nothing tells it from the source's own directory but
what was written to that since: the guest never gets what a file was when the clone was taken.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from namespaces import needs_mounts

from ferryfs.migration import stream
from ferryfs.migration.trailer_identities import NOT_MEASURED, InodeIdentities
from ferryfs.migration.trailer_records import Nameless
from ferryfs.passthrough.config import MigrationConfig, OnError, RestoreMode, Unlinked
from ferryfs.wire.fuse import READ_IN, Op
from migration.sides import FILE_HANDLES, FIND_PATHS, MODES, Side, loaded, mode_of, refusal

pytestmark = needs_mounts("mkfs.ext4")

ELSEWHERE = b"another"
both_modes = pytest.mark.parametrize("config", MODES, ids=mode_of)
both_hosts = pytest.mark.parametrize("host", [None, ELSEWHERE], ids=["same-host", "other-host"])
OLD, NEW = b"OLD-CONTENT", b"new-content"


class Clone:
    """A share on ext4, and where a clone of it is to be mounted."""

    def __init__(self, folder: Path) -> None:
        self.image, self.copied = folder / "one.img", folder / "two.img"
        self.share, self.other = folder / "share", folder / "other"
        self.share.mkdir()
        self.other.mkdir()
        with self.image.open("wb") as file:
            file.truncate(16 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-E", "root_owner=0:0", self.image], check=True)
        subprocess.run(["mount", "-o", "loop", self.image, self.share], check=True)

    def take(self) -> None:
        os.sync()
        shutil.copyfile(self.image, self.copied)
        subprocess.run(["mount", "-o", "loop", self.copied, self.other], check=True)


@pytest.fixture
def clone(tmp_path: Path) -> Iterator[Clone]:
    made = Clone(tmp_path)
    (made.share / "file").write_bytes(OLD)
    yield made
    for place in (made.share, made.other):
        subprocess.run(["umount", "--lazy", place], check=place == made.share, stderr=subprocess.DEVNULL)


@contextmanager
def kept(path: Path) -> Iterator[None]:
    """Somebody there has it open, so that the kernel knows where it is."""
    os.listdir(path.parent)
    fd = os.open(path, os.O_RDONLY)
    try:
        yield
    finally:
        os.close(fd)


def unlinked(clone: Clone, config: MigrationConfig, host: bytes | None) -> tuple[bytes, int, int]:
    """A guest has written to a file and removed it since the clone was taken: the stream, its inode and open file."""
    with Side(clone.share, config, host=host) as source:
        node = source.walk("file")
        fh = source.guest.open(node)
        clone.take()
        source.write(node, fh, NEW)
        source.unlink("file")
        source.stop()
        return source.save(), node, fh


@both_hosts
@pytest.mark.parametrize("looked", [True, False], ids=["known-there", "not-known-there"])
def test_an_unlinked_file_is_made_of_its_content(clone: Clone, host: bytes | None, looked: bool) -> None:
    """The handle leads to a file that has its name, and is another one."""
    data, node, fh = unlinked(clone, FIND_PATHS, host)
    with kept(clone.other / "file") if looked else nullcontext(), loaded(data, clone.other) as destination:
        assert destination.read(node, fh) == NEW
        destination.write(node, fh, b"more")
    assert (clone.other / "file").read_bytes() == OLD


def test_an_unlinked_file_that_can_not_be_made(clone: Clone) -> None:
    """The handle is no way out then."""
    data, node, _ = unlinked(clone, FIND_PATHS, ELSEWHERE)
    with kept(clone.other / "file"):
        subprocess.run(["mount", "-o", "remount,ro", clone.other], check=True)
        assert f"can't be restored: inode {node}" in refusal(data, clone.other)


@both_hosts
def test_content_that_travels_beside_a_handle(clone: Clone, host: bytes | None) -> None:
    carry = replace(FILE_HANDLES, unlinked=Unlinked.CARRY)
    data, node, fh = unlinked(clone, carry, host)
    with kept(clone.other / "file"), loaded(data, clone.other, carry) as destination:
        assert destination.read(node, fh) == NEW


@both_hosts
def test_an_unlinked_file_that_travels_as_a_handle(clone: Clone, host: bytes | None) -> None:
    """The stream says that it had no name; in the source's own directory it is alive."""
    data, node, fh = unlinked(clone, FILE_HANDLES, host)
    trailer = stream.load(data).trailer
    assert trailer is not None
    assert Nameless((node,)) in trailer.records
    with kept(clone.other / "file"):
        assert "it had no name at the source" in refusal(data, clone.other, FILE_HANDLES)
        guest_error = replace(FILE_HANDLES, on_error=OnError.GUEST_ERROR)
        with loaded(data, clone.other, guest_error) as destination:
            assert destination.guest.refused(Op.READ, node, READ_IN.pack(fh=fh, size=100))
            assert destination.guest.refused(Op.GETATTR, node, bytes(16))


def test_alive_as_a_handle(clone: Clone) -> None:
    with Side(clone.share, FILE_HANDLES) as source:
        node = source.walk("file")
        fh = source.guest.open(node)
        source.write(node, fh, NEW)
        source.unlink("file")
        source.stop()
        with loaded(source.save(), clone.share, FILE_HANDLES) as destination:
            assert destination.read(node, fh) == NEW
            destination.stop()
            with loaded(destination.save(), clone.share, FIND_PATHS) as third:
                assert third.read(node, fh) == NEW


@both_hosts
@pytest.mark.parametrize("change", [lambda file: file.write(b"longer than it was"), lambda file: file.truncate(3)])
@pytest.mark.parametrize(
    "config",
    [*MODES, MigrationConfig(restore=RestoreMode.LAZY), replace(FILE_HANDLES, restore=RestoreMode.LAZY)],
    ids=["find-paths", "file-handles", "find-paths-lazy", "file-handles-lazy"],
)
def test_a_file_of_another_size(
    clone: Clone, host: bytes | None, change: Callable[[object], None], config: MigrationConfig
) -> None:
    """What is open is compared in every mode; a file that was left alone is right."""
    (clone.share / "left").write_bytes(b"left alone")
    with Side(clone.share, config, host=host) as source:
        node, left = source.walk("file"), source.walk("left")
        fh, left_fh = source.guest.open(node), source.guest.open(left)
        clone.take()
        with (clone.share / "file").open("r+b") as file:
            change(file)
        source.stop()
        data = source.save()
    if config.mode is FIND_PATHS.mode and config.restore is RestoreMode.LAZY and host is None:
        assert "the source left out the sizes by which a copy is known" in refusal(data, clone.other, config)
        return
    assert "it has 11 bytes here, but" in refusal(data, clone.other, config)
    with loaded(data, clone.other, replace(config, on_error=OnError.GUEST_ERROR)) as destination:
        assert destination.guest.refused(Op.READ, node, READ_IN.pack(fh=fh, size=100))
        assert destination.read(left, left_fh) == b"left alone"


@both_hosts
@both_modes
def test_another_time_is_a_warning(
    clone: Clone, host: bytes | None, config: MigrationConfig, caplog: pytest.LogCaptureFixture
) -> None:
    (clone.share / "left").write_bytes(b"left alone")
    with Side(clone.share, config, host=host) as source:
        node, left = source.walk("file"), source.walk("left")
        fh = source.guest.open(node)
        source.guest.open(left)
        clone.take()
        (clone.share / "file").write_bytes(NEW)
        source.stop()
        data = source.save()
    with loaded(data, clone.other, config) as destination:
        assert destination.read(node, fh) == OLD
    said = "of the copy" if host is None else "of what may be a clone of the source's directory"
    assert f"1 files {said} were changed at another time than the source's" in caplog.text
    assert f"inode {node}" in caplog.text
    assert f"inode {left}" not in caplog.text


@both_modes
def test_the_same_directory_on_another_host(clone: Clone, config: MigrationConfig) -> None:
    """Renamed, replaced and swapped between save and load: who has the handle is who it was, whatever its size."""
    for name in ("one", "other", "replaced"):
        (clone.share / name).write_text(name)
    with Side(clone.share, config, host=ELSEWHERE) as source:
        nodes = {name: source.walk(name) for name in ("one", "other", "replaced")}
        handles = {name: source.guest.open(node) for name, node in nodes.items()}
        source.stop()
        data = source.save()
        (clone.share / "one").rename(clone.share / "third")
        (clone.share / "other").rename(clone.share / "one")
        (clone.share / "third").rename(clone.share / "other")
        (clone.share / "replaced").rename(clone.share / "moved")
        (clone.share / "replaced").write_text("of another size")
        with loaded(data, clone.share, config) as destination:
            for name, node in nodes.items():
                assert destination.read(node, handles[name]) == name.encode()


@both_modes
@pytest.mark.parametrize("is_open", [False, True])
def test_somebody_else_has_written_to_it(
    clone: Clone, config: MigrationConfig, is_open: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A log, say, while a machine is saved, or by a third host: later than the source did, so it is no clone's."""
    (clone.share / "log").write_text("a line\n")
    with Side(clone.share, config, host=ELSEWHERE) as source:
        node = source.walk("log")
        handle = source.guest.open(node) if is_open else 0
        source.stop()
        data = source.save()
        with (clone.share / "log").open("a") as log:
            log.write("another\n")
        with loaded(data, clone.share, config) as destination:
            handle = handle or destination.guest.open(node)
            assert destination.read(node, handle) == b"a line\nanother\n"


def test_what_is_open_is_measured(clone: Clone) -> None:
    """And nothing else where handles are all that counts: that would be a call an inode."""
    (clone.share / "cached").write_bytes(b"cached")
    with Side(clone.share, FILE_HANDLES) as source:
        node, cached = source.walk("file"), source.walk("cached")
        source.guest.open(node)
        source.stop()
        trailer = stream.load(source.save()).trailer
    assert trailer is not None
    [told] = [one for one in trailer.records if isinstance(one, InodeIdentities)]
    sizes = dict(zip(told.ids, told.sizes, strict=True))
    assert sizes[node] == len(OLD)
    assert sizes[1] == sizes[cached] == NOT_MEASURED
