"""`ferryfs migrate`, `save` and `mount --restore` between pairs of daemons, under a workload that checks itself."""

from __future__ import annotations

import itertools
import json
import os
import select
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from daemons import StartDaemon

from ferryfs.frontend.control import ask
from interop.mounting import NAMES, PATIENCE_SECONDS, daemon_command, daemon_line, ferryfs, mounted, needs_fuse

pytestmark = needs_fuse

REFERENCE = [name for name in NAMES if name.startswith("virtiofsd")]
PAIRS = list(itertools.product(NAMES, NAMES))


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    path = tmp_path / "shared"
    path.mkdir()
    for number in range(20):
        (path / f"dir{number}").mkdir()
        (path / f"dir{number}" / "file").write_text(f"content {number}\n" * 1000)
    return path


@pytest.fixture
def mountpoint(tmp_path: Path) -> Path:
    path = tmp_path / "mountpoint"
    path.mkdir()
    return path


class Worker:
    """Appends to one file and reads others, until told to stop; what it saw wrong is in ``wrong``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stop = threading.Event()
        self.rounds = 0
        self.wrong: list[str] = []

    def run(self) -> None:
        try:
            with (self._folder / "log").open("ab", buffering=0) as log:
                while not self._stop.is_set():
                    log.write(b"%8d\n" % self.rounds)
                    number = self.rounds % 20
                    path = self._folder / f"dir{number}" / "file"
                    fd = os.open(path, os.O_RDONLY)
                    try:
                        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                        if os.read(fd, 1 << 20) != f"content {number}\n".encode() * 1000:
                            self.wrong.append(str(path))
                    finally:
                        os.close(fd)
                    self.rounds += 1
        except OSError as error:
            self.wrong.append(str(error))

    def stop(self) -> None:
        self._stop.set()


@contextmanager
def at_work(folder: Path) -> Iterator[Worker]:
    worker = Worker(folder)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield worker
    finally:
        worker.stop()
        thread.join()


@pytest.mark.parametrize("drain", [[], ["--no-drain"]], ids=["drain", "no-drain"])
@pytest.mark.parametrize(("source", "destination"), PAIRS)
def test_a_mount_moves_under_work(
    source: str,
    destination: str,
    drain: list[str],
    tmp_path: Path,
    shared: Path,
    mountpoint: Path,
    start_daemon: StartDaemon,
) -> None:
    target = start_daemon(daemon_command(destination), shared, ["--sandbox=none"])
    with mounted(tmp_path / "socket", mountpoint, "--daemon", daemon_line(source, shared)):
        with (mountpoint / "dir0" / "file").open() as held, at_work(mountpoint) as worker:
            assert held.readline() == "content 0\n"
            said = ferryfs("migrate", "--json", *drain, mountpoint, target.socket).stdout
            assert held.read() == "content 0\n" * 999
            before = worker.rounds
            (mountpoint / "dir1" / "new").write_text("written at the destination")
        assert worker.wrong == []
        assert worker.rounds >= before > 0
        answer = json.loads(said)
        assert [name for name, _ in answer["phases"]][-4:] == ["save", "load", "start", "first answer"]
        # Not so with virtiofsd, which now and then leaves a request in the ring that nobody will kick it for again.
        assert not (destination == "ferryfsd" and answer["kicked"])
        assert (shared / "dir1" / "new").read_text() == "written at the destination"
        lines = (shared / "log").read_bytes().splitlines()
        assert lines == [b"%8d" % number for number in range(worker.rounds)]
    assert target.wait() == 0


def test_the_source_serves_on_when_the_destination_refuses(
    tmp_path: Path, shared: Path, mountpoint: Path, start_daemon: StartDaemon
) -> None:
    """Another directory that lacks what the guest has open: abort there, and nothing happened here."""
    name = REFERENCE[-1]
    other = tmp_path / "other"
    other.mkdir()
    target = start_daemon(daemon_command(name), other, ["--sandbox=none"])
    with mounted(tmp_path / "socket", mountpoint, "--daemon", daemon_line(name, shared)):
        with (mountpoint / "dir3" / "file").open() as held, at_work(mountpoint) as worker:
            assert held.readline() == "content 3\n"
            done = ferryfs("migrate", mountpoint, target.socket, check=False)
            assert done.returncode == 1
            assert "CHECK_DEVICE_STATE" in done.stderr
            assert held.read() == "content 3\n" * 999
            (mountpoint / "still").write_text("served")
        assert worker.wrong == []
        nobody = ferryfs("migrate", mountpoint, tmp_path / "nobody", check=False)
        assert "No daemon can be reached" in nobody.stderr
        assert (mountpoint / "still").read_text() == "served"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("command", ["migrate", "save"])
def test_it_is_cancelled_while_the_daemon_collects(
    command: str, how: signal.Signals, tmp_path: Path, shared: Path, mountpoint: Path, start_daemon: StartDaemon
) -> None:
    """By Ctrl-C, or because the command dies: the source serves on, and the destination is let go."""
    source, target, later = (start_daemon(daemon_command("ferryfsd"), shared, ["--sandbox=none"]) for _ in range(3))
    state = tmp_path / "state"
    with mounted(source.socket, mountpoint), (mountpoint / "dir3" / "file").open() as held:
        place = target.socket if command == "migrate" else state
        line = [sys.executable, "-m", "ferryfs.cli.tool", command, "--collect", "20", str(mountpoint), str(place)]
        with subprocess.Popen(line, stderr=subprocess.PIPE, text=True, start_new_session=True) as asking:
            while "while the guest works on" not in source.log_text():
                assert asking.poll() is None
                select.select([], [], [], 0.02)
            asking.send_signal(how)
            _, said = asking.communicate(timeout=PATIENCE_SECONDS)
        if how == signal.SIGINT:
            assert said == f"ferryfs {command}: Cancelled; the daemon goes on serving {mountpoint}.\n"
            assert asking.returncode == 130
        # It is answered when the command before it is done.
        assert ask(str(mountpoint), "status")["source"] == str(source.socket)
        if command == "migrate":
            assert target.wait() == 0
        assert held.read() == "content 3\n" * 1000
        assert not state.exists()
        ferryfs("migrate", mountpoint, later.socket)
        assert source.wait() == 0
        assert "inodes and" not in target.log_text()
        assert len(os.listdir(mountpoint)) == 20


def test_a_state_goes_into_a_file_only(tmp_path: Path, shared: Path, mountpoint: Path) -> None:
    fifo, device = tmp_path / "fifo", tmp_path / "device"
    os.mkfifo(fifo)
    os.mknod(device, stat.S_IFCHR | 0o600, os.makedev(1, 7))
    with mounted(tmp_path / "socket", mountpoint, "--daemon", daemon_line("ferryfsd", shared)):
        for target in (fifo, device):
            done = ferryfs("save", mountpoint, target, check=False)
            assert done.returncode == 1
            assert "the state goes into a file" in done.stderr
        assert len(os.listdir(mountpoint)) == 20
    assert fifo.is_fifo()
    assert device.is_char_device()


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_state_is_restored(name: str, tmp_path: Path, shared: Path, mountpoint: Path) -> None:
    file = tmp_path / "state"
    with (
        mounted(tmp_path / "socket", mountpoint, "--daemon", daemon_line(name, shared)),
        (mountpoint / "dir3" / "file").open() as held,
    ):
        ferryfs("save", mountpoint, file)
        assert held.read() == "content 3\n" * 1000
    for _ in range(2):
        line = daemon_line(name, shared)
        with mounted(tmp_path / "socket", mountpoint, "--restore", str(file), "--daemon", line):
            assert (mountpoint / "dir3" / "file").read_text() == "content 3\n" * 1000
            assert len(os.listdir(mountpoint)) == 20
    file.write_bytes(b"\xff" * 10)
    other = ferryfs("mount", "--restore", file, tmp_path / "socket", mountpoint, "--daemon", line, check=False)
    assert other.returncode == 1
    assert "was saved with another state" in other.stderr
    (tmp_path / "state.mount").unlink()
    bad = ferryfs(
        "mount", "--restore", file, "--daemon", daemon_line(name, shared), tmp_path / "socket", mountpoint, check=False
    )
    assert bad.returncode == 1
    assert "CHECK_DEVICE_STATE" in bad.stderr
