"""The vhost-user front-end: what a monitor says to a daemon, one typed method a message, on a blocking socket.

QEMU's ``docs/interop/vhost-user.rst`` is the specification. Every method raises PeerError, naming the message, when
the back-end closes the connection, answers another message, refuses one that asked for an acknowledgement, or stays
silent longer than the time-out.
"""

from __future__ import annotations

import array
import contextlib
import enum
import os
import socket
from collections.abc import Sequence
from typing import Final, Self

from ferryfs.errors import PeerError, SetupError
from ferryfs.wire import vhost_user as wire
from ferryfs.wire.vhost_user import (
    ConfigSpace,
    LogArea,
    MemoryRegion,
    ProtocolFeature,
    Request,
    StateTransfer,
    Value,
    VringAddr,
    VringState,
    decode_reply,
    decode_reply_header,
    encode_request,
)

VIRTIO_F_INDIRECT_DESC: Final = 1 << wire.Feature.RING_INDIRECT_DESC
VIRTIO_F_EVENT_IDX: Final = 1 << wire.Feature.RING_EVENT_IDX
VHOST_USER_F_PROTOCOL_FEATURES: Final = 1 << wire.Feature.PROTOCOL_FEATURES
VIRTIO_F_VERSION_1: Final = 1 << wire.Feature.VERSION_1
VHOST_F_LOG_ALL: Final = 1 << wire.Feature.LOG_ALL


class Direction(enum.IntEnum):
    """Which way a device state goes."""

    SAVE = 0
    LOAD = 1


# Regions as GuestRam.regions gives them: guest_addr, size, user_addr, mmap_offset, fd.
Region = tuple[int, int, int, int, int]


