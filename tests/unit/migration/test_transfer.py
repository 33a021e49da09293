"""The pump: pipes, sockets and files, blocking or not; a reader that leaves, a writer that stalls, a cancel at any
time.
"""

from __future__ import annotations

import fcntl
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ferryfs.errors import StateError
from ferryfs.migration.transfer import (
    DEFAULT_PIPE_BYTES,
    FIRST_BYTES,
    READ_BYTES,
    WRITE_BYTES,
    Incoming,
    Outcome,
    Outgoing,
    Transfer,
)

PATIENCE = 20.0
DATA = os.urandom(1 << 20) * 3 + b"end"


def ends(kind: str, folder: Path) -> tuple[int, int]:
    """A fd to read from and one to write to."""
    if kind == "pipe":
        return os.pipe()
    if kind == "socket":
        reader, writer = socket.socketpair()
        return reader.detach(), writer.detach()
    name = folder / "state"
    name.write_bytes(b"")
    return os.open(name, os.O_RDONLY), os.open(name, os.O_WRONLY)


def read_all(fd: int) -> bytes:
    with open(fd, "rb") as file:
        return file.read()


def pieces(size: int) -> Iterator[bytes]:
    for start in range(0, len(DATA), size):
        yield DATA[start : start + size]


@pytest.mark.parametrize("blocking", [True, False])
@pytest.mark.parametrize("size", [997, 1 << 16, len(DATA)])
@pytest.mark.parametrize("kind", ["pipe", "socket", "file"])
def test_save(kind: str, size: int, blocking: bool, tmp_path: Path) -> None:
    """All bytes arrive in order, and the end of file with them, whatever the fd and the pieces."""
    read_end, write_end = ends(kind, tmp_path)
    os.set_blocking(write_end, blocking)
    done = threading.Event()
    transfer = Transfer.save(write_end, pieces(size), done.set)
    if kind == "file":
        assert transfer.wait(PATIENCE) is Outcome.DONE
    assert read_all(read_end) == DATA
    assert transfer.wait(PATIENCE) is Outcome.DONE
    assert done.is_set()
    assert len(DATA) == transfer.bytes_moved


@pytest.mark.parametrize("kind", ["pipe", "socket", "file"])
def test_load(kind: str, tmp_path: Path) -> None:
    """The end of file ends it, with all data there."""
    read_end, write_end = ends(kind, tmp_path)
    if kind == "file":
        os.write(write_end, DATA)
    transfer = Transfer.load(read_end)
    with open(write_end, "wb") as file:
        if kind != "file":
            file.write(DATA)
    assert transfer.wait(PATIENCE) is Outcome.DONE
    assert transfer.data == DATA
    assert transfer.error is None


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_a_reader_that_leaves(kind: str, tmp_path: Path) -> None:
    """No signal ends us; the transfer fails in one sentence."""
    read_end, write_end = ends(kind, tmp_path)
    transfer = Transfer.save(write_end, pieces(1 << 16))
    os.read(read_end, 10)
    os.close(read_end)
    assert transfer.wait(PATIENCE) is Outcome.FAILED
    assert isinstance(transfer.error, StateError)
    assert "bytes the front-end's file descriptor gave" in str(transfer.error)


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_cancel_a_stalled_save(kind: str, tmp_path: Path) -> None:
    """Nobody reads: the pump sits full until it is cancelled, and then closes."""
    read_end, write_end = ends(kind, tmp_path)
    transfer = Transfer.save(write_end, pieces(1 << 16))
    assert transfer.wait(0.05) is Outcome.RUNNING
    transfer.cancel()
    assert transfer.wait(PATIENCE) is Outcome.CANCELLED
    assert len(read_all(read_end)) == transfer.bytes_moved < len(DATA)
    transfer.cancel()


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_cancel_a_stalled_load(kind: str, tmp_path: Path) -> None:
    """The writer says nothing more and does not close."""
    read_end, write_end = ends(kind, tmp_path)
    transfer = Transfer.load(read_end)
    os.write(write_end, b"some")
    transfer.cancel()
    assert transfer.wait(PATIENCE) is Outcome.CANCELLED
    assert transfer.data == b""
    os.close(write_end)


