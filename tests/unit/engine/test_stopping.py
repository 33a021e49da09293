"""A ring that is stopped: what was offered by then is answered, what comes later is kept, and nobody waits for ever."""

from __future__ import annotations

import os
import select
import threading
from pathlib import Path

import pytest
from engine_guest import REQUESTS, TIMEOUT, Call, Guest

from ferryfs.wire.fuse import Op


def offer(guest: Guest, count: int) -> None:
    """Puts requests into the ring and kicks nobody."""
    queue = guest.queues[REQUESTS]
    for _ in range(count):
        queue.add([Call(Op.STATFS).data], [4096])


@pytest.mark.parametrize("message", ["SET_VRING_ENABLE", "GET_VRING_BASE"])
def test_what_was_offered_is_answered_before_a_ring_stops(message: str, tmp_path: Path) -> None:
    """The daemon that goes on with the ring may be one that waits for a kick, and the guest has given it."""
    with Guest(tmp_path) as guest:
        guest.serves()
        before = guest.queues[REQUESTS].used_idx
        offer(guest, 20)
        if message == "SET_VRING_ENABLE":
            guest.device.set_vring_enable(REQUESTS, False)
        else:
            assert guest.device.get_vring_base(REQUESTS) == before + 20
        assert guest.queues[REQUESTS].used_idx == before + 20


def test_a_ring_that_was_disabled_keeps_its_requests(tmp_path: Path) -> None:
    with Guest(tmp_path) as guest:
        guest.serves()
        before = guest.queues[REQUESTS].used_idx
        guest.device.set_vring_enable(REQUESTS, False)
        offer(guest, 3)
        assert guest.device.get_vring_base(REQUESTS) == before
        assert guest.queues[REQUESTS].used_idx == before


def test_a_ring_that_breaks_holds_nobody(tmp_path: Path) -> None:
    with Guest(tmp_path) as guest:
        guest.serves()
        queue = guest.queues[REQUESTS]
        queue.avail_idx = (queue.avail_idx + queue.size + 1) & 0xFFFF
        guest.device.set_vring_enable(REQUESTS, False)
        # It may have been stopped before anybody saw that.
        guest.device.set_vring_enable(REQUESTS, True)
        assert select.select([queue.err_fd], [], [], TIMEOUT)[0]
        assert os.eventfd_read(queue.err_fd) == 1


def test_a_guest_that_goes_on_offering_holds_nobody(tmp_path: Path) -> None:
    """Whoever stops a ring waits for what was offered by then."""
    with Guest(tmp_path) as guest:
        guest.serves()
        queue = guest.queues[REQUESTS]
        done = threading.Event()

        def offer_for_ever() -> None:
            while not done.is_set():
                if (queue.avail_idx - queue.used_idx) & 0xFFFF < queue.size:
                    queue.publish(0)
                    queue.kick(force=True)

        queue.write_desc(0, 0, 0)
        thread = threading.Thread(target=offer_for_ever)
        thread.start()
        try:
            for _ in range(50):
                guest.device.set_vring_enable(REQUESTS, False)
                guest.device.set_vring_enable(REQUESTS, True)
        finally:
            done.set()
            thread.join()
        with pytest.raises(BlockingIOError):
            os.eventfd_read(queue.err_fd)
        guest.device.drain_events()
