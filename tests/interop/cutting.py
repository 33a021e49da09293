"""A vhost-user connection that breaks after a number of messages: what a peer's death looks like at each of them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from ferryfs.frontend.client import Direction
from ferryfs.wire.vhost_user import HEADER, Request

UNLIMITED = sys.maxsize


class CuttingProxy:
    """Listens on ``path`` for one front-end and passes ``allowed`` of its messages on to the daemon at ``target``.

    The next message cuts both connections. ``passed`` are the numbers of the messages that went through. ``before``
    says what is done before the next message of a number goes on, ``at`` before the message in a place of ``passed``.
    All of these may be set while it runs. ``tap_state`` does something in the middle of a device state.
    """

    def __init__(self, path: Path, target: Path, allowed: int = UNLIMITED) -> None:
        self.before: dict[int, Callable[[], None]] = {}
        self.at: dict[int, Callable[[], None]] = {}
        self.allowed = allowed
        self._taps: list[tuple[int, Callable[[], None]]] = []
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

    def tap_state(self, size: int, then: Callable[[], None]) -> None:
        """Passes so many bytes of the next device state on; then does something, and no byte more goes through."""
        self._taps.append((size, then))

    def kill_front_end(self) -> None:
        """Lets the process of the front-end die on the spot; who started it waits for it."""
        credentials = self._front.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        os.kill(struct.unpack("3i", credentials)[0], signal.SIGKILL)

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
                    for waiting, key in ((self.before, number), (self.at, len(self.passed))):
                        if key in waiting:
                            waiting.pop(key)()
                    if number == Request.SET_DEVICE_STATE_FD and self._taps:
                        fds = [self._tapped(payload, *fds)]
                    socket.send_fds(self._back, [header + payload], fds)
                    self.passed.append(number)
                finally:
                    _close_all(fds)
        self.cut()

    def _tapped(self, payload: bytes, fd: int) -> int:
        """What the daemon gets instead of the front-end's ``fd``, which is the tap's from here on."""
        read_end, write_end = os.pipe()
        saving = int.from_bytes(payload[:4], "little") == Direction.SAVE
        ends = (read_end, fd) if saving else (fd, write_end)
        thread = threading.Thread(target=_pump, args=(*ends, *self._taps.pop()))
        self._threads.append(thread)
        thread.start()
        return write_end if saving else read_end

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


def _pump(source: int, target: int, size: int, then: Callable[[], None]) -> None:
    with open(source, "rb", buffering=0) as reader, open(target, "wb", buffering=0) as writer:
        while size and (part := reader.read(size)):
            writer.write(part)
            size -= len(part)
        then()


def _receive(sock: socket.socket, size: int) -> tuple[bytes, list[int]]:
    data, fds, _, _ = socket.recv_fds(sock, size, 16)
    return data, list(fds)


def _close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
