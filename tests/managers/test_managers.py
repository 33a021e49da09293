"""Everything that starts virtiofsd can start ferryfsd: the recorded command lines, with a mount behind each.

A manager is played by what it does to the daemon: the words, the socket, the user, the signals. That its own code does
just this is what ``source`` in ``managers.toml`` is for.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemons import complaints
from interop.mounting import mounted, needs_fuse

from ferryfs.guest.backend import own_daemon
from managers.starting import (
    PATIENCE_SECONDS,
    Start,
    connect,
    listening_socket,
    short_folder,
    started,
    table,
    words,
)

ROWS = table()
SHARED = Path("from-the-host")
GET_FEATURES = struct.pack("<III", 1, 1, 0)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="most managers run the daemon as root: run the tests as root")

every_manager = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


def row_of(name: str) -> Start:
    return next(row for row in ROWS if row.name == name)


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as path:
        yield path


@pytest.fixture
def share(folder: Path, request: pytest.FixtureRequest) -> Path:
    call = getattr(request.node, "callspec", None)
    made = folder / (call.params["row"].share_name if call else "share")
    made.mkdir()
    (made / SHARED).write_text("written on the host\n")
    return made


def served(front_end: socket.socket) -> bool:
    """The daemon answers; false when it is gone."""
    try:
        front_end.sendall(GET_FEATURES)
        return len(front_end.recv(20)) == 20
    except (ConnectionResetError, BrokenPipeError):
        return False


class TestEach:
    pytestmark = needs_fuse

    @every_manager
    def test_serves_and_ends_with_its_front_end(self, row: Start, share: Path, folder: Path) -> None:
        mountpoint = folder / "mnt"
        mountpoint.mkdir()
        if row.owner:
            os.chown(share, row.owner, row.owner)
        with started(row, share, folder) as daemon:
            if row.ready == "pid-file":
                connectable(daemon.socket)
            with mounted(daemon.socket, mountpoint):
                assert (mountpoint / SHARED).read_text() == "written on the host\n"
                if row.readonly:
                    with pytest.raises(OSError, match="Read-only file system"):
                        (mountpoint / "new").touch()
                else:
                    uses(row, mountpoint, share)
            assert daemon.wait() == 0, daemon.said()
            assert complaints(daemon.said()) == []

    @every_manager
    def test_ends_as_the_manager_ends_it_and_starts_again(self, row: Start, share: Path, folder: Path) -> None:
        with started(row, share, folder) as daemon, connect(daemon.socket) as front_end:
            assert served(front_end), daemon.said()
            daemon.process.send_signal(row.end_signal)
            # What is left of a sandbox must not serve on.
            assert front_end.recv(1) == b""
            expected = 0 if row.end_signal is signal.SIGTERM else -row.end_signal
            assert daemon.wait() == expected, daemon.said()
        # The same path again, with whatever the first one left there.
        with started(row, share, folder) as daemon:
            with connect(daemon.socket) as front_end:
                assert served(front_end), daemon.said()
            assert daemon.wait() == 0, daemon.said()


def connectable(path: Path) -> None:
    """virtme-ng looks at the pid file and then starts QEMU, which takes longer than the daemon to bind its socket."""
    while not path.exists():
        select.select([], [], [], 0.01)


def uses(row: Start, mountpoint: Path, share: Path) -> None:
    """What any guest does, seen from both sides."""
    (mountpoint / "folder").mkdir()
    (mountpoint / "folder" / "file").write_text("written in the guest\n")
    (mountpoint / "folder" / "file").rename(mountpoint / "folder" / "renamed")
    there = share / "folder" / "renamed"
    assert there.read_text() == "written in the guest\n"
    assert (there.stat().st_uid, there.stat().st_gid) == (row.owner, row.owner)
    assert sorted(os.listdir(mountpoint)) == ["folder", str(SHARED)]
    if row.xattr:
        os.setxattr(mountpoint / SHARED, "user.ferryfs", b"value")
        assert os.getxattr(share / SHARED, "user.ferryfs") == b"value"


@pytest.mark.parametrize("row", [row for row in ROWS if row.dies_with], ids=lambda row: row.name)
def test_dies_with_its_manager(row: Start, share: Path, folder: Path) -> None:
    """The signal that the manager asked for before it started us is still asked for after all changes of rights."""
    manager = """
