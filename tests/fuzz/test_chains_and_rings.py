"""A hostile guest: what it writes into its rings may cost it its ring, and nobody else anything.

Each case is played on the request queue of a device in this process, whose memory ends at guard pages; then each queue
must still answer (a broken ring after its driver has reset it, as a guest's driver does).
"""

from __future__ import annotations

import os
import select
import struct
from contextlib import suppress

import pytest
from engine_guest import HIPRIO, REQUESTS, Call, Guest

from ferryfs.frontend.driver import DriverQueue
from ferryfs.wire import fuse
from ferryfs.wire.fuse import Op

from .lab import GETATTR, INDIRECT, NEXT, SIZE, WRITE, Cases, Lab

case = Cases()


# --- chains that make no sense


@case
def an_address_outside(lab: Lab) -> None:
    lab.dropped((0, 56, 0, 0))


@case
def an_address_at_the_end_of_all(lab: Lab) -> None:
    lab.dropped(((1 << 64) - 1, 1, 0, 0))


@case
def an_address_that_wraps(lab: Lab) -> None:
    lab.dropped(((1 << 64) - 28, 56, 0, 0))


@case
def a_length_over_the_end_of_a_region(lab: Lab) -> None:
    lab.dropped((lab.end - 55, 56, 0, 0))


@case
def a_length_of_4_gib(lab: Lab) -> None:
    lab.dropped((lab.end - 56, 0xFFFFFFFF, 0, 0))


@case
def a_writable_buffer_outside(lab: Lab) -> None:
    at, length = lab.call()
    lab.dropped((at, length, NEXT, 1), (lab.end - 8, 200, WRITE, 0))


@case
def readable_behind_writable(lab: Lab) -> None:
    at, length = lab.call()
    lab.dropped((lab.room(200), 200, WRITE | NEXT, 1), (at, length, 0, 0))


@case
def a_loop_of_one(lab: Lab) -> None:
    at, _ = lab.call()
    lab.dropped((at, 1, NEXT, 0))


@case
def a_loop_of_all(lab: Lab) -> None:
    at, _ = lab.call()
    lab.dropped(*[(at, 1, NEXT, (i + 1) % SIZE) for i in range(SIZE)])


@case
def a_loop_of_nothing(lab: Lab) -> None:
    lab.dropped((0, 0, NEXT, 0))


@case
def next_beyond_the_table(lab: Lab) -> None:
    at, _ = lab.call()
    lab.dropped((at, 1, NEXT, SIZE))


@case
def next_of_all_bits(lab: Lab) -> None:
    at, _ = lab.call()
    lab.dropped((at, 1, NEXT, 0xFFFF))


@case
def an_indirect_table_outside(lab: Lab) -> None:
    lab.dropped((lab.end, 16, INDIRECT, 0))


@case
def an_indirect_table_over_the_end(lab: Lab) -> None:
    lab.dropped((lab.end - 16, 32, INDIRECT, 0))


@case
def an_empty_indirect_table(lab: Lab) -> None:
    lab.dropped((lab.end - 16, 0, INDIRECT, 0))


@case
def an_indirect_table_of_odd_size(lab: Lab) -> None:
    lab.dropped((lab.end - 64, 33, INDIRECT, 0))


@case
def an_indirect_table_of_4_gib(lab: Lab) -> None:
    lab.dropped((lab.end - 64, 0xFFFFFFF0, INDIRECT, 0))


@case
def an_indirect_table_with_next(lab: Lab) -> None:
    at, length = lab.call()
    table = lab.put(DriverQueue.pack_desc(at, length))
    lab.dropped((table, 16, INDIRECT | NEXT, 1), (lab.room(200), 200, WRITE, 0))


@case
def an_indirect_table_in_itself(lab: Lab) -> None:
    table = lab.room(16)
    lab.ram.write(table, DriverQueue.pack_desc(table, 16, INDIRECT))
    lab.dropped((table, 16, INDIRECT, 0))


@case
def a_loop_in_an_indirect_table(lab: Lab) -> None:
    at, _ = lab.call()
    table = lab.put(DriverQueue.pack_desc(at, 1, NEXT, 1) + DriverQueue.pack_desc(at, 1, NEXT, 0))
    lab.dropped((table, 32, INDIRECT, 0))


