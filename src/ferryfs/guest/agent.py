"""The host's side of the agent in the guest: shell commands over a virtio-serial port (see ``image``)."""

from __future__ import annotations

import base64
import binascii
import itertools
import shlex
import socket
import time
from pathlib import Path
from typing import NamedTuple, Self

from ferryfs.errors import SetupError

CHUNK_BYTES = 65536
# A command travels as one line that a shell reads byte by byte; a file is sent in pieces of this size.
PUT_BYTES = 8192


class Result(NamedTuple):
    """What a command in the guest gave: its exit status, and standard output and error as they came."""

    status: int
    output: str


class AgentError(SetupError):
    """The guest does not answer, or a command that had to succeed did not."""


class Agent:
    """Runs commands in a guest. Several can be under way: ``start`` them, then ask for each ``result``."""

    def __init__(self, path: Path) -> None:
        self._ids = itertools.count(1)
        self._results: dict[str, Result] = {}
        self._buffer = b""
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.connect(str(path))
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def wait_ready(self, timeout: float = 60.0) -> str:
        """Wait until a guest that just booted greets, and return its kernel's version.

        Results of commands from before, which a reset guest will never send, are forgotten.
        """
        self._results.pop("hello", None)
        version = self._wait("hello", timeout).output.strip()
        self._results.clear()
        return version

    def follow(self, source: Agent) -> None:
        """Go on where the agent of a guest that moves here stops: its commands that still run keep their names."""
        self._ids = source._ids

    def start(self, command: str) -> str:
        """Start a shell command in the guest and return the name to ask for its result by."""
        name = str(next(self._ids))
        line = f"{name} {base64.b64encode(command.encode('utf-8', 'surrogateescape')).decode()}\n"
        self._socket.settimeout(60.0)
        self._socket.sendall(line.encode())
        return name

    def result(self, name: str, timeout: float = 60.0) -> Result:
        """Wait for the result of a started command; each can be asked for once."""
        return self._wait(name, timeout)

    def run(self, command: str, timeout: float = 60.0) -> Result:
        """Run a shell command in the guest to its end."""
        return self.result(self.start(command), timeout)

    def check(self, command: str, timeout: float = 60.0) -> str:
        """Run a shell command that has to succeed, and return its output.

        :raises AgentError: it exits with another status than 0; the text has its output.
        """
        result = self.run(command, timeout)
        if result.status:
            raise AgentError(f"`{command}` in the guest exits with {result.status}: {result.output.strip()}")
        return result.output

    def put(self, path: str, content: bytes) -> None:
        """Write a file in the guest."""
        quoted = shlex.quote(path)
        self.check(f": >{quoted}")
        for start in range(0, len(content), PUT_BYTES):
            piece = base64.b64encode(content[start : start + PUT_BYTES]).decode()
            self.check(f"printf %s {piece} | base64 -d >>{quoted}")

    def _wait(self, name: str, timeout: float) -> Result:
        deadline = time.monotonic() + timeout
        while name not in self._results:
            left = deadline - time.monotonic()
            if left <= 0:
                raise AgentError(f"the guest's agent has not answered within {timeout:g} s.")
            self._socket.settimeout(left)
            try:
                chunk = self._socket.recv(CHUNK_BYTES)
            except TimeoutError:
                continue
            if not chunk:
                raise AgentError("the guest went away.")
            *lines, self._buffer = (self._buffer + chunk).split(b"\n")
            for line in lines:
                self._take(line)
        return self._results.pop(name)

    def _take(self, line: bytes) -> None:
        """Keep an answer; what a guest was cut off in the middle of is no answer."""
        # A fragment from before a reset may stand in front of the next greeting.
        words = line[line.rfind(b"= ") :].split()
        if len(words) not in {3, 4} or words[0] != b"=":
            return
        try:
            output = base64.b64decode(words[3] if len(words) == 4 else b"", validate=True)
            result = Result(int(words[2]), output.decode("utf-8", "surrogateescape"))
        except (ValueError, binascii.Error):
            return
        self._results[words[1].decode(errors="replace")] = result