import ctypes, signal, subprocess, sys
fds = [int(one) for one in sys.argv[2].split(",") if one]
ask = lambda: ctypes.CDLL(None).prctl(1, signal.Signals[sys.argv[1]])
child = subprocess.Popen(sys.argv[3:], preexec_fn=ask, pass_fds=fds, stderr=subprocess.DEVNULL)
print(child.pid, flush=True)
child.wait()
"""
    path = folder / "s"
    with listening_socket(folder / "given") as given:
        fds = [given.fileno()] if row.brings_socket else []
        command = words(row, share, path, given.fileno())
        with subprocess.Popen(
            [sys.executable, "-c", manager, row.dies_with, ",".join(map(str, fds)), *command],
            stdout=subprocess.PIPE,
            pass_fds=fds,
        ) as parent:
            assert parent.stdout is not None
            daemon = os.pidfd_open(int(parent.stdout.readline()))
            try:
                with connect(folder / "given" if row.brings_socket else path) as front_end:
                    assert served(front_end)
                    parent.kill()
                    assert select.select([daemon], [], [], PATIENCE_SECONDS)[0], "the daemon outlives its manager"
                    assert front_end.recv(1) == b""
            finally:
                os.close(daemon)


class TestQuestions:
    """What managers ask the program before they start it."""

    def test_libvirt_and_incus_read_the_capabilities(self) -> None:
        done = subprocess.run([*own_daemon(), "--print-capabilities"], capture_output=True, text=True, check=True)
        answer = json.loads(done.stdout)
        assert answer["type"] == "fs"
        assert {"separate-options", "migrate-precopy", "posix-acl-negotiation-mode"} <= set(answer["features"])

    def test_bcvk_looks_for_readonly_in_the_help(self) -> None:
        done = subprocess.run([*own_daemon(), "--help"], capture_output=True, text=True, check=True)
        assert "--readonly" in done.stdout

    def test_virtme_ng_asks_for_the_version_as_an_ordinary_user(self) -> None:
        subprocess.run([*row_of("virtme-ng").prefix(), *own_daemon(), "--version"], check=True, capture_output=True)


class TestLibvirt:
    ROW = row_of("libvirt-defaults")

    def test_a_full_pipe_to_the_log_stops_nothing(self, share: Path, folder: Path) -> None:
        """virtlogd's pipe does not block (virCommandNonblockingFDs), so a line may find no room."""
        read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        with open(read, "rb"), open(write, "wb", buffering=0) as pipe:
            while pipe.write(bytes(4096)):
                pass
            with started(self.ROW, share, folder, stderr=pipe) as daemon:
                with connect(daemon.socket) as front_end:
                    assert served(front_end)
                assert daemon.wait() == 0

    def test_the_process_group_can_be_killed(self, share: Path, folder: Path) -> None:
        """virPidFileForceCleanupPathFull signals the group of the process that it started."""
        with started(self.ROW, share, folder) as daemon, connect(daemon.socket) as front_end:
            assert served(front_end)
            os.killpg(daemon.process.pid, signal.SIGTERM)
            assert front_end.recv(1) == b""
            assert daemon.wait() == 0


class TestProxmox:
    """It keeps its copy of the listening socket, and shuts it down when the machine runs, or did not start."""

    ROW = row_of("proxmox-ve")

    def run(self, share: Path, path: Path, listening: socket.socket) -> subprocess.Popen[bytes]:
        command = words(self.ROW, share, path, listening.fileno())
        return subprocess.Popen(command, pass_fds=[listening.fileno()], stderr=subprocess.DEVNULL)

    def test_shutdown_while_connected_changes_nothing(self, share: Path, folder: Path) -> None:
        with listening_socket(folder / "s") as listening, self.run(share, folder / "s", listening) as daemon:
            with connect(folder / "s") as front_end:
                assert served(front_end)
                listening.shutdown(socket.SHUT_RDWR)
                listening.close()
                assert served(front_end)
            assert daemon.wait(PATIENCE_SECONDS) == 0

    def test_shutdown_before_a_connection_ends_the_daemon(self, share: Path, folder: Path) -> None:
        with listening_socket(folder / "s") as listening, self.run(share, folder / "s", listening) as daemon:
            listening.shutdown(socket.SHUT_RDWR)
            assert daemon.wait(PATIENCE_SECONDS) == 0


def test_virtme_ng_ends_the_process_that_the_pid_file_names(share: Path, folder: Path) -> None:
    with started(row_of("virtme-ng"), share, folder) as daemon:
        connectable(daemon.socket)
        os.kill(int(Path(f"{daemon.socket}.pid").read_text()), signal.SIGTERM)
        daemon.wait()


def test_every_row_is_in_the_compatibility_table() -> None:
    text = (Path(__file__).parents[2] / "docs" / "compatibility.md").read_text()
    assert [row.name for row in ROWS if f"`{row.name}`" not in text] == []
