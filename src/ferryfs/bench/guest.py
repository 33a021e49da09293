"""A guest without a machine: guest memory, two virtqueues and the FUSE session of one daemon under measurement."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Self

from ferryfs.bench import usage
from ferryfs.errors import PeerError
from ferryfs.frontend.attachment import Attachment, negotiate
from ferryfs.frontend.client import VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC
from ferryfs.frontend.daemon_process import DaemonProcess
from ferryfs.frontend.driver import DriverQueue
from ferryfs.frontend.ram import GuestRam
from ferryfs.wire.fuse import (
    DIRENT,
    ENTRY_OUT,
    IN_HEADER,
    INIT_IN,
    MAJOR,
    OPEN_IN,
    OUT_HEADER,
    READ_IN,
    RELEASE_IN,
    ROOT_ID,
    InitFlag,
    Op,
    record_size,
)

# 1 MiB requests in pages need 258 descriptors of a table; QEMU's queue-size=1024 is what such guests are given.
QUEUE_SIZE: Final = 1024
RAM_BYTES: Final = 256 << 20
# Linux 6.12's client speaks 7.41 and offers about all there is; a security context would be a privilege of the daemon.
GUEST_MINOR: Final = 41
NOT_OFFERED: Final = InitFlag.INIT_RESERVED | InitFlag.SECURITY_CTX | InitFlag.WRITEBACK_CACHE | InitFlag.OVER_IO_URING
PAGE: Final = 4096


def request(op: Op, nodeid: int, *parts: bytes) -> list[bytes]:
    """The readable buffers of a request, cut as Linux' driver cuts them: the header, then the arguments."""
    body = b"".join(parts)
    head = IN_HEADER.pack(len=IN_HEADER.size + len(body), opcode=op, nodeid=nodeid, pid=1)
    return [head, body] if body else [head]


