"""A hostile front-end's bytes and connections: no message, half of one, one nobody expects, comings and goings."""

from __future__ import annotations

import os
import random
import socket
import tempfile
from collections.abc import Callable

import pytest

from ferryfs.errors import PeerError
from ferryfs.frontend.client import Direction
from ferryfs.guest.backend import Backend
from ferryfs.wire.fuse import Op
from ferryfs.wire.vhost_user import Request, StateTransfer

from .monitor import SIZE, TOP, Case, Cases, Monitor, play, raw

CASES = Cases()
case = CASES.add


def ends_with(data: bytes) -> Case:
    def play(monitor: Monitor) -> None:
        monitor.client.send_raw(data)
        monitor.ends()

    return play


CASES["zeros"] = ends_with(bytes(64))
CASES["all bits"] = ends_with(b"\xff" * 64)
CASES["text"] = ends_with(b"GET / HTTP/1.0\r\n\r\n" * 10)
CASES["version 0"] = ends_with(raw(Request.GET_FEATURES, flags=0))
CASES["version 2"] = ends_with(raw(Request.GET_FEATURES, flags=2))
CASES["a reply"] = ends_with(raw(Request.GET_FEATURES, flags=5))
CASES["a payload of 4 GiB"] = ends_with(raw(Request.SET_MEM_TABLE, size=0xFFFFFFFF))
CASES["a payload of 2 KiB"] = ends_with(raw(Request.SET_MEM_TABLE, bytes(2048)))
CASES["a payload that nobody wants"] = ends_with(raw(Request.GET_FEATURES, bytes(8)))
CASES["a message that does not exist"] = ends_with(raw(0))
CASES["a message from the future"] = ends_with(raw(45))
CASES["a message of all bits"] = ends_with(raw(0xFFFFFFFF))
for _message in Request:
    if _message.payload.size:
        CASES[f"{_message.name} one byte short"] = ends_with(raw(_message, bytes(_message.payload.size - 1)))
        CASES[f"{_message.name} without a payload"] = ends_with(raw(_message))


@case
def half_a_header_and_gone(monitor: Monitor) -> None:
    monitor.client.send_raw(raw(Request.GET_FEATURES)[:6])


@case
def half_a_payload_and_gone(monitor: Monitor) -> None:
    monitor.client.send_raw(raw(Request.SET_FEATURES, bytes(3), size=8))


@case
def byte_by_byte(monitor: Monitor) -> None:
    """Slow, but right: it is answered."""
    for byte in raw(Request.GET_FEATURES):
        monitor.client.send_raw(bytes([byte]))
    assert monitor.client.receive(Request.GET_FEATURES)[0]


@case
def all_at_once(monitor: Monitor) -> None:
    monitor.client.send_raw(raw(Request.GET_FEATURES) * 100)
    for _ in range(100):
        assert monitor.client.receive(Request.GET_FEATURES)[0]


@case
def questions_without_listening(monitor: Monitor) -> None:
    """Nobody reads the answers: the daemon may wait for that, but not longer than the connection lives."""
    flood = raw(Request.GET_FEATURES) * 1000
    with socket.socket(fileno=os.dup(monitor.client.fileno())) as sock:
        sock.setblocking(False)
        for _ in range(200):
            try:
                sock.send(flood)
            except BlockingIOError:
                break


@case
def features_of_all_bits(monitor: Monitor) -> None:
    monitor.refused(lambda: monitor.client.set_features(TOP - 1) or monitor.ends() or monitor.client.get_features())


@case
def protocol_features_of_all_bits(monitor: Monitor) -> None:
    monitor.client.get_protocol_features()
    monitor.refused(lambda: monitor.client.set_protocol_features(TOP - 1) or monitor.client.get_features())


@case
def no_features_any_more(monitor: Monitor) -> None:
    """All is taken back while the rings run."""
    monitor.start()
    try:
        monitor.client.set_features(0)
        monitor.client.get_features()
    except PeerError:
        return


@case
def a_configuration_that_is_not_there(monitor: Monitor) -> None:
    monitor.begin()
    monitor.refused(lambda: monitor.client.get_config(0, 40))


@case
def states_in_directions_that_are_not(monitor: Monitor) -> None:
    monitor.close()
    for direction, phase in ((2, 0), (0xFFFFFFFF, 0), (0, 1), (1, 0xFFFFFFFF)):
        with Monitor(monitor.backend) as other, open("/dev/null", "rb") as null:
            other.begin()
            try:
                other.client.send(Request.SET_DEVICE_STATE_FD, StateTransfer(direction, phase), [null.fileno()])
                value, _ = other.client.receive(Request.SET_DEVICE_STATE_FD)
            except PeerError:
                continue
            assert isinstance(value, int)
            assert value & 0xFF


@case
def a_state_of_rubbish(monitor: Monitor) -> None:
    monitor.begin()
    with tempfile.TemporaryFile() as file:
        file.write(random.Random(7).randbytes(100_000))
        file.seek(0)
        monitor.refused(
            lambda: (
                monitor.client.set_device_state_fd(Direction.LOAD, file.fileno()) or monitor.client.check_device_state()
            )
        )


@case
def a_check_of_no_state(monitor: Monitor) -> None:
    monitor.begin()
    try:
        monitor.client.check_device_state()
    except PeerError:
        return


@case
def a_hundred_connections(monitor: Monitor) -> None:
    monitor.close()
    for turn in range(100):
        with Monitor(monitor.backend) as other:
            if turn % 3:
                other.begin()


@case
def connections_that_wait(monitor: Monitor) -> None:
    """Others knock while one is served; they are served when it has gone, or turned away, and it is not disturbed."""
    monitor.start()
    waiting = []
    for _ in range(20):
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        waiting.append(sock)
        try:
            sock.connect(str(monitor.backend.socket))
        except (BlockingIOError, ConnectionRefusedError):
            break
    assert monitor.ask(Op.GETATTR) == 0
    for sock in waiting:
        sock.close()


@case
def gone_after_each_message(monitor: Monitor) -> None:
    """The connection ends behind every message of a start."""
    monitor.close()
    steps: list[Callable[[Monitor], object]] = [
        lambda m: m.client.get_features(),
        lambda m: m.begin(),
        lambda m: m.client.set_vring_num(1, SIZE),
        lambda m: m.client.set_vring_base(1, 0),
        lambda m: m.client.command(Request.SET_VRING_ADDR, m.addr()),
        lambda m: m.client.set_vring_call(1, m.queues[1].call_fd),
        lambda m: m.client.set_vring_kick(1, m.queues[1].kick_fd),
        lambda m: m.client.set_vring_enable(1, True),
        lambda m: m.client.get_vring_base(1),
    ]
    for count in range(len(steps) + 1):
        with Monitor(monitor.backend) as other:
            for step in steps[:count]:
                step(other)


@pytest.mark.parametrize("name", CASES)
def test_messages(backend: Backend, name: str) -> None:
    play(backend, CASES[name])