class VhostUserClient:
    """One connection to a back-end. Owns its socket. ``timeout_s`` bounds the wait for each answer."""

    def __init__(self, sock: socket.socket, *, timeout_s: float = 60.0) -> None:
        self._sock = sock
        self._sock.settimeout(timeout_s)
        self.protocol = 0
        """The protocol features that were negotiated, as their word."""
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

    def has(self, feature: ProtocolFeature) -> bool:
        """Whether a protocol feature was negotiated."""
        return bool(self.protocol >> feature & 1)

    # Bytes

    def send(self, request: Request, value: Value = None, fds: Sequence[int] = (), *, need_reply: bool = False) -> None:
        """Sends one message of the table, without waiting for anything."""
        self.send_raw(encode_request(request, value, need_reply=need_reply), fds, name=request.name)

    def send_raw(self, data: bytes, fds: Sequence[int] = (), *, name: str = "a message") -> None:
        """Sends bytes that need not be a message."""
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            sent = self._sock.sendmsg([data], ancillary)
            if sent < len(data):
                self._sock.sendall(data[sent:])
        except OSError as error:
            reason = error.strerror or str(error)
            raise PeerError(f"The daemon closed the connection before {name} was sent ({reason}).") from error

    def receive(self, request: Request, *, any_payload: bool = False) -> tuple[Value, list[int]]:
        """The answer to ``request``: what it says, and descriptors that the caller now owns.

        ``any_payload``: nobody cares what it says, None is returned for it.
        """
        with contextlib.ExitStack() as on_failure:
            data, fds = self._read(wire.HEADER.size, request)
            on_failure.callback(_close_all, fds)
            header = decode_reply_header(request, data)
            payload = b""
            if header.size:
                payload, more = self._read(header.size, request)
                fds.extend(more)
            value = None if any_payload else decode_reply(request, payload)
            on_failure.pop_all()
            return value, fds

    def _read(self, size: int, request: Request) -> tuple[bytes, list[int]]:
        data = b""
        fds: list[int] = []
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(_close_all, fds)
            while len(data) < size:
                try:
                    part, ancillary, _, _ = self._sock.recvmsg(size - len(data), 1024, socket.MSG_CMSG_CLOEXEC)
                except TimeoutError as error:
                    waited = self._sock.gettimeout()
                    raise PeerError(f"The daemon did not answer {request.name} in {waited} s.") from error
                except OSError as error:
                    why = error.strerror
                    raise PeerError(f"The connection broke while {request.name} was waiting: {why}.") from error
                for level, kind, content in ancillary:
                    if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                        received = array.array("i")
                        received.frombytes(content[: len(content) - len(content) % received.itemsize])
                        fds.extend(received)
                if not part:
                    raise PeerError(f"The daemon closed the connection instead of answering {request.name}.")
                data += part
            on_failure.pop_all()
        return data, fds

    def command(self, request: Request, value: Value = None, fds: Sequence[int] = ()) -> None:
        """Sends a message without an answer of its own, acknowledged where that was negotiated and is asked for."""
        need_reply = self.acknowledge and self.has(ProtocolFeature.REPLY_ACK)
        self.send(request, value, fds, need_reply=need_reply)
        if need_reply:
            status, received = self.receive(request)
            _close_all(received)
            if status:
                raise PeerError(f"The daemon refused {request.name} (status {status}).")

    def query(self, request: Request, value: Value = None, fds: Sequence[int] = ()) -> Value:
        """Sends a message that has an answer and returns what it says; descriptors in it are closed."""
        self.send(request, value, fds)
        answer, received = self.receive(request)
        _close_all(received)
        return answer

    def _query_u64(self, request: Request) -> int:
        answer = self.query(request)
        if not isinstance(answer, int):
            raise PeerError(f"The daemon answered {request.name} with {answer} instead of a number.")
        return answer

    # Device

    def get_features(self) -> int:
        return self._query_u64(Request.GET_FEATURES)

    def set_features(self, features: int) -> None:
        self.command(Request.SET_FEATURES, features)

    def get_protocol_features(self) -> int:
        return self._query_u64(Request.GET_PROTOCOL_FEATURES)

    def set_protocol_features(self, features: int) -> None:
        """Asks for no acknowledgement: REPLY_ACK is only negotiated by this."""
        self.send(Request.SET_PROTOCOL_FEATURES, features)
        self.protocol = features

    def set_owner(self) -> None:
        self.command(Request.SET_OWNER)

    def reset_owner(self) -> None:
        self.command(Request.RESET_OWNER)

    def reset_device(self) -> None:
        self.command(Request.RESET_DEVICE)

    def get_queue_num(self) -> int:
        return self._query_u64(Request.GET_QUEUE_NUM)

    def get_config(self, offset: int, size: int) -> bytes:
        """Bytes of the device configuration space. Raises PeerError when the daemon has none."""
        answer = self.query(Request.GET_CONFIG, ConfigSpace(offset, 0, bytes(size)))
        if not isinstance(answer, ConfigSpace) or len(answer.data) != size:
            raise PeerError(f"The daemon has no {size} bytes of configuration at {offset} (GET_CONFIG).")
        return answer.data

    def set_config(self, offset: int, data: bytes) -> None:
        self.command(Request.SET_CONFIG, ConfigSpace(offset, 0, data))

    def set_backend_req_fd(self, fd: int) -> None:
        self.command(Request.SET_BACKEND_REQ_FD, fds=[fd])

    # Memory

    def set_mem_table(self, regions: Sequence[Region]) -> None:
        table = tuple(MemoryRegion(*region[:4]) for region in regions)
        self.command(Request.SET_MEM_TABLE, table, [region[4] for region in regions])

    def get_max_mem_slots(self) -> int:
        return self._query_u64(Request.GET_MAX_MEM_SLOTS)

    def add_mem_reg(self, region: Region) -> None:
        self.command(Request.ADD_MEM_REG, MemoryRegion(*region[:4]), [region[4]])

    def rem_mem_reg(self, region: Region) -> None:
        self.command(Request.REM_MEM_REG, MemoryRegion(*region[:4]))

    def set_log_base(self, size: int, offset: int, fd: int) -> None:
        """Answered once wherever LOG_SHMFD is negotiated, asked or not."""
        if self.has(ProtocolFeature.LOG_SHMFD):
            # rust-vmm's back-end answers with the message's own payload instead of a u64; QEMU looks at neither.
            self.send(Request.SET_LOG_BASE, LogArea(size, offset), [fd])
            _close_all(self.receive(Request.SET_LOG_BASE, any_payload=True)[1])
        else:
            self.command(Request.SET_LOG_BASE, LogArea(size, offset), [fd])

    def set_log_fd(self, fd: int) -> None:
        self.command(Request.SET_LOG_FD, fds=[fd])

    # Rings

    def set_vring_num(self, index: int, num: int) -> None:
        self.command(Request.SET_VRING_NUM, VringState(index, num))

    def set_vring_addr(self, index: int, *, desc: int, used: int, avail: int, log: int = 0, flags: int = 0) -> None:
        """Addresses are the front-end's own, ``log`` is a guest address."""
        self.command(Request.SET_VRING_ADDR, VringAddr(index, flags, desc, used, avail, log))

    def set_vring_base(self, index: int, base: int) -> None:
        self.command(Request.SET_VRING_BASE, VringState(index, base))

    def get_vring_base(self, index: int) -> int:
        """Stops the ring and returns its next available index."""
        answer = self.query(Request.GET_VRING_BASE, VringState(index, 0))
        if not isinstance(answer, VringState) or answer.ring != index:
            raise PeerError(f"The daemon answered GET_VRING_BASE of ring {index} with {answer}.")
        return answer.num

    def _set_vring_fd(self, request: Request, index: int, fd: int) -> None:
        if fd < 0:
            self.command(request, index | wire.VRING_NO_FD)
        else:
            self.command(request, index, [fd])

    def set_vring_kick(self, index: int, fd: int) -> None:
        """``fd`` -1, here and in the next two: none."""
        self._set_vring_fd(Request.SET_VRING_KICK, index, fd)

    def set_vring_call(self, index: int, fd: int) -> None:
        self._set_vring_fd(Request.SET_VRING_CALL, index, fd)

    def set_vring_err(self, index: int, fd: int) -> None:
        self._set_vring_fd(Request.SET_VRING_ERR, index, fd)

    def set_vring_enable(self, index: int, enable: bool) -> None:
        self.command(Request.SET_VRING_ENABLE, VringState(index, int(enable)))

    # Device state

    def set_device_state_fd(self, direction: Direction, fd: int, *, phase: int = 0) -> int | None:
        """Begins a transfer through ``fd``, which stays the caller's.

        Returns a descriptor of the daemon's to be used instead, owned by the caller, or None. Raises PeerError when the
        daemon refuses.
        """
        self.send(Request.SET_DEVICE_STATE_FD, StateTransfer(direction, phase), [fd])
        value, received = self.receive(Request.SET_DEVICE_STATE_FD)
        status = value if isinstance(value, int) else -1
        own_fd = not status & wire.STATE_REPLY_NO_FD
        if status & wire.STATE_REPLY_ERROR or len(received) != int(own_fd):
            _close_all(received)
            verb = "save" if direction is Direction.SAVE else "load"
            count = len(received)
            raise PeerError(f"The daemon refused to {verb} its state (SET_DEVICE_STATE_FD: {status:#x}, {count} fds).")
        return received[0] if received else None

    def check_device_state(self) -> None:
        """Waits for the end of a transfer; PeerError when it failed (the daemon's own log says why)."""
        status = self._query_u64(Request.CHECK_DEVICE_STATE)
        if status:
            raise PeerError(f"The daemon says that the transfer of its state failed (CHECK_DEVICE_STATE: {status}).")


def _close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