def test_the_limit() -> None:
    """An endless stream is refused when the limit is passed, and the writer notices."""

    def write_on(fd: int) -> None:
        while True:
            os.write(fd, bytes(1 << 16))

    read_end, write_end = os.pipe()
    transfer = Transfer.load(read_end, limit_bytes=100_000)
    with pytest.raises(BrokenPipeError):
        write_on(write_end)
    os.close(write_end)
    assert transfer.wait(PATIENCE) is Outcome.FAILED
    assert "larger than 100000 bytes" in str(transfer.error)


def test_a_source_that_fails_closes_the_fd() -> None:
    """What the pieces raise is the transfer's error; the front-end sees an end of file."""

    def failing() -> Iterator[bytes]:
        yield b"x" * WRITE_BYTES
        raise StateError("inode 3 can't be saved")

    read_end, write_end = os.pipe()
    transfer = Transfer.save(write_end, failing())
    assert len(read_all(read_end)) == WRITE_BYTES
    assert transfer.wait(PATIENCE) is Outcome.FAILED
    assert str(transfer.error) == "inode 3 can't be saved"


def test_a_wrong_direction() -> None:
    """A fd that can't be written (or read) is an error, not a hang."""
    read_end, write_end = os.pipe()
    for transfer in (Transfer.save(read_end, [b"x"]), Transfer.load(write_end)):
        assert transfer.wait(PATIENCE) is Outcome.FAILED
        assert "for the other direction" in str(transfer.error)


def test_memory_is_bounded() -> None:
    """A slow reader holds the source back: at most one piece waits outside the pipe."""
    made = 0

    def endless() -> Iterator[bytes]:
        nonlocal made
        while True:
            made += 1
            yield bytes(WRITE_BYTES)

    read_end, write_end = os.pipe()
    transfer = Transfer.save(write_end, endless())
    for _ in range(16):
        assert os.read(read_end, 1 << 16)
    transfer.cancel()
    assert transfer.wait(PATIENCE) is Outcome.CANCELLED
    os.close(read_end)
    assert made <= 16 + READ_BYTES // WRITE_BYTES + 2


def test_a_pipe_of_a_size_that_somebody_chose_keeps_it() -> None:
    """Others are asked to hold what is written at a time."""
    for before, after in ((DEFAULT_PIPE_BYTES, READ_BYTES), (1 << 17, 1 << 17)):
        read_end, write_end = os.pipe()
        fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, before)
        transfer = Transfer.save(write_end, [b"x"])
        assert transfer.wait(PATIENCE) is Outcome.DONE
        assert fcntl.fcntl(read_end, fcntl.F_GETPIPE_SZ) == after
        os.close(read_end)


def test_pieces_without_io() -> None:
    """Joining, without any fd."""
    assert [len(piece) for piece in Outgoing([b"ab"] * 40_000)] == [WRITE_BYTES - 2, 80_000 - WRITE_BYTES + 2]
    big = bytes(1 << 20)
    assert [b"ab", big, b"c"] == list(Outgoing([b"a", b"b", big, b"", b"c"]))


def test_coming_in_without_io() -> None:
    """Whatever the reads, the bytes come behind each other; memory that grows keeps them."""
    incoming = Incoming(1 << 26)
    part = os.urandom(READ_BYTES)
    count = 2 * FIRST_BYTES // READ_BYTES + 1
    for index in range(count):
        with incoming.room() as room:
            assert len(room) == READ_BYTES
            room[: READ_BYTES - index] = part[index:]
        incoming.filled(READ_BYTES - index)
    data = incoming.finish()
    assert incoming.size == len(data)
    assert data == b"".join(part[index:] for index in range(count))


def test_an_endless_stream_is_given_up() -> None:
    incoming = Incoming(4)
    incoming.filled(4)
    with pytest.raises(StateError, match="larger than 4 bytes"):
        incoming.filled(1)