def pages(size: int) -> list[int]:
    """A data buffer in a guest's pages."""
    return [PAGE] * (size // PAGE) + ([size % PAGE] if size % PAGE else [])


def start_daemon(command: str, socket: Path) -> DaemonProcess:
    """Starts a daemon under measurement. End it.

    What it says when nothing is wrong is in nobody's way; its last words are in the error where something is. What is
    meant for our interpreter would have ferryfsd start its own a second time, without it.
    """
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return DaemonProcess(command, str(socket), io.StringIO(), environ)


class BenchGuest:
    """One daemon that was started by ``command`` and serves queues of ours: the high-priority one and so many request
    queues. Close it.
    """

    def __init__(self, name: str, command: str, folder: Path, queues: int = 1) -> None:
        self.name = name
        self.command = command
        began = time.monotonic()
        self.daemon = start_daemon(command, folder / f"{name}.sock")
        with contextlib.ExitStack() as undo:
            undo.callback(self.daemon.end)
            client = self.daemon.connect()
            self.connected_s = time.monotonic() - began
            undo.callback(client.close)
            features = negotiate(client, queues=queues + 1)
            self.ram = GuestRam([RAM_BYTES])
            undo.callback(self.ram.close)
            options = {
                "event_idx": bool(features & VIRTIO_F_EVENT_IDX),
                "indirect": bool(features & VIRTIO_F_INDIRECT_DESC),
            }
            self.hiprio = DriverQueue(self.ram, 128, slot_bytes=256, **options)
            undo.callback(self.hiprio.close)
            self.queues = []
            for _ in range(queues):
                queue = DriverQueue(self.ram, QUEUE_SIZE, slot_bytes=4 * PAGE, **options)
                undo.callback(queue.close)
                self.queues.append(queue)
            self.queue = self.queues[0]
            self.attachment = Attachment(client, self.ram, (self.hiprio, *self.queues), features)
            undo.callback(self.attachment.close)
            self.attachment.introduce()
            self.attachment.start([0] * (queues + 1))
            self.init = self._init()
            self.answered_s = time.monotonic() - began
            self.pids = usage.processes(self.daemon.pid)
            self._undo = undo.pop_all()

    def close(self) -> None:
        """Ends the session, the connection and the daemon. Idempotent."""
        self._undo.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(self, op: Op, nodeid: int, *parts: bytes, room: int = PAGE - OUT_HEADER.size) -> bytes:
        """One request and its answer behind the header. Raises PeerError with the daemon's errno."""
        used, answer = self.queue.transact(request(op, nodeid, *parts), [OUT_HEADER.size, room])
        head = OUT_HEADER.unpack(answer[0])
        if head["error"]:
            raise PeerError(f"{self.name} answered {op.name} with {os.strerror(-head['error'])}.")
        return answer[1][: used - OUT_HEADER.size]

    def _init(self) -> dict[str, int]:
        offered = sum(InitFlag) & ~NOT_OFFERED
        body = INIT_IN.pack(
            major=MAJOR, minor=GUEST_MINOR, max_readahead=1 << 20, flags=offered & 0xFFFFFFFF, flags2=offered >> 32
        )
        answer = self.call(Op.INIT, 0, body)
        layout = Op.INIT.reply
        if layout is None or len(answer) < layout.size:
            raise PeerError(f"{self.name} answered INIT with {len(answer)} bytes.")
        return layout.unpack(answer)

    # What rows prepare themselves with

    def lookup(self, parent: int, name: str) -> int:
        """The nodeid of a name; one lookup is counted."""
        return ENTRY_OUT.unpack(self.call(Op.LOOKUP, parent, name.encode() + b"\0"))["nodeid"]

    def walk(self, path: str) -> int:
        """The nodeid of a path below the share."""
        nodeid = ROOT_ID
        for name in filter(None, path.split("/")):
            nodeid = self.lookup(nodeid, name)
        return nodeid

    @contextlib.contextmanager
    def opened(self, nodeid: int, flags: int) -> Iterator[int]:
        """An open file or directory: its fh."""
        directory = bool(flags & os.O_DIRECTORY)
        opening, closing = (Op.OPENDIR, Op.RELEASEDIR) if directory else (Op.OPEN, Op.RELEASE)
        answer = self.call(opening, nodeid, OPEN_IN.pack(flags=flags))
        fh = int.from_bytes(answer[:8], sys.byteorder)
        try:
            yield fh
        finally:
            self.call(closing, nodeid, RELEASE_IN.pack(fh=fh, flags=flags))

    def directory_offsets(self, nodeid: int, op: Op, size: int) -> tuple[list[int], int]:
        """The offsets at which a walk reads a directory, ``size`` bytes a request, and how many entries came."""
        prefix = ENTRY_OUT.size if op is Op.READDIRPLUS else 0
        offsets, entries = [0], 0
        with self.opened(nodeid, os.O_RDONLY | os.O_DIRECTORY) as fh:
            while answer := self.call(op, nodeid, READ_IN.pack(fh=fh, offset=offsets[-1], size=size), room=size):
                at = following = 0
                while at < len(answer):
                    entry = DIRENT.unpack(answer, at + prefix)
                    following = entry["off"]
                    at += record_size(prefix + DIRENT.size + entry["namelen"])
                    entries += 1
                offsets.append(following)
        return offsets, entries

    def cpu_ns(self) -> int:
        """Processor time of the daemon so far."""
        return usage.cpu_ns(self.pids)

    def memory(self) -> usage.Memory:
        """Memory of the daemon now."""
        return usage.memory(self.pids)


@contextlib.contextmanager
def guests(commands: Sequence[tuple[str, str]], queues: int = 1) -> Iterator[list[BenchGuest]]:
    """A guest for each (name, command), all alive at the same time."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ferryfs-bench-")))
        yield [stack.enter_context(BenchGuest(name, command, folder, queues)) for name, command in commands]
