"""A reference daemon driven by hand: vhost-user, one virtqueue in a memfd, and the few FUSE requests that the tests
need.

Deliberately small and independent of ferryfs: what it records is what virtiofsd does, whatever our own code believes.
A request is one readable and one writable buffer, one at a time.
"""

from __future__ import annotations

import array
import mmap
import os
import select
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

CACHE = Path(os.environ.get("FERRYFS_CACHE", Path.home() / ".cache" / "ferryfs"))
VERSIONS = ("1.13.2", "1.14.0")
# In the place of a version: ferryfsd.
OURS = "ferryfsd"

# Seconds until a daemon that does not answer is given up.
PATIENCE = 20.0

MEMORY_BYTES = 1 << 21
USER_ADDR = 0x7F0000000000
QUEUE_BYTES = 1 << 16
QUEUE_SIZE = 16
REQUEST_AT = 1 << 18
REPLY_AT = 1 << 19
REPLY_BYTES = 1 << 18

F_VERSION_1 = 1 << 32
F_PROTOCOL_FEATURES = 1 << 30
PROTOCOL_F_MQ, PROTOCOL_F_REPLY_ACK, PROTOCOL_F_DEVICE_STATE = 1 << 0, 1 << 3, 1 << 19

GET_FEATURES, SET_FEATURES, SET_OWNER, SET_MEM_TABLE = 1, 2, 3, 5
SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE, GET_VRING_BASE, SET_VRING_KICK, SET_VRING_CALL = 8, 9, 10, 11, 12, 13
GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES, SET_VRING_ENABLE = 15, 16, 18
SET_DEVICE_STATE_FD, CHECK_DEVICE_STATE = 42, 43
SAVE, LOAD = 0, 1

LOOKUP, FORGET, GETATTR, UNLINK, OPEN, READ, WRITE, RELEASE = 1, 2, 3, 10, 14, 15, 16, 18
INIT, OPENDIR, READDIR, CREATE, RENAME2 = 26, 27, 28, 35, 45


def binary(version: str) -> Path | None:
    """The daemon's wrapper, where ``scripts/peers`` put it."""
    found = CACHE / "peers" / f"virtiofsd-{version}" / "virtiofsd"
    return found if found.exists() else None


class Refused(Exception):
    """The daemon said no."""


