"""The pump between kernel and virtqueues.

The test plays both: the kernel over a socket that keeps messages apart, the daemon at the device side of the rings.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
from collections.abc import Iterator

import pytest

from ferryfs.frontend.driver import DriverQueue
from ferryfs.frontend.fuse_mount import SLOT_SIZE, FusePump
from ferryfs.frontend.mount import reply_sizes
from ferryfs.frontend.ram import GuestRam
from ferryfs.ring import model
from ferryfs.ring.harness import Ring
from ferryfs.ring.memory import GuestMemory
from ferryfs.wire.fuse import IN_HEADER, INIT_IN, INIT_OUT, OUT_HEADER, WRITE_IN, Op

SLOTS = 4
HIPRIO, REQUESTS = 0, 1


class Rig:
    """A pump with its threads, a kernel's end and a daemon's end."""

    def __init__(self, *, indirect: bool = True, size: int = 8) -> None:
        self.kernel, pumped = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.kernel.settimeout(20)
        pumped.setblocking(False)
        self.pumped = pumped
        self.ram = GuestRam([SLOTS * SLOT_SIZE + (1 << 20)])
        self.queues = [DriverQueue(self.ram, size, indirect=indirect, slot_bytes=0) for _ in range(2)]
        self.memory = GuestMemory()
        self.memory.set_table(self.ram.regions)
        self.rings = []
        for queue in self.queues:
            ring = Ring(self.memory, size)
            ring.set_event_idx(True)
            user = self.ram.user_addr
            assert ring.attach(user(queue.desc_gpa), user(queue.avail_gpa), user(queue.used_gpa), True) == 0
            self.rings.append(ring)
        self.pump = FusePump(self.ram, self.queues, [pumped.fileno()], reply_sizes(), SLOTS)
        self.results: list[int] = []
        self.threads = [threading.Thread(target=self._complete, args=(index,)) for index in range(2)]
        self.reader = threading.Thread(target=self.pump.read_requests, args=(REQUESTS,))
        for thread in (*self.threads, self.reader):
            thread.start()
        self.unique = 0

    def _complete(self, index: int) -> None:
        self.results.append(self.pump.complete_requests(index))

    def close(self) -> None:
        self.pump.abandon()
        self.reader.join()
        self.pump.stop()
        for thread in self.threads:
            thread.join()
        self.pump.close()
        for ring in self.rings:
            ring.detach()
        self.memory.close()
        for queue in self.queues:
            queue.close()
        self.ram.close()
        self.kernel.close()
        self.pumped.close()

    def ask(self, op: int, body: bytes = b"") -> int:
        """The kernel sends a request; its unique."""
        self.unique += 2
        self.kernel.send(IN_HEADER.pack(len=IN_HEADER.size + len(body), opcode=op, unique=self.unique) + body)
        return self.unique

    def take(self, index: int = REQUESTS) -> tuple[int, bytes, int]:
        """The daemon waits for a request: head, bytes, room for the answer."""
        ring = self.rings[index]
        while True:
            outcome, head, data, room, fault = ring.pop()
            assert fault == model.Fault.OK
            if outcome == model.Outcome.GOT:
                return head, data, room
            if not ring.rest():
                assert select.select([self.queues[index].kick_fd], [], [], 20)[0], "no kick came"
                os.eventfd_read(self.queues[index].kick_fd)
            ring.wake()

    def answer(self, head: int, data: bytes, *, used: int | None = None, index: int = REQUESTS) -> None:
        self.rings[index].write(0, data)
        self.rings[index].push(head, len(data) if used is None else used)
        if self.rings[index].should_notify():
            os.eventfd_write(self.queues[index].call_fd, 1)

    def hear(self) -> tuple[dict[str, int], bytes]:
        """The kernel waits for an answer."""
        data = self.kernel.recv(1 << 21)
        return OUT_HEADER.unpack(data), data[OUT_HEADER.size :]


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.close()


def reply(unique: int, body: bytes = b"", error: int = 0) -> bytes:
    return OUT_HEADER.pack(len=OUT_HEADER.size + len(body), error=error, unique=unique) + body


def fields(op: Op, size: int) -> dict[str, int]:
    """What a request of that operation says about sizes."""
    names = op.request.fields if op.request else ()
    return {name: size for name in ("size", "out_size") if name in names}


ASKED = [op for op in Op if op not in (Op.INTERRUPT, Op.NOTIFY_REPLY, Op.CUSE_INIT)]


@pytest.mark.parametrize("indirect", [True, False])
@pytest.mark.parametrize("size", [0, 4096])
def test_the_room_for_every_answer_is_that_of_the_table(indirect: bool, size: int) -> None:
    rig = Rig(indirect=indirect)
    try:
        for op in ASKED:
            said = fields(op, size)
            body = (op.request.pack(**said) if op.request else b"") + b"name\0" * op.names
            unique = rig.ask(op, body)
            index = REQUESTS if op.answered else HIPRIO
            head, data, room = rig.take(index)
            assert (op, data[IN_HEADER.size :]) == (op, body)
            assert (op, room) == (op, op.reply_room(said))
            if op.answered:
                whole = reply(unique, bytes(room - OUT_HEADER.size))
                rig.answer(head, whole)
                assert rig.hear() == (OUT_HEADER.unpack(whole), whole[OUT_HEADER.size :])
            else:
                rig.answer(head, b"", index=HIPRIO)
        assert rig.pump.wait_idle(20)
        assert rig.pump.counts == (len(ASKED), 0, 0)
        assert rig.pump.opcode_counts == {int(op): 1 for op in ASKED}
    finally:
        rig.close()


def test_what_the_virtio_driver_never_sends_is_swallowed(rig: Rig) -> None:
    rig.ask(Op.INTERRUPT, bytes(8))
    unique = rig.ask(Op.STATFS)
    head, data, _ = rig.take()
    assert IN_HEADER.unpack(data)["opcode"] == Op.STATFS
    rig.answer(head, reply(unique, error=-errno.EIO))
    assert rig.hear()[0]["error"] == -errno.EIO
    assert rig.pump.counts == (1, 1, 0)


def test_written_data_stands_on_a_page_boundary(rig: Rig) -> None:
    """As a guest's pages do: a daemon may hand them to a file opened with O_DIRECT."""
    unique = rig.ask(Op.WRITE, WRITE_IN.pack(size=9000) + b"d" * 9000)
    head, data, room = rig.take()
    assert (len(data), room) == (IN_HEADER.size + WRITE_IN.size + 9000, 24)
    table = rig.ram.read(int.from_bytes(rig.ram.read(rig.queues[REQUESTS].desc_gpa + 16 * head, 8), "little"), 48)
    addresses = [int.from_bytes(table[at : at + 8], "little") for at in (0, 16, 32)]
    assert addresses[2] % 4096 == 0
    rig.answer(head, reply(unique, bytes(8)))
    assert rig.hear()[0]["len"] == 24


