"""One mount: a kernel FUSE mount whose requests go to a vhost-user-fs daemon through our virtqueues.

``Mount`` owns guest memory, queues, channels to the kernel and the threads between them. The daemon that serves the
queues is an ``Attachment``, which can be taken away and replaced while the kernel's mount stays (see ``migrate``).

Threads: a reader and a completer a request queue, a completer for the high-priority queue (none holds the GIL while it
works), and the caller of ``run``, which watches the daemon, the control socket and the signals.
"""

from __future__ import annotations

import collections
import errno
import functools
import os
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, Any, Final

from ferryfs.errors import FerryError, OptionError, PeerError, SetupError
from ferryfs.frontend import kernel
from ferryfs.frontend.attachment import Attachment, negotiate
from ferryfs.frontend.client import VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC, VhostUserClient
from ferryfs.frontend.control import Answer, Asker, ControlServer, control_path
from ferryfs.frontend.daemon_process import DaemonProcess
from ferryfs.frontend.driver import DriverQueue
from ferryfs.frontend.fuse_mount import SLOT_SIZE, FusePump
from ferryfs.frontend.ram import GuestRam
from ferryfs.wire.fuse import PAGE_SIZE, Bound, Op

INIT_TIMEOUT_S: Final = 30.0
DETACH_TIMEOUT_S: Final = 2.0
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class MountOptions:
    """What ``ferryfs mount`` was told. ``slots``: requests in flight in all queues; ``flags``: of mount(2)."""

    mountpoint: str
    source: str
    queues: int = 1
    queue_size: int = 128
    slots: int = 64
    flags: int = 0


def reply_sizes() -> dict[int, int]:
    """Bytes of an answer behind its header, by opcode, as far as the opcode alone says it; the pump reads the rest
    from the request.
    """
    sizes = {}
    for op in Op:
        fixed = op.reply.size if op.reply else 0
        sizes[int(op)] = fixed + (PAGE_SIZE - 1 if op.bound is Bound.PAGE else 0)
    return sizes


