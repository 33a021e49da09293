"""--migration-restore=lazy: what the stream says is not believed, neither at once nor at the first use."""

from __future__ import annotations

import errno
import os
import random
import stat
import zlib
from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from engine_guest import Call

from ferryfs.migration import deferred, identity, stream
from ferryfs.migration.state import ByHandle, Inode, StateV2, body
from ferryfs.migration.trailer_identities import InodeIdentities
from ferryfs.passthrough.config import MigrationConfig
from ferryfs.wire.fuse import ATTR_OUT, ENTRY_OUT, OPEN_OUT, Op
from migration.lazily import NAMES, both_modes, build, lazily_loaded, number, trouble, unproven
from migration.sides import Side, loaded

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="file handles can only be opened by root")


@pytest.fixture
def share(tmp_path: Path) -> Path:
    return build(tmp_path / "share")


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
