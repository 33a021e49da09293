"""--migration-restore=lazy: each cached inode is proven at its first use, and is the right file then, or ESTALE."""

from __future__ import annotations

import errno
import os
import random
import shutil
import stat
import subprocess
import zlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from engine_guest import Call
from namespaces import needs_mounts

from ferryfs.migration import deferred, identity, stream
from ferryfs.migration.state import ByHandle, Inode, StateV2, body
from ferryfs.migration.trailer_identities import InodeIdentities
from ferryfs.passthrough.config import (
    HandleMode,
    IdentityCheck,
    MigrationConfig,
    MigrationMode,
    RestoreMode,
    ShareConfig,
)
from ferryfs.wire.fuse import ATTR_OUT, DIRENT, ENTRY_OUT, OPEN_OUT, READ_IN, Op, direntplus_size
from migration.sides import FIND_PATHS, MODES, Side, loaded, mode_of, moved, refusal

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="file handles can only be opened by root")

both_modes = pytest.mark.parametrize("config", [replace(mode, restore=RestoreMode.LAZY) for mode in MODES], ids=mode_of)


def number(side: Side, node: int) -> int:
    """The host's number of what the guest gets for a nodeid."""
    return ATTR_OUT.unpack(side.guest.ask(Op.GETATTR, node, bytes(16)))["attr_ino"]


def trouble(side: Side, node: int) -> int:
    return side.guest.refused(Op.GETATTR, node, bytes(16))


def unproven(side: Side) -> set[int]:
    return set(deferred.unproven(side.guest.device))


def proven_in_background(side: Side) -> None:
    """Comes back when the destination has looked at everything."""
    proving = side.migrator.proving
    assert proving is not None
    proving.wait()


@pytest.fixture
def share(tmp_path: Path) -> Path:
    folder = tmp_path / "share"
    for name in ("docs/old", "docs/new", "src"):
        (folder / name).mkdir(parents=True)
    for name in ("README", "docs/old/one", "docs/old/two", "docs/new/one", "src/main.c"):
        (folder / name).write_text(name)
    return folder


NAMES = ("README", "docs/old", "docs/old/one", "docs/old/two", "docs/new/one", "src", "src/main.c")


@contextmanager
def lazily_loaded(data: bytes, share: Path, config: MigrationConfig) -> Iterator[Side]:
    """A destination that proves nothing in the background: its migrator is not told that the rings start."""
    with Side(share, config, init=False) as destination:
        destination.stop()
        destination.load(data)
        destination.go_on(told=False)
        yield destination


@contextmanager
def arrived(
    share: Path, config: MigrationConfig, meanwhile: Callable[[], object] = lambda: None
) -> Iterator[tuple[Side, dict[str, int], dict[str, int]]]:
    """A destination that was loaded after ``meanwhile``; nodeids and the host's numbers of NAMES before it."""
    with Side(share, config) as source:
        nodes = {name: source.walk(name) for name in NAMES}
        numbers = {name: (share / name).lstat().st_ino for name in NAMES}
        source.stop()
        data = source.save()
        meanwhile()
        with lazily_loaded(data, share, config) as destination:
            assert unproven(destination) >= set(nodes.values())
            yield destination, nodes, numbers


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


# ---- what the stream says is not believed


def identities(data: bytes, change: Callable[[InodeIdentities], InodeIdentities]) -> bytes:
    """The stream with other identities in its trailer."""
    found = stream.load(data)
    assert found.trailer is not None
    records = [change(record) if isinstance(record, InodeIdentities) else record for record in found.trailer.records]
    return b"".join(bytes(piece) for piece in stream.save(found.state, records))


@both_modes
def test_a_type_that_is_not_its_own(share: Path, config: MigrationConfig) -> None:
    """A FIFO that the stream calls a file is not opened."""
    os.mkfifo(share / "fifo")
    with Side(share, config) as source:
        node = source.walk("fifo")
        source.stop()
        data = source.save()
        lie = {stat.S_IFIFO >> 12: stat.S_IFREG >> 12}
        told = identities(data, lambda one: replace(one, kinds=bytes(lie.get(kind, kind) for kind in one.kinds)))
        with loaded(told, share, config) as side:
            assert side.guest.refused(Op.OPEN, node, bytes(8)) == errno.ESTALE
            assert side.walk("fifo") == node
            assert stat.S_ISFIFO(ATTR_OUT.unpack(side.guest.ask(Op.GETATTR, node, bytes(16)))["attr_mode"])
            assert side.guest.refused(Op.OPEN, node, bytes(8)) == errno.EBADF


@both_modes
@pytest.mark.parametrize("name", ["secret", "folder"])
def test_a_handle_from_outside_the_share(share: Path, config: MigrationConfig, name: str) -> None:
    """By hand: the file system is the same, so that the handle can be opened."""
    (share.parent / "secret").write_text("secret")
    (share.parent / "folder").mkdir()
    aimed_at = "README" if name == "secret" else "src"
    with Side(share, config) as source:
        node = source.walk(aimed_at)
        source.stop()
        data = source.save()
    fds = [os.open(path, os.O_PATH) for path in (share / aimed_at, share.parent / name)]
    own, outside = (identity.make_handle(fd) for fd in fds)
    for fd in fds:
        os.close(fd)
    assert own is not None
    assert outside is not None
    assert len(own.handle) == len(outside.handle)
    # In the state (file-handles), and in the trailer.
    told = data.replace(own.handle, outside.handle)[:-4]
    told += zlib.crc32(told).to_bytes(4, "little")
    with loaded(told, share, config) as side:
        assert trouble(side, node) == errno.ESTALE
        assert side.guest.refused(Op.OPEN if name == "secret" else Op.OPENDIR, node, bytes(8)) == errno.ESTALE