@case
def more_than_64_mib(lab: Lab) -> None:
    start, size = lab.ram.regions[REQUESTS][:2]
    lab.dropped(*[(start, size, NEXT * (i < 40), i + 1) for i in range(41)])


# --- odd, but allowed


@case
def an_indirect_table_at_an_odd_address(lab: Lab) -> None:
    at, length = lab.call()
    reply = lab.room(200)
    table = lab.room(64) | 1
    lab.ram.write(table, DriverQueue.pack_desc(at, length, NEXT, 1) + DriverQueue.pack_desc(reply, 200, WRITE))
    lab.offer((table, 32, INDIRECT, 0))
    assert lab.answer() == 120


@case
def an_indirect_table_behind_direct_descriptors(lab: Lab) -> None:
    at, length = lab.call()
    table = lab.put(DriverQueue.pack_desc(lab.room(200), 200, WRITE))
    lab.offer((at, 10, NEXT, 1), (at + 10, length - 10, NEXT, 2), (table, 16, INDIRECT, 0))
    assert lab.answer() == 120


@case
def empty_descriptors_everywhere(lab: Lab) -> None:
    at, length = lab.call()
    reply = lab.room(200)
    lab.offer((0, 0, NEXT, 1), (at, length, NEXT, 2), (0, 0, NEXT, 3), (reply, 200, WRITE | NEXT, 4), (0, 0, WRITE, 0))
    assert lab.answer() == 120


@case
def nothing_at_all(lab: Lab) -> None:
    lab.offer((0, 0, 0, 0))
    assert lab.answer() == 0


@case
def only_room_for_a_reply(lab: Lab) -> None:
    lab.offer((lab.room(200), 200, WRITE, 0))
    assert lab.answer() in (0, 16)


@case
def room_for_half_a_header(lab: Lab) -> None:
    at, length = lab.call()
    lab.offer((at, length, NEXT, 1), (lab.room(15), 15, WRITE, 0))
    assert lab.answer() == 0


@case
def a_table_of_32768(lab: Lab) -> None:
    """Byte by byte, in as many descriptors as there may be; the reply too."""
    queue = lab.guest.queues[HIPRIO]
    start = lab.ram.regions[HIPRIO][0]
    data = Call(Op.GETATTR, 1, GETATTR).data
    lab.ram.write(start, data)
    count = 32768
    entries = []
    for i in range(count):
        readable = i < len(data)
        address = start + i if readable else start + 4096 + i
        entries.append(
            DriverQueue.pack_desc(address, 1, (0 if readable else WRITE) | NEXT * (i + 1 < count), i + 1 & 0xFFFF)
        )
    table = start + (1 << 20) - 16 * count
    lab.ram.write(table, b"".join(entries))
    queue.write_desc(0, table, 16 * count, INDIRECT)
    queue.publish(0)
    queue.kick(force=True)
    assert queue.wait(20.0) == (0, 120)


@case
def a_table_of_32769(lab: Lab) -> None:
    lab.dropped((lab.ram.regions[REQUESTS][0], 16 * 32769, INDIRECT, 0))


@case
def all_heads_are_one_chain(lab: Lab) -> None:
    """The same request offered as often as the ring is long: answered as often."""
    at, length = lab.call()
    lab.queue.write_desc(0, at, length, NEXT, 1)
    lab.queue.write_desc(1, lab.room(200), 200, WRITE)
    for _ in range(SIZE):
        lab.queue.publish(0)
    lab.queue.kick(force=True)
    assert [lab.answer() for _ in range(SIZE)] == [120] * SIZE


@case
def chains_that_share_descriptors(lab: Lab) -> None:
    at, length = lab.call()
    lab.queue.write_desc(9, lab.room(200), 200, WRITE)
    for head in range(8):
        lab.queue.write_desc(head, at, length, NEXT, 9)
        lab.queue.publish(head)
    lab.queue.kick(force=True)
    assert [lab.answer() for _ in range(8)] == [120] * 8


# --- buffers that are something else too


