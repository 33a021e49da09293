"""The monitor protocol of QEMU (docs/interop/qmp-spec.rst): a JSON value a line, answered in order, events between."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any, Self

from ferryfs.errors import SetupError

JsonObject = dict[str, Any]
CHUNK_BYTES = 65536


class QmpError(SetupError):
    """QEMU refused a command."""


class Monitor:
    """A connection to a QEMU's monitor.

    ``events`` keeps, in order, those that nobody waited for yet; ``history`` keeps all that were read.
    """

    def __init__(self, path: Path, timeout: float = 30.0) -> None:
        self.events: list[JsonObject] = []
        self.history: list[JsonObject] = []
        self._buffer = b""
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.settimeout(timeout)
            self._socket.connect(str(path))
            self._receive(time.monotonic() + timeout)
            self.execute("qmp_capabilities")
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection; the guest goes on."""
        self._socket.close()

    def _receive(self, deadline: float) -> JsonObject:
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("QEMU's monitor says nothing")
            self._socket.settimeout(left)
            chunk = self._socket.recv(CHUNK_BYTES)
            if not chunk:
                raise QmpError("QEMU closed its monitor connection.")
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        value: JsonObject = json.loads(line)
        if "event" in value:
            self.events.append(value)
            self.history.append(value)
        return value

    def execute(self, command: str, arguments: JsonObject | None = None, *, timeout: float = 30.0) -> Any:
        """Run a command and return what it returns.

        :raises QmpError: QEMU answers with an error; the text names the command.
        """
        request: JsonObject = {"execute": command}
        if arguments:
            request["arguments"] = arguments
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        deadline = time.monotonic() + timeout
        while True:
            answer = self._receive(deadline)
            if "event" in answer:
                continue
            if "error" in answer:
                raise QmpError(f"QEMU refused {command}: {answer['error'].get('desc', answer['error'])}")
            return answer.get("return")

    def wait_event(self, name: str, *, timeout: float = 30.0) -> JsonObject:
        """The first event of that name that nobody waited for yet; it and those before it are taken from ``events``."""
        deadline = time.monotonic() + timeout
        while True:
            for index, event in enumerate(self.events):
                if event["event"] == name:
                    del self.events[: index + 1]
                    return event
            self._receive(deadline)
