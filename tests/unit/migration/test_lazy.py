"""--migration-restore=lazy: each cached inode is proven at its first use, and is the right file then, or ESTALE."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from namespaces import needs_mounts

from ferryfs.passthrough.config import (
    HandleMode,
    IdentityCheck,
    MigrationConfig,
    MigrationMode,
    RestoreMode,
    ShareConfig,
)
from ferryfs.wire.fuse import DIRENT, ENTRY_OUT, READ_IN, Op, direntplus_size
from migration.lazily import (
    NAMES,
    arrived,
    both_modes,
    build,
    lazily_loaded,
    number,
    proven_in_background,
    trouble,
    unproven,
)
from migration.sides import FIND_PATHS, Side, loaded, moved, refusal

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="file handles can only be opened by root")


@pytest.fixture
def share(tmp_path: Path) -> Path:
    return build(tmp_path / "share")


@both_modes
def test_nothing_has_happened(share: Path, config: MigrationConfig) -> None:
    with arrived(share, config) as (side, nodes, numbers):
        assert {name: number(side, node) for name, node in nodes.items()} == numbers
        fh = side.guest.open(nodes["docs/old/one"])
        assert side.read(nodes["docs/old/one"], fh) == b"docs/old/one"
        assert not unproven(side) & set(nodes.values())


@both_modes
def test_opened_before_anything_else(share: Path, config: MigrationConfig) -> None:
    with arrived(share, config) as (side, nodes, _):
        fh = side.guest.open(nodes["src/main.c"], os.O_RDWR)
        assert side.read(nodes["src/main.c"], fh) == b"src/main.c"
        assert nodes["src/main.c"] not in unproven(side)
        assert nodes["README"] in unproven(side)
        assert side.guest.open(nodes["docs/old"], os.O_DIRECTORY)


def replaced(path: Path) -> None:
    path.unlink()
    path.write_text("another file")


def replaced_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replaced_by_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replaced_by_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("README")


def exchanged(path: Path) -> None:
    path.rename(path.with_name("third"))
    path.with_name("two").rename(path)
    path.with_name("third").rename(path.with_name("two"))


CHANGES = [
    Path.unlink, replaced, replaced_by_folder, replaced_by_fifo, replaced_by_link, exchanged,
    lambda path: path.rename(path.with_name("renamed")),
    lambda path: path.rename(path.parents[2] / "moved"),
    lambda path: path.rename(path.parents[3] / "outside"),
    lambda path: shutil.rmtree(path.parent),
    lambda path: path.parent.rename(path.parents[3] / "outside"),
]  # fmt: skip
WORDS = [
    "unlinked", "replaced", "by a folder", "by a FIFO", "by a link", "exchanged", "renamed", "moved", "moved out",
    "folder removed", "folder moved out",
]  # fmt: skip


@both_modes
@pytest.mark.parametrize("change", CHANGES, ids=WORDS)
def test_not_there_any_more(share: Path, config: MigrationConfig, change: Callable[[Path], None]) -> None:
    """Stale, whichever request comes first; and no error of the load (--migration-on-error=abort)."""
    with arrived(share, config, lambda: change(share / "docs/old/one")) as (side, nodes, numbers):
        node = nodes["docs/old/one"]
        assert side.guest.refused(Op.OPEN, node, bytes(8)) == errno.ESTALE
        assert trouble(side, node) == errno.ESTALE
        assert side.guest.refused(Op.READLINK, node) == errno.ESTALE
        assert node in unproven(side)
        # Nobody else suffers.
        assert number(side, nodes["src/main.c"]) == numbers["src/main.c"]
        side.forget(node)
        assert node not in unproven(side)


@both_modes
def test_looked_up_anew(share: Path, config: MigrationConfig) -> None:
    """A look-up that meets an inode which could not be found gives it the number that the guest knows."""

    def meanwhile() -> None:
        (share / "docs/old/one").rename(share / "src/renamed")
        (share / "docs/old/one").write_text("another file")

    with arrived(share, config, meanwhile) as (side, nodes, numbers):
        node = nodes["docs/old/one"]
        assert trouble(side, node) == errno.ESTALE
        other = side.guest.lookup(b"one", nodes["docs/old"])
        assert other not in nodes.values()
        assert number(side, other) == (share / "docs/old/one").stat().st_ino
        assert side.guest.lookup(b"renamed", nodes["src"]) == node
        assert number(side, node) == numbers["docs/old/one"]
        assert side.read(node, side.guest.open(node)) == b"docs/old/one"


@both_modes
def test_a_look_up_is_proof(share: Path, config: MigrationConfig) -> None:
    with arrived(share, config) as (side, nodes, numbers):
        before = side.guest.device.inode_count
        for name, node in nodes.items():
            assert side.walk(name) == node
            assert node not in unproven(side)
            assert number(side, node) == numbers[name]
        assert side.guest.device.inode_count == before


@both_modes
def test_a_directory_that_was_moved(share: Path, config: MigrationConfig) -> None:
    """Its way up leads to the root still, so what is in it is found."""

    def meanwhile() -> None:
        (share / "docs/old").rename(share / "src/moved")

    with arrived(share, config, meanwhile) as (side, nodes, numbers):
        assert number(side, nodes["docs/old/one"]) == numbers["docs/old/one"]
        assert number(side, nodes["docs/old"]) == numbers["docs/old"]


@both_modes
def test_a_directory_that_is_alive_without_a_name(share: Path, config: MigrationConfig) -> None:
    """Somebody on the host works in it still. Its way up leads to the root, but it was removed."""
    there = os.open(share / "docs/old", os.O_PATH)
    try:
        with arrived(share, config, lambda: shutil.rmtree(share / "docs/old")) as (side, nodes, _):
            assert trouble(side, nodes["docs/old"]) == errno.ESTALE
    finally:
        os.close(there)


@both_modes
def test_a_directory_out_of_the_share(share: Path, config: MigrationConfig) -> None:
    """Nothing in it is to be seen, by whatever request; back in the share, all of it is."""
    outside = share.parent / "outside"
    with arrived(share, config, lambda: (share / "docs").rename(outside)) as (side, nodes, numbers):
        for name in ("docs/old", "docs/old/two", "docs/old/one"):
            assert trouble(side, nodes[name]) == errno.ESTALE
        assert side.guest.refused(Op.LOOKUP, nodes["docs/old"], b"one\0") == errno.ESTALE
        assert side.guest.refused(Op.MKDIR, nodes["docs/old"], bytes(8) + b"made\0") == errno.ESTALE
        assert side.guest.refused(Op.OPENDIR, nodes["docs/old"], bytes(8)) == errno.ESTALE
        assert side.guest.refused(Op.UNLINK, nodes["docs/old"], b"one\0") == errno.ESTALE
        assert sorted(os.listdir(outside / "old")) == ["one", "two"]
        outside.rename(share / "docs")
        assert number(side, nodes["docs/old/two"]) == numbers["docs/old/two"]


@both_modes
def test_forgotten_without_a_look(share: Path, config: MigrationConfig) -> None:
    with Side(share, config) as source:
        node = source.walk("README")
        assert source.walk("README") == node
        with moved(source, config) as side:
            (share / "README").unlink()
            before = side.guest.device.inode_count
            side.forget(node)
            assert side.guest.device.inode_count == before
            side.forget(node)
            assert side.guest.device.inode_count == before - 1
            assert trouble(side, node) == errno.ENOENT


@both_modes
def test_hard_links(share: Path, config: MigrationConfig) -> None:
    """The name that the source saw last is gone: by the other one the guest gets the same inode."""
    os.link(share / "docs/old/one", share / "src/link")
    with arrived(share, config, (share / "docs/old/one").unlink) as (side, nodes, numbers):
        node = nodes["docs/old/one"]
        assert trouble(side, node) == errno.ESTALE
        assert side.guest.lookup(b"link", nodes["src"]) == node
        assert number(side, node) == numbers["docs/old/one"]


@both_modes
def test_removed_by_the_guest(share: Path, config: MigrationConfig) -> None:
    with arrived(share, config) as (side, nodes, numbers):
        side.unlink("one", nodes["docs/old"])
        assert not (share / "docs/old/one").exists()
        # It was proven as it lost its name, and is still the guest's.
        assert number(side, nodes["docs/old/one"]) == numbers["docs/old/one"]
        body = nodes["src"].to_bytes(8, "little") + b"two\0renamed\0"
        side.guest.ask(Op.RENAME, nodes["docs/old"], body)
        assert number(side, nodes["docs/old/two"]) == numbers["docs/old/two"]


@both_modes
def test_readdirplus(share: Path, config: MigrationConfig) -> None:
    with arrived(share, config) as (side, nodes, _):
        folder = nodes["docs/old"]
        fh = side.guest.open(folder, os.O_DIRECTORY)
        data = side.guest.ask(Op.READDIRPLUS, folder, READ_IN.pack(fh=fh, size=4096))
        found = {}
        at = 0
        while at < len(data):
            entry = DIRENT.unpack(data[at + ENTRY_OUT.size :])
            start = at + ENTRY_OUT.size + DIRENT.size
            found[data[start : start + entry["namelen"]]] = ENTRY_OUT.unpack(data[at:])["nodeid"]
            at += direntplus_size(entry["namelen"])
        assert found[b"one"] == nodes["docs/old/one"]
        assert found[b"two"] == nodes["docs/old/two"]
        assert not unproven(side) & {folder, found[b"one"], found[b"two"]}


@both_modes
def test_open_files_are_restored_at_once(share: Path, config: MigrationConfig) -> None:
    """With the directories that lead to them, and with nothing else."""
    with Side(share, config) as source:
        nodes = {name: source.walk(name) for name in NAMES}
        docs, new = source.walk("docs"), source.walk("docs/new")
        fh = source.guest.open(nodes["docs/old/one"])
        source.stop()
        data = source.save()
        (share / "docs/old/one").rename(share / "docs/old/renamed")
        with loaded(data, share, config) as side:
            at_once = {docs, nodes["docs/old"], nodes["docs/old/one"]}
            assert not unproven(side) & at_once
            assert side.read(nodes["docs/old/one"], fh) == b"docs/old/one"
        with lazily_loaded(data, share, config) as side:
            assert unproven(side) == {*nodes.values(), new} - at_once


# ---- in the background, and on to the next one


@both_modes
def test_in_the_background(share: Path, config: MigrationConfig, caplog: pytest.LogCaptureFixture) -> None:
    """All that is there is proven, without being used; what is not stays stale."""
    with Side(share, config) as source:
        nodes = {name: source.walk(name) for name in NAMES}
        source.stop()
        data = source.save()
        (share / "README").unlink()
        with caplog.at_level("INFO"), loaded(data, share, config) as side:
            proven_in_background(side)
            assert unproven(side) == {nodes["README"]}
            assert trouble(side, nodes["README"]) == errno.ESTALE
            assert number(side, nodes["src"]) == (share / "src").stat().st_ino
    assert "8 cached inodes proven in the background" in caplog.text
    assert "1 could not be found" in caplog.text


@both_modes
def test_the_next_save_ends_it(share: Path, config: MigrationConfig) -> None:
    """And a guest that stays here after all has it go on."""
    with Side(share, config) as source:
        source.walk("docs/old/one")
        with moved(source, config) as side:
            side.stop()
            side.save()
            side.go_on()
            proven_in_background(side)
            assert not unproven(side)


@both_modes
def test_moved_on_before_anything_is_proven(share: Path, config: MigrationConfig) -> None:
    """From A to B to C: what the host does meanwhile makes entries stale, and no others."""
    with arrived(share, config) as (side, nodes, numbers):
        fh = side.guest.open(nodes["docs/new/one"])
        (share / "docs/old/one").rename(share / "docs/old/third")
        (share / "docs/old/two").rename(share / "docs/old/one")
        (share / "README").unlink()
        (share / "README").write_text("another file")
        side.stop()
        data = side.save()
        (share / "src/main.c").unlink()
        with loaded(data, share, config) as last:
            assert last.read(nodes["docs/new/one"], fh) == b"docs/new/one"
            for name in ("README", "docs/old/one", "docs/old/two", "src/main.c"):
                assert trouble(last, nodes[name]) == errno.ESTALE
            for name in ("docs/old", "src", "docs/new/one"):
                assert number(last, nodes[name]) == numbers[name]


@both_modes
@pytest.mark.parametrize("last", [RestoreMode.EAGER, RestoreMode.LAZY], ids=lambda mode: mode.value)
def test_moved_on_unchanged(share: Path, config: MigrationConfig, last: RestoreMode) -> None:
    with arrived(share, config) as (side, nodes, numbers), moved(side, replace(config, restore=last)) as there:
        assert {name: number(there, node) for name, node in nodes.items()} == numbers
        assert {name: there.walk(name) for name in nodes} == nodes


# ---- what can't wait


def test_a_load_that_fails_leaves_nothing(share: Path) -> None:
    config = replace(FIND_PATHS, restore=RestoreMode.LAZY)
    with Side(share, config) as source:
        source.walk("src/main.c")
        source.guest.open(source.walk("README"))
        source.stop()
        data = source.save()
    (share / "README").unlink()
    (share / "README").write_text("another file")
    assert "another file has its name now" in refusal(data, share, config)


def test_a_copy_is_restored_at_once(share: Path, tmp_path: Path) -> None:
    """No handle proves anything there."""
    config = replace(FIND_PATHS, restore=RestoreMode.LAZY)
    shutil.copytree(share, tmp_path / "copy")
    with Side(share, FIND_PATHS) as source:
        nodes = {name: source.walk(name) for name in NAMES}
        with moved(source, config, tmp_path / "copy") as side:
            assert not unproven(side)
            for name, node in nodes.items():
                assert number(side, node) == (tmp_path / "copy" / name).stat().st_ino


@pytest.mark.parametrize("there", RestoreMode, ids=lambda mode: mode.value)
def test_a_lazy_source_is_for_the_same_directory(share: Path, tmp_path: Path, there: RestoreMode) -> None:
    """It leaves out the sizes by which a copy is told from another directory."""
    shutil.copytree(share, tmp_path / "copy")
    with Side(share, replace(FIND_PATHS, restore=RestoreMode.LAZY)) as source:
        nodes = {name: source.walk(name) for name in NAMES}
        source.stop()
        data = source.save()
    assert "left out the sizes" in refusal(data, tmp_path / "copy", replace(FIND_PATHS, restore=there))
    with loaded(data, share, replace(FIND_PATHS, restore=there)) as side:
        assert {name: side.walk(name) for name in nodes} == nodes
    with loaded(data, tmp_path / "copy", replace(FIND_PATHS, restore=there, identity=IdentityCheck.OFF)) as side:
        assert {name: side.walk(name) for name in nodes} == nodes


@both_modes
def test_without_file_handles_at_the_destination(share: Path, config: MigrationConfig) -> None:
    """Inodes are held by descriptors there, so each has to be found at once."""
    with Side(share, config) as source:
        nodes = {name: source.walk(name) for name in NAMES}
        source.stop()
        with loaded(source.save(), share, config, ShareConfig(handles=HandleMode.NEVER)) as side:
            assert not unproven(side)
            assert {name: side.walk(name) for name in nodes} == nodes


@needs_mounts()
@both_modes
def test_mounts_in_the_share(share: Path, config: MigrationConfig) -> None:
    """What lies on them is restored at once, with the directories that lead there."""
    (share / "docs/new/mount").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", share / "docs/new/mount"], check=True)
    try:
        (share / "docs/new/mount/file").write_text("on the mount")
        with Side(share, config) as source:
            node = source.walk("docs/new/mount/file")
            beside = {source.walk(name) for name in ("docs/old", "docs/old/one")}
            source.stop()
            data = source.save()
            with lazily_loaded(data, share, config) as side:
                assert unproven(side) == beside
                assert side.read(node, side.guest.open(node)) == b"on the mount"
            if config.mode is MigrationMode.FIND_PATHS:
                # Another file system there: its file is not the source's, whatever its size.
                subprocess.run(["mount", "-t", "tmpfs", "none", share / "docs/new/mount"], check=True)
                (share / "docs/new/mount/file").write_text("not my mount")
                said = refusal(data, share, config)
                subprocess.run(["umount", share / "docs/new/mount"], check=True)
                assert "another file system is mounted at 'docs/new/mount' here" in said
    finally:
        subprocess.run(["umount", "-l", share / "docs/new/mount"], check=True)
