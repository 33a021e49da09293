"""What is mounted in the share is another thing at the destination: the guest never gets files of that for its own."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from namespaces import needs_mounts

from ferryfs.migration import stream
from ferryfs.migration.trailer_records import FileSystemIdentity, Mounts
from ferryfs.passthrough.config import IdentityCheck, MigrationConfig, OnError, RestoreMode
from ferryfs.wire.fuse import READ_IN, Op
from migration.sides import FIND_PATHS, MODES, Side, loaded, mode_of, refusal

pytestmark = needs_mounts("mkfs.ext4")

both_modes = pytest.mark.parametrize("config", MODES, ids=mode_of)
REQUIRE = MigrationConfig(identity=IdentityCheck.REQUIRE)
MOMENT = (10**9, 10**9)
LAZY = MigrationConfig(restore=RestoreMode.LAZY)


def guest_error(config: MigrationConfig) -> MigrationConfig:
    return replace(config, on_error=OnError.GUEST_ERROR)


@pytest.fixture
def share(tmp_path: Path) -> Iterator[Path]:
    """Things are mounted in it, and gone afterwards."""
    path = tmp_path / "share"
    (path / "m").mkdir(parents=True)
    (path / "own").write_text("the share's own")
    yield path
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    for place in [line.split()[4] for line in reversed(lines) if line.split()[4].startswith(str(tmp_path))]:
        subprocess.run(["umount", "--lazy", place], check=True)


def fill(place: Path, content: str) -> None:
    """Type, size and time of change are the same whatever the content is."""
    for path in (place / "d" / "file", place / "file"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
        os.utime(path, MOMENT)


def mount(place: Path, content: str, *words: str | Path) -> None:
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", *words, place], check=True)
    fill(place, content)


def tmpfs(place: Path, content: str) -> None:
    mount(place, content, "-t", "tmpfs", "none")


def ext4(place: Path, content: str) -> None:
    """Two fresh ones have equal file handles, and number their files alike."""
    image = place.parents[1] / f"{content}.img"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-E", "root_owner=0:0", image], check=True)
    mount(place, content, "-o", "loop", image)


def bound(place: Path, content: str) -> None:
    """Another directory of the very same file system."""
    directory = place.parents[1] / content
    directory.mkdir()
    mount(place, content, "--bind", directory)


def unmount(place: Path) -> None:
    subprocess.run(["umount", "--lazy", place], check=True)


every_kind = pytest.mark.parametrize("kind", [tmpfs, ext4, bound])
Kind = Callable[[Path, str], None]


class Saved:
    """A guest with a file of a mount open, and one of the share itself."""

    def __init__(self, share: Path, config: MigrationConfig = FIND_PATHS) -> None:
        with Side(share, config) as source:
            self.mount = source.walk("m")
            self.node = source.walk("m/d/file")
            self.own = source.walk("own")
            self.fh = source.guest.open(self.node)
            self.own_fh = source.guest.open(self.own)
            source.stop()
            self.data = source.save()

    def with_identity(self, identity: FileSystemIdentity) -> bytes:
        """The stream with another identity of the mount."""
        found = stream.load(self.data)
        assert found.trailer is not None
        records = [
            replace(one, mounts=(one.mounts[0], replace(one.mounts[1], identity=identity)))
            if isinstance(one, Mounts)
            else one
            for one in found.trailer.records
        ]
        return b"".join(stream.save(found.state, records))

    def identity(self) -> FileSystemIdentity:
        trailer = stream.load(self.data).trailer
        assert trailer is not None
        [listed] = [one for one in trailer.records if isinstance(one, Mounts)]
        return listed.mounts[1].identity


@both_modes
@every_kind
def test_another_file_system(share: Path, kind: Kind, config: MigrationConfig) -> None:
    """Neither its files nor its root stand for the guest's; what lies elsewhere is as it was."""
    kind(share / "m", "content1")
    saved = Saved(share, config)
    with loaded(saved.data, share, config) as destination:
        assert destination.read(saved.node, saved.fh) == b"content1"
    unmount(share / "m")
    kind(share / "m", "CONTENT2")
    said = refusal(saved.data, share, config)
    assert "another file system is mounted at 'm' here" in said
    with loaded(saved.data, share, guest_error(config)) as destination:
        assert destination.guest.refused(Op.READ, saved.node, READ_IN.pack(fh=saved.fh, size=8))
        assert destination.guest.refused(Op.LOOKUP, saved.mount, b"file\0")
        assert destination.read(saved.own, saved.own_fh) == b"the share's own"