@pytest.mark.parametrize(
    ("length", "unique_off", "used", "error"),
    [
        (16, 2, None, errno.EIO),  # names another request
        (8, 0, 8, errno.EIO),  # no header
        (1 << 20, 0, 16, errno.EIO),  # longer than the room
        (16, 0, 12, errno.EIO),  # the used length ends in the header
        (16, 0, 20, 0),  # only the used length is wrong: the header is believed, as Linux does
    ],
)
def test_an_answer_that_does_not_fit(rig: Rig, length: int, unique_off: int, used: int | None, error: int) -> None:
    unique = rig.ask(Op.RELEASE, bytes(24))
    head, _, _ = rig.take()
    rig.answer(head, OUT_HEADER.pack(len=length, unique=unique + unique_off), used=used)
    heard, body = rig.hear()
    assert (heard, body) == ({"len": 16, "error": -error, "unique": unique}, b"")
    assert rig.pump.counts[2] == 1
    assert rig.pump.last_bad_reply == (Op.RELEASE, 16 if used is None else used, length)


def test_a_broken_ring_ends_its_completer(rig: Rig) -> None:
    rig.rings[REQUESTS].push(5, 0)
    os.eventfd_write(rig.queues[REQUESTS].call_fd, 1)
    rig.threads[REQUESTS].join(20)
    assert rig.results == [errno.EPROTO]


