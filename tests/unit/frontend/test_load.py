"""The load generator against a back-end in this process that does what the test tells it."""

from __future__ import annotations

import errno
import os
import select
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from ferryfs.errors import PeerError
from ferryfs.frontend.driver import DriverQueue
from ferryfs.frontend.load import LoadGenerator, LoadRequest
from ferryfs.frontend.ram import GuestRam
from ferryfs.ring import model
from ferryfs.ring.harness import Ring
from ferryfs.ring.memory import GuestMemory
from ferryfs.wire.fuse import IN_HEADER, OUT_HEADER, Op

Serve = Callable[[dict[str, int], bytes], bytes]


def request(op: Op, body: bytes = b"") -> list[bytes]:
    return [IN_HEADER.pack(len=IN_HEADER.size + len(body), opcode=op, unique=2, nodeid=1), body][: 2 if body else 1]


def good(header: dict[str, int], body: bytes = b"") -> bytes:
    return OUT_HEADER.pack(len=OUT_HEADER.size + len(body), unique=header["unique"]) + body


def serve_ring(queue: DriverQueue, ring: Ring, serve: Serve) -> None:
    """Everything that is there; as a back-end, it calls where that is wanted."""
    while True:
        outcome, head, data, _room, _fault = ring.pop()
        if outcome == model.Outcome.EMPTY:
            return
        answer = serve(IN_HEADER.unpack(data), data[IN_HEADER.size :])
        ring.write(0, answer)
        ring.push(head, len(answer))
        if ring.should_notify():
            os.eventfd_write(queue.call_fd, 1)


@contextmanager
def backend(serve: Serve, *, size: int = 64) -> Iterator[tuple[DriverQueue, DriverQueue]]:
    """A request queue and a high-priority queue, both served by a thread."""
    with GuestRam([1 << 22]) as ram:
        queues = [DriverQueue(ram, size, slot_bytes=0) for _ in range(2)]
        memory = GuestMemory()
        memory.set_table(ram.regions)
        rings = []
        for queue in queues:
            ring = Ring(memory, size)
            ring.set_event_idx(True)
            user = ram.user_addr
            assert ring.attach(user(queue.desc_gpa), user(queue.avail_gpa), user(queue.used_gpa), True) == 0
            rings.append(ring)
        stop = os.eventfd(0)

        def work() -> None:
            while True:
                for queue, ring in zip(queues, rings, strict=True):
                    serve_ring(queue, ring, serve)
                if any(ring.rest() for ring in rings):
                    continue
                ready, _, _ = select.select([queues[0].kick_fd, queues[1].kick_fd, stop], [], [])
                if stop in ready:
                    return
                for fd in ready:
                    os.eventfd_read(fd)
                for ring in rings:
                    ring.wake()

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield queues[0], queues[1]
        finally:
            os.eventfd_write(stop, 1)
            thread.join()
            os.close(stop)
            for ring in rings:
                ring.detach()
            memory.close()
            for queue in queues:
                queue.close()


@pytest.mark.parametrize("polling", [False, True])
def test_every_request_is_counted_and_timed(polling: bool) -> None:
    with backend(lambda header, _body: good(header)) as (queue, _):
        generator = LoadGenerator(queue, [[LoadRequest(request(Op.GETATTR), [16])] for _ in range(8)])
        result = generator.run(count=500, polling=polling)
        assert result.done == len(result.latencies_ns) == len(result.positions)
        assert 500 <= result.done < 500 + 8
        assert (result.errors, result.first_error) == (0, None)
        assert min(result.latencies_ns) > 0
        assert set(result.positions) == {0}
        # It can be run again, and keeps no more than it is told to.
        assert len(generator.run(count=100, polling=polling, capacity=10).latencies_ns) == 10


