"""What the guest has only cached is removed while it is stopped: no migration fails for that in file-handles mode."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from ferryfs.migration import stream
from ferryfs.migration.state import StateV2, body, mount_paths
from ferryfs.passthrough.config import MigrationConfig, RestoreMode
from ferryfs.wire.fuse import Op
from migration.sides import FILE_HANDLES, MODES, Side, loaded, mode_of, refusal

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="file handles can only be opened by root")

every_config = pytest.mark.parametrize(
    "config", [*MODES, replace(FILE_HANDLES, restore=RestoreMode.LAZY)], ids=["find-paths", "file-handles", "lazy"]
)


class Saved:
    """A guest with a file and a folder cached, and another file open; the source has ended."""

    def __init__(self, share: Path, config: MigrationConfig) -> None:
        for name in ("cached", "open", "beside"):
            (share / name).write_text(name)
        (share / "folder" / "sub").mkdir(parents=True)
        with Side(share, config) as source:
            self.cached, self.open = source.walk("cached"), source.walk("open")
            self.folder, self.sub = source.walk("folder"), source.walk("folder/sub")
            self.fh = source.guest.open(self.open)
            source.stop()
            self.data = source.save()


@every_config
def test_only_cached(tmp_path: Path, config: MigrationConfig) -> None:
    """The guest gets ESTALE for it, upon which Linux looks the name up anew."""
    saved = Saved(tmp_path, config)
    (tmp_path / "cached").unlink()
    (tmp_path / "folder" / "sub").rmdir()
    (tmp_path / "folder").rmdir()
    with loaded(saved.data, tmp_path, config) as destination:
        for node in (saved.cached, saved.folder, saved.sub):
            assert destination.guest.refused(Op.GETATTR, node, bytes(16)) in (errno.ESTALE, errno.ENOENT)
        assert destination.read(saved.open, saved.fh) == b"open"


@pytest.mark.parametrize("config", MODES, ids=mode_of)
def test_open(tmp_path: Path, config: MigrationConfig) -> None:
    """That is a loss, and it is named."""
    saved = Saved(tmp_path, config)
    (tmp_path / "open").unlink()
    assert f"can't be restored: inode {saved.open} ('open')" in refusal(saved.data, tmp_path, config)


def test_without_proof_of_the_directory(tmp_path: Path) -> None:
    """As from a virtiofsd: handles of which not one leads anywhere are another file system's."""
    saved = Saved(tmp_path, FILE_HANDLES)
    found = stream.load(saved.data)
    v1 = body(found.state)
    inodes = [replace(inode, file_handle=None) for inode in v1.inodes]
    bare = StateV2(replace(v1, inodes=tuple(inodes), handles=()), mount_paths(found.state))
    data = b"".join(stream.save(bare, None))
    (tmp_path / "cached").unlink()
    with loaded(data, tmp_path, FILE_HANDLES) as destination:
        assert destination.guest.refused(Op.GETATTR, saved.cached, bytes(16)) == errno.ESTALE
    for name in ("open", "beside"):
        (tmp_path / name).unlink()
    (tmp_path / "folder" / "sub").rmdir()
    (tmp_path / "folder").rmdir()
    assert "it is gone from the file system" in refusal(data, tmp_path, FILE_HANDLES)
