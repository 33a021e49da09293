"""A guest moves with files open that it made without a name (O_TMPFILE)."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import pytest
from daemons import StartDaemon

from interop.cases import MODES
from interop.mounting import daemon_command, daemon_line, ferryfs, mounted, needs_fuse

pytestmark = needs_fuse


@pytest.mark.parametrize("mode", MODES)
def test_files_without_a_name_move(mode: str, tmp_path: Path, start_daemon: StartDaemon) -> None:
    """One has got a name since, and one has none to this day."""
    shared, mountpoint = tmp_path / "shared", tmp_path / "mountpoint"
    for folder in (shared, mountpoint):
        folder.mkdir()
    options = [f"--migration-mode={mode}", "--modcaps=+dac_read_search"]
    with ExitStack() as stack:
        target = start_daemon(daemon_command("ferryfsd"), shared, ["--sandbox=none", *options])
        stack.callback(target.wait)
        line = daemon_line("ferryfsd", shared, *options)
        stack.enter_context(mounted(tmp_path / "socket", mountpoint, "--daemon", line))
        fds = [os.open(mountpoint, os.O_RDWR | os.O_TMPFILE, 0o600) for _ in range(2)]
        for fd in fds:
            stack.callback(os.close, fd)
            os.write(fd, b"content")
            os.fsync(fd)
        # With a directory's fd Python follows the link.
        os.link(f"/proc/self/fd/{fds[0]}", mountpoint / "named", dst_dir_fd=fds[0], follow_symlinks=True)
        ferryfs("migrate", mountpoint, target.socket)
        for fd in fds:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            assert os.pread(fd, 100, 0) == b"content"
            assert os.pwrite(fd, b"C", 0) == 1
        assert (mountpoint / "named").read_bytes() == b"Content"