def test_lanes_pass_on_what_they_were_given() -> None:
    """OPEN's handle comes back in RELEASE, and every FORGET arrives, on its own queue."""
    handles: list[int] = []
    released: list[int] = []
    forgotten: list[int] = []

    def serve(header: dict[str, int], body: bytes) -> bytes:
        if header["opcode"] == Op.OPEN:
            handles.append(len(handles) + 1000)
            return good(header, struct.pack("=QQ", handles[-1], 0))
        if header["opcode"] == Op.FORGET:
            forgotten.append(header["nodeid"])
            return b""
        released.append(struct.unpack("=Q", body)[0])
        return good(header)

    lane = [
        LoadRequest(request(Op.OPEN), [16, 16]),
        LoadRequest(request(Op.RELEASE, bytes(8)), [16], patch=[(0, 16, IN_HEADER.size)]),
        LoadRequest(request(Op.FORGET, bytes(8)), [], patch=[(0, 16, 16)], hiprio=True),
    ]
    with backend(serve) as (queue, hiprio):
        result = LoadGenerator(queue, [lane, lane, lane], hiprio).run(count=90)
    assert result.errors == 0
    # Whole lanes only.
    assert result.done % 2 == 0
    assert sorted(released) == handles
    assert len(released) == result.done // 2
    assert set(forgotten) <= set(handles)


@pytest.mark.parametrize(
    ("serve", "number"),
    [
        (lambda header, _: OUT_HEADER.pack(len=16, error=-errno.EIO, unique=header["unique"]), errno.EIO),
        (lambda header, _: OUT_HEADER.pack(len=16, unique=header["unique"] + 2), errno.EPROTO),
        (lambda header, _: OUT_HEADER.pack(len=17, unique=header["unique"]), errno.EPROTO),
        (lambda _header, _: b"", errno.EPROTO),
    ],
)
def test_wrong_answers_are_errors(serve: Serve, number: int) -> None:
    with backend(serve) as (queue, _):
        result = LoadGenerator(queue, [[LoadRequest(request(Op.GETATTR), [16])]]).run(count=5)
    assert result.errors == result.done
    assert result.first_error == (0, number)


def test_an_expected_error_is_none() -> None:
    with backend(lambda header, _: OUT_HEADER.pack(len=16, error=-errno.ENOENT, unique=header["unique"])) as (queue, _):
        miss = LoadRequest(request(Op.LOOKUP, b"none\0"), [16, 128], expected_error=errno.ENOENT)
        assert LoadGenerator(queue, [[miss]]).run(seconds=0.01).errors == 0


def test_an_answer_to_nothing_ends_the_run() -> None:
    with GuestRam([1 << 20]) as ram:
        queue = DriverQueue(ram, 8, slot_bytes=0)
        try:
            ram.write(queue.used_gpa + 4, struct.pack("=II", 7, 0))
            ram.write16(queue.used_gpa + 2, 1)
            with pytest.raises(PeerError, match="not in flight"):
                LoadGenerator(queue, [[LoadRequest(request(Op.GETATTR), [16])]]).run(count=1)
        finally:
            queue.close()


def test_lanes_that_can_not_be() -> None:
    with GuestRam([1 << 20]) as ram:
        queue = DriverQueue(ram, 4, slot_bytes=0)
        ask = LoadRequest(request(Op.GETATTR), [16])
        try:
            for lanes in ([], [[]], [[ask]] * 5, [[ask] * 16385]):
                with pytest.raises(ValueError, match="lane"):
                    LoadGenerator(queue, lanes)
            for bad in (
                LoadRequest([b"short"], [16]),
                LoadRequest(request(Op.FORGET), [], hiprio=True),
                LoadRequest(request(Op.GETATTR), [16], patch=[(0, 0, 0)]),
            ):
                with pytest.raises(ValueError, match=r"header|patch"):
                    LoadGenerator(queue, [[bad]])
            with pytest.raises(ValueError, match="outside"):
                LoadGenerator(queue, [[ask, LoadRequest(request(Op.GETATTR), [16], patch=[(0, 0, 33)])]])
            with pytest.raises(ValueError, match="count or a time"):
                LoadGenerator(queue, [[ask]]).run()
        finally:
            queue.close()
