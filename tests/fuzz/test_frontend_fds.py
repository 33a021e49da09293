"""A hostile front-end's file descriptors: every kind in every place, too many, too few."""

from __future__ import annotations

import os
import select
import socket
import struct
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress

import pytest

from ferryfs.errors import PeerError
from ferryfs.guest.backend import Backend
from ferryfs.wire.fuse import Op
from ferryfs.wire.vhost_user import Request, StateTransfer

from .monitor import SIZE, TIMEOUT, Case, Cases, Monitor, play, raw

CASES = Cases()
case = CASES.add


def pipe_end(opened: ExitStack, *, write: bool, alone: bool) -> int:
    """One end of a pipe; ``alone`` when the other is closed."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    mine, other = (writer, reader) if write else (reader, writer)
    if alone:
        os.close(other)
    else:
        opened.callback(os.close, other)
    return mine


def lonely_socket(opened: ExitStack) -> int:
    left, right = socket.socketpair()
    right.close()
    return left.detach()


def full_eventfd(opened: ExitStack) -> int:
    fd = os.eventfd(0)
    os.eventfd_write(fd, 0xFFFFFFFFFFFFFFFE)
    return fd


def a_file(flags: int) -> Callable[[ExitStack], int]:
    def make(opened: ExitStack) -> int:
        number, name = tempfile.mkstemp()
        opened.callback(os.unlink, name)
        os.write(number, b"x" * 100)
        os.close(number)
        return os.open(name, flags)

    return make


KINDS: dict[str, Callable[[ExitStack], int]] = {
    "a directory": lambda opened: os.open(tempfile.gettempdir(), os.O_RDONLY | os.O_DIRECTORY),
    "an O_PATH fd": a_file(os.O_PATH),
    "a read-only file": a_file(os.O_RDONLY),
    "a write-only file": a_file(os.O_WRONLY),
    "a short file": a_file(os.O_RDWR),
    "/dev/null": lambda opened: os.open("/dev/null", os.O_RDWR),
    "/dev/zero": lambda opened: os.open("/dev/zero", os.O_RDWR),
    "a pipe to read": lambda opened: pipe_end(opened, write=False, alone=False),
    "a pipe to write": lambda opened: pipe_end(opened, write=True, alone=False),
    "a closed pipe to read": lambda opened: pipe_end(opened, write=False, alone=True),
    "a closed pipe to write": lambda opened: pipe_end(opened, write=True, alone=True),
    "a socket without a peer": lonely_socket,
    "an eventfd": lambda opened: os.eventfd(0),
    "a full eventfd": full_eventfd,
    "a process": lambda opened: os.pidfd_open(os.getpid()),
    "an empty memfd": lambda opened: os.memfd_create("empty"),
}


def with_fd(kind: str, use: Callable[[Monitor, int], None]) -> Case:
    """The daemon gets such a descriptor; it may refuse it, or end the connection."""

    def play(monitor: Monitor) -> None:
        with ExitStack() as opened:
            fd = KINDS[kind](opened)
            opened.callback(os.close, fd)
            with suppress(PeerError):
                use(monitor, fd)

    return play


def as_memory(monitor: Monitor, fd: int) -> None:
    monitor.begin()
    monitor.client.set_mem_table([(0, 1 << 20, 1 << 32, 0, fd)])


def as_log(monitor: Monitor, fd: int) -> None:
    monitor.start()
    monitor.client.set_log_base(1 << 20, 0, fd)


def as_kick(monitor: Monitor, fd: int) -> None:
    monitor.start()
    monitor.client.set_vring_kick(1, fd)
    monitor.ask(Op.GETATTR, queue=0)


def as_call(monitor: Monitor, fd: int) -> None:
    monitor.start()
    monitor.client.set_vring_call(1, fd)
    tokens = monitor.add(10)
    monitor.queues[1].kick()
    deadline = time.monotonic() + TIMEOUT
    for _ in tokens:
        while monitor.queues[1].poll() is None:
            assert time.monotonic() < deadline
    monitor.ask(Op.GETATTR, queue=0)


def as_err(monitor: Monitor, fd: int) -> None:
    """The ring breaks, and this is who is told."""
    monitor.start()
    monitor.client.set_vring_err(1, fd)
    monitor.queues[1].publish(SIZE)
    monitor.queues[1].kick(force=True)
    assert monitor.ask(Op.GETATTR, queue=0) == 0
    monitor.client.get_vring_base(1)


def as_channel(monitor: Monitor, fd: int) -> None:
    monitor.start()
    monitor.client.set_backend_req_fd(fd)


def as_state_in(monitor: Monitor, fd: int) -> None:
    monitor.begin()
    monitor.client.send(Request.SET_DEVICE_STATE_FD, StateTransfer(1, 0), [fd])
    monitor.client.receive(Request.SET_DEVICE_STATE_FD)
    if kind_ends(fd):
        monitor.client.query(Request.CHECK_DEVICE_STATE)


def kind_ends(fd: int) -> bool:
    """Whether reading from it comes to an end: a pipe that stays open does not."""
    return bool(select.select([fd], [], [], 0)[0])


def as_state_out(monitor: Monitor, fd: int) -> None:
    monitor.start()
    monitor.attachment.stop() if monitor.attachment else None
    monitor.client.send(Request.SET_DEVICE_STATE_FD, StateTransfer(0, 0), [fd])
    monitor.client.receive(Request.SET_DEVICE_STATE_FD)
    monitor.client.query(Request.CHECK_DEVICE_STATE)


for _kind in KINDS:
    CASES[f"{_kind} as memory"] = with_fd(_kind, as_memory)
    CASES[f"{_kind} as kick"] = with_fd(_kind, as_kick)
    CASES[f"{_kind} as call"] = with_fd(_kind, as_call)
    CASES[f"{_kind} as err"] = with_fd(_kind, as_err)
for _kind in (
    "a directory",
    "an O_PATH fd",
    "a short file",
    "/dev/null",
    "a pipe to read",
    "an eventfd",
    "an empty memfd",
):
    CASES[f"{_kind} as log"] = with_fd(_kind, as_log)
    CASES[f"{_kind} as channel"] = with_fd(_kind, as_channel)
for _kind in ("a directory", "a short file", "/dev/null", "a closed pipe to read", "a pipe to read", "an empty memfd"):
    CASES[f"{_kind} as a state to load"] = with_fd(_kind, as_state_in)
for _kind in ("a directory", "a read-only file", "/dev/null", "a closed pipe to write", "a socket without a peer"):
    CASES[f"{_kind} as where the state goes"] = with_fd(_kind, as_state_out)


@case
def more_descriptors_than_regions(monitor: Monitor) -> None:
    monitor.begin()
    region = monitor.ram.regions[0]
    table = struct.pack("=II", 1, 0) + struct.pack("=QQQQ", *region[:4])
    monitor.client.send_raw(raw(Request.SET_MEM_TABLE, table), [region[4]] * 5)
    monitor.ends()


@case
def fewer_descriptors_than_regions(monitor: Monitor) -> None:
    monitor.begin()
    region = monitor.ram.regions[0]
    table = struct.pack("=II", 2, 0) + struct.pack("=QQQQ", *region[:4]) * 2
    monitor.client.send_raw(raw(Request.SET_MEM_TABLE, table), [region[4]])
    monitor.ends()


@case
def descriptors_where_none_belongs(monitor: Monitor) -> None:
    monitor.client.send_raw(raw(Request.GET_FEATURES), [0] * 20)
    monitor.ends()


@case
def as_many_descriptors_as_the_kernel_takes(monitor: Monitor) -> None:
    monitor.client.send_raw(raw(Request.GET_FEATURES), [0] * 253)
    monitor.ends()


@case
def descriptors_with_every_byte(monitor: Monitor) -> None:
    for byte in raw(Request.GET_FEATURES):
        monitor.client.send_raw(bytes([byte]), [0, 0])
    monitor.ends()


@case
def descriptors_without_a_whole_message(monitor: Monitor) -> None:
    monitor.client.send_raw(raw(Request.SET_MEM_TABLE, bytes(4), size=40), [0] * 8)


@pytest.mark.parametrize("name", CASES)
def test_descriptors(backend: Backend, name: str) -> None:
    play(backend, CASES[name])