@every_kind
@pytest.mark.parametrize("on_error", list(OnError))
def test_require(share: Path, kind: Kind, on_error: OnError) -> None:
    """It refuses another file system, whatever on-error says; one that the guest does not use is not its business."""
    kind(share / "m", "content1")
    saved = Saved(share)
    require = replace(REQUIRE, on_error=on_error)
    with loaded(saved.data, share, require) as destination:
        assert destination.read(saved.node, saved.fh) == b"content1"
    with Side(share) as source:
        source.walk("own")
        source.stop()
        without = source.save()
    unmount(share / "m")
    kind(share / "m", "CONTENT2")
    said = refusal(saved.data, share, require)
    assert said.startswith("--migration-identity=require: another file system is mounted at 'm' here")
    with loaded(without, share, require):
        pass


def test_lazily(share: Path) -> None:
    tmpfs(share / "m", "content1")
    saved = Saved(share, LAZY)
    unmount(share / "m")
    tmpfs(share / "m", "CONTENT2")
    assert "another file system is mounted at 'm' here" in refusal(saved.data, share, LAZY)


def test_a_mounted_file(share: Path) -> None:
    """As containers have them."""
    for name in ("one", "two", "m/file"):
        (share.parent / name if name != "m/file" else share / name).write_text(f"{name:8}")
    place = share / "m" / "file"
    subprocess.run(["mount", "--bind", share.parent / "one", place], check=True)
    with Side(share) as source:
        node = source.walk("m/file")
        source.guest.open(node)
        source.stop()
        data = source.save()
    unmount(place)
    subprocess.run(["mount", "--bind", share.parent / "two", place], check=True)
    assert "another file system is mounted at 'm/file' here" in refusal(data, share)


@pytest.mark.parametrize("there", ["another", "nothing"])
def test_a_file_whose_directory_was_forgotten(share: Path, there: str) -> None:
    """It goes by its path from the root, which leads to what is there instead."""
    fill(share / "m", "BENEATH!")
    tmpfs(share / "m", "content1")
    with Side(share) as source:
        above, folder, node = (source.walk(name) for name in ("m", "m/d", "m/d/file"))
        fh = source.guest.open(node)
        source.forget(folder, 2)
        source.forget(above, 3)
        source.stop()
        data = source.save()
    with loaded(data, share) as destination:
        assert destination.read(node, fh) == b"content1"
    unmount(share / "m")
    if there == "another":
        tmpfs(share / "m", "CONTENT2")
    assert "mounted at 'm' here" in refusal(data, share)


def test_off_compares_nothing(share: Path) -> None:
    tmpfs(share / "m", "content1")
    saved = Saved(share)
    unmount(share / "m")
    tmpfs(share / "m", "CONTENT2")
    with loaded(saved.data, share, MigrationConfig(identity=IdentityCheck.OFF)) as destination:
        assert destination.read(saved.node, saved.fh) == b"CONTENT2"


def test_a_copy_stays_a_copy(share: Path, caplog: pytest.LogCaptureFixture) -> None:
    """There every mount is another one, and types and sizes are compared."""
    tmpfs(share / "m", "content1")
    saved = Saved(share)
    copy = share.parent / "copy"
    copy.mkdir()
    shutil.copy2(share / "own", copy)
    tmpfs(copy / "m", "content1")
    caplog.set_level(logging.WARNING)
    with loaded(saved.data, copy) as destination:
        assert destination.read(saved.node, saved.fh) == b"content1"
    assert "file system is mounted" not in caplog.text


