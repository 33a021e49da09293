"""vhost/serve.py: the socket's file, its lock, and what is said when it can't be had."""

import fcntl
import os
import select
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ferryfs.errors import OptionError, SetupError
from ferryfs.vhost import serve


@contextmanager
def listening(path: Path, group: int | None = None) -> Iterator[socket.socket]:
    sock, lock_fd = serve.listen(str(path), group)
    try:
        yield sock
    finally:
        sock.close()
        os.close(lock_fd)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_socket_is_its_owners(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    old = os.umask(0)
    try:
        with listening(path):
            assert os.umask(0) == 0
            assert stat.S_ISSOCK(path.lstat().st_mode)
            assert mode(path) == 0o700
            with socket.socket(socket.AF_UNIX) as front_end:
                front_end.connect(str(path))
    finally:
        os.umask(old)


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a file to a group that one is not in needs root")
def test_socket_of_a_group(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with listening(path, 12345):
        assert mode(path) == 0o770
        assert path.lstat().st_gid == 12345


@pytest.mark.parametrize("lock", ["flock", "lockf"])
def test_pid_file_is_written_and_locked(tmp_path: Path, lock: str) -> None:
    """By both kinds, which don't see each other: virtiofsd asks for the first one."""
    path = tmp_path / "s.sock"
    try_lock = f"import fcntl, sys; fcntl.{lock}(open(sys.argv[1], 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    command = [sys.executable, "-c", try_lock, f"{path}.pid"]
    with listening(path):
        assert Path(f"{path}.pid").read_text() == f"{os.getpid()}\n"
        assert mode(Path(f"{path}.pid")) == 0o600
        locked = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "BlockingIOError" in locked.stderr
    subprocess.run(command, check=True)


def test_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with listening(path):
        first = path.lstat().st_ino
    assert path.exists()
    with listening(path), socket.socket(socket.AF_UNIX) as front_end:
        front_end.connect(str(path))
        assert (path.lstat().st_ino, path.lstat().st_nlink) != (first, 0)


def test_socket_of_another_daemon_is_not_touched_by_the_probe(tmp_path: Path) -> None:
    """The lock is looked at first: a connection that only tries would be the one front-end that the other waits for."""
    path = tmp_path / "s.sock"
    script = (
        "import sys; from ferryfs.vhost import serve; sock, _ = serve.listen(sys.argv[1]); print('ready', flush=True);"
        "sock.setblocking(True); sock.settimeout(30); conn, _ = sock.accept(); print(conn.recv(10).decode())"
    )
    other = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    with other.stdout as output:
        try:
            assert output.readline() == "ready\n"
            with pytest.raises(
                SetupError, match=rf"The socket {path} is in use by {other.pid}, which holds {path}\.pid"
            ):
                serve.listen(str(path))
            with socket.socket(socket.AF_UNIX) as front_end:
                front_end.connect(str(path))
                front_end.send(b"real")
                assert output.readline() == "real\n"
        finally:
            other.kill()
            other.wait()


@pytest.mark.parametrize("backlog", [0, 5])
def test_live_socket_of_somebody_else(tmp_path: Path, backlog: int) -> None:
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as waiting:
        other.bind(str(path))
        other.listen(backlog)
        waiting.connect(str(path))  # fills a backlog of 0
        with pytest.raises(SetupError, match=f"The socket {path} is in use: choose another --socket-path"):
            serve.listen(str(path))
        assert path.exists()


def test_what_is_not_a_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("precious")
    with pytest.raises(SetupError, match="exists and is not a socket"):
        serve.listen(str(path))
    assert path.read_text() == "precious"


def test_link_in_the_place_of_the_pid_file_is_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / "s.sock.pid").symlink_to(precious)
    with pytest.raises(SetupError, match=r"s\.sock\.pid can't be made"):
        serve.listen(str(tmp_path / "s.sock"))
    assert precious.read_text() == "precious"


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"gone/s\.sock\.pid can't be made: No such file or directory"):
        serve.listen(str(tmp_path / "gone" / "s.sock"))


def test_path_that_is_too_long_for_a_socket(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="can't be made: AF_UNIX path too long"):
        serve.listen(str(tmp_path / ("x" * 150)))


def test_adopt(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as original:
        original.bind(str(tmp_path / "s.sock"))
        original.listen()
        fd = fcntl.fcntl(original.fileno(), fcntl.F_DUPFD, 3)
        with serve.adopt(fd) as sock:
            assert sock.fileno() == fd
            assert not os.get_inheritable(fd)


def test_adopt_refuses_what_is_no_listening_socket(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="--fd=987 is not a socket: Bad file descriptor"):
        serve.adopt(987)
    fd = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(OptionError, match=f"--fd={fd} is not a socket"):
        serve.adopt(fd)
    os.close(fd)
    ours, theirs = socket.socketpair()
    with pytest.raises(OptionError, match=f"--fd={theirs.fileno()} is not a listening Unix socket"):
        serve.adopt(theirs.fileno())
    assert theirs.send(b"still open") == 10
    ours.close()
    theirs.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_end_signals(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with serve.EndSignals() as stop:
        signal.raise_signal(number)
        assert os.read(stop.fileno(), 10) == bytes([number])
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_was_ignored_stays_so(number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with serve.EndSignals() as stop:
            signal.raise_signal(number)
            assert select.select([stop], [], [], 0)[0] == []
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)