def test_init_is_kept_and_cut_to_what_a_slot_holds(rig: Rig) -> None:
    unique = rig.ask(Op.INIT, INIT_IN.pack(major=7, minor=38))
    head, _, room = rig.take()
    assert room == OUT_HEADER.size + INIT_OUT.size
    rig.answer(head, reply(unique, INIT_OUT.pack(major=7, minor=38, max_write=1 << 24, max_pages=4096)))
    _, body = rig.hear()
    assert rig.pump.wait_for_init(20) == 0
    assert INIT_OUT.unpack(body)["max_write"] == 1 << 20
    assert INIT_OUT.unpack(body)["max_pages"] == 256
    assert rig.pump.init_answer[OUT_HEADER.size :] == body


def test_init_can_fail(rig: Rig) -> None:
    unique = rig.ask(Op.INIT, INIT_IN.pack(major=7, minor=38))
    head, _, _ = rig.take()
    rig.answer(head, reply(unique, error=-errno.EPERM))
    assert rig.hear()[0]["error"] == -errno.EPERM
    assert rig.pump.wait_for_init(20) == errno.EPERM


def test_init_is_answered_without_the_daemon_after_a_restore(rig: Rig) -> None:
    canned = reply(99, INIT_OUT.pack(major=7, minor=36, max_write=4096, max_pages=1))
    rig.pump.init_answer = canned
    unique = rig.ask(Op.INIT, INIT_IN.pack(major=7, minor=38))
    assert rig.hear() == (OUT_HEADER.unpack(reply(unique, bytes(64))), canned[OUT_HEADER.size :])
    assert rig.pump.wait_for_init(20) == 0
    # The next one, from a kernel that starts over, is the daemon's again.
    rig.ask(Op.INIT, INIT_IN.pack(major=7, minor=38))
    assert IN_HEADER.unpack(rig.take()[1])["opcode"] == Op.INIT


@pytest.mark.parametrize(("indirect", "size"), [(True, 2), (False, 4), (False, 64)])
def test_more_requests_than_the_ring_or_the_slots_hold(indirect: bool, size: int) -> None:
    rig = Rig(indirect=indirect, size=size)
    try:
        uniques = [rig.ask(Op.GETATTR, bytes(16)) for _ in range(20)]
        heard = []
        for _ in uniques:
            head, data, _ = rig.take()
            rig.answer(head, reply(IN_HEADER.unpack(data)["unique"], error=-errno.ENOENT))
            heard.append(rig.hear()[0]["unique"])
        assert heard == uniques
        assert rig.pump.wait_idle(20)
    finally:
        rig.close()


def test_a_pause_leaves_requests_with_the_kernel(rig: Rig) -> None:
    first = rig.ask(Op.STATFS)
    head, _, _ = rig.take()
    rig.pump.pause()
    rig.reader.join(20)
    assert not rig.reader.is_alive()
    assert rig.pump.in_flight == 1
    assert not rig.pump.wait_idle(0.01)
    second = rig.ask(Op.STATFS)
    rig.answer(head, reply(first, error=-errno.EIO))
    assert rig.hear()[0]["unique"] == first
    assert rig.pump.wait_idle(20)
    rig.pump.resume()
    rig.reader = threading.Thread(target=rig.pump.read_requests, args=(REQUESTS,))
    rig.reader.start()
    assert IN_HEADER.unpack(rig.take()[1])["unique"] == second


def test_a_destroy_of_its_own(rig: Rig) -> None:
    rig.pump.send_destroy()
    head, data, room = rig.take()
    assert IN_HEADER.unpack(data)["opcode"] == Op.DESTROY
    assert room == OUT_HEADER.size
    rig.answer(head, reply(IN_HEADER.unpack(data)["unique"]))
    assert rig.pump.wait_idle(20)
