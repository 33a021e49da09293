"""The serving part of a start: the socket before the sandbox, the device and the loop after it."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import NamedTuple

from ferryfs.cli.options import Options, SandboxMode
from ferryfs.engine.device import Device
from ferryfs.errors import OptionError
from ferryfs.migration.identity import boot_id
from ferryfs.migration.migrator import Migrator
from ferryfs.migration.share import Share
from ferryfs.sandbox.limits import FileLimit
from ferryfs.sandbox.namespace import FORWARDED
from ferryfs.sandbox.root import Confined
from ferryfs.vhost import serve as vhost
from ferryfs.vhost.device import DeviceControl
from ferryfs.vhost.session import QUEUES_MAX, Session, virtio_fs_config

_LOG = logging.getLogger("ferryfs")


class Listening(NamedTuple):
    """The socket, what holds the pid file (-1: there is none), and what a migration must read before the sandbox."""

    socket: socket.socket
    pid_file: int
    host: bytes
    path: str = ""

    def remove(self) -> None:
        """Remove the socket's file, as virtiofsd does where it can reach it. The pid file's lock keeps others away."""
        if self.path:
            with suppress(OSError):
                os.unlink(self.path)


def open_socket(options: Options) -> Listening:
    """Make or take over the socket that the front-end connects to."""
    if options.fd is not None:
        return Listening(vhost.adopt(options.fd), -1, boot_id())
    path = options.socket_path
    if path is None:
        raise OptionError("no socket was given, add --socket-path=PATH")
    folder = os.path.dirname(path)
    if folder and not os.path.isdir(folder):
        raise OptionError(f"--socket-path={path}: there is no directory {folder}, create it first")
    return Listening(*vhost.listen(path, _group_id(options.socket_group)), boot_id(), os.path.abspath(path))


def try_socket(options: Options) -> str:
    """What ``open_socket`` would do, for ``--check``: leaves nothing behind. Not where there is a socket already."""
    path = options.socket_path
    if path is None:
        open_socket(options).socket.close()
        return f"--fd={options.fd} listens"
    pid_file = f"{path}.pid"
    # A daemon that runs may hold it.
    keep = os.path.lexists(pid_file)
    try:
        open_socket(options).socket.close()
        os.unlink(path)
    finally:
        if not keep:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(pid_file)
    return f"{path} can be made"


def _group_id(name: str | None) -> int | None:
    if name is None:
        return None
    # Only here: it reads the name services, which nothing does after the sandbox is closed.
    import grp

    try:
        return int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise OptionError(f"--socket-group={name}: there is no such group on this host") from None


class Notify:
    """Tells systemd that the daemon is ready (``sd_notify(3)``); does nothing where nobody asked.

    Connected before the sandbox closes, because the address is a path outside.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._socket: socket.socket | None = None
        address = environ.get("NOTIFY_SOCKET", "")
        if address[:1] not in ("/", "@"):
            return
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.connect("\0" + address[1:] if address[0] == "@" else address)
        except OSError as error:
            _LOG.warning("systemd can't be told that the daemon is ready: %s", error.strerror)
            self._socket.close()
            self._socket = None

    def descriptors(self) -> list[int]:
        """What the outer process of a sandbox doesn't need."""
        return [] if self._socket is None else [self._socket.fileno()]

    def say(self, state: str) -> None:
        """``READY=1`` or ``STOPPING=1``."""
        if self._socket is not None:
            try:
                self._socket.send(state.encode(), socket.MSG_NOSIGNAL)
            except OSError as error:
                _LOG.warning("systemd can't be told %s: %s", state, error.strerror)


def serve(options: Options, confined: Confined, files: FileLimit, listening: Listening, notify: Notify) -> int:
    """Serve until the front-end goes or a signal comes; the exit status."""
    share = options.share(files.guest)
    config = b""
    if options.tag is not None:
        config = virtio_fs_config(options.tag.encode("utf-8", "surrogateescape"), options.num_request_queues)

    directory = Share(
        confined.root_fd, confined.proc_self_fd, confined.mountinfo_fd, confined.mountinfo_prefix, listening.host
    )

    def connect() -> tuple[Session, DeviceControl]:
        device = Device(share, confined.root_fd, confined.proc_self_fd, QUEUES_MAX)
        migrator = Migrator(device, options.migration(), share, directory)
        signals.also = migrator.give_up
        return Session(QUEUES_MAX, config, device_state=True), DeviceControl(device, migrator)

    with vhost.EndSignals() as signals, ExitStack() as stack:
        if options.sandbox is SandboxMode.NONE:
            stack.callback(listening.remove)
        # The sandbox has them blocked until there is a handler.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
        notify.say("READY=1")
        vhost.serve(listening.socket, connect, signals.fileno(), keep_listening=options.keep_listening)
    notify.say("STOPPING=1")
    return 0
