"""vhost/serve.py's loop around a real device, in a process of its own: the test is the front-end, and sends signals."""

import os
import re
import select
import signal
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ferryfs.vhost import session as s
from ferryfs.wire import vhost_user as vu
from ferryfs.wire.vhost_user import Feature, Request, Value

from .bare_daemon import LIMIT_SECONDS, Daemon


@contextmanager
def front_end(daemon: Daemon) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(LIMIT_SECONDS)
        sock.connect(str(daemon.path))
        yield sock


def ask(sock: socket.socket, request: Request, value: Value = None, fds: tuple[int, ...] = ()) -> Value:
    socket.send_fds(sock, [vu.encode_request(request, value, need_reply=True)], fds)
    header = vu.decode_reply_header(request, sock.recv(12, socket.MSG_WAITALL))
    return vu.decode_reply(request, sock.recv(header.size, socket.MSG_WAITALL))


keep_listening = pytest.mark.parametrize("daemon", [True], indirect=True)


def test_ends_with_its_front_end(daemon: Daemon) -> None:
    with front_end(daemon) as sock:
        assert ask(sock, Request.GET_FEATURES) == s.FEATURES
        assert daemon.process.poll() is None
    assert "The front-end is gone." in daemon.clean_end()


def test_second_front_end_is_refused_at_once(daemon: Daemon) -> None:
    with front_end(daemon) as sock:
        ask(sock, Request.SET_OWNER)
        with pytest.raises(ConnectionRefusedError), front_end(daemon):
            pass
    daemon.clean_end()


@keep_listening
def test_next_front_end_finds_nothing_of_the_one_before(daemon: Daemon) -> None:
    region = vu.MemoryRegion(0, 4096, 0x7F0000000000, 0)
    for _ in range(3):
        fd = os.memfd_create("ram")
        os.truncate(fd, 4096)
        with front_end(daemon) as sock:
            assert ask(sock, Request.ADD_MEM_REG, region, (fd,)) == 0
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(1) == b""
        os.close(fd)
    daemon.process.terminate()
    assert daemon.clean_end().count("The front-end is gone.") == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_while_waiting(daemon: Daemon, number: signal.Signals) -> None:
    daemon.process.send_signal(number)
    daemon.clean_end()


@keep_listening
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_while_serving(daemon: Daemon, number: signal.Signals) -> None:
    with front_end(daemon) as sock:
        ask(sock, Request.SET_OWNER)
        daemon.process.send_signal(number)
        assert sock.recv(1) == b""
    daemon.clean_end()


def test_signal_while_the_front_end_does_not_read(daemon: Daemon) -> None:
    with front_end(daemon) as sock:
        question = vu.encode_request(Request.GET_FEATURES)
        # Until nothing more goes in for a moment: then the daemon has stopped reading as well.
        while select.select([], [sock], [], 0.2)[1]:
            sock.send(question)
        daemon.process.terminate()
        daemon.clean_end()


def test_broken_protocol_ends_the_connection_with_one_sentence(daemon: Daemon) -> None:
    with front_end(daemon) as sock:
        sock.send(vu.encode_request(Request.SET_VRING_NUM, vu.VringState(1, 3)))
        assert sock.recv(1) == b""
    status, said = daemon.wait()
    assert status == 1
    assert said == "SET_VRING_NUM has 3 for queue 1, which is not a power of two up to 32768.\n"


@keep_listening
def test_what_the_device_objects_to_is_a_sentence(daemon: Daemon) -> None:
    fd = os.memfd_create("ram")
    with front_end(daemon) as sock:
        region = vu.MemoryRegion(0, 1 << 20, 0x7F0000000000, 0)
        socket.send_fds(sock, [vu.encode_request(Request.ADD_MEM_REG, region)], [fd])
        assert sock.recv(1) == b""
    os.close(fd)
    daemon.process.terminate()
    (line,) = [line for line in daemon.clean_end().splitlines() if "ended" in line]
    assert re.fullmatch(r"[A-Z].*[^.]\. The connection is ended\.", line), line


