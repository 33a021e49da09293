"""A back-end that is attached to queues: what it is told, seen from the eventfds that it gets."""

from __future__ import annotations

import os
import socket

from ferryfs.frontend.attachment import Attachment
from ferryfs.frontend.client import VhostUserClient
from ferryfs.frontend.driver import DriverQueue
from ferryfs.frontend.ram import GuestRam


def test_every_ring_is_kicked() -> None:
    ours, theirs = socket.socketpair()
    ram = GuestRam([1 << 20])
    queues = [DriverQueue(ram, 16, event_idx=True, indirect=True, slot_bytes=0) for _ in range(2)]
    attachment = Attachment(VhostUserClient(ours), ram, queues, 0)
    try:
        attachment.kick()
        assert [os.eventfd_read(queue.kick_fd) for queue in queues] == [1, 1]
    finally:
        attachment.close()
        theirs.close()
        for queue in queues:
            queue.close()
        ram.close()