class Mount:
    """A mount and its life. ``log`` gets what the operator should read. Use as: make it, ``run`` it, ``close`` it."""

    def __init__(
        self, options: MountOptions, client: VhostUserClient, log: IO[str], daemon: DaemonProcess | None = None
    ) -> None:
        self.options = options
        self.log = log
        self.daemon = daemon
        self.handlers: dict[str, Callable[[Mapping[str, Any]], Answer]] = {"status": self._status}
        self._mounted = False
        self._ended = False
        self._error: FerryError | None = None
        self._unmounting: threading.Thread | None = None
        self._detached_at: float | None = None
        self._threads: list[threading.Thread] = []
        self._readers: list[threading.Thread] = []
        self._watched = client
        self._events: collections.deque[tuple[str, int]] = collections.deque()
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._fuse_fds: list[int] = []
        self._control: ControlServer | None = None
        self._selector = selectors.DefaultSelector()
        features = negotiate(client, queues=options.queues + 1)
        ring_bytes = 32 * options.queue_size + 64
        page_rounded = ((options.queues + 1) * ring_bytes + 0xFFFF) & ~0xFFF
        self.ram = GuestRam([page_rounded + options.slots * SLOT_SIZE])
        self.queues = [
            DriverQueue(
                self.ram,
                options.queue_size,
                event_idx=bool(features & VIRTIO_F_EVENT_IDX),
                indirect=bool(features & VIRTIO_F_INDIRECT_DESC),
                slot_bytes=0,
            )
            for _ in range(options.queues + 1)
        ]
        self.attachment = Attachment(client, self.ram, self.queues, features)
        self._pump: FusePump | None = None

    @property
    def pump(self) -> FusePump:
        """Only there once the mount is started."""
        if self._pump is None:
            raise SetupError(f"{self.options.mountpoint} is not mounted yet.")
        return self._pump

    @property
    def asker(self) -> Asker | None:
        """Who waits for the command that the mount carries out now."""
        return self._control.asker if self._control is not None else None

    def start(self, init_answer: bytes = b"") -> None:
        """Mounts and starts all threads; the daemon is being asked for INIT when this returns.

        ``init_answer``: given to the kernel instead of asking a daemon that was loaded with a state.
        """
        options = self.options
        self._fuse_fds.append(kernel.open_device())
        self.attachment.introduce()
        self.attachment.start([0] * len(self.queues))
        kernel.mount_fuse(options.source, options.mountpoint, self._fuse_fds[0], options.flags)
        self._mounted = True
        try:
            while len(self._fuse_fds) < options.queues:
                self._fuse_fds.append(kernel.clone_device(self._fuse_fds[0]))
        except SetupError:
            kernel.unmount(options.mountpoint, detach=True)
            raise
        self._pump = FusePump(self.ram, self.queues, self._fuse_fds, reply_sizes(), options.slots)
        if init_answer:
            self._pump.init_answer = init_answer
        for index in range(len(self.queues)):
            self._spawn(f"complete-{index}", functools.partial(self._complete, index))
        self.start_readers()
        self._spawn("init", self._await_init)

    # Threads

    def _spawn(self, name: str, body: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=body, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def _post(self, kind: str, value: int) -> None:
        self._events.append((kind, value))
        os.eventfd_write(self._wake_fd, 1)

    def _read(self, index: int) -> None:
        self._post("reader", self.pump.read_requests(index))

    def _complete(self, index: int) -> None:
        result = self.pump.complete_requests(index)
        if result:
            self._post("ring", index)

    def _await_init(self) -> None:
        result = self.pump.wait_for_init(INIT_TIMEOUT_S)
        self._post("init", errno.ETIMEDOUT if result is None else result)

    def start_readers(self) -> None:
        """Lets requests in: from the beginning, or again after ``stop_readers``."""
        self._readers = [
            self._spawn(f"read-{index}", functools.partial(self._read, index)) for index in range(1, len(self.queues))
        ]

    def stop_readers(self) -> None:
        """No further request is taken from the kernel when this returns; those in flight go on. ``start_readers``
        undoes it.
        """
        self.pump.pause()
        for thread in self._readers:
            thread.join()
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        self.pump.resume()

    # The watch

    def run(self, on_ready: Callable[[], None]) -> None:
        """Serves until the mount is gone. Raises the FerryError that ended it, if one did.

        Call from the main thread after ``start``. ``on_ready`` is called once the daemon has answered INIT.
        """
        readable, writable = socket.socketpair()
        for sock in (readable, writable):
            sock.setblocking(False)
        old_wakeup = signal.set_wakeup_fd(writable.fileno())
        old_handlers = {number: signal.signal(number, lambda *_: None) for number in _SIGNALS}
        self._control = ControlServer(control_path(self.options.mountpoint), self._handle)
        watch = self._selector
        watch.register(self._wake_fd, selectors.EVENT_READ, "events")
        watch.register(readable, selectors.EVENT_READ, "signal")
        watch.register(self._control, selectors.EVENT_READ, "control")
        self._watched = self.attachment.client
        watch.register(self._watched, selectors.EVENT_READ, "daemon")
        try:
            while not self._ended:
                self._turn(readable, on_ready)
        finally:
            signal.set_wakeup_fd(old_wakeup)
            for number, handler in old_handlers.items():
                signal.signal(number, handler)
            readable.close()
            writable.close()
            watch.close()
        if self._error is not None:
            raise self._error

    def replace_attachment(self, attachment: Attachment) -> None:
        """The queues are served by another daemon from now on; the old connection is closed."""
        old, self.attachment = self.attachment, attachment
        self._selector.unregister(self._watched)
        self._watched = attachment.client
        self._selector.register(self._watched, selectors.EVENT_READ, "daemon")
        old.client.close()

    def _turn(self, signals: socket.socket, on_ready: Callable[[], None]) -> None:
        timeout = None
        if self._detached_at is not None:
            timeout = max(0.0, self._detached_at + DETACH_TIMEOUT_S - time.monotonic())
        ready = self._selector.select(timeout)
        if not ready and self._detached_at is not None:
            self._finish(None)
        for key, _ in ready:
            if self._ended:
                return
            match key.data:
                case "events":
                    os.eventfd_read(self._wake_fd)
                    while self._events:
                        self._event(*self._events.popleft(), on_ready)
                case "signal":
                    for _ in signals.recv(64):
                        self._signalled()
                case "control" if self._control is not None:
                    self._control.serve()
                case "daemon" if key.fileobj is self.attachment.client:
                    self._daemon_gone()

    def _event(self, kind: str, value: int, on_ready: Callable[[], None]) -> None:
        if self._ended:
            return
        match kind, value:
            case "init", 0:
                on_ready()
            case "init", errno.ETIMEDOUT:
                self._finish(PeerError(f"The daemon did not answer INIT in {INIT_TIMEOUT_S:.0f} s."), undo=True)
            case "init", number:
                self._finish(PeerError(f"The daemon answered INIT with {os.strerror(number)}."), undo=True)
            case "reader", 0:
                return
            case "reader", errno.ENODEV:
                self._mounted = False
                self._finish(None)
            case "reader", number:
                self._finish(SetupError(f"/dev/fuse can't be read: {os.strerror(number)}."), undo=True)
            case "ring", index:
                self._finish(
                    self._dead(f"The daemon broke queue {index}: it answered a request that was not in flight")
                )
            case "unmounted", 0 | errno.EBUSY:
                # Other mounts of the same file system, or files that are still open, may keep it alive: not for long.
                self._detached_at = time.monotonic()
            case "unmounted", _:
                self._finish(None)

    def _daemon_gone(self) -> None:
        why = self.daemon.obituary() if self.daemon else f"The daemon at {self.options.source} closed the connection."
        initialised = bool(self.pump.init_answer)
        self._finish(self._dead(why) if initialised else PeerError(why), undo=not initialised)

    def _dead(self, why: str) -> PeerError:
        why = why.rstrip(".")
        return PeerError(
            f"{why}; the mount on {self.options.mountpoint} is dead, remove it with `umount {self.options.mountpoint}`."
        )

    def _signalled(self) -> None:
        """First signal: unmount, write back first. Second: end now."""
        if self._unmounting is not None:
            self._finish(None, undo=True)
            return
        self._unmounting = self._spawn("unmount", self._unmount)

    def _unmount(self) -> None:
        mountpoint = self.options.mountpoint
        try:
            kernel.unmount(mountpoint)
            self._post("unmounted", 0)
        except OSError as error:
            if error.errno != errno.EBUSY:
                self._post("unmounted", errno.EINVAL)
                return
            try:
                kernel.sync_mount(mountpoint)
                kernel.unmount(mountpoint, detach=True)
            except OSError:
                self._post("unmounted", errno.EINVAL)
                return
            self._post("unmounted", errno.EBUSY)

    # The end

    def _finish(self, error: FerryError | None, *, undo: bool = False) -> None:
        """Ends the loop; ``undo``: also takes the mount away, which nobody could use so far or wants any more."""
        self._ended = True
        self._error = error
        if undo and self._mounted:
            try:
                kernel.unmount(self.options.mountpoint, detach=True)
            except OSError as failure:
                self.log.write(f"ferryfs: {self.options.mountpoint} can't be unmounted: {failure.strerror}.\n")

    def close(self) -> None:
        """Ends threads, connection and control socket. A kernel mount that is still there answers ENOTCONN from now
        on.
        """
        if self._control is not None:
            self._control.close()
            self._control = None
        pump = self._pump
        if pump is not None:
            self._end_pump(pump)
        for fd in self._fuse_fds:
            os.close(fd)
        self._fuse_fds.clear()
        for thread in self._threads:
            thread.join(INIT_TIMEOUT_S)
        self._threads.clear()
        self.attachment.close()
        if pump is not None:
            pump.close()
            self._pump = None
        for queue in self.queues:
            queue.close()
        self.ram.close()
        if self._wake_fd >= 0:
            os.close(self._wake_fd)
            self._wake_fd = -1

    def _end_pump(self, pump: FusePump) -> None:
        alive = self._error is None
        pump.pause()
        for thread in self._readers:
            thread.join(DETACH_TIMEOUT_S)
            alive = alive and not thread.is_alive()
        if alive:
            pump.resume()
            pump.send_destroy()
            alive = pump.wait_idle(DETACH_TIMEOUT_S)
        if not alive:
            pump.abandon()
        pump.stop()

    # Control

    def _handle(self, request: Mapping[str, Any]) -> Answer:
        command = request.get("command")
        handler = self.handlers.get(str(command))
        if handler is None:
            raise OptionError(f"The mount knows no command {command!r}, only {', '.join(self.handlers)}.")
        return handler(request)

    def _status(self, _: Mapping[str, Any]) -> Answer:
        pump = self.pump
        requests, swallowed, bad = pump.counts
        return {
            "mountpoint": self.options.mountpoint,
            "source": self.options.source,
            "pid": os.getpid(),
            "daemon_pid": self.daemon.pid if self.daemon else None,
            "queues": self.options.queues,
            "queue_size": self.options.queue_size,
            "in_flight": pump.in_flight,
            "requests": requests,
            "swallowed": swallowed,
            "bad_replies": bad,
            "last_bad_reply": pump.last_bad_reply,
            "by_opcode": {_op_name(number): count for number, count in pump.opcode_counts.items()},
            "features": hex(self.attachment.features),
            "protocol_features": hex(self.attachment.client.protocol),
        }


_OP_NAMES: Final = {int(op): op.name for op in Op}


def _op_name(number: int) -> str:
    return _OP_NAMES.get(number, str(number))
