"""A device state through a pipe, as the front-end moves it: out of one daemon, into another."""

from __future__ import annotations

import os
import select
from typing import Final

from ferryfs.errors import PeerError
from ferryfs.frontend.client import Direction, VhostUserClient

STALL_S: Final = 120.0
"""How long a daemon may neither read nor write. virtiofsd 1.14 is silent for 12 s with a million inodes."""
_CHUNK: Final = 1 << 20


def save_state(client: VhostUserClient) -> bytes:
    """The state of a daemon whose rings are stopped. Raises PeerError when the daemon does not give it, or not all of
    it.
    """
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    try:
        try:
            other = client.set_device_state_fd(Direction.SAVE, theirs)
        finally:
            os.close(theirs)
        if other is not None:
            os.close(ours)
            ours = other
        parts = []
        while True:
            if not select.select([ours], [], [], STALL_S)[0]:
                raise PeerError(f"The daemon wrote nothing of its state for {STALL_S:.0f} s.")
            part = os.read(ours, _CHUNK)
            if not part:
                break
            parts.append(part)
    finally:
        os.close(ours)
    client.check_device_state()
    return b"".join(parts)


def load_state(client: VhostUserClient, state: bytes) -> None:
    """Gives a daemon a state, before its rings are started. Raises PeerError when the daemon can't restore it."""
    theirs, ours = os.pipe2(os.O_CLOEXEC)
    try:
        try:
            other = client.set_device_state_fd(Direction.LOAD, theirs)
        finally:
            os.close(theirs)
        if other is not None:
            os.close(ours)
            ours = other
        os.set_blocking(ours, False)
        rest = memoryview(state)
        while rest:
            if not select.select([], [ours], [], STALL_S)[1]:
                raise PeerError(f"The daemon read nothing of the state for {STALL_S:.0f} s.")
            try:
                rest = rest[os.write(ours, rest[:_CHUNK]) :]
            except BrokenPipeError:
                # It has seen enough to know that it can't; CHECK_DEVICE_STATE says so.
                break
    finally:
        os.close(ours)
    client.check_device_state()
