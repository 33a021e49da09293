"""Daemons that are started for a mount: those that come up, those that do not, those that will not go."""

from __future__ import annotations

import io
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ferryfs.errors import OptionError, SetupError
from ferryfs.frontend.daemon_process import DaemonProcess

# A daemon that listens on the socket it is told, answers nobody, and ends when its one front-end goes.
LISTENER = (
    "import socket, sys\n"
    "path = next(word for word in sys.argv if word.startswith('--socket-path=')).split('=', 1)[1]\n"
    "sock = socket.socket(socket.AF_UNIX); sock.bind(path); sock.listen()\n"
    "print('up', flush=True); peer, _ = sock.accept(); peer.recv(1)\n"
    "print('last words', file=sys.stderr); sys.exit(4)\n"
)


@contextmanager
def running(command: str, path: Path) -> Iterator[tuple[DaemonProcess, io.StringIO]]:
    log = io.StringIO()
    daemon = DaemonProcess(command, str(path), log)
    try:
        yield daemon, log
    finally:
        daemon.end()


def program(tmp_path: Path, text: str) -> str:
    file = tmp_path / "daemon.py"
    file.write_text(text)
    return f"'{sys.executable}' '{file}'"


def test_a_daemon_is_waited_for_and_ends_with_its_front_end(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with running(program(tmp_path, LISTENER), path) as (daemon, log):
        daemon.connect().close()
        assert daemon.obituary().endswith("ended with status 4, saying: last words.")
    assert log.getvalue() == "up\nlast words\n"
    assert not path.exists()


def test_a_stale_socket_is_not_taken_for_the_daemon(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(path))
    with running(program(tmp_path, LISTENER), path) as (daemon, _):
        daemon.connect().close()


def test_anothers_socket_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(OptionError, match="Another daemon already listens"):
            DaemonProcess(program(tmp_path, LISTENER), str(path), io.StringIO())
    assert path.exists()


def test_a_daemon_that_ends_at_once_says_why(tmp_path: Path) -> None:
    sentence = r"^The daemon sh ended with status 3, saying: no such share\.$"
    command = "sh -c 'echo no such share >&2; exit 3'"
    with running(command, tmp_path / "socket") as (daemon, _), pytest.raises(SetupError, match=sentence):
        daemon.connect()


def test_a_daemon_that_stays_is_ended(tmp_path: Path) -> None:
    stubborn = LISTENER.replace("sys.exit(4)", "import signal; signal.pause()")
    with running(program(tmp_path, stubborn), tmp_path / "socket") as (daemon, _):
        daemon.connect().close()
        daemon.end()
        assert "ended by SIGTERM" in daemon.obituary()


@pytest.mark.parametrize(
    ("command", "sentence"), [("", "needs a command"), ("'", "can't be split"), ("/none/d", "not found")]
)
def test_commands_that_are_none(command: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=sentence):
        DaemonProcess(command, str(tmp_path / "socket"), io.StringIO())
