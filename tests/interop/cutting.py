"""A vhost-user connection that breaks after a number of messages: what a peer's death looks like at each of them."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from ferryfs.wire.vhost_user import HEADER


class CuttingProxy:
    """Listens on ``path`` for one front-end and passes ``allowed`` of its messages on to the daemon at ``target``.

    The next message cuts both connections. ``passed`` are the numbers of the messages that went through. ``allowed``
    may be set while it runs. ``before`` says what is done before the first message of a number goes on.
    """

    def __init__(
        self, path: Path, target: Path, allowed: int, before: Mapping[int, Callable[[], None]] | None = None
    ) -> None:
        self._before = dict(before or {})
        self.allowed = allowed
        self.passed: list[int] = []
        self._back = socket.socket(socket.AF_UNIX)
        self._front = self._back
        self._listener = socket.socket(socket.AF_UNIX)
        self._back.connect(str(target))
        self._listener.bind(str(path))
        self._listener.listen()
        self._threads = [threading.Thread(target=self._forward)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.cut()
        for thread in self._threads:
            thread.join()
        for sock in (self._front, self._back, self._listener):
            sock.close()

    def cut(self) -> None:
        """Breaks both connections. Idempotent."""
        for sock in (self._listener, self._front, self._back):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _forward(self) -> None:
        try:
            self._front, _ = self._listener.accept()
        except OSError:
            return
        backward = threading.Thread(target=self._backward)
        self._threads.append(backward)
        backward.start()
        with contextlib.suppress(OSError):
            while True:
                header, fds = _receive(self._front, HEADER.size)
                try:
                    if len(header) < HEADER.size or len(self.passed) >= self.allowed:
                        break
                    number, _, size = HEADER.unpack(header)
                    payload = self._front.recv(size, socket.MSG_WAITALL) if size else b""
                    if number in self._before:
                        self._before.pop(number)()
                    socket.send_fds(self._back, [header + payload], fds)
                    self.passed.append(number)
                finally:
                    _close_all(fds)
        self.cut()

    def _backward(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                data, fds = _receive(self._back, 4096)
                try:
                    if not data:
                        break
                    socket.send_fds(self._front, [data], fds)
                finally:
                    _close_all(fds)
        self.cut()


def _receive(sock: socket.socket, size: int) -> tuple[bytes, list[int]]:
    data, fds, _, _ = socket.recv_fds(sock, size, 16)
    return data, list(fds)


def _close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
