"""The control socket of a running mount: one line of JSON in, one out.

A request is ``{"command": NAME, …}``, the answer ``{"ok": true, …}`` or ``{"ok": false, "error": SENTENCE}``. Who
writes a second line, or hangs up, gives the request up: what can still be left undone is.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from ferryfs.errors import CancelledError, FerryError, OptionError, PeerError

Answer = Mapping[str, Any]
Handler = Callable[[Mapping[str, Any]], Answer]
_LINE_MAX: Final = 1 << 16
_GIVE_UP: Final = b'{"command": "give up"}\n'


def control_path(mountpoint: str) -> Path:
    """Where the control socket of the mount on ``mountpoint`` is, below /run for root, else below $XDG_RUNTIME_DIR."""
    base = (
        Path("/run") if os.geteuid() == 0 else Path(os.environ.get("XDG_RUNTIME_DIR", f"/tmp/ferryfs-{os.geteuid()}"))
    )
    # Not realpath: looking at the mount point itself would ask the daemon, which may be the one that hangs.
    parent, name = os.path.split(os.path.abspath(mountpoint))
    place = os.path.join(os.path.realpath(parent), name)
    return base / "ferryfs" / f"mount-{hashlib.sha256(os.fsencode(place)).hexdigest()[:16]}.sock"


class Asker:
    """Who waits for the answer to the request that is served now."""

    def __init__(self, connection: socket.socket, given_up: bool) -> None:
        self._connection = connection
        self._given_up = given_up
        self._watch = select.poll()
        self._watch.register(connection, select.POLLIN)

    def fileno(self) -> int:
        """Readable when it may have given up."""
        return self._connection.fileno()

    def gave_up(self) -> bool:
        """Whether nobody wants the answer any more. Who only closed his writing half waits for it."""
        for _, events in self._watch.poll(0):
            with contextlib.suppress(OSError):
                # Only what is there already: the connection waits for what is not.
                self._given_up |= bool(events & select.POLLHUP or self._connection.recv(_LINE_MAX))
        return self._given_up


class ControlServer:
    """Listens for one mount. Readiness is the caller's business (``fileno``); ``serve`` answers one connection."""

    def __init__(self, path: Path, handler: Handler) -> None:
        self._path = path
        self._handler = handler
        self.asker: Asker | None = None
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._sock.bind(str(path))
        path.chmod(0o600)
        self._sock.listen(4)
        self._inode = path.stat().st_ino

    def fileno(self) -> int:
        return self._sock.fileno()

    def serve(self) -> None:
        """Accepts one connection, answers one line. A peer that goes or writes rubbish harms nobody."""
        connection, _ = self._sock.accept()
        with connection:
            connection.settimeout(5.0)
            try:
                line, _, more = _read_line(connection).partition(b"\n")
                request = json.loads(line)
                self.asker = Asker(connection, bool(more))
                answer: Answer = {"ok": True, **self._handler(request)}
            except CancelledError as error:
                answer = {"ok": False, "error": str(error), "cancelled": True}
            except FerryError as error:
                answer = {"ok": False, "error": str(error)}
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                answer = {"ok": False, "error": f"The request is not understood: {error}."}
            finally:
                self.asker = None
            try:
                connection.sendall(json.dumps(answer).encode() + b"\n")
            except OSError:
                return

    def close(self) -> None:
        self._sock.close()
        # A later mount on the same place may have put its own socket there.
        if self._path.exists() and self._path.stat().st_ino == self._inode:
            self._path.unlink(missing_ok=True)


def ask(
    mountpoint: str,
    command: str,
    arguments: Mapping[str, object] | None = None,
    *,
    timeout_s: float = 300.0,
    on_interrupt: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Sends one command to the mount on ``mountpoint`` and returns its answer.

    ``on_interrupt``: Ctrl-C gives the request up, calls this, and waits for the answer all the same: CancelledError, or
    what was done because it came too late. Raises OptionError when no mount of ours is there, PeerError with the
    mount's own sentence when it says no.
    """
    path = control_path(mountpoint)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
        sock.settimeout(timeout_s)
        try:
            sock.connect(str(path))
        except OSError as error:
            raise OptionError(f"No `ferryfs mount` of this user serves {mountpoint}.") from error
        try:
            sock.sendall(json.dumps({**(arguments or {}), "command": command}).encode() + b"\n")
            try:
                line = _read_line(sock)
            except KeyboardInterrupt:
                if on_interrupt is None:
                    raise
                # It may have answered, and gone, by now.
                with contextlib.suppress(OSError):
                    sock.sendall(_GIVE_UP)
                on_interrupt()
                line = _read_line(sock)
            if not line:
                raise PeerError(f"The process that serves {mountpoint} ended before it answered {command}.")
            answer: dict[str, Any] = json.loads(line)
        except (OSError, ValueError) as error:
            raise PeerError(f"The process that serves {mountpoint} gave no answer to {command}: {error}.") from error
    if answer.get("cancelled"):
        raise CancelledError(str(answer.get("error")))
    if not answer.pop("ok", False):
        raise PeerError(str(answer.get("error", f"{command} failed.")))
    return answer


def _read_line(sock: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\n") and len(data) < _LINE_MAX:
        part = sock.recv(4096)
        if not part:
            break
        data += part
    return data
