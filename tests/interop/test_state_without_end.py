"""A front-end that asks whether the state is through, and neither ends nor reads it: a signal ends the daemon."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import termios
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from daemons import StartDaemon, daemon_command

from ferryfs.frontend.attachment import negotiate
from ferryfs.frontend.client import Direction, VhostUserClient
from ferryfs.wire.vhost_user import Request

SECONDS = 20.0


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    yield ends
    for end in ends:
        os.close(end)


def was_read(client: VhostUserClient) -> bool:
    """Whether the daemon has taken all that was sent to it."""
    return struct.unpack("i", fcntl.ioctl(client.fileno(), termios.TIOCOUTQ, bytes(4)))[0] == 0


@pytest.mark.parametrize("direction", Direction)
def test_a_signal_ends_the_wait(
    direction: Direction, tmp_path: Path, start_daemon: StartDaemon, pipe: tuple[int, int]
) -> None:
    reader, writer = pipe
    if direction is Direction.SAVE:
        # One of a chosen size stays that size: the daemon finds no room in it.
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
        with suppress(BlockingIOError):
            while True:
                os.write(writer, bytes(4096))
    backend = start_daemon(daemon_command("ferryfsd"), tmp_path, ["--sandbox=none"])
    with VhostUserClient.connect(backend.socket, timeout_s=SECONDS) as client:
        negotiate(client, queues=2)
        client.set_device_state_fd(direction, writer if direction is Direction.SAVE else reader)
        client.send(Request.CHECK_DEVICE_STATE)
        while not was_read(client):
            select.select([], [], [], 0.001)
        backend.stop()
    assert backend.status == 0
    assert "The state could not be moved: cancelled." in backend.log_text()
