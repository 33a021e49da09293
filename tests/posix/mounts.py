"""A mount of a daemon by `ferryfs mount`, for as long as checks run on it."""

from __future__ import annotations

import select
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

from daemons import complaints

START_TIMEOUT_SECONDS: Final = 60.0
END_TIMEOUT_SECONDS: Final = 30.0
POLL_SECONDS: Final = 0.01
MOUNTED: Final = "is mounted on"


@dataclass(frozen=True, slots=True)
class Configuration:
    """Options of a daemon and of the mount, and which checks run under them (patterns)."""

    name: str
    options: tuple[str, ...] = ()
    mount: tuple[str, ...] = ()
    checks: tuple[str, ...] = ("*",)


class Mounted:
    """A daemon that shares a directory, and the mount of it. Use it as a context manager.

    `scratch` is a directory of ours: socket, log, share and mount point go there.
    """

    def __init__(self, daemon: tuple[str, ...], configuration: Configuration, scratch: Path) -> None:
        self.directory = scratch / "mount"
        share = scratch / "share"
        self._log = scratch / "log"
        self._process: subprocess.Popen[bytes] | None = None
        for folder in (self.directory, share):
            folder.mkdir()
            folder.chmod(0o755)
        command = shlex.join([*daemon, "--shared-dir", str(share), *configuration.options])
        ferryfs = Path(sys.executable).with_name("ferryfs")
        self._command = [str(ferryfs), "mount", "--foreground", "--daemon", command, *configuration.mount]
        self._command += [str(scratch / "socket"), str(self.directory)]

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._start(log)
        return self

    def _start(self, log: IO[bytes]) -> None:
        process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._process = process
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while MOUNTED not in self.log_text():
            if process.poll() is not None or time.monotonic() > deadline:
                process.terminate()
                process.wait(END_TIMEOUT_SECONDS)
                raise RuntimeError(f"`{shlex.join(self._command)}` does not mount: {self.log_text()}")
            select.select([], [], [], POLL_SECONDS)

    def log_text(self) -> str:
        """What mount and daemon have written."""
        return self._log.read_text(errors="replace")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process, self._process = self._process, None
        assert process is not None
        done = subprocess.run(["umount", str(self.directory)], capture_output=True, text=True)
        if done.returncode:
            subprocess.run(["umount", "--lazy", str(self.directory)], capture_output=True)
        try:
            status = process.wait(END_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        found = complaints(self.log_text())
        if done.returncode or status or found:
            raise RuntimeError(f"the mount ended with status {status}; {done.stderr}{self.log_text()}")
