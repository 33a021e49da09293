"""Files whose name is gone: open, cached, or removed between save and load."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ferryfs.migration import stream
from ferryfs.migration.state import Invalid, body
from ferryfs.migration.trailer_records import Content
from golden.held import GUEST_ERROR, MODES, guest, hold, load, saved
from golden.peer import VERSIONS, missing, running

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="file handles and --sandbox=none need root")


def test_a_file_that_is_gone(share: Path) -> None:
    """Deleted between save and load: abort names it, guest-error loses it alone and passes it on."""
    with guest(share) as source:
        victim, other = hold(source, share, "src/main.c"), hold(source, share, "README")
        data = saved(source)
    (share / "src" / "main.c").unlink()
    good, destination = load(data, share)
    assert not good
    assert "'main.c'" in destination.close()
    good, destination = load(data, share, GUEST_ERROR)
    try:
        assert good
        assert destination.read(other.node, other.handle) == other.content
        with pytest.raises(OSError, match=r"."):
            destination.read(victim.node, victim.handle)
        with pytest.raises(OSError, match=r"."):
            destination.size_of(victim.node)
        again = saved(destination)
    finally:
        destination.close()
    (share / "src" / "main.c").write_bytes(victim.content)
    good, third = load(again, share, GUEST_ERROR)
    try:
        assert good
        assert third.read(other.node, other.handle) == other.content
        third.release(victim.node, victim.handle)
        third.forget(victim.node)
    finally:
        third.close()


@pytest.mark.parametrize("mode", MODES)
def test_an_unlinked_open_file(share: Path, mode: str) -> None:
    """Its content survives, and a second migration; in the same directory it is even the same file."""
    with guest(share, mode) as source:
        held = hold(source, share, "gone", os.O_RDWR)
        source.unlink(1, b"gone")
        source.write(held.node, held.handle, b"far", 1 << 20)
        assert source.size_of(held.node) == (1 << 20) + 3
        data = saved(source)
        good, destination = load(data, share, mode)
    try:
        assert good, destination.close()
        assert destination.read(held.node, held.handle, 5) == held.content
        assert destination.size_of(held.node) == (1 << 20) + 3
        destination.write(held.node, held.handle, b"SOON")
        again = saved(destination)
        good, third = load(again, share, mode)
    finally:
        destination.close()
    try:
        assert good, third.close()
        assert third.read(held.node, held.handle, 5) == b"SOON" + held.content[4:]
    finally:
        third.close()


def test_unlinked_content_when_the_source_has_gone(share: Path) -> None:
    """A snapshot restored later, twice: the content comes from the stream, holes stay holes."""
    with guest(share) as source:
        held = hold(source, share, "gone", os.O_RDWR)
        source.unlink(1, b"gone")
        source.write(held.node, held.handle, b"far", 1 << 30)
        data = saved(source)
    assert len(data) < 1 << 20
    records = stream.load(data).trailer
    assert records is not None
    assert any(isinstance(record, Content) for record in records.records)
    for _ in range(2):
        good, destination = load(data, share)
        try:
            assert good, destination.close()
            assert destination.read(held.node, held.handle, 5) == held.content
            assert destination.size_of(held.node) == (1 << 30) + 3
        finally:
            destination.close()


def test_the_limit_of_unlinked_content(share: Path) -> None:
    """What exceeds it is lost by name; lost switches carrying off."""
    for option in ("--migration-unlinked-limit=1K", "--migration-unlinked=lost"):
        (share / "big").write_bytes(bytes(100_000))
        with guest(share, option) as source:
            hold(source, share, "big")
            source.unlink(1, b"big")
            data = saved(source)
            said = source.close()
        assert "--migration-unlinked" in said
        assert any(isinstance(inode.location, Invalid) for inode in body(stream.load(data).state).inodes)
        good, destination = load(data, share)
        destination.close()
        assert not good


def test_a_dead_inode_fails_nothing(share: Path) -> None:
    """Looked up, not open, unlinked: left out of the state, so that virtiofsd takes it as well."""
    with guest(share) as source:
        held = hold(source, share, "README")
        node = source.lookup(1, b"gone")
        source.unlink(1, b"gone")
        data = saved(source)
    assert node not in {inode.id for inode in body(stream.load(data).state).inodes}
    good, destination = load(data, share)
    try:
        assert good, destination.close()
        assert destination.read(held.node, held.handle) == held.content
        destination.forget(node)
    finally:
        destination.close()
    if not missing():
        for version in VERSIONS:
            with running(version, share) as other:
                assert other.load(data)
