"""A share that is FUSE itself, a mount of ours: its next mount gives the old file handles to other files."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from daemons import StartDaemon, daemon_command
from interop.mounting import mounted, needs_fuse

from ferryfs.passthrough.config import MigrationConfig, RestoreMode
from migration.sides import FILE_HANDLES, FIND_PATHS, Side, loaded, refusal

pytestmark = needs_fuse


def saved_on_it(below: Path, share: Path, start_daemon: StartDaemon, config: MigrationConfig) -> tuple[bytes, int, int]:
    """The state of a guest that has "a" open, which is the first that the mount's server has numbered."""
    daemon = start_daemon(daemon_command("ferryfsd"), below, ["--sandbox=none"])
    with mounted(daemon.socket, share), Side(share, config) as source:
        node = source.walk("a")
        fh = source.guest.open(node, os.O_RDONLY)
        source.stop()
        data = source.save()
    daemon.wait()
    return data, node, fh


@pytest.mark.parametrize("other", ["a longer one", "the one!"], ids=["size", "time"])
def test_two_files_are_swapped_while_it_is_not_mounted(
    other: str, tmp_path: Path, start_daemon: StartDaemon, caplog: pytest.LogCaptureFixture
) -> None:
    """It counts as a copy: by its size it is known to be another file, and that its time differs is said."""
    below, share = tmp_path / "below", tmp_path / "share"
    for folder in (below, share):
        folder.mkdir()
    (below / "a").write_text("the file")
    (below / "b").write_text(other)
    os.utime(below / "b", (1, 1))
    data, node, fh = saved_on_it(below, share, start_daemon, FIND_PATHS)
    (below / "b").replace(below / "a")
    daemon = start_daemon(daemon_command("ferryfsd"), below, ["--sandbox=none"])
    with mounted(daemon.socket, share):
        if len(other) != len("the file"):
            assert "it has 12 bytes here, but 8 at the source" in refusal(data, share)
        else:
            with loaded(data, share) as destination:
                destination.read(node, fh)
            assert "1 files of the copy were changed at another time than the source's" in caplog.text
    daemon.wait()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (FILE_HANDLES, "the source sent file handles .* not proven to be the same directory: file handles of FUSE"),
        (replace(FIND_PATHS, restore=RestoreMode.LAZY), "the source left out the sizes"),
    ],
    ids=["file-handles", "lazy"],
)
def test_what_goes_by_handle_is_refused(
    config: MigrationConfig, said: str, tmp_path: Path, start_daemon: StartDaemon
) -> None:
    below, share = tmp_path / "below", tmp_path / "share"
    for folder in (below, share):
        folder.mkdir()
    (below / "a").write_text("the file")
    data, _, _ = saved_on_it(below, share, start_daemon, config)
    daemon = start_daemon(daemon_command("ferryfsd"), below, ["--sandbox=none"])
    with mounted(daemon.socket, share):
        assert re.search(said, refusal(data, share, config))
    daemon.wait()
