"""``--migration-verify-handles``: the handle goes along with the path, and proves a file where nothing else does."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from ferryfs.migration import stream
from ferryfs.migration.state import ROOT_ID, body
from ferryfs.passthrough.config import IdentityCheck, MigrationConfig
from migration.sides import FIND_PATHS, Side, loaded, refusal

# Our own comparison is off, as with a state of virtiofsd's.
BY_PATH = replace(FIND_PATHS, identity=IdentityCheck.OFF)
VERIFIED = replace(BY_PATH, verify_handles=True)


def state_of_a_replaced_file(shared: Path, config: MigrationConfig) -> bytes:
    """The guest holds "file" open; another one of its size and time takes its name before the load."""
    (shared / "file").write_text("the guest's")
    with Side(shared, config) as source:
        source.guest.open(source.walk("file"), os.O_RDONLY)
        source.stop()
        data = source.save()
    times = (shared / "file").stat()
    (shared / "other").write_text("somebody's.")
    os.utime(shared / "other", ns=(times.st_atime_ns, times.st_mtime_ns))
    (shared / "other").rename(shared / "file")
    return data


@pytest.mark.parametrize(("config", "there"), [(BY_PATH, False), (VERIFIED, True)], ids=["by path", "verified"])
def test_the_handle_is_in_the_state(tmp_path: Path, config: MigrationConfig, there: bool) -> None:
    found = stream.load(state_of_a_replaced_file(tmp_path, config))
    others = [inode for inode in body(found.state).inodes if inode.id != ROOT_ID]
    assert [inode.file_handle is not None for inode in others] == [there]


def test_another_file_is_refused_by_its_handle(tmp_path: Path) -> None:
    """Without the switch, and with every other comparison off, it would be taken: that is what the switch is for."""
    data = state_of_a_replaced_file(tmp_path, BY_PATH)
    with loaded(data, tmp_path, BY_PATH):
        pass
    data = state_of_a_replaced_file(tmp_path, VERIFIED)
    assert "another file has its name now" in refusal(data, tmp_path, VERIFIED)