def test_nothing_tells(share: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As on a network file system: types and sizes decide, which is said once; ``require`` refuses that."""
    tmpfs(share / "m", "content1")
    saved = Saved(share)
    nameless = replace(saved.identity(), uuid=b"", fsid=0, host=b"another")
    data = saved.with_identity(nameless)
    with loaded(data, share) as destination:
        assert destination.read(saved.node, saved.fh) == b"content1"
    lines = [line for line in caplog.messages if "maybe another file system is mounted at 'm' here" in line]
    assert len(lines) == 1
    assert "no file-system UUID or lasting f_fsid to compare" in lines[0]
    said = refusal(data, share, REQUIRE)
    assert said.startswith("--migration-identity=require: maybe another file system is mounted at 'm' here")
    (share / "m" / "d" / "file").write_text("of another size")
    assert "it has 15 bytes here, but 8 at the source" in refusal(data, share)


@both_modes
def test_an_open_file_is_named(share: Path, config: MigrationConfig) -> None:
    """By the name that it had at the source, in whichever way it travels."""
    tmpfs(share / "m", "content1")
    saved = Saved(share, config)
    subprocess.run(["mount", "-o", "remount,ro", share / "m"], check=True)
    said = f"open file {saved.fh} of inode {saved.node} ('file'): Read-only file system"
    assert said in refusal(saved.data, share, config)


# ---- mounts that come and go


def saved_while(source: Side, step: int, work: Callable[[], None]) -> bytes:
    """The state of a guest that is stopped; ``work`` is done before that step of it, or at its end."""
    left = step

    def now() -> bool:
        nonlocal left
        left -= 1
        if left == 0:
            work()
        return False

    data = b"".join(bytes(piece) for piece in source.capture().save(now))
    if left > 0:
        work()
    return data


@both_modes
@pytest.mark.parametrize("there", ["nothing", "another"])
def test_unmounted_while_the_state_is_saved(share: Path, config: MigrationConfig, there: str) -> None:
    """Between any two steps, and after the last: what is there then has the same names, types and sizes."""
    fill(share / "m", "BENEATH!")

    def change() -> None:
        unmount(share / "m")
        if there == "another":
            tmpfs(share / "m", "CONTENT2")

    for step in range(1, 12):
        tmpfs(share / "m", "content1")
        with Side(share, config) as source:
            node = source.walk("m/d/file")
            fh = source.guest.open(node)
            source.stop()
            data = saved_while(source, step, change)
            assert "mount" in refusal(data, share, config), step
            with loaded(data, share, guest_error(config)) as destination:
                assert destination.guest.refused(Op.READ, node, READ_IN.pack(fh=fh, size=8))
        if there == "another":
            unmount(share / "m")


@both_modes
@pytest.mark.parametrize("why", ["no mountinfo", "covered"])
def test_a_mount_that_no_path_leads_to(share: Path, config: MigrationConfig, why: str) -> None:
    """It is known by its root: what lies beneath, or another one, is not it."""
    place = share / "p" / "m"
    place.mkdir(parents=True)
    fill(place, "BENEATH!")
    tmpfs(place, "content1")
    with Side(share, config) as source:
        node = source.walk("p/m/d/file")
        fh = source.guest.open(node)
        if why == "covered":
            subprocess.run(["mount", "-t", "tmpfs", "none", share / "p"], check=True)
        known = source.share
        source.share = replace(known, mountinfo_fd=-1) if why == "no mountinfo" else known
        source.stop()
        data = b"".join(bytes(piece) for piece in source.capture().save(lambda: False))
        source.share = known
        with loaded(data, share, config) as destination:
            assert destination.read(node, fh) == b"content1"
        if why == "covered":
            unmount(share / "p")
        unmount(place)
        assert "nothing is mounted at 'm' here" in refusal(data, share, config)
        tmpfs(place, "CONTENT2")
        assert "another file system is mounted at 'm' here" in refusal(data, share, config)


@both_modes
@every_kind
def test_another_one_is_not_what_was_lost(share: Path, kind: Kind, config: MigrationConfig) -> None:
    """A migration loses a mount, and later ones find another there, whose root is not the guest's. The right one is."""
    place, right = share / "m", share.parent / "right"
    right.mkdir()
    fill(place, "BENEATH!")
    kind(place, "content1")
    with Side(share, guest_error(config)) as source:
        node = source.walk("m")
        source.stop()
        data = source.save()
    subprocess.run(["mount", "--bind", place, right], check=True)
    unmount(place)
    for there in ("nothing", "another", "still another", "right"):
        if there == "another":
            kind(place, "CONTENT2")
        elif there == "right":
            unmount(place)
            subprocess.run(["mount", "--bind", right, place], check=True)
        with loaded(data, share, guest_error(config)) as destination:
            if there == "right":
                file = destination.guest.lookup(b"file", node)
                assert destination.read(file, destination.guest.open(file)) == b"content1"
            else:
                assert destination.guest.refused(Op.LOOKUP, node, b"file\0"), there
            destination.stop()
            data = destination.save()
