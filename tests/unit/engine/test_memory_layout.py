"""Guest memory that goes and comes back below rings that run: QEMU takes away what changes before it gives it anew."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_calls import prepare
from engine_guest import HIPRIO, REQUESTS, TIMEOUT, Call, Guest

from ferryfs.errors import FrontendError
from ferryfs.wire.fuse import OUT_HEADER, Op


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    shared = tmp_path / "shared"
    shared.mkdir()
    prepare(shared)
    with Guest(shared) as guest:
        yield guest


def take_away(guest: Guest, index: int) -> None:
    address, size, user, *_ = guest.ram.regions[index]
    guest.device.remove_mem_region(address, size, user)


@pytest.mark.parametrize("gone", [(HIPRIO,), (REQUESTS,), (HIPRIO, REQUESTS)])
def test_rings_wait_for_their_memory(guest: Guest, gone: tuple[int, ...]) -> None:
    """Those whose memory is there are served on; what was queued meanwhile is served without a kick."""
    for _ in range(3):
        guest.serves()
        for index in gone:
            take_away(guest, index)
        for index in {HIPRIO, REQUESTS} - {*gone}:
            guest.serves_on(index)
        call = Call(Op.GETATTR, 1, bytes(16))
        tokens = {
            index: guest.queues[index].add([call.header(), call.body], [OUT_HEADER.size, call.room]) for index in gone
        }
        for index in reversed(gone):
            guest.device.add_mem_region(guest.ram.regions[index])
        for index, token in tokens.items():
            done = guest.queues[index].wait(TIMEOUT)
            assert done is not None
            assert done[0] == token
            guest.queues[index].take(token)
    guest.serves()


def test_place_of_a_ring_that_runs_is_not_taken_from_its_memory(guest: Guest) -> None:
    """The guest writes another used index while the memory is away: the next answer comes where it belongs."""
    guest.serves()
    queue = guest.queues[REQUESTS]
    place = queue.used_gpa + 2
    (used,) = struct.unpack("<H", guest.ram.read(place, 2))
    take_away(guest, REQUESTS)
    guest.ram.write(place, struct.pack("<H", used + 7))
    guest.device.add_mem_region(guest.ram.regions[REQUESTS])
    call = Call(Op.GETATTR, 1, bytes(16))
    queue.add([call.header(), call.body], [OUT_HEADER.size, call.room])
    queue.kick()
    guest.device.get_vring_base(REQUESTS)
    assert struct.unpack("<H", guest.ram.read(place, 2)) == (used + 1,)


def test_a_ring_can_not_be_started_without_its_memory(guest: Guest) -> None:
    take_away(guest, REQUESTS)
    guest.device.get_vring_base(REQUESTS)
    with pytest.raises(FrontendError, match="not in the memory that was given"):
        guest.start_ring(REQUESTS)
    guest.device.add_mem_region(guest.ram.regions[REQUESTS])


def test_memory_table_without_the_ring_is_refused(guest: Guest) -> None:
    """The table is given as a whole: nothing is still to come."""
    with pytest.raises(FrontendError, match="not in the memory that was given"):
        guest.device.set_mem_table([guest.ram.regions[HIPRIO]])