def handle_of(path: Path) -> bytes:
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW)
    try:
        made = identity.make_handle(fd)
    finally:
        os.close(fd)
    assert made is not None
    return made.handle


def tampered(data: bytes, handles: Sequence[bytes], dice: random.Random) -> bytes:
    """The stream with other handles, types, and (where handles locate) parents and names; well encoded and sealed."""
    found = stream.load(data)
    assert found.trailer is not None
    told = {}

    def change(one: InodeIdentities) -> InodeIdentities:
        size = one.shapes[0].length
        own = [one.handles[at : at + size] for at in range(0, len(one.handles), size)]
        dealt = [own[0], *(dice.choice(handles) if dice.random() < 0.7 else handle for handle in own[1:])]
        told.update(zip(one.ids, dealt, strict=True))
        kinds = bytes(dice.choice((4, 8, 8, 10, 1)) if dice.random() < 0.2 else kind for kind in one.kinds)
        parents = array("Q", [dice.choice(one.ids) if dice.random() < 0.3 else parent for parent in one.parents])
        return replace(one, handles=b"".join(dealt), kinds=kinds, parents=parents)

    records = [change(one) if isinstance(one, InodeIdentities) else one for one in found.trailer.records]

    def located(inode: Inode) -> Inode:
        if not isinstance(inode.location, ByHandle):
            return inode
        return replace(inode, location=ByHandle(replace(inode.location.handle, handle=told[inode.id])))

    v1 = replace(body(found.state), inodes=[located(inode) for inode in body(found.state).inodes])
    assert isinstance(found.state, StateV2)
    return b"".join(bytes(piece) for piece in stream.save(replace(found.state, v1=v1), records))


@both_modes
@pytest.mark.parametrize("seed", range(20))
def test_any_handle_under_any_name(share: Path, config: MigrationConfig, seed: int) -> None:
    """Whatever the guest gets is in the share, and in a directory of it that the guest knows it by."""
    outside = share.parent / "outside"
    (outside / "folder").mkdir(parents=True)
    for name in ("secret", "folder/main.c", "folder/one"):
        (outside / name).write_text("secret")
    (share / "up").symlink_to("../outside")
    os.mkfifo(share / "src/fifo")
    paths = [*share.rglob("*"), share, *outside.rglob("*"), outside, share.parent]
    inside = {path.lstat().st_ino for path in (share, *share.rglob("*"))}
    with Side(share, config) as source:
        nodes = [source.walk(name) for name in (*NAMES, "docs", "docs/new", "up", "src/fifo")]
        source.stop()
        data = tampered(source.save(), [handle_of(path) for path in paths], random.Random(seed))
    with lazily_loaded(data, share, config) as side:
        assert unproven(side) >= set(nodes)
        for node in nodes:
            for op in (Op.OPEN, Op.OPENDIR):
                answer = side.guest.send(Call(op, node, bytes(8)))
                if answer.error == 0 and op is Op.OPEN:
                    fh = OPEN_OUT.unpack(answer.body)["fh"]
                    assert side.read(node, fh) != b"secret"
            answer = side.guest.send(Call(Op.GETATTR, node, bytes(16)))
            assert answer.error in (0, errno.ESTALE)
            assert answer.error or ATTR_OUT.unpack(answer.body)["attr_ino"] in inside
            answer = side.guest.send(Call(Op.LOOKUP, node, b"one\0"))
            assert answer.error or ENTRY_OUT.unpack(answer.body)["attr_ino"] in inside


@both_modes
def test_used_while_it_is_proven(share: Path, config: MigrationConfig) -> None:
    """The guest uses, looks up and forgets what a thread proves at the same time."""
    names = [f"file{index}" for index in range(300)]
    for name in names:
        (share / "docs/new" / name).write_text(name)
    with Side(share, config) as source:
        folder = source.walk("docs/new")
        nodes = {name: source.guest.lookup(name.encode(), folder) for name in names}
        source.stop()
        data = source.save()
        for name in names[::7]:
            (share / "docs/new" / name).unlink()
        with lazily_loaded(data, share, config) as side:
            count = deferred.slots(side.guest.device)
            with ThreadPoolExecutor(2) as pool:
                passes = [pool.submit(deferred.prove, side.guest.device, 0, count) for _ in range(2)]
                for index, (name, node) in enumerate(nodes.items()):
                    if index % 7 == 0:
                        assert trouble(side, node) == errno.ESTALE
                    elif index % 2:
                        assert side.guest.lookup(name.encode(), folder) == node
                        side.forget(node)
                        assert number(side, node) == (share / "docs/new" / name).stat().st_ino
                    side.forget(node)
                for one in passes:
                    one.result()
            assert not unproven(side)
            assert side.guest.device.inode_count == 3


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
                # Another file system there: no handle tells its file from the source's, but the size does.
                subprocess.run(["mount", "-t", "tmpfs", "none", share / "docs/new/mount"], check=True)
                (share / "docs/new/mount/file").write_text("not mine\n")
                said = refusal(data, share, config)
                subprocess.run(["umount", share / "docs/new/mount"], check=True)
                assert "it has 9 bytes here" in said
    finally:
        subprocess.run(["umount", "-l", share / "docs/new/mount"], check=True)
