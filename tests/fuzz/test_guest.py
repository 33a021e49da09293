"""A hostile guest: what it writes into its rings and buffers may cost it its ring, and nobody else anything.

Each case is played on the request queue of a device in this process, whose memory ends at guard pages; then each queue
must still answer (a broken ring after its driver has reset it, as a guest's driver does).
"""

from __future__ import annotations

import os
import random
import select
import shutil
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from engine_calls import CALLS, CONTENT, prepare
from engine_guest import HIPRIO, REQUESTS, Call, Guest

from ferryfs.frontend.driver import DriverQueue
from ferryfs.passthrough.config import ShareConfig
from ferryfs.wire import fuse
from ferryfs.wire.fuse import Op

from .seeds import rounds

SIZE = 64
NEXT, WRITE, INDIRECT = 1, 2, 4
GETATTR = bytes(16)


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    shared = tmp_path / "shared"
    shared.mkdir()
    prepare(shared)
    with Guest(shared, ShareConfig(xattr=True), size=SIZE, at_end=True) as guest:
        yield guest


class Lab:
    """The request queue in the hands of somebody who writes every word of it himself."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self.queue = guest.queues[REQUESTS]
        self.ram = guest.ram
        self.end = self.ram.regions[REQUESTS][0] + self.ram.regions[REQUESTS][1]

    def put(self, data: bytes) -> int:
        """Guest address of a copy of the data."""
        at = self.ram.alloc(max(1, len(data)), region=REQUESTS)
        self.ram.write(at, data)
        return at

    def room(self, size: int, align: int = 1) -> int:
        return self.ram.alloc(size, region=REQUESTS, align=align)

    def call(self, op: Op = Op.GETATTR, nodeid: int = 1, body: bytes = GETATTR) -> tuple[int, int]:
        """Address and length of a good request."""
        data = Call(op, nodeid, body).data
        return self.put(data), len(data)

    def offer(self, *chain: tuple[int, int, int, int], head: int = 0) -> None:
        """Writes descriptors from `head` on, as they are given, and offers the first."""
        for number, (address, length, flags, following) in enumerate(chain):
            self.queue.write_desc((head + number) % SIZE, address, length, flags, following)
        self.queue.publish(head)
        self.queue.kick(force=True)

    def answer(self) -> int:
        """The used length of the next answer."""
        found = self.queue.wait(20.0)
        assert found is not None, "no answer came"
        return found[1]

    def dropped(self, *chain: tuple[int, int, int, int]) -> None:
        """The chain is answered with length 0, and noted."""
        self.offer(*chain)
        assert self.answer() == 0
        assert self.guest.complaints()

    def breaks(self) -> None:
        """The ring is stopped: the error eventfd says so and a line of the log; the others go on."""
        self.queue.kick(force=True)
        poller = select.poll()
        poller.register(self.queue.err_fd, select.POLLIN)
        assert poller.poll(20_000), "nobody was told that the ring is broken"
        os.read(self.queue.err_fd, 8)
        assert self.guest.complaints()
        self.guest.send(Call(Op.GETATTR, 1, GETATTR), queue=HIPRIO)
        assert self.queue.poll() is None
        self.guest.fresh_queue(REQUESTS)


Case = Callable[[Lab], None]
CASES: dict[str, Case] = {}


def case(function: Case) -> Case:
    CASES[function.__name__.replace("_", " ")] = function
    return function


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


# --- a guest that writes while it is served


def meanwhile(action: Callable[[int], None]) -> Callable[[], None]:
    """Another thread does this until the result is called."""
    stop = threading.Event()

    def run() -> None:
        turn = 0
        while not stop.is_set():
            action(turn)
            turn += 1

    thread = threading.Thread(target=run)
    thread.start()

    def end() -> None:
        stop.set()
        thread.join()

    return end


def changing(
    lab: Lab, offset: int, values: list[bytes], op: Op = Op.GETATTR, body: bytes = GETATTR, nodeid: int = 1
) -> None:
    """Bytes of a request change all the time while it is served: an answer comes, whatever it is."""
    at, length = lab.call(op, nodeid, body)
    reply = lab.room(8192)
    end = meanwhile(lambda turn: lab.ram.write(at + offset, values[turn % len(values)]))
    try:
        for _ in range(1500):
            lab.offer((at, length, NEXT, 1), (reply, 8192, WRITE, 0))
            used = lab.answer()
            assert used == 0 or 16 <= used <= 8192
            assert used in (0, struct.unpack("=I", lab.ram.read(reply, 4))[0])
    finally:
        end()


@case
def the_length_changes(lab: Lab) -> None:
    changing(lab, 0, [struct.pack("=I", n) for n in (56, 0, 40, 0xFFFFFFFF, 57)])


@case
def the_opcode_changes(lab: Lab) -> None:
    changing(lab, 4, [struct.pack("=I", n) for n in (3, 44, 4096, 0xFFFFFFFF, 36, 1, 17, 2, 42)])


@case
def the_name_changes(lab: Lab) -> None:
    changing(lab, 40, [b"file\0", b"../a\0", b"a/b/c", b"/////", b"..\0\0\0"], Op.LOOKUP, b"file\0")


@case
def the_batch_count_changes(lab: Lab) -> None:
    at, length = lab.call(Op.BATCH_FORGET, 0, fuse.BATCH_FORGET_IN.pack(count=1) + bytes(16))
    end = meanwhile(lambda turn: lab.ram.write(at + 40, struct.pack("=I", (1, 0xFFFFFFFF, 1000)[turn % 3])))
    try:
        for _ in range(1500):
            lab.offer((at, length, 0, 0))
            assert lab.answer() == 0
    finally:
        end()


@case
def the_write_size_changes(lab: Lab) -> None:
    nodeid = lab.guest.lookup(b"other")
    body = fuse.WRITE_IN.pack(fh=lab.guest.open(nodeid), size=64) + bytes(64)
    changing(lab, 56, [struct.pack("=I", n) for n in (64, 65, 0, 0xFFFFFFFF)], Op.WRITE, body, nodeid)


@case
def the_extensions_change(lab: Lab) -> None:
    ext = fuse.EXT_HEADER.pack(size=16, type=fuse.EXT_GROUPS) + struct.pack("=II", 1, 0)
    body = fuse.MKDIR_IN.pack(mode=0o755) + b"changing" + b"\0" * 8 + ext
    values = [
        struct.pack("=IIII", size, kind, count, 0)
        for size in (16, 0, 0xFFFFFFFF)
        for kind in (32, 1)
        for count in (1, 9)
    ]
    changing(lab, 40 + 24, values, Op.MKDIR, body)


@case
def the_descriptors_change(lab: Lab) -> None:
    """Address, length and flags of both descriptors change while the chain is walked and served."""
    at, length = lab.call()
    reply = lab.room(8192)
    good = DriverQueue.pack_desc(at, length, NEXT, 1) + DriverQueue.pack_desc(reply, 8192, WRITE)
    values = [
        good,
        DriverQueue.pack_desc(lab.end - 8, 0xFFFFFFFF, NEXT, 1) + DriverQueue.pack_desc(lab.end, 8192, WRITE),
        DriverQueue.pack_desc(at, length, NEXT, 0) + DriverQueue.pack_desc(at, 16, INDIRECT, 0),
        DriverQueue.pack_desc(lab.queue.desc_gpa, 32, INDIRECT, 1) + DriverQueue.pack_desc(reply, 3, WRITE | NEXT, 0),
    ]
    end = meanwhile(lambda turn: lab.ram.write(lab.queue.desc_gpa, values[turn % len(values)]))
    try:
        for _ in range(1500):
            lab.queue.publish(0)
            lab.queue.kick(force=True)
            assert lab.answer() <= 8192
    finally:
        end()
    lab.guest.complaints()


@case
def an_indirect_table_changes(lab: Lab) -> None:
    at, length = lab.call()
    reply = lab.room(8192)
    table = lab.room(64, 16)
    values = [
        DriverQueue.pack_desc(at, length, NEXT, 1) + DriverQueue.pack_desc(reply, 8192, WRITE),
        DriverQueue.pack_desc(table, 32, INDIRECT, 1) + DriverQueue.pack_desc(lab.end - 1, 2, WRITE),
        DriverQueue.pack_desc(at, 0, NEXT, 9) + DriverQueue.pack_desc(0, 0xFFFFFFFF, NEXT, 0),
    ]
    end = meanwhile(lambda turn: lab.ram.write(table, values[turn % len(values)]))
    try:
        for _ in range(1500):
            lab.offer((table, 32, INDIRECT, 0))
            assert lab.answer() <= 8192
    finally:
        end()
    lab.guest.complaints()


# --- too much of something


@case
def init_again_and_again(lab: Lab) -> None:
    for _ in range(200):
        lab.guest.open(lab.guest.lookup(b"file"))
        lab.guest.init()


@case
def a_session_that_ends_while_others_are_served(lab: Lab) -> None:
    """INIT and DESTROY on one queue, everything else on the other."""
    guest = lab.guest
    init = Call(Op.INIT, 0, fuse.INIT_IN.pack(major=7, minor=45, flags=0xFFFFFFFF, flags2=0xFFFFFFFF))
    stop = threading.Event()

    def restart() -> None:
        while not stop.is_set():
            guest.send(init, queue=HIPRIO)
            guest.send(Call(Op.DESTROY, 0), queue=HIPRIO)

    thread = threading.Thread(target=restart)
    thread.start()
    try:
        for number in range(300):
            found = guest.send(Call(Op.LOOKUP, 1, b"file\0"))
            if found.error == 0:
                nodeid = fuse.ENTRY_OUT.unpack(found.body)["nodeid"]
                opened = guest.send(Call(Op.OPEN, nodeid, bytes(8)))
                fh = fuse.OPEN_OUT.unpack(opened.body)["fh"] if opened.error == 0 else number
                answer = guest.send(Call(Op.READ, nodeid, fuse.READ_IN.pack(fh=fh, size=100)))
                assert answer.error or answer.body == CONTENT[:100]
                guest.send(Call(Op.RELEASE, nodeid, fuse.RELEASE_IN.pack(fh=fh)))
    finally:
        stop.set()
        thread.join()


@case
def forgets_without_end(lab: Lab) -> None:
    body = fuse.BATCH_FORGET_IN.pack(count=4000) + fuse.FORGET_ONE.pack(nodeid=1, nlookup=1 << 40) * 4000
    for _ in range(50):
        lab.guest.send(Call(Op.BATCH_FORGET, 0, body))


@case
def a_request_of_64_kib_of_names(lab: Lab) -> None:
    assert lab.guest.send(Call(Op.LOOKUP, 1, b"n" * 65535 + b"\0")).error


@case
def a_request_larger_than_any(lab: Lab) -> None:
    assert lab.guest.send(Call(Op.LOOKUP, 1, b"n" * 100_000 + b"\0")).error


@case
def lookups_of_what_is_not_there(lab: Lab) -> None:
    for number in range(2000):
        assert lab.guest.send(Call(Op.LOOKUP, 1, f"nothing{number}\0".encode())).error


@pytest.mark.parametrize("name", CASES)
def test_hostile_guest(guest: Guest, name: str) -> None:
    CASES[name](Lab(guest))
    guest.serves()


# Not FALLOCATE: a length with a high bit changed is a full disk.
RANDOM = [op for op in CALLS if op not in (Op.SYNCFS, Op.FALLOCATE)]


def test_random_requests(tmp_path: Path) -> None:
    """Sane requests with some bytes changed, cut anywhere, into rooms of any size: a right answer or none."""
    for number, rng in enumerate(rounds()):
        shared = tmp_path / str(number)
        shared.mkdir()
        prepare(shared)
        with Guest(shared, ShareConfig(xattr=True), size=SIZE, at_end=True) as guest:
            for _ in range(300):
                if not guest.device.session_ready:
                    guest.init()
                try:
                    call = CALLS[rng.choice(RANDOM)](guest)
                except (OSError, AssertionError):
                    # What came before has taken away what this one is about.
                    break
                spoil(guest, call, rng)
            guest.complaints()
            guest.serves()
        shutil.rmtree(shared)


def spoil(guest: Guest, call: Call, rng: random.Random) -> None:
    """Sends a request that was sane, and checks the two lengths of the answer."""
    data = bytearray(call.data)
    for _ in range(rng.choice((0, 1, 1, 2, 5))):
        data[rng.randrange(len(data))] = rng.choice((0, 1, 0xFF, 0x7F, 0x80, rng.getrandbits(8)))
    del data[rng.choice((len(data), len(data), rng.randint(0, len(data)))) :]
    readable = []
    while data:
        size = rng.choice((1, 7, 40, len(data)))
        readable.append(bytes(data[:size]))
        del data[:size]
    writable = [rng.choice((1, 16, 100, 4096)) for _ in range(rng.randint(0, 4))]
    if not readable and not writable:
        return
    used, written = guest.exchange(readable, writable, queue=rng.choice((HIPRIO, REQUESTS)))
    assert used == 0 or 16 <= used <= len(written)
    if used:
        head = fuse.OUT_HEADER.unpack(written)
        assert head["len"] == used
        assert -4096 < head["error"] <= 0
