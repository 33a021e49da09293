"""A vhost-user-fs daemon as a child process: ours or the reference, told apart by its command only."""

from __future__ import annotations

import os
import select
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from ferryfs.errors import SetupError
from ferryfs.guest.image import cache_folder

# What every daemon of this kind says once its socket listens.
READY = "Waiting for vhost-user socket connection"
START_TIMEOUT = 30.0
STOP_TIMEOUT = 10.0
POLL_SECONDS = 0.005


def own_daemon() -> tuple[str, ...]:
    """The command of the ``ferryfsd`` that belongs to this Python; else the one on the path."""
    beside = Path(sys.executable).with_name("ferryfsd")
    found = str(beside) if beside.exists() else shutil.which("ferryfsd")
    if found is None:
        raise SetupError("there is no ferryfsd: install the package (`pip install .`), or name a daemon with --daemon.")
    return (found,)


def reference_daemon(version: str) -> tuple[str, ...] | None:
    """The command of a virtiofsd that ``scripts/peers`` fetched; None when it is not there."""
    wrapper = cache_folder() / "peers" / f"virtiofsd-{version}" / "virtiofsd"
    return (str(wrapper),) if wrapper.exists() else None


class Backend:
    """A running daemon that serves one directory on one socket; use it as a context manager.

    ``options`` are its own options, the socket and the directory excepted; ``shared`` is None where the command names
    the directory itself. ``log`` takes what it writes; ``environment`` is added to ours. ``terminated`` tells
    that it was still running when it was told to end.

    :raises SetupError: it ends, or does not listen in time; the text has what it said.
    """

    def __init__(
        self,
        command: Sequence[str],
        shared: Path | None,
        socket: Path,
        log: Path,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._environment = {**os.environ, **(environment or {})}
        self.socket = socket
        self.log = log
        directory = [] if shared is None else ["--shared-dir", str(shared)]
        self.command = [*command, "--socket-path", str(socket), *directory, *options]
        self.process: subprocess.Popen[bytes] | None = None
        self.status: int | None = None
        self.terminated = False

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *unused: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Of the running daemon."""
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        """Start the daemon and wait until its socket listens."""
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=self._environment
            )
        deadline = time.monotonic() + START_TIMEOUT
        ended = os.pidfd_open(self.process.pid)
        try:
            while READY not in self.log_text():
                readable, _, _ = select.select([ended], [], [], POLL_SECONDS)
                if readable or time.monotonic() > deadline:
                    how = "ended" if readable else f"does not listen after {START_TIMEOUT:g} s"
                    raise SetupError(f"`{shlex.join(self.command)}` {how}: {self.log_text().strip() or 'no message'}")
        finally:
            os.close(ended)

    def log_text(self) -> str:
        """What the daemon wrote so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def wait(self, timeout: float = STOP_TIMEOUT) -> int:
        """Wait for the daemon to end by itself, as it does when its front-end goes; its exit status.

        :raises SetupError: it is still running after ``timeout`` seconds.
        """
        if self.process is not None:
            try:
                self.status = self.process.wait(timeout)
            except subprocess.TimeoutExpired as error:
                raise SetupError(f"`{self.command[0]}` is still running {timeout:g} s after it had to end.") from error
            self.process = None
        assert self.status is not None
        return self.status

    def kill(self) -> None:
        """Let the daemon die on the spot, as it does when the host runs out of memory."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End the daemon, by SIGTERM first; does nothing when it has ended. Its exit status is in ``status``."""
        process, self.process = self.process, None
        if process is None:
            return
        if process.poll() is None:
            self.terminated = True
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
        self.status = process.wait()
