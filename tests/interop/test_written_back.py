"""A file system that two hosts use, each with a cache of its own: what the guest has written goes before it moves.

Two FUSE mounts of one directory, each of which keeps for a while what is written to it (--writeback), are the hosts.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest
from daemons import StartDaemon

from ferryfs.migration.share import Share
from ferryfs.migration.write_back import WriteBack
from interop.mounting import daemon_command, daemon_line, ferryfs, mounted, needs_fuse

pytestmark = needs_fuse


@pytest.fixture
def hosts(tmp_path: Path) -> tuple[Path, Path]:
    """Where the shared directory is mounted on either host."""
    folders = (tmp_path / "one", tmp_path / "other")
    for folder in (*folders, tmp_path / "server", tmp_path / "mountpoint"):
        folder.mkdir()
    return folders


@pytest.mark.parametrize("room", [True, False])
def test_what_the_guest_has_written_goes_before_it(
    hosts: tuple[Path, Path], room: bool, tmp_path: Path, start_daemon: StartDaemon
) -> None:
    """And where it can't go, the guest stays, and is told by its fsync."""
    server, mountpoint = tmp_path / "server", tmp_path / "mountpoint"
    with ExitStack() as stack:
        if not room:
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", server], check=True)
            stack.callback(subprocess.run, ["umount", server], check=True)
        (server / "file").write_bytes(b"old")
        for number, host in enumerate(hosts):
            line = daemon_line("ferryfsd", server, "--writeback", "--cache=always")
            stack.enter_context(mounted(tmp_path / f"host{number}", host, "--daemon", line))
        target = start_daemon(daemon_command("ferryfsd"), hosts[1], ["--sandbox=none"])
        # It uses the other host's mount, which goes next.
        stack.callback(target.stop)
        line = daemon_line("ferryfsd", hosts[0])
        stack.enter_context(mounted(tmp_path / "socket", mountpoint, "--daemon", line))
        fd = os.open(mountpoint / "file", os.O_RDWR)
        content = b"new" * (1000 if room else 100_000)
        try:
            assert os.pwrite(fd, content, 0) == len(content)
            assert (server / "file").read_bytes() == b"old", "the host keeps it for a while"
            moved = ferryfs("migrate", mountpoint, target.socket, check=False)
            assert (moved.returncode == 0) is room, moved.stderr
            if room:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                assert os.pread(fd, len(content), 0) == content
                assert (server / "file").read_bytes() == content
            else:
                with pytest.raises(OSError, match="No space left"):
                    os.fsync(fd)
        finally:
            os.close(fd)


def test_a_file_system_that_comes_later(hosts: tuple[Path, Path], tmp_path: Path) -> None:
    """The guest goes there while the migration collects: the second time it is written back as well."""
    server = tmp_path / "server"
    with ExitStack() as stack:
        for number, host in enumerate(hosts):
            (server / str(number)).mkdir()
            line = daemon_line("ferryfsd", server / str(number), "--writeback", "--cache=always")
            stack.enter_context(mounted(tmp_path / f"host{number}", host, "--daemon", line))
        fds = [os.open(path, os.O_PATH | os.O_DIRECTORY) for path in (tmp_path, "/proc/self/fd")]
        for fd in fds:
            stack.callback(os.close, fd)
        write_back = WriteBack(Share(*fds, -1, "", b""))
        for known in (hosts[:1], hosts):
            # Closing it would write it back.
            file = os.open(known[-1] / "file", os.O_WRONLY | os.O_CREAT)
            stack.callback(os.close, file)
            os.write(file, b"new")
            write_back.start([os.open(host, os.O_RDONLY | os.O_DIRECTORY) for host in known])
            assert write_back.wait(lambda: False) is None
        del write_back
        assert [(server / str(number) / "file").read_bytes() for number in range(2)] == [b"new"] * 2
