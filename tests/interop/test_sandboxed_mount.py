"""A mount whose daemon is confined as it is by default: every mode, with the system call filter in force."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from daemons import StartDaemon

from .mounting import daemon_command, ferryfs, mounted, needs_fuse

pytestmark = needs_fuse

POSIX = Path(__file__).parents[1] / "posix"
EVERYTHING = ("--xattr", "--posix-acl", "--killpriv-v2", "--allow-direct-io", "--inode-file-handles=prefer")


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "here").write_text("from the host\n")
    return folder


@pytest.fixture
def mountpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "mnt"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("seccomp", ["kill", "none"])
@pytest.mark.parametrize("mode", ["namespace", "chroot", "none"])
def test_mount_works(start_daemon: StartDaemon, shared: Path, mountpoint: Path, mode: str, seccomp: str) -> None:
    options = [f"--sandbox={mode}", f"--seccomp={seccomp}", *EVERYTHING]
    daemon = start_daemon(daemon_command("ferryfsd"), shared, options)
    with mounted(daemon.socket, mountpoint):
        assert (mountpoint / "here").read_text() == "from the host\n"
        (mountpoint / "folder").mkdir()
        (mountpoint / "folder" / "new").write_text("from the guest\n")
        os.chown(mountpoint / "folder" / "new", 1000, 1000)
        os.setxattr(mountpoint / "folder" / "new", "user.a", b"b")
        os.link(mountpoint / "folder" / "new", mountpoint / "link")
        os.symlink("link", mountpoint / "symbolic")
        os.mkfifo(mountpoint / "fifo")
        os.rename(mountpoint / "link", mountpoint / "renamed")
        os.truncate(mountpoint / "renamed", 4)
        with open(mountpoint / "renamed", "r+b") as file:
            os.fsync(file.fileno())
            os.posix_fallocate(file.fileno(), 0, 8192)
            os.utime(file.fileno(), (1, 2))
    assert (shared / "folder" / "new").read_bytes() == b"from" + bytes(8188)
    assert (shared / "folder" / "new").stat().st_uid == 1000
    assert sorted(os.listdir(shared)) == ["fifo", "folder", "here", "renamed", "symbolic"]


def test_a_single_file(start_daemon: StartDaemon, shared: Path) -> None:
    # Linux mounts directories only; that it starts and answers is what can be tried here.
    daemon = start_daemon(daemon_command("ferryfsd"), shared / "here", [])
    assert daemon.process.poll() is None


def test_posix_suite_needs_nothing_that_the_filter_forbids(
    start_daemon: StartDaemon, shared: Path, mountpoint: Path
) -> None:
    shared.chmod(0o755)
    daemon = start_daemon(daemon_command("ferryfsd"), shared, EVERYTHING)
    with mounted(daemon.socket, mountpoint):
        (mountpoint / "suite").mkdir()
        subprocess.run(
            [sys.executable, str(POSIX), str(mountpoint / "suite")], check=False, capture_output=True, timeout=600
        )
        # What failed is the suites' own business; here a forbidden call would have ended the daemon.
        assert (mountpoint / "here").read_text() == "from the host\n"
    assert "SIGSYS" not in daemon.log_text()


def test_migration_between_confined_daemons(start_daemon: StartDaemon, shared: Path, mountpoint: Path) -> None:
    source = start_daemon(daemon_command("ferryfsd"), shared, EVERYTHING)
    destination = start_daemon(daemon_command("ferryfsd"), shared, EVERYTHING)
    with mounted(source.socket, mountpoint), open(mountpoint / "here") as held, open(mountpoint / "gone", "w+") as gone:
        gone.write("no name left")
        gone.flush()
        (mountpoint / "gone").unlink()
        ferryfs("migrate", mountpoint, destination.socket)
        assert held.read() == "from the host\n"
        gone.seek(0)
        assert gone.read() == "no name left"
        assert os.listdir(mountpoint) == ["here"]
    assert "SIGSYS" not in source.log_text() + destination.log_text()