@keep_listening
def test_broken_protocol_does_not_end_a_daemon_that_keeps_listening(daemon: Daemon) -> None:
    with front_end(daemon) as sock:
        sock.send(b"GET / HTTP/1")
        assert sock.recv(1) == b""
    with front_end(daemon) as sock:
        assert ask(sock, Request.GET_FEATURES) == s.FEATURES
    daemon.process.terminate()
    assert "The connection is ended." in daemon.clean_end()


def test_memory_that_is_not_shared(daemon: Daemon) -> None:
    """A pipe can't be mapped. The answer says no, the log says what to type."""
    read_end, write_end = os.pipe()
    with front_end(daemon) as sock:
        assert ask(sock, Request.SET_MEM_TABLE, (vu.MemoryRegion(0, 4096, 0, 0),), (read_end,)) == 1
        assert sock.recv(1) == b""
    os.close(read_end)
    os.close(write_end)
    status, said = daemon.wait()
    assert status == 1
    assert "memory-backend-memfd,id=mem,size=SIZE,share=on" in said
    assert said.count("\n") == 1


def test_state_transfer_is_refused_without_migration(daemon: Daemon) -> None:
    read_end, write_end = os.pipe()
    with front_end(daemon) as sock:
        answer = ask(sock, Request.SET_DEVICE_STATE_FD, vu.StateTransfer(0, 0), (write_end,))
        assert answer == vu.STATE_REPLY_NO_FD | 1
        assert ask(sock, Request.CHECK_DEVICE_STATE) == 1
        assert ask(sock, Request.GET_FEATURES) == s.FEATURES
    os.close(read_end)
    os.close(write_end)
    assert "SET_DEVICE_STATE_FD is refused" in daemon.clean_end()


def test_idle_daemon_uses_no_processor(daemon: Daemon) -> None:
    with front_end(daemon) as sock:
        ask(sock, Request.SET_OWNER)
        before = _ticks(daemon.process.pid)
        select.select([sock], [], [], 1.0)
        assert _ticks(daemon.process.pid) - before <= 2
    daemon.clean_end()


def _ticks(pid: int) -> int:
    """User and system time of a process, in ticks of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_guest_memory_that_is_taken_away(daemon: Daemon) -> None:
    """The front-end shortens its memory file under a running ring: that ends the connection, not the daemon by SIGBUS.

    The ring stands at 3, and the page that is put in the hole says 0: no ring can go from 3 back to 0, so it breaks.
    """
    size, page, base = 16 * 4096, 4096, 0x7F0000000000
    memory = os.memfd_create("ram")
    os.truncate(memory, size)
    for ring in (page, 2 * page):
        os.pwrite(memory, struct.pack("=HH", 0, 3), ring)
    kick, call, err = (os.eventfd(0, os.EFD_NONBLOCK) for _ in range(3))
    with front_end(daemon) as sock:
        ask(sock, Request.SET_FEATURES, 1 << Feature.VERSION_1 | 1 << Feature.PROTOCOL_FEATURES)
        ask(sock, Request.SET_MEM_TABLE, (vu.MemoryRegion(0, size, base, 0),), (memory,))
        ask(sock, Request.SET_VRING_NUM, vu.VringState(1, 8))
        ask(sock, Request.SET_VRING_BASE, vu.VringState(1, 3))
        ask(sock, Request.SET_VRING_ADDR, vu.VringAddr(1, 0, base, base + 2 * page, base + page, 0))
        ask(sock, Request.SET_VRING_CALL, 1, (call,))
        ask(sock, Request.SET_VRING_ERR, 1, (err,))
        ask(sock, Request.SET_VRING_KICK, 1, (kick,))
        os.truncate(memory, 0)
        ask(sock, Request.SET_VRING_ENABLE, vu.VringState(1, 1))
        assert sock.recv(1) == b""
        # The thread that met the hole may come back from it after the connection has ended for it.
        assert select.select([err], [], [], LIMIT_SECONDS)[0]
        assert os.eventfd_read(err) == 1
    for fd in (memory, kick, call, err):
        os.close(fd)
    status, said = daemon.wait()
    assert "Guest memory is gone" in said
    assert status == 1
