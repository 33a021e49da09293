"""The driver side of a queue against our own device side: what one puts in, the other must take out, and back."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ferryfs.errors import PeerError
from ferryfs.frontend.driver import DriverQueue
from ferryfs.frontend.ram import GuestRam
from ferryfs.ring import model
from ferryfs.ring.harness import Ring
from ferryfs.ring.memory import GuestMemory

EMPTY, GOT = model.Outcome.EMPTY, model.Outcome.GOT


class Device:
    """The back-end of one queue, by hand."""

    def __init__(self, queue: DriverQueue) -> None:
        self.memory = GuestMemory()
        self.memory.set_table(queue.ram.regions)
        self.ring = Ring(self.memory, queue.size)
        self.ring.set_event_idx(queue.event_idx)
        user = queue.ram.user_addr
        assert self.ring.attach(user(queue.desc_gpa), user(queue.avail_gpa), user(queue.used_gpa), True) == 0

    def take(self) -> tuple[int, bytes] | None:
        """Head and readable bytes of the next chain."""
        outcome, head, data, _room, fault = self.ring.pop()
        if outcome == EMPTY:
            return None
        assert (outcome, fault) == (GOT, model.Fault.OK)
        return head, data

    def answer(self, head: int, data: bytes) -> None:
        assert self.ring.write(0, data) == len(data)
        self.ring.push(head, len(data))

    def close(self) -> None:
        self.ring.detach()
        self.memory.close()


@pytest.fixture
def ram() -> Iterator[GuestRam]:
    with GuestRam([1 << 22]) as made:
        yield made


@pytest.mark.parametrize("event_idx", [True, False])
@pytest.mark.parametrize("indirect", [True, False])
def test_bytes_travel_both_ways(ram: GuestRam, event_idx: bool, indirect: bool) -> None:
    queue = DriverQueue(ram, 16, event_idx=event_idx, indirect=indirect)
    device = Device(queue)
    try:
        # Three times around the ring, several descriptors each.
        for number in range(48):
            request = number.to_bytes(2, "little") * 50
            token = queue.add([request[:40], request[40:]], [16, 100])
            assert device.take() == (token, request)
            device.answer(token, b"r" * 16 + request[:30])
            assert queue.wait(1.0) == (token, 46)
            assert queue.take(token) == [b"r" * 16, request[:30] + bytes(70)]
        assert queue.in_flight == 0
        assert device.take() is None
    finally:
        device.close()
        queue.close()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(st.binary(max_size=50), max_size=4), st.lists(st.integers(1, 60), max_size=4), st.booleans()
        ),
        max_size=40,
    ),
    st.randoms(use_true_random=False),
)
def test_any_requests_in_any_order_of_answers(
    requests: list[tuple[list[bytes], list[int], bool]], random: object
) -> None:
    """Answers come in any order; each finds its request, and all descriptors come back."""
    assert hasattr(random, "shuffle")
    with GuestRam([1 << 22]) as ram:
        queue = DriverQueue(ram, 32, slot_bytes=4096)
        device = Device(queue)
        sent: dict[int, bytes] = {}
        rooms: dict[int, int] = {}

        def answer_all() -> None:
            taken = []
            while (found := device.take()) is not None:
                head, data = found
                assert data == sent[head]
                # The device holds one chain at a time; what it answers is what it took last.
                device.answer(head, b"x" * min(rooms[head], 9))
                taken.append(head)
            for _ in taken:
                answered = queue.wait(1.0)
                assert answered is not None
                token, used = answered
                assert used == min(rooms.pop(token), 9)
                assert b"".join(queue.take(token))[:used] == b"x" * used
                del sent[token]

        try:
            for readable, writable, indirect in requests:
                if not readable and not writable:
                    continue
                try:
                    token = queue.add(readable, writable, indirect=indirect)
                except BlockingIOError:
                    answer_all()
                    token = queue.add(readable, writable, indirect=indirect)
                sent[token] = b"".join(readable)
                rooms[token] = sum(writable)
            answer_all()
            assert not sent
            assert queue.in_flight == 0
        finally:
            device.close()
            queue.close()


def test_a_kick_comes_only_where_it_is_wanted(ram: GuestRam) -> None:
    queue = DriverQueue(ram, 16)
    device = Device(queue)
    os.set_blocking(queue.kick_fd, False)

    def kicks() -> int:
        try:
            return os.eventfd_read(queue.kick_fd)
        except BlockingIOError:
            return 0

    try:
        queue.add([b"a"], [])
        queue.kick()
        assert kicks() == 1
        # The device has not asked again: it is still at work.
        queue.add([b"b"], [])
        queue.kick()
        assert kicks() == 0
        queue.kick(force=True)
        assert kicks() == 1
        while (found := device.take()) is not None:
            device.answer(found[0], b"")
        device.ring.rest()
        queue.add([b"c"], [])
        queue.kick()
        assert kicks() == 1
    finally:
        device.close()
        queue.close()


def test_wait_returns_when_the_device_calls(ram: GuestRam) -> None:
    queue = DriverQueue(ram, 16)
    device = Device(queue)
    token = queue.add([b"ask"], [4])
    queue.kick()
    found = device.take()
    assert found is not None

    def serve() -> None:
        device.answer(token, b"done")
        if device.ring.should_notify():
            os.eventfd_write(queue.call_fd, 1)

    server = threading.Thread(target=serve)
    try:
        assert queue.wait(0.0) is None
        server.start()
        assert queue.wait(10.0) == (token, 4)
        assert queue.take(token) == [b"done"]
    finally:
        server.join()
        device.close()
        queue.close()


@pytest.mark.parametrize("head", [3, 16, 0xFFFF])
def test_an_answer_to_nothing_is_the_daemons_fault(ram: GuestRam, head: int) -> None:
    queue = DriverQueue(ram, 16)
    try:
        ram.write(queue.used_gpa + 4, head.to_bytes(4, "little") + bytes(4))
        ram.write16(queue.used_gpa + 2, 1)
        with pytest.raises(PeerError, match="not in flight"):
            queue.poll()
    finally:
        queue.close()


def test_one_answer_twice_is_the_daemons_fault(ram: GuestRam) -> None:
    queue = DriverQueue(ram, 16)
    device = Device(queue)
    try:
        token = queue.add([b"ask"], [4])
        device.take()
        device.answer(token, b"once")
        device.ring.push(token, 4)
        assert queue.poll() == (token, 4)
        with pytest.raises(PeerError, match="not in flight"):
            queue.poll()
    finally:
        device.close()
        queue.close()


def test_a_chain_made_by_hand_reaches_the_device(ram: GuestRam) -> None:
    queue = DriverQueue(ram, 16)
    device = Device(queue)
    try:
        place = ram.alloc(64)
        ram.write(place, b"by hand")
        queue.write_desc(5, place, 7, 1, 9)
        queue.write_desc(9, place + 32, 32, 2)
        queue.publish(5)
        assert device.take() == (5, b"by hand")
        device.answer(5, b"answer")
        assert queue.poll() == (5, 6)
        assert ram.read(place + 32, 6) == b"answer"
        queue.publish(40000)
        assert device.ring.pop()[0] == model.Outcome.BROKEN
    finally:
        device.close()
        queue.close()


@pytest.mark.parametrize("size", [0, 3, 65536, -4])
def test_sizes_that_no_queue_has(ram: GuestRam, size: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        DriverQueue(ram, size)
