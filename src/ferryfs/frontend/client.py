"""The vhost-user front-end: what a monitor says to a daemon, one typed method a message, on a blocking socket.

QEMU's ``docs/interop/vhost-user.rst`` is the specification. Every method raises PeerError, naming the message, when
the back-end closes the connection, answers another message, refuses one that asked for an acknowledgement, or stays
silent longer than the time-out.
"""

from __future__ import annotations

import array
import enum
import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from ferryfs.errors import PeerError, SetupError

VIRTIO_F_INDIRECT_DESC: Final = 1 << 28
VIRTIO_F_EVENT_IDX: Final = 1 << 29
VHOST_USER_F_PROTOCOL_FEATURES: Final = 1 << 30
VIRTIO_F_VERSION_1: Final = 1 << 32
VHOST_F_LOG_ALL: Final = 1 << 26

VRING_F_LOG: Final = 1
NO_FD: Final = 1 << 8
INVALID_FD_BIT: Final = 1 << 8
"""In the reply of SET_DEVICE_STATE_FD: the back-end sends no descriptor of its own, the front-end's is used."""

_HEADER: Final = struct.Struct("=III")
_VERSION: Final = 1
_FLAG_REPLY: Final = 4
_FLAG_NEED_REPLY: Final = 8
_REGION: Final = struct.Struct("=QQQQ")


class Request(enum.IntEnum):
    """Messages from front-end to back-end."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_LOG_BASE = 6
    SET_LOG_FD = 7
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    SET_BACKEND_REQ_FD = 21
    GET_CONFIG = 24
    SET_CONFIG = 25
    RESET_DEVICE = 34
    GET_MAX_MEM_SLOTS = 36
    ADD_MEM_REG = 37
    REM_MEM_REG = 38
    SET_STATUS = 39
    GET_STATUS = 40
    SET_DEVICE_STATE_FD = 42
    CHECK_DEVICE_STATE = 43


class Protocol(enum.IntFlag):
    """Protocol features, by their bit."""

    MQ = 1 << 0
    LOG_SHMFD = 1 << 1
    REPLY_ACK = 1 << 3
    BACKEND_REQ = 1 << 5
    CONFIG = 1 << 9
    BACKEND_SEND_FD = 1 << 10
    INFLIGHT_SHMFD = 1 << 12
    RESET_DEVICE = 1 << 13
    INBAND_NOTIFICATIONS = 1 << 14
    CONFIGURE_MEM_SLOTS = 1 << 15
    STATUS = 1 << 16
    DEVICE_STATE = 1 << 19


class Direction(enum.IntEnum):
    """Which way a device state goes."""

    SAVE = 0
    LOAD = 1


# Regions as GuestRam.regions gives them: guest_addr, size, user_addr, mmap_offset, fd.
Region = tuple[int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class VringAddr:
    """Payload of SET_VRING_ADDR. All addresses are the front-end's, ``log`` is a guest address."""

    desc: int
    used: int
    avail: int
    log: int = 0
    flags: int = 0


