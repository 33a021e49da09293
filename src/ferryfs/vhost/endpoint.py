"""One vhost-user connection: whole messages and their file descriptors off the socket, answers onto it.

It owns every file descriptor that arrives: each is closed when its message has been carried out, whatever came of it.
What is needed longer, the device duplicates. The socket does not block: a front-end that stops in the middle of a
message, or does not read its answers, holds up itself alone.
"""

from __future__ import annotations

import array
import logging
import os
import select
import socket
from collections.abc import Callable
from typing import Final, NamedTuple

from ferryfs.errors import FerryError, FrontendError, SetupError
from ferryfs.vhost.session import Action, Session
from ferryfs.wire.vhost_user import FDS_MAX, HEADER, decode_header, name_of

_LOG = logging.getLogger("ferryfs.vhost")
_ANCILLARY: Final = socket.CMSG_SPACE(FDS_MAX * array.array("i").itemsize)


class Outcome(NamedTuple):
    """What carrying out an action gave: a number for the answer, and perhaps a file descriptor to send along."""

    value: int = 0
    fd: int = -1


class Disconnected(Exception):
    """The front-end is gone: not an error, and never seen outside the vhost package."""


class Endpoint:
    """Moves messages between a connected socket and a session; ``carry_out`` is the device's side.

    ``handle(events)`` is called when ``poll`` reports something for ``fileno()`` and ``events()``.
    """

    def __init__(self, sock: socket.socket, session: Session, carry_out: Callable[[Action], Outcome]) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._session = session
        self._carry_out = carry_out
        self._data = bytearray()
        self._fds: list[int] = []
        # An answer that the socket did not take yet, and the descriptor that goes with its first byte (-1: none).
        self._answer = b""
        self._answer_fd = -1

    def fileno(self) -> int:
        """The socket's file descriptor."""
        return self._sock.fileno()

    def events(self) -> int:
        """What to poll for: no further message is read while an answer waits to be taken."""
        return select.POLLOUT if self._answer else select.POLLIN

    def handle(self, events: int) -> None:
        """Do what the socket is ready for.

        Raises Disconnected when the front-end is gone, FrontendError when it broke the protocol.
        """
        try:
            if self._answer:
                self._flush()
            elif events:
                self._read()
        except (ConnectionResetError, BrokenPipeError) as error:
            raise Disconnected from error

    def close(self) -> None:
        """Close the socket and every file descriptor that is still here. Idempotent."""
        self._drop_fds()
        self._close_answer_fd()
        self._sock.close()

    # --- in

    def _read(self) -> None:
        """Read no further than the end of one message, so that file descriptors can't belong to another."""
        if len(self._data) < HEADER.size and not self._fill(HEADER.size):
            return
        size = HEADER.size + decode_header(self._data).size
        if len(self._data) < size and not self._fill(size):
            return
        message = bytes(self._data)
        self._data.clear()
        try:
            self._serve(message)
        finally:
            self._drop_fds()

    def _fill(self, size: int) -> bool:
        """Read until there are ``size`` bytes; False when the rest is still to come."""
        while len(self._data) < size:
            try:
                data, ancillary, flags, _ = self._sock.recvmsg(
                    size - len(self._data), _ANCILLARY, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return False
            for level, kind, content in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    fds = array.array("i")
                    fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
                    self._fds += fds
            if not data:
                self._end_of_stream()
            self._data += data
            if flags & socket.MSG_CTRUNC or len(self._fds) > FDS_MAX:
                raise FrontendError(
                    f"A vhost-user message came with more file descriptors than it may have ({FDS_MAX}), "
                    "or than this process may open: raise --rlimit-nofile if the front-end is right."
                )
        return True

    def _end_of_stream(self) -> None:
        if self._data:
            name = "a message"
            if len(self._data) >= HEADER.size:
                name = name_of(decode_header(self._data).request)
            _LOG.warning("The front-end went away in the middle of %s.", name)
        raise Disconnected

    def _drop_fds(self) -> None:
        fds, self._fds = self._fds, []
        for fd in fds:
            os.close(fd)

    # --- carry out, out

    def _serve(self, message: bytes) -> None:
        step = self._session.receive(message, self._fds)
        if step.refusal:
            _LOG.warning("%s", step.refusal)
        outcome = Outcome()
        try:
            try:
                for action in step.actions:
                    outcome = self._carry_out(action)
            except OSError as error:
                # What the kernel refuses just now (no file descriptor, no memory) ends this connection, not the daemon.
                raise SetupError(f"{step.request.name} can't be carried out: {error.strerror or error}.") from error
        except FerryError:
            # The answer says so too where there is one; the sentence is for whoever ends the connection.
            self._send(step.failure(), -1)
            raise
        self._send(step.answer(outcome.value), outcome.fd)

    def _send(self, answer: bytes, fd: int) -> None:
        self._answer = answer
        self._answer_fd = fd
        self._flush()

    def _flush(self) -> None:
        while self._answer:
            ancillary = []
            if self._answer_fd >= 0:
                ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [self._answer_fd]))]
            try:
                sent = self._sock.sendmsg([self._answer], ancillary, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return
            self._answer = self._answer[sent:]
            self._close_answer_fd()
        self._close_answer_fd()

    def _close_answer_fd(self) -> None:
        if self._answer_fd >= 0:
            os.close(self._answer_fd)
            self._answer_fd = -1