@case
def the_reply_goes_over_the_request(lab: Lab) -> None:
    at, length = lab.call(body=GETATTR + bytes(200))
    lab.offer((at, length, NEXT, 1), (at, 120, WRITE, 0))
    assert lab.answer() in (16, 120)


@case
def the_reply_goes_into_the_descriptor_table(lab: Lab) -> None:
    at, length = lab.call()
    lab.offer((at, length, NEXT, 1), (lab.queue.desc_gpa, 16 * SIZE, WRITE, 0))
    lab.answer()


@case
def the_reply_goes_into_the_avail_ring(lab: Lab) -> None:
    """The device reads its own reply as what is offered next: whatever that is, only this ring suffers."""
    at, length = lab.call()
    lab.offer((at, length, NEXT, 1), (lab.queue.avail_gpa, 6 + 2 * SIZE, WRITE, 0))
    lab.guest.serves_on(HIPRIO)
    lab.guest.fresh_queue(REQUESTS)


@case
def the_reply_goes_into_the_used_ring(lab: Lab) -> None:
    at, length = lab.call()
    lab.offer((at, length, NEXT, 1), (lab.queue.used_gpa, 6 + 8 * SIZE, WRITE, 0))
    lab.guest.serves_on(HIPRIO)
    lab.guest.fresh_queue(REQUESTS)


@case
def a_file_is_read_into_the_rings(lab: Lab) -> None:
    """Its content becomes descriptors, indices and events."""
    nodeid = lab.guest.lookup(b"file")
    fh = lab.guest.open(nodeid)
    at, length = lab.call(Op.READ, nodeid, fuse.READ_IN.pack(fh=fh, size=8192))
    start = lab.queue.used_gpa & ~4095
    lab.offer((at, length, NEXT, 1), (start, lab.end - start, WRITE, 0))
    lab.guest.serves_on(HIPRIO)
    lab.guest.fresh_queue(REQUESTS)


@case
def the_rings_are_written_to_a_file(lab: Lab) -> None:
    nodeid = lab.guest.lookup(b"other")
    fh = lab.guest.open(nodeid)
    at, length = lab.call(Op.WRITE, nodeid, fuse.WRITE_IN.pack(fh=fh, size=16 * SIZE))
    lab.ram.write(at, struct.pack("=I", length + 16 * SIZE))
    lab.offer((at, length, NEXT, 1), (lab.queue.desc_gpa, 16 * SIZE, NEXT, 2), (lab.room(200), 200, WRITE, 0))
    assert lab.answer() == 24


@case
def an_indirect_table_that_the_reply_overwrites(lab: Lab) -> None:
    at, length = lab.call()
    table = lab.room(256, 16)
    lab.ram.write(table, DriverQueue.pack_desc(at, length, NEXT, 1) + DriverQueue.pack_desc(table, 200, WRITE))
    lab.offer((table, 32, INDIRECT, 0))
    assert lab.answer() == 120


# --- rings that make no sense


@case
def an_index_too_far_ahead(lab: Lab) -> None:
    lab.queue.avail_idx = lab.queue.avail_idx + SIZE + 1 & 0xFFFF
    lab.breaks()


@case
def an_index_of_all_bits(lab: Lab) -> None:
    lab.queue.avail_idx = lab.queue.avail_idx + 0xFFFF & 0xFFFF
    lab.breaks()


@case
def an_index_that_goes_back(lab: Lab) -> None:
    lab.guest.serves()
    lab.queue.avail_idx = lab.queue.avail_idx - 2 & 0xFFFF
    lab.breaks()


@case
def a_head_beyond_the_table(lab: Lab) -> None:
    lab.queue.publish(SIZE)
    lab.breaks()


@case
def a_head_of_all_bits(lab: Lab) -> None:
    lab.queue.publish(0xFFFF)
    lab.breaks()


@case
def a_bad_head_behind_good_ones(lab: Lab) -> None:
    at, length = lab.call()
    lab.queue.write_desc(0, at, length, NEXT, 1)
    lab.queue.write_desc(1, lab.room(200), 200, WRITE)
    lab.queue.publish(0)
    lab.queue.publish(0)
    lab.queue.publish(SIZE + 1)
    lab.queue.kick(force=True)
    assert [lab.answer(), lab.answer()] == [120, 120]
    lab.breaks()


