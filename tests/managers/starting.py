"""A manager as far as a daemon sees it: the words it uses, where the socket comes from, what it waits for."""

from __future__ import annotations

import contextlib
import grp
import os
import resource
import select
import signal
import socket
import subprocess
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from ferryfs.guest.backend import READY, own_daemon

TABLE: Final = Path(__file__).with_name("managers.toml")
PATIENCE_SECONDS: Final = 60.0
POLL_SECONDS: Final = 0.01
NIX_FILES: Final = 1048576

# util-linux's way to a user namespace of one user, who is root in it or not.
_USERS: Final[Mapping[str, Sequence[str]]] = {
    "root": (),
    "mapped root": ("unshare", "--user", "--map-root-user"),
    "ordinary": ("unshare", "--user", "--map-user=107", "--map-group=107", "setpriv", "--no-new-privs"),
}


@dataclass(frozen=True)
class Start:
    """One row of ``managers.toml``, where each field is explained."""

    name: str
    source: str
    command: Sequence[str]
    ready: str
    end: str
    folder: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str = "root"
    dies_with: str = ""
    owner: int = 0
    xattr: bool = False
    readonly: bool = False

    @property
    def end_signal(self) -> signal.Signals:
        return signal.Signals[self.end]

    @property
    def share_name(self) -> str:
        """The last part of the shared directory's path."""
        return "with,comma" if any("{commas}" in word for word in self.command) else "share"

    @property
    def brings_socket(self) -> bool:
        """The manager makes the socket and hands it over."""
        return any("{fd}" in word for word in self.command)

    def prefix(self) -> Sequence[str]:
        """What makes the process the user that the manager runs it as."""
        return _USERS[self.user]


def table() -> list[Start]:
    """Every row. Raises TypeError for a field that there is not."""
    return [Start(**row) for row in tomllib.loads(TABLE.read_text())["start"]]


@dataclass
class Running:
    """A daemon that a manager started."""

    process: subprocess.Popen[bytes]
    socket: Path
    log: Path

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def wait(self) -> int:
        """Its status, when it ends by itself."""
        return self.process.wait(PATIENCE_SECONDS)


def listening_socket(path: Path) -> socket.socket:
    """What a manager does that hands the socket over."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.bind(str(path))
    made.listen()
    return made


def words(row: Start, share: Path, path: Path, fd: int) -> list[str]:
    """The whole command line."""
    group = grp.getgrgid(os.getgid()).gr_name
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    known = {
        "{share}": str(share),
        "{commas}": str(share).replace(",", ",,"),
        "{socket}": str(path),
        "{fd}": str(fd),
        "{group}": group,
        "{files}": str(NIX_FILES if hard == resource.RLIM_INFINITY else min(NIX_FILES, hard)),
    }
    filled = []
    for word in row.command:
        for name, value in known.items():
            word = word.replace(name, value)
        filled.append(word)
    return [*row.prefix(), *own_daemon(), *filled]


@contextmanager
def short_folder() -> Iterator[Path]:
    """Where the path of a socket is short enough (108 bytes)."""
    with tempfile.TemporaryDirectory(prefix="ferryfs-") as name:
        yield Path(name)


@contextmanager
def started(row: Start, share: Path, folder: Path, stderr: BinaryIO | None = None) -> Iterator[Running]:
    """The daemon, once its manager would go on; killed at the end if it still runs."""
    path, log = folder / "s", folder / "log"
    environment = {**os.environ, **row.environment}
    with ExitStack() as stack:
        output = stack.enter_context(log.open("wb"))
        fds = []
        if row.brings_socket:
            path.unlink(missing_ok=True)
            # The manager closes its end once the daemon runs: with the daemon the socket is gone.
            handed = stack.enter_context(listening_socket(path))
            fds.append(handed.fileno())
        process = subprocess.Popen(
            words(row, share, path, fds[0] if fds else -1),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=stderr or output,
            cwd=share if row.folder else None,
            env=environment,
            pass_fds=fds,
            start_new_session=True,
        )
        if fds:
            handed.close()
        stack.callback(_make_end, process)
        running = Running(process, path, log)
        _wait_as_the_manager(row, running)
        yield running


def _make_end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(PATIENCE_SECONDS)


def _is_there(row: Start, running: Running) -> bool:
    match row.ready:
        case "nothing":
            return True
        case "line":
            return READY in running.said()
        case "socket":
            return running.socket.exists()
        case "pid-file":
            return Path(f"{running.socket}.pid").exists()
    raise ValueError(f"{row.name}: ready = {row.ready!r} is not known")


def _wait_as_the_manager(row: Start, running: Running) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    ended = os.pidfd_open(running.process.pid)
    try:
        while not _is_there(row, running):
            if select.select([ended], [], [], POLL_SECONDS)[0]:
                raise AssertionError(f"the daemon of {row.name} ended before it was ready: {running.said()}")
            assert time.monotonic() < until, f"{row.name} waits in vain for: {row.ready}. {running.said()}"
    finally:
        os.close(ended)


def connect(path: Path) -> socket.socket:
    """A front-end's connection; a socket that is not there yet is waited for, as QEMU's start is slower than this."""
    front_end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    front_end.settimeout(PATIENCE_SECONDS)
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            front_end.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            if time.monotonic() > until:
                front_end.close()
                raise
            select.select([], [], [], POLL_SECONDS)
        else:
            return front_end