class VhostUserClient:
    """One connection to a back-end. Owns its socket. ``timeout_s`` bounds the wait for each answer."""

    def __init__(self, sock: socket.socket, *, timeout_s: float = 60.0) -> None:
        self._sock = sock
        self._sock.settimeout(timeout_s)
        self.protocol = Protocol(0)
        self.acknowledge = True
        """Ask for an acknowledgement of every message that has no reply of its own (where REPLY_ACK is negotiated)."""

    @classmethod
    def connect(cls, path: str | os.PathLike[str], *, timeout_s: float = 60.0) -> Self:
        """Connects to a daemon's socket. Raises SetupError with the path when nobody listens there."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            sock.settimeout(timeout_s)
            sock.connect(os.fspath(path))
        except OSError as error:
            sock.close()
            raise SetupError(
                f"No daemon can be reached at the socket {os.fspath(path)}: {error.strerror or error}."
            ) from error
        return cls(sock, timeout_s=timeout_s)

    def set_timeout(self, timeout_s: float) -> None:
        """Bounds the wait for each answer from now on."""
        self._sock.settimeout(timeout_s)

    def fileno(self) -> int:
        """The socket: it becomes readable when the back-end goes."""
        return self._sock.fileno()

    def close(self) -> None:
        """Ends the connection. Idempotent."""
        self._sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Bytes

    def send(self, request: int, payload: bytes = b"", fds: Sequence[int] = (), *, flags: int = 0) -> None:
        """Sends one message as it is given, right or wrong; ``flags`` beside the version."""
        data = _HEADER.pack(request, _VERSION | flags, len(payload)) + payload
        self.send_raw(data, fds, name=_name(request))

    def send_raw(self, data: bytes, fds: Sequence[int] = (), *, name: str = "a message") -> None:
        """Sends bytes that need not be a message."""
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            sent = self._sock.sendmsg([data], ancillary)
            if sent < len(data):
                self._sock.sendall(data[sent:])
        except OSError as error:
            raise PeerError(
                f"The daemon closed the connection before {name} was sent ({error.strerror or error})."
            ) from error

    def receive(self, request: int) -> tuple[bytes, list[int]]:
        """The reply to ``request``: payload, and descriptors that the caller now owns."""
        header, fds = self._read(_HEADER.size, request)
        number, flags, size = _HEADER.unpack(header)
        if number != request or not flags & _FLAG_REPLY or size > 1 << 16:
            for fd in fds:
                os.close(fd)
            raise PeerError(
                f"The daemon answered {_name(request)} with {_name(number)} (flags {flags:#x}, {size} bytes)."
            )
        payload, more = self._read(size, request) if size else (b"", [])
        return payload, fds + more

    def _read(self, size: int, request: int) -> tuple[bytes, list[int]]:
        data = b""
        fds: list[int] = []
        while len(data) < size:
            try:
                part, ancillary, _, _ = self._sock.recvmsg(size - len(data), 1024, socket.MSG_CMSG_CLOEXEC)
            except TimeoutError as error:
                raise PeerError(
                    f"The daemon did not answer {_name(request)} in {self._sock.gettimeout()} s."
                ) from error
            except OSError as error:
                raise PeerError(
                    f"The connection broke while {_name(request)} was waiting: {error.strerror}."
                ) from error
            for level, kind, content in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    received = array.array("i")
                    received.frombytes(content[: len(content) - len(content) % received.itemsize])
                    fds.extend(received)
            if not part:
                for fd in fds:
                    os.close(fd)
                raise PeerError(f"The daemon closed the connection instead of answering {_name(request)}.")
            data += part
        return data, fds

    def command(self, request: Request, payload: bytes = b"", fds: Sequence[int] = ()) -> None:
        """Sends a message without a reply of its own, acknowledged where that was negotiated and is asked for."""
        if not (self.acknowledge and Protocol.REPLY_ACK in self.protocol):
            self.send(request, payload, fds)
            return
        self.send(request, payload, fds, flags=_FLAG_NEED_REPLY)
        status = self._u64_reply(request)
        if status:
            raise PeerError(f"The daemon refused {request.name} (status {status}).")

    def query(self, request: Request, payload: bytes = b"", fds: Sequence[int] = ()) -> bytes:
        """Sends a message that has a reply and returns the reply's payload; descriptors in it are closed."""
        self.send(request, payload, fds)
        answer, received = self.receive(request)
        for fd in received:
            os.close(fd)
        return answer

    def _u64_reply(self, request: Request) -> int:
        answer, received = self.receive(request)
        for fd in received:
            os.close(fd)
        return _u64(request, answer)

    def _query_u64(self, request: Request, payload: bytes = b"", fds: Sequence[int] = ()) -> int:
        return _u64(request, self.query(request, payload, fds))

    # Device

    def get_features(self) -> int:
        return self._query_u64(Request.GET_FEATURES)

    def set_features(self, features: int) -> None:
        self.command(Request.SET_FEATURES, _pack_u64(features))

    def get_protocol_features(self) -> Protocol:
        return Protocol(self._query_u64(Request.GET_PROTOCOL_FEATURES))

    def set_protocol_features(self, features: Protocol) -> None:
        """Takes effect for this message's own acknowledgement too: none is asked for before."""
        self.send(Request.SET_PROTOCOL_FEATURES, _pack_u64(features))
        self.protocol = features

    def set_owner(self) -> None:
        self.command(Request.SET_OWNER)

    def reset_owner(self) -> None:
        self.command(Request.RESET_OWNER)

    def reset_device(self) -> None:
        self.command(Request.RESET_DEVICE)

    def get_queue_num(self) -> int:
        return self._query_u64(Request.GET_QUEUE_NUM)

    def get_status(self) -> int:
        return self._query_u64(Request.GET_STATUS)

    def set_status(self, status: int) -> None:
        self.command(Request.SET_STATUS, _pack_u64(status))

    def get_config(self, offset: int, size: int) -> bytes:
        """Bytes of the device configuration space. PeerError when the daemon has none."""
        answer = self.query(Request.GET_CONFIG, struct.pack("=III", offset, size, 0) + bytes(size))
        if len(answer) != 12 + size:
            raise PeerError(f"The daemon has no {size} bytes of configuration at {offset} (GET_CONFIG).")
        return answer[12:]

    def set_config(self, offset: int, data: bytes) -> None:
        self.command(Request.SET_CONFIG, struct.pack("=III", offset, len(data), 0) + data)

    def set_backend_req_fd(self, fd: int) -> None:
        self.command(Request.SET_BACKEND_REQ_FD, fds=[fd])

    # Memory

    def set_mem_table(self, regions: Sequence[Region]) -> None:
        payload = struct.pack("=II", len(regions), 0) + b"".join(_REGION.pack(*region[:4]) for region in regions)
        self.command(Request.SET_MEM_TABLE, payload, [region[4] for region in regions])

    def get_max_mem_slots(self) -> int:
        return self._query_u64(Request.GET_MAX_MEM_SLOTS)

    def add_mem_reg(self, region: Region) -> None:
        self.command(Request.ADD_MEM_REG, _pack_u64(0) + _REGION.pack(*region[:4]), [region[4]])

    def rem_mem_reg(self, region: Region) -> None:
        self.command(Request.REM_MEM_REG, _pack_u64(0) + _REGION.pack(*region[:4]))

    def set_log_base(self, size: int, offset: int, fd: int) -> None:
        """Answered once wherever LOG_SHMFD is negotiated, asked or not."""
        payload = struct.pack("=QQ", size, offset)
        if Protocol.LOG_SHMFD in self.protocol:
            self.query(Request.SET_LOG_BASE, payload, [fd])
        else:
            self.command(Request.SET_LOG_BASE, payload, [fd])

    def set_log_fd(self, fd: int) -> None:
        self.command(Request.SET_LOG_FD, fds=[fd])

    # Rings

    def set_vring_num(self, index: int, num: int) -> None:
        self.command(Request.SET_VRING_NUM, struct.pack("=II", index, num))

    def set_vring_addr(self, index: int, addr: VringAddr) -> None:
        payload = struct.pack("=IIQQQQ", index, addr.flags, addr.desc, addr.used, addr.avail, addr.log)
        self.command(Request.SET_VRING_ADDR, payload)

    def set_vring_base(self, index: int, base: int) -> None:
        self.command(Request.SET_VRING_BASE, struct.pack("=II", index, base))

    def get_vring_base(self, index: int) -> int:
        """Stops the ring and returns its next available index."""
        answer = self.query(Request.GET_VRING_BASE, struct.pack("=II", index, 0))
        if len(answer) != 8:
            raise PeerError(f"The daemon answered GET_VRING_BASE with {len(answer)} bytes instead of 8.")
        found, base = struct.unpack("=II", answer)
        if found != index:
            raise PeerError(f"The daemon answered GET_VRING_BASE for ring {found} instead of {index}.")
        return int(base)

    def _set_vring_fd(self, request: Request, index: int, fd: int) -> None:
        if fd < 0:
            self.command(request, _pack_u64(index | NO_FD))
        else:
            self.command(request, _pack_u64(index), [fd])

    def set_vring_kick(self, index: int, fd: int) -> None:
        """``fd`` -1, here and in the next two: none."""
        self._set_vring_fd(Request.SET_VRING_KICK, index, fd)

    def set_vring_call(self, index: int, fd: int) -> None:
        self._set_vring_fd(Request.SET_VRING_CALL, index, fd)

    def set_vring_err(self, index: int, fd: int) -> None:
        self._set_vring_fd(Request.SET_VRING_ERR, index, fd)

    def set_vring_enable(self, index: int, enable: bool) -> None:
        self.command(Request.SET_VRING_ENABLE, struct.pack("=II", index, int(enable)))

    # Device state

    def set_device_state_fd(self, direction: Direction, fd: int, *, phase: int = 0) -> int | None:
        """Begins a transfer through ``fd``, which stays the caller's. Returns a descriptor of the daemon's to be used
        instead, owned by the caller, or None. PeerError when the daemon refuses.
        """
        self.send(Request.SET_DEVICE_STATE_FD, struct.pack("=II", direction, phase), [fd])
        answer, received = self.receive(Request.SET_DEVICE_STATE_FD)
        value = _u64(Request.SET_DEVICE_STATE_FD, answer)
        if value & 0xFF or len(received) > 1 or bool(value & INVALID_FD_BIT) == bool(received):
            for other in received:
                os.close(other)
            verb = "save" if direction is Direction.SAVE else "load"
            raise PeerError(
                f"The daemon refused to {verb} its state (SET_DEVICE_STATE_FD: {value:#x}, {len(received)} fds)."
            )
        return received[0] if received else None

    def check_device_state(self) -> None:
        """Waits for the end of a transfer; PeerError when it failed (the daemon's own log says why)."""
        status = self._query_u64(Request.CHECK_DEVICE_STATE)
        if status:
            raise PeerError(f"The daemon says that the transfer of its state failed (CHECK_DEVICE_STATE: {status}).")


def _pack_u64(value: int) -> bytes:
    return struct.pack("=Q", value)


def _u64(request: int, answer: bytes) -> int:
    if len(answer) != 8:
        raise PeerError(f"The daemon answered {_name(request)} with {len(answer)} bytes instead of 8.")
    return int(struct.unpack("=Q", answer)[0])


def _name(request: int) -> str:
    try:
        return Request(request).name
    except ValueError:
        return f"message {request}"
