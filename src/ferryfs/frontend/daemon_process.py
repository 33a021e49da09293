"""A daemon that was started for one mount, and ends with it."""

from __future__ import annotations

import os
import select
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Final

from ferryfs.errors import OptionError, SetupError
from ferryfs.frontend.client import VhostUserClient

START_TIMEOUT_S: Final = 30.0
END_TIMEOUT_S: Final = 10.0
LOOK_AGAIN_S: Final = 0.01


class DaemonProcess:
    """Runs ``command`` (a shell-like line, no shell) with ``--socket-path`` added where it names none.

    What it writes is passed on to ``log``; the last line is kept for error messages. ``environ`` takes the place of our
    environment.
    """

    def __init__(self, command: str, socket_path: str, log: IO[str], environ: Mapping[str, str] | None = None) -> None:
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise OptionError(f"The command of --daemon can't be split into words: {error}.") from error
        if not words:
            raise OptionError("--daemon needs a command, for example --daemon 'ferryfsd --shared-dir /srv/share'.")
        if shutil.which(words[0]) is None:
            raise OptionError(f"The command of --daemon, {words[0]}, is not found.")
        if not any(word == "--fd" or word.startswith(("--socket-path", "--fd=")) for word in words):
            words.append(f"--socket-path={socket_path}")
        self._socket_path = socket_path
        self._words = words
        self._log = log
        self.last_line = ""
        _remove_dead_socket(socket_path)
        try:
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
                env=environ,
            )
        except OSError as error:
            raise SetupError(f"The daemon {words[0]} can't be started: {error.strerror}.") from error
        self._reader = threading.Thread(target=self._read_output, name="daemon-output", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def connect(self) -> VhostUserClient:
        """Waits for the daemon's socket. Raises SetupError with the daemon's last words when it ends before."""
        until = time.monotonic() + START_TIMEOUT_S
        # Nobody says when a daemon, whichever it is, begins to listen; that it ends is noticed at once.
        ended = os.pidfd_open(self._process.pid)
        try:
            while not select.select([ended], [], [], LOOK_AGAIN_S)[0]:
                try:
                    return VhostUserClient.connect(self._socket_path)
                except SetupError:
                    if time.monotonic() > until:
                        what = f"made no socket {self._socket_path} in {START_TIMEOUT_S:.0f} s"
                        raise SetupError(f"The daemon {self._words[0]} {what}.") from None
        finally:
            os.close(ended)
        raise SetupError(self.obituary())

    def obituary(self) -> str:
        """One sentence: how the daemon ended and what it said last. Only after it ended, or is about to."""
        try:
            status = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            return f"The daemon {self._words[0]} closed the connection."
        self._reader.join(1.0)
        how = f"with status {status}" if status >= 0 else f"by {signal.Signals(-status).name}"
        said = f", saying: {self.last_line}" if self.last_line else ""
        return f"The daemon {self._words[0]} ended {how}{said}".rstrip(".") + "."

    def end(self) -> None:
        """Waits for the daemon to end by itself, as it does when its front-end goes; SIGTERM, then SIGKILL, where it
        does not. Idempotent.
        """
        for action in (None, signal.SIGTERM, signal.SIGKILL):
            if action is not None:
                self._process.send_signal(action)
                # One that was stopped, by a debugger or by hand, would not even see it.
                self._process.send_signal(signal.SIGCONT)
            try:
                self._process.wait(END_TIMEOUT_S if action else 3.0)
                break
            except subprocess.TimeoutExpired:
                continue
        self._reader.join(1.0)
        for leftover in (self._socket_path, f"{self._socket_path}.pid"):
            Path(leftover).unlink(missing_ok=True)

    def _read_output(self) -> None:
        stream = self._process.stdout
        if stream is None:
            return
        with stream:
            for line in stream:
                if line.strip():
                    self.last_line = line.strip()
                self._log.write(line)
                self._log.flush()


def _remove_dead_socket(path: str) -> None:
    """A socket file that nobody listens on any more would make us believe in the daemon too early."""
    if not os.path.exists(path):
        return
    try:
        VhostUserClient.connect(path, timeout_s=1.0).close()
    except SetupError:
        Path(path).unlink(missing_ok=True)
    else:
        raise OptionError(f"Another daemon already listens on {path}: name another socket, or leave out --daemon.")