class Peer:
    """A running daemon, its connection and its request queue."""

    def __init__(self, version: str, share: Path, *options: str) -> None:
        command = [sys.executable, "-m", "ferryfs.cli.daemon"] if version == OURS else [str(binary(version))]
        with socket.socket(socket.AF_UNIX) as listener, tempfile.TemporaryDirectory() as folder:
            listener.bind(f"{folder}/socket")
            listener.listen()
            arguments = [*command, f"--fd={listener.fileno()}", f"--shared-dir={share}", "--sandbox=none", *options]
            self._process = subprocess.Popen(
                arguments,
                pass_fds=[listener.fileno()],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.settimeout(PATIENCE)
            self._socket.connect(f"{folder}/socket")
        self._memory_fd = os.memfd_create("guest")
        os.ftruncate(self._memory_fd, MEMORY_BYTES)
        self._memory = mmap.mmap(self._memory_fd, MEMORY_BYTES)
        self._kick = [os.eventfd(0) for _ in range(2)]
        self._call = [os.eventfd(0) for _ in range(2)]
        self._avail = [0, 0]
        self._unique = 0
        self._started = False
        self._said = ""
        self._connect()

    def close(self) -> str:
        """Ends the daemon; what it had to say. Idempotent."""
        if self._process.returncode is not None:
            return self._said
        self._socket.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(PATIENCE)
        if self._process.poll() is None:
            self._process.kill()
        _, said = self._process.communicate()
        self._memory.close()
        for fd in (self._memory_fd, *self._kick, *self._call):
            os.close(fd)
        self._said = said.decode(errors="replace")
        return self._said

    # vhost-user

    def message(self, request: int, payload: bytes = b"", fds: Sequence[int] = (), *, reply: bool = False) -> bytes:
        """One message; everything without a reply of its own is acknowledged (REPLY_ACK) once that is negotiated."""
        acknowledged = not reply and self._started
        header = struct.pack("<III", request, 1 | (8 if acknowledged else 0), len(payload))
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self._socket.sendmsg([header + payload], rights)
        if not reply and not acknowledged:
            return b""
        answer = self._receive(12)
        body = self._receive(struct.unpack("<III", answer)[2])
        if acknowledged and struct.unpack("<Q", body)[0]:
            raise Refused(f"message {request} was refused")
        return body

    def _receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self._socket.recv(size - len(data))
            if not part:
                raise Refused("the daemon closed the connection")
            data += part
        return data

    def _connect(self) -> None:
        features = struct.unpack("<Q", self.message(GET_FEATURES, reply=True))[0]
        wanted = features & (F_VERSION_1 | F_PROTOCOL_FEATURES)
        offered = struct.unpack("<Q", self.message(GET_PROTOCOL_FEATURES, reply=True))[0]
        chosen = offered & (PROTOCOL_F_MQ | PROTOCOL_F_REPLY_ACK | PROTOCOL_F_DEVICE_STATE)
        self.message(SET_PROTOCOL_FEATURES, struct.pack("<Q", chosen))
        self._started = True
        self.message(SET_OWNER)
        self.message(SET_FEATURES, struct.pack("<Q", wanted))
        table = struct.pack("<II4Q", 1, 0, 0, MEMORY_BYTES, USER_ADDR, 0)
        self.message(SET_MEM_TABLE, table, [self._memory_fd])

    def start_queues(self) -> None:
        """Both queues, enabled; the second one is the request queue."""
        for index in range(2):
            base = index * QUEUE_BYTES
            self.message(SET_VRING_NUM, struct.pack("<II", index, QUEUE_SIZE))
            desc, avail, used = (USER_ADDR + base + offset for offset in (0, 0x1000, 0x2000))
            self.message(SET_VRING_ADDR, struct.pack("<IIQQQQ", index, 0, desc, used, avail, 0))
            self.message(SET_VRING_BASE, struct.pack("<II", index, self._avail[index]))
            self.message(SET_VRING_KICK, struct.pack("<Q", index), [self._kick[index]])
            self.message(SET_VRING_CALL, struct.pack("<Q", index), [self._call[index]])
            self.message(SET_VRING_ENABLE, struct.pack("<II", index, 1))

    def stop_queues(self) -> None:
        for index in range(2):
            self.message(GET_VRING_BASE, struct.pack("<II", index, 0), reply=True)

    # FUSE

    def request(self, opcode: int, nodeid: int, payload: bytes = b"", *, answered: bool = True) -> bytes:
        """One FUSE request; the reply's payload. Raises OSError with the guest's errno."""
        self._unique += 1
        data = struct.pack("<IIQQIIII", 40 + len(payload), opcode, self._unique, nodeid, 0, 0, 1, 0) + payload
        self._memory[REQUEST_AT : REQUEST_AT + len(data)] = data
        base = QUEUE_BYTES
        last = 1 if answered else 0
        self._memory[base : base + 32] = struct.pack("<QIHH", REQUEST_AT, len(data), last, 1) + struct.pack(
            "<QIHH", REPLY_AT, REPLY_BYTES, 2, 0
        )
        slot = self._avail[1] % QUEUE_SIZE
        struct.pack_into("<H", self._memory, base + 0x1004 + 2 * slot, 0)
        self._avail[1] = (self._avail[1] + 1) & 0xFFFF
        struct.pack_into("<H", self._memory, base + 0x1002, self._avail[1])
        os.eventfd_write(self._kick[1], 1)
        while struct.unpack_from("<H", self._memory, base + 0x2002)[0] != self._avail[1]:
            ready, _, _ = select.select([self._call[1]], [], [], PATIENCE)
            if not ready:
                raise Refused(f"no answer to request {opcode}")
            os.eventfd_read(self._call[1])
        if not answered:
            return b""
        length, error, unique = struct.unpack_from("<IiQ", self._memory, REPLY_AT)
        assert unique == self._unique
        if error:
            raise OSError(-error, os.strerror(-error))
        return self._memory[REPLY_AT + 16 : REPLY_AT + length]

    def init(self, flags: int = 0) -> int:
        """FUSE_INIT of protocol 7.38; the flags that the daemon chose."""
        reply = self.request(
            INIT, 0, struct.pack("<IIIIII", 7, 38, 1 << 17, flags & 0xFFFFFFFF, flags >> 32, 0) + bytes(40)
        )
        return int(struct.unpack_from("<I", reply, 12)[0])

    def lookup(self, parent: int, name: bytes) -> int:
        return int(struct.unpack_from("<Q", self.request(LOOKUP, parent, name + b"\0"))[0])

    def walk(self, path: bytes) -> int:
        node = 1
        for name in path.split(b"/"):
            node = self.lookup(node, name)
        return node

    def forget(self, nodeid: int, count: int = 1) -> None:
        self.request(FORGET, nodeid, struct.pack("<Q", count), answered=False)

    def open(self, nodeid: int, flags: int, *, directory: bool = False) -> int:
        reply = self.request(OPENDIR if directory else OPEN, nodeid, struct.pack("<II", flags, 0))
        return int(struct.unpack_from("<Q", reply)[0])

    def read(self, nodeid: int, handle: int, size: int = 4096) -> bytes:
        return self.request(READ, nodeid, struct.pack("<QQIIQII", handle, 0, size, 0, 0, 0, 0))

    def release(self, nodeid: int, handle: int) -> None:
        self.request(RELEASE, nodeid, struct.pack("<QIIQ", handle, 0, 0, 0))

    def create(self, parent: int, name: bytes, flags: int, mode: int = 0o644) -> tuple[int, int]:
        """The new file's nodeid and handle."""
        reply = self.request(CREATE, parent, struct.pack("<IIII", flags, mode, 0, 0) + name + b"\0")
        return struct.unpack_from("<Q", reply)[0], struct.unpack_from("<Q", reply, 128)[0]

    def unlink(self, parent: int, name: bytes) -> None:
        self.request(UNLINK, parent, name + b"\0")

    def rename(self, folder: int, name: bytes, new_folder: int, new_name: bytes) -> None:
        self.request(RENAME2, folder, struct.pack("<QII", new_folder, 0, 0) + name + b"\0" + new_name + b"\0")

    def write(self, nodeid: int, handle: int, data: bytes, offset: int = 0) -> None:
        self.request(WRITE, nodeid, struct.pack("<QQIIQII", handle, offset, len(data), 0, 0, 0, 0) + data)

    def size_of(self, nodeid: int) -> int:
        return int(struct.unpack_from("<Q", self.request(GETATTR, nodeid, bytes(16)), 16 + 8)[0])

    def read_directory(self, nodeid: int, handle: int, offset: int, size: int) -> list[tuple[int, bytes]]:
        """(offset behind it, name) of the entries of one READDIR."""
        data = self.request(READDIR, nodeid, struct.pack("<QQIIQII", handle, offset, size, 0, 0, 0, 0))
        entries = []
        at = 0
        while at < len(data):
            _, following, length, _ = struct.unpack_from("<QQII", data, at)
            entries.append((following, data[at + 24 : at + 24 + length]))
            at += 24 + (length + 7 & ~7)
        return entries

    # migration

    def hand_over(self, direction: int, fd: int) -> None:
        reply = self.message(SET_DEVICE_STATE_FD, struct.pack("<II", direction, 0), [fd], reply=True)
        if struct.unpack("<Q", reply)[0] != 0x100:
            raise Refused("SET_DEVICE_STATE_FD was refused")

    def check(self) -> bool:
        return struct.unpack("<Q", self.message(CHECK_DEVICE_STATE, reply=True))[0] == 0

    def save(self) -> bytes:
        """The stream; the queues must be stopped."""
        read_end, write_end = os.pipe()
        with open(read_end, "rb") as pipe:
            self.hand_over(SAVE, write_end)
            os.close(write_end)
            data = pipe.read()
        if not self.check():
            raise Refused("the daemon could not save its state")
        return data

    def load(self, data: bytes) -> bool:
        """Whether the daemon took the stream."""
        read_end, write_end = os.pipe()
        self.hand_over(LOAD, read_end)
        os.close(read_end)

        def pump() -> None:
            with suppress(BrokenPipeError), open(write_end, "wb") as pipe:
                pipe.write(data)

        writer = threading.Thread(target=pump)
        writer.start()
        try:
            return self.check()
        finally:
            writer.join()


@contextmanager
def running(version: str, share: Path, *options: str) -> Iterator[Peer]:
    """A daemon for the length of a block."""
    peer = Peer(version, share, *options)
    try:
        yield peer
    finally:
        peer.close()


def missing() -> str:
    """What a test that needs the reference daemons has to say when it skips; empty when nothing is missing."""
    absent = [version for version in VERSIONS if binary(version) is None]
    if absent:
        return f"virtiofsd {' and '.join(absent)} not unpacked: run scripts/peers"
    if os.geteuid() != 0:
        return "virtiofsd with --sandbox=none and file handles needs root"
    return "" if shutil.which("mount") else "no mount(8)"
