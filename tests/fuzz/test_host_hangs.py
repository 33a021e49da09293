"""The host's file system does not answer any more, a request hangs in it, and the daemon is to end all the same.

A FUSE server that stands still. One that has taken the request from /dev/fuse is worse: Linux lets nobody out of that
wait, not even who is killed.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from daemons import StartDaemon
from interop.mounting import mounted, needs_fuse

from ferryfs.frontend.control import ask
from ferryfs.guest.backend import Backend, own_daemon
from ferryfs.migration.share import Share
from ferryfs.migration.write_back import WriteBack
from ferryfs.wire.fuse import ENTRY_OUT, OUT_HEADER, Op
from ferryfs.wire.vhost_user import Request, VringState, encode_request

from .monitor import TIMEOUT, Monitor, request

pytestmark = needs_fuse

HANGS = "For 5 s a request of the guest has been hanging in the host's file system"


@pytest.fixture
def hanging(tmp_path: Path, start_daemon: StartDaemon) -> Iterator[tuple[Path, int]]:
    """A share with a FUSE mount in it, and the process that serves that one, which a test stops."""
    shared, below = tmp_path / "shared", tmp_path / "below"
    (shared / "dir").mkdir(parents=True)
    below.mkdir()
    server = start_daemon(own_daemon(), below, ["--sandbox=none"])
    with mounted(server.socket, shared / "dir") as mountpoint:
        process = ask(str(mountpoint), "status")["pid"]
        try:
            yield shared, process
        finally:
            os.kill(process, signal.SIGCONT)


def stop(process: int) -> None:
    """Stops it, and waits until none of its threads can take a request any more."""
    os.kill(process, signal.SIGSTOP)
    deadline = time.monotonic() + TIMEOUT
    while any(") T " not in status.read_text() for status in Path(f"/proc/{process}/task").glob("*/stat")):
        assert time.monotonic() < deadline
        select.select([], [], [], 0.001)


@contextmanager
def front_end(daemon: Backend, server: int) -> Iterator[Monitor]:
    """It has a request in flight that hangs."""
    with Monitor(daemon) as monitor:
        monitor.start()
        _, entry = monitor.answer(Op.LOOKUP, 1, b"dir\0")
        nodeid = ENTRY_OUT.unpack(entry[: ENTRY_OUT.size])["nodeid"]
        stop(server)
        monitor.queues[1].add([request(Op.LOOKUP, nodeid, b"file\0", 4711)], [OUT_HEADER.size, 4096])
        # It was taken before this one, which is answered.
        assert monitor.ask(Op.STATFS, 1) == 0
        yield monitor


def wait_for_line(daemon: Backend, line: str) -> None:
    """Until the daemon has written it."""
    deadline = time.monotonic() + TIMEOUT
    while line not in daemon.log_text():
        assert time.monotonic() < deadline, daemon.log_text()
        select.select([], [], [], 0.01)


@pytest.mark.parametrize("sandbox", ["none", "namespace"])
def test_a_signal_ends_the_daemon(sandbox: str, hanging: tuple[Path, int], start_daemon: StartDaemon) -> None:
    shared, server = hanging
    daemon = start_daemon(own_daemon(), shared, [f"--sandbox={sandbox}", "--keep-listening"])
    with front_end(daemon, server):
        os.kill(daemon.pid, signal.SIGTERM)
        assert daemon.wait(30) == 0
    assert f"{HANGS}: the daemon ends without it." in daemon.log_text()


def test_a_signal_ends_a_wait_for_the_request(hanging: tuple[Path, int], start_daemon: StartDaemon) -> None:
    """The front-end asks for the ring's base, and nothing looks at signals until the request has been answered."""
    shared, server = hanging
    daemon = start_daemon(own_daemon(), shared, ["--sandbox=none"])
    with front_end(daemon, server) as monitor:
        os.write(monitor.client.fileno(), encode_request(Request.GET_VRING_BASE, VringState(1, 0)))
        os.kill(daemon.pid, signal.SIGTERM)
        assert daemon.wait(30) == 0
    assert f"{HANGS}: the daemon ends without it." in daemon.log_text()


def test_the_daemon_ends_with_its_front_end(hanging: tuple[Path, int], start_daemon: StartDaemon) -> None:
    shared, server = hanging
    daemon = start_daemon(own_daemon(), shared, ["--sandbox=none"])
    with front_end(daemon, server):
        pass
    assert daemon.wait(30) == 0
    assert f"{HANGS}: the daemon ends without it." in daemon.log_text()


def test_why_a_connection_ended_is_told_all_the_same(hanging: tuple[Path, int], start_daemon: StartDaemon) -> None:
    """The front-end breaks the protocol while a request hangs: the sentence about that, and status 1."""
    shared, server = hanging
    with Backend(own_daemon(), shared, shared.parent / "s", shared.parent / "log", ["--sandbox=none"]) as daemon:
        with front_end(daemon, server) as monitor:
            os.write(monitor.client.fileno(), encode_request(Request.SET_VRING_NUM, VringState(0, 3)))
            assert daemon.wait(30) == 1
        assert "SET_VRING_NUM has 3" in daemon.log_text()
        assert f"{HANGS}: the daemon ends without it." in daemon.log_text()


def test_nobody_has_to_wait_for_what_is_written_back(hanging: tuple[Path, int]) -> None:
    """A migration has the host write what it caches of a network file system, and is cancelled while that hangs."""
    shared, server = hanging
    root, proc = (os.open(path, os.O_PATH | os.O_DIRECTORY) for path in (shared, "/proc/self/fd"))
    file = os.open(shared / "dir", os.O_RDONLY | os.O_DIRECTORY)
    stop(server)
    write_back = WriteBack(Share(root, proc, -1, "", b""))
    write_back.start([file])
    assert write_back.wait(lambda: True) is None
    os.kill(server, signal.SIGCONT)
    assert write_back.wait(lambda: False) is None
    for fd in (root, proc):
        os.close(fd)


def test_a_daemon_that_goes_on_listening_says_what_it_waits_for(
    hanging: tuple[Path, int], start_daemon: StartDaemon
) -> None:
    shared, server = hanging
    daemon = start_daemon(own_daemon(), shared, ["--sandbox=none", "--keep-listening"])
    with ExitStack() as stack:
        with front_end(daemon, server):
            pass
        other = stack.enter_context(Monitor(daemon))
        wait_for_line(daemon, f"{HANGS}: the next front-end is served when it has ended.")
        os.kill(server, signal.SIGCONT)
        other.start()
        assert other.ask(Op.GETATTR, 1) == 0
