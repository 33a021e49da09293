"""What is nowhere in the share any more when an ordinary user's daemon is loaded, which can't open file handles."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from ferryfs.passthrough.config import HandleMode, ShareConfig
from ferryfs.sandbox import _linux
from ferryfs.sandbox.capabilities import mask
from ferryfs.wire.fuse import Op
from migration.sides import FIND_PATHS, Side, loaded, refusal

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give capabilities up for a while")
ORDINARY = ShareConfig(handles=HandleMode.NEVER)


@contextmanager
def without(*names: str) -> Iterator[None]:
    """This thread, and those that it starts, lacks some capabilities."""
    effective, permitted, inheritable = _linux.capget()
    _linux.capset(effective & ~mask(names), permitted, inheritable)
    try:
        yield
    finally:
        _linux.capset(effective, permitted, inheritable)


@pytest.fixture
def share(tmp_path: Path) -> Path:
    for folder in ("a", "b", "c"):
        (tmp_path / "share" / folder).mkdir(parents=True)
        (tmp_path / "share" / folder / "file").write_text(f"file of {folder}")
    return tmp_path / "share"


def removed(share: Path) -> None:
    (share / "a" / "file").unlink()


def replaced(share: Path) -> None:
    (share / "a" / "new").write_text("another one")
    (share / "a" / "new").rename(share / "a" / "file")


def moved_out(share: Path) -> None:
    (share / "a" / "file").rename(share.parent / "outside")


def folder_removed(share: Path) -> None:
    shutil.rmtree(share / "a")


@pytest.mark.parametrize("change", [removed, replaced, moved_out, folder_removed])
def test_nothing_that_is_open_depends_on_it(change: object, share: Path) -> None:
    """It is stale to the guest; who looks its name up anew sees what is there."""
    assert callable(change)
    with without("dac_read_search"), Side(share, FIND_PATHS, ORDINARY) as source:
        cached, held = source.walk("a/file"), source.walk("b/file")
        fh = source.guest.open(held)
        source.stop()
        data = source.save()
        change(share)
        with loaded(data, share, FIND_PATHS, ORDINARY) as destination:
            assert destination.read(held, fh) == b"file of b"
            assert destination.guest.refused(Op.GETATTR, cached, bytes(16))
            # A next one is told, and no loss either.
            destination.stop()
            with loaded(destination.save(), share, FIND_PATHS, ORDINARY) as third:
                assert third.read(held, fh) == b"file of b"
                assert third.guest.refused(Op.GETATTR, cached, bytes(16))


@pytest.mark.parametrize("change", [removed, replaced, moved_out, folder_removed])
def test_an_open_file_is_lost(change: object, share: Path) -> None:
    assert callable(change)
    with without("dac_read_search"), Side(share, FIND_PATHS, ORDINARY) as source:
        source.guest.open(source.walk("a/file"))
        source.stop()
        data = source.save()
        change(share)
        assert "can't be restored" in refusal(data, share)


def test_not_the_whole_share_was_seen(share: Path) -> None:
    """It may be where we can't look, or where the search did not come."""
    with Side(share, FIND_PATHS, ORDINARY) as source:
        source.walk("a/file")
        source.stop()
        data = source.save()
    (share / "a" / "file").rename(share / "c" / "there")
    (share / "c").chmod(0)
    with without("dac_read_search", "dac_override"):
        assert "there is nothing under its name" in refusal(data, share)
    (share / "c").chmod(0o700)
    (share / "c" / "there").unlink()
    with without("dac_read_search"):
        assert "there is nothing under its name" in refusal(data, share, replace(FIND_PATHS, search_limit=0))
        with loaded(data, share, FIND_PATHS, ORDINARY):
            pass


def test_what_is_elsewhere_is_found(share: Path) -> None:
    with without("dac_read_search"), Side(share, FIND_PATHS, ORDINARY) as source:
        cached = source.walk("a/file")
        source.stop()
        data = source.save()
        (share / "a" / "file").rename(share / "c" / "there")
        with loaded(data, share, FIND_PATHS, ORDINARY) as destination:
            assert destination.read(cached, destination.guest.open(cached)) == b"file of a"
