"""The daemon's socket and its main loop: wait for a front-end, serve it, end or wait for the next.

``listen`` makes the socket of ``--socket-path``, ``adopt`` takes that of ``--fd``, both before any sandbox. ``serve``
is the loop: the connection, the device's events and the signals that end the daemon, in one ``poll``.
"""

from __future__ import annotations

import fcntl
import logging
import os
import select
import signal
import socket
import stat
import struct
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Final

from ferryfs.errors import FerryError, FrontendError, OptionError, SetupError
from ferryfs.ring.memory import install_sigbus_handler, memory_was_lost
from ferryfs.vhost.device import DeviceControl
from ferryfs.vhost.endpoint import Disconnected, Endpoint
from ferryfs.vhost.events import EventLog
from ferryfs.vhost.patience import END_SIGNALS, Patience
from ferryfs.vhost.session import Session
from ferryfs.wire.vhost_user import ProtocolFeature

_LOG = logging.getLogger("ferryfs.vhost")

READY_LINE: Final = "Waiting for vhost-user socket connection..."
"""What managers wait for on stderr, in virtiofsd's words."""


# --- the socket


def listen(path: str, group: int | None = None) -> tuple[socket.socket, int]:
    """A listening socket at ``path``, and the file descriptor that locks ``<path>.pid`` as long as it is open.

    The socket is its owner's, and also the group's of that id if one is given. A socket that nobody listens on any more
    is replaced. Raises SetupError where somebody does, or where the path can't be had.
    """
    lock_fd = _lock_pid_file(path)
    try:
        _remove_stale(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            # bind(2) makes the file, so the mode has to be right from the start: a chmod after it would be too late.
            old_umask = os.umask(0o077 if group is None else 0o007)
            try:
                sock.bind(path)
            finally:
                os.umask(old_umask)
            if group is not None:
                os.chown(path, -1, group)
            sock.listen(1)
        except OSError as error:
            sock.close()
            raise SetupError(f"The socket {path} can't be made: {_reason(error)}.") from error
    except BaseException:
        os.close(lock_fd)
        raise
    return sock, lock_fd


def adopt(fd: int) -> socket.socket:
    """The listening socket that was inherited as ``fd``. Raises OptionError for anything else."""
    try:
        os.set_inheritable(fd, False)
        sock = socket.socket(fileno=fd)
    except OSError as error:
        raise OptionError(f"--fd={fd} is not a socket: {_reason(error)}.") from error
    if sock.family != socket.AF_UNIX or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.detach()
        raise OptionError(f"--fd={fd} is not a listening Unix socket.")
    sock.setblocking(False)
    return sock


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _lock_pid_file(path: str) -> int:
    """Write locks on the whole file, held by the open file description: they outlive a fork, and go with the last
    process that has it. Two, which don't see each other: virtiofsd's flock(2), and the record lock that others take by
    lockf(3).
    """
    name = f"{path}.pid"
    try:
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise SetupError(f"The file {name} can't be made: {_reason(error)}.") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
    except (BlockingIOError, PermissionError) as error:
        owner = os.pread(fd, 20, 0).decode(errors="replace").strip() or "another process"
        os.close(fd)
        raise SetupError(f"The socket {path} is in use by {owner}, which holds {name}: choose another path.") from error
    except OSError as error:
        os.close(fd)
        raise SetupError(f"The file {name} can't be written: {_reason(error)}.") from error
    return fd


def _remove_stale(path: str) -> None:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise SetupError(f"{path} exists and is not a socket: choose another --socket-path, or remove it.")
    except FileNotFoundError:
        return
    except OSError as error:
        raise SetupError(f"The socket {path} can't be looked at: {_reason(error)}.") from error
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            pass
        except FileNotFoundError:
            return
        except BlockingIOError:
            # Its backlog is full, so somebody listens.
            raise SetupError(f"The socket {path} is in use: choose another --socket-path.") from None
        except OSError as error:
            raise SetupError(f"The socket {path} can't be replaced: {_reason(error)}.") from error
        else:
            raise SetupError(f"The socket {path} is in use: choose another --socket-path.")
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise SetupError(f"The stale socket {path} can't be removed: {_reason(error)}.") from error


# --- the signals


class EndSignals:
    """SIGTERM, SIGINT and SIGHUP as a file descriptor to poll, from entering to leaving the ``with`` block.

    What is ignored stays so: a shell starts so what is to run in the background, and nohup(1) what is to outlive it.
    Only in the main thread. Python's own handlers are put back at the end.
    """

    def __init__(self) -> None:
        # Called in the main thread when one has come, also in the middle of a wait for something else than ``fileno``.
        self.also: Callable[[], None] = lambda: None

    def __enter__(self) -> EndSignals:
        self._read_fd, self._write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._old_wakeup = signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        heard = [number for number in END_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        self._old_handlers = [(number, signal.signal(number, lambda *_: self.also())) for number in heard]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._old_handlers:
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_wakeup)
        os.close(self._read_fd)
        os.close(self._write_fd)

    def fileno(self) -> int:
        """Readable as soon as one of the signals came."""
        return self._read_fd


# --- the loop


def serve(
    listener: socket.socket,
    connect: Callable[[], tuple[Session, DeviceControl]],
    stop_fd: int,
    *,
    keep_listening: bool = False,
) -> None:
    """Serve a front-end until it goes, and with ``keep_listening`` the next one, until ``stop_fd`` is readable.

    ``connect`` makes the session and the device of one connection: nothing is left of the one before. It is called
    before the front-end comes, so that what can't be had is said early. Closes ``listener``. Raises FrontendError where
    the front-end broke the protocol, SetupError where something that it asked for can't be had; with ``keep_listening``
    that is logged.
    """
    lost_fd = install_sigbus_handler()
    announced = False
    with listener, Patience(stop_fd, stays=keep_listening) as patience:
        while True:
            why: FerryError | None = None
            session, control = connect()
            try:
                patience.begin()
                if not announced:
                    # The pipe of a manager may be full, not blocking, or closed: no reason not to serve.
                    with suppress(OSError):
                        os.write(2, READY_LINE.encode() + b"\n")
                    announced = True
                sock = _accept(listener, stop_fd)
                if sock is None:
                    return
                if not keep_listening:
                    # Another front-end is refused at once instead of waiting for an answer that never comes.
                    listener.close()
                stopped = _serve_one(Endpoint(sock, session, control.carry_out), session, control, stop_fd, lost_fd)
            except FerryError as error:
                if not keep_listening:
                    why = error
                    raise
                _LOG.error("%s The connection is ended.", _sentence(error))
                stopped = False
            finally:
                patience.ending(why)
                control.close()
                patience.ended()
                # 1. a worker meets the hole, the session ends for it, 2. another worker meets one while the device is
                # closed: that is this front-end's fault too, and not the next one's.
                memory_was_lost()
            if stopped or not keep_listening:
                return


def _sentence(error: FerryError) -> str:
    text = str(error)
    return text if text.endswith(".") else f"{text[:1].upper()}{text[1:]}."


def _accept(listener: socket.socket, stop_fd: int) -> socket.socket | None:
    """The next connection, or None when the daemon is to end."""
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    poll.register(stop_fd, select.POLLIN)
    while True:
        for fd, ready in poll.poll():
            if fd == stop_fd:
                return None
            if ready & select.POLLHUP:
                # A manager that gives up on its virtual machine calls shutdown(2) on the socket that it shares with us.
                _LOG.info("The listening socket was shut down by the process that made it.")
                return None
            with suppress(BlockingIOError, ConnectionAbortedError):
                return listener.accept()[0]


def _serve_one(endpoint: Endpoint, session: Session, control: DeviceControl, stop_fd: int, lost_fd: int) -> bool:
    """One connection to its end; whether the daemon is to end as well."""
    negotiated = False
    events = EventLog(control.device.drain_events)
    poll = select.poll()
    poll.register(stop_fd, select.POLLIN)
    poll.register(lost_fd, select.POLLIN)
    events_fd = control.device.events_fd
    poll.register(events_fd, select.POLLIN)
    try:
        while True:
            poll.register(endpoint.fileno(), endpoint.events())
            for fd, ready in poll.poll():
                if fd == stop_fd:
                    return True
                if fd == events_fd:
                    events.drain()
                elif fd != lost_fd:
                    endpoint.handle(ready)
            if not negotiated and session.protocol_features:
                negotiated = True
                if session.device_state and not session.protocol_features >> ProtocolFeature.DEVICE_STATE & 1:
                    _LOG.info(
                        "The front-end can't transfer the device's state, so the guest can be neither migrated nor "
                        "saved: QEMU can since 8.2."
                    )
            if memory_was_lost():
                raise FrontendError(
                    "Guest memory is gone: the front-end made the file behind it shorter, and the machine with it."
                )
    except Disconnected:
        _LOG.info("The front-end is gone.")
        return False
    finally:
        endpoint.close()
        events.finish()