@case
def a_broken_ring_gets_kicked(lab: Lab) -> None:
    lab.queue.publish(SIZE)
    for _ in range(1000):
        lab.queue.kick(force=True)
    lab.breaks()


@case
def a_ring_broken_again_and_again(lab: Lab) -> None:
    for _ in range(20):
        Lab(lab.guest).queue.publish(SIZE)
        Lab(lab.guest).breaks()


@case
def rubbish_in_every_word_of_the_ring(lab: Lab) -> None:
    for seed in range(10):
        queue = lab.guest.queues[REQUESTS]
        for start, length in (
            (queue.desc_gpa, 16 * SIZE),
            (queue.avail_gpa, 6 + 2 * SIZE),
            (queue.used_gpa, 6 + 8 * SIZE),
        ):
            lab.ram.write(start, bytes((seed * 37 + i * 101) & 0xFF for i in range(length)))
        queue.kick(force=True)
        lab.guest.serves_on(HIPRIO)
        lab.guest.fresh_queue(REQUESTS)


# --- notifications


@case
def kicks_for_nothing(lab: Lab) -> None:
    for _ in range(20_000):
        lab.queue.kick(force=True)


@case
def a_kick_fd_that_is_full(lab: Lab) -> None:
    """Nobody reads the counter: a kick still wakes, and a full one loses nothing that is offered before it."""
    os.eventfd_write(lab.queue.kick_fd, 0xFFFFFFFFFFFFFFF0)
    lab.guest.serves()


@case
def a_call_fd_that_is_full(lab: Lab) -> None:
    """The guest does not look at its interrupts: answers come all the same."""
    with suppress(BlockingIOError):
        os.read(lab.queue.call_fd, 8)
    os.eventfd_write(lab.queue.call_fd, 0xFFFFFFFFFFFFFFFE)
    at, length = lab.call()
    for _ in range(10):
        lab.offer((at, length, NEXT, 1), (lab.room(200), 200, WRITE, 0))
        assert lab.answer() == 120


@case
def a_blocking_call_fd_that_is_full(lab: Lab) -> None:
    blocking = os.eventfd(0xFFFFFFFE, os.EFD_CLOEXEC)
    try:
        os.eventfd_write(blocking, 0xFFFFFFFFFFFFFFFE - 0xFFFFFFFE)
        lab.guest.device.set_vring_call(REQUESTS, blocking)
        at, length = lab.call()
        lab.offer((at, length, NEXT, 1), (lab.room(200), 200, WRITE, 0))
        while lab.queue.used_idx == 0:
            select.select([], [], [], 0.001)
        lab.guest.device.set_vring_call(REQUESTS, lab.queue.call_fd)
        assert lab.answer() == 120
    finally:
        os.close(blocking)


@case
def a_blocking_error_fd_that_is_full(lab: Lab) -> None:
    """The ring breaks, nobody can be told: the device is not held up by that."""
    blocking = os.eventfd(0, os.EFD_CLOEXEC)
    try:
        os.eventfd_write(blocking, 0xFFFFFFFFFFFFFFFE)
        lab.guest.device.set_vring_err(REQUESTS, blocking)
        lab.queue.publish(SIZE)
        lab.queue.kick(force=True)
        lab.guest.serves_on(HIPRIO)
        lab.guest.fresh_queue(REQUESTS)
    finally:
        os.close(blocking)


@case
def events_of_every_value(lab: Lab) -> None:
    """used_event far away: no interrupt is wanted; a request is answered, and can be polled for."""
    at, length = lab.call()
    for event in (0, 1, 0x7FFF, 0x8000, 0xFFFF):
        lab.queue.used_event = event
        lab.queue.avail_flags = event
        before = lab.queue.used_idx
        lab.offer((at, length, NEXT, 1), (lab.room(200), 200, WRITE, 0))
        while lab.queue.used_idx == before:
            select.select([], [], [], 0.001)
        assert lab.queue.poll() is not None


@pytest.mark.parametrize("name", case)
def test_hostile_guest(guest: Guest, name: str) -> None:
    case[name](Lab(guest))
    guest.serves()
