"""What is put off: READs that miss the page cache, many at once and all over a file, each its own bytes; FSYNCs."""

from __future__ import annotations

import errno
import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_guest import REQUESTS, TIMEOUT, Call, Guest

from ferryfs.passthrough.config import ShareConfig
from ferryfs.wire import fuse
from ferryfs.wire.fuse import OUT_HEADER, Op

PAGE = 4096
PAGES = 4096
AT_ONCE = 32


@pytest.fixture(params=[0, 1], ids=["threads", "one-more-thread"])
def guest(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Guest]:
    with (tmp_path / "file").open("wb") as file:
        for number in range(PAGES):
            file.write(page(number))
    with Guest(tmp_path, ShareConfig(thread_pool_size=request.param)) as guest:
        yield guest
        guest.serves()


def page(number: int) -> bytes:
    """What stands there in the file."""
    return number.to_bytes(8, "little") * (PAGE // 8)


def evict(path: Path) -> None:
    """Nothing of it is in the page cache any more."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def offer(guest: Guest, nodeid: int, fh: int, numbers: list[int]) -> dict[int, tuple[Call, int]]:
    """Puts one READ for each page into the ring; the call and the page of each token. The kick is the caller's."""
    offered = {}
    for number in numbers:
        call = Call(Op.READ, nodeid, fuse.READ_IN.pack(fh=fh, offset=number * PAGE, size=PAGE), room=PAGE)
        token = guest.queues[REQUESTS].add([call.header(), call.body], [OUT_HEADER.size, PAGE])
        offered[token] = call, number
    return offered


def check(guest: Guest, offered: dict[int, tuple[Call, int]], answer: tuple[int, int] | None) -> None:
    """One answer of those that are waited for is right."""
    assert answer is not None
    token, used = answer
    call, number = offered.pop(token)
    reply = guest.check(call, used, b"".join(guest.queues[REQUESTS].take(token)))
    assert reply.error == 0
    assert reply.body == page(number)


def test_each_read_gets_its_own_bytes(guest: Guest) -> None:
    nodeid = guest.lookup(b"file")
    fh = guest.open(nodeid, os.O_RDONLY)
    numbers = list(range(PAGES))
    random.Random(1).shuffle(numbers)
    for first in range(0, 8 * AT_ONCE, AT_ONCE):
        evict(guest.shared / "file")
        offered = offer(guest, nodeid, fh, numbers[first : first + AT_ONCE])
        guest.queues[REQUESTS].kick()
        while offered:
            check(guest, offered, guest.queues[REQUESTS].wait(TIMEOUT))


def test_a_ring_stops_when_they_are_answered(guest: Guest) -> None:
    """Before the place that GET_VRING_BASE names all is answered; the rest is served after the next start."""
    queue = guest.queues[REQUESTS]
    nodeid = guest.lookup(b"file")
    fh = guest.open(nodeid, os.O_RDONLY)
    numbers = list(range(PAGES))
    random.Random(2).shuffle(numbers)
    for first in range(0, 8 * AT_ONCE, AT_ONCE):
        evict(guest.shared / "file")
        offered = offer(guest, nodeid, fh, numbers[first : first + AT_ONCE])
        queue.kick()
        base = guest.device.get_vring_base(REQUESTS)
        assert queue.used_idx == base
        guest.start_ring(REQUESTS, base)
        while offered:
            check(guest, offered, queue.wait(TIMEOUT))


def test_a_file_that_is_cut_short_meanwhile(guest: Guest) -> None:
    """The second time a READ is served it finds the file as it is then: shorter, and the answer with it."""
    nodeid = guest.lookup(b"file")
    fh = guest.open(nodeid, os.O_RDONLY)
    evict(guest.shared / "file")
    offered = offer(guest, nodeid, fh, [PAGES - 1 - 7 * number for number in range(AT_ONCE)])
    guest.queues[REQUESTS].kick()
    os.truncate(guest.shared / "file", PAGE)
    while offered:
        answer = guest.queues[REQUESTS].wait(TIMEOUT)
        assert answer is not None
        token, used = answer
        call, number = offered.pop(token)
        reply = guest.check(call, used, b"".join(guest.queues[REQUESTS].take(token)))
        assert reply.error == 0
        assert reply.body in (b"", page(number))


@pytest.fixture(params=[0, 1], ids=["threads", "one-more-thread"])
def quick(request: pytest.FixtureRequest) -> Iterator[Guest]:
    """A guest of a file system that has nothing to wait for in fsync, where there is one."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        for number in range(AT_ONCE):
            Path(folder, f"f{number}").write_bytes(b"before")
        with Guest(Path(folder), ShareConfig(thread_pool_size=request.param)) as guest:
            yield guest
            guest.serves()


def test_fsyncs_that_hardly_wait(quick: Guest) -> None:
    """Each is answered once, also in a ring that is stopped behind them; one of a closed file with an error."""
    queue = quick.queues[REQUESTS]
    files = [(nodeid, quick.open(nodeid)) for nodeid in [quick.lookup(f"f{i}".encode()) for i in range(AT_ONCE)]]
    for turn in range(20):
        offered = {}
        for nodeid, fh in [*files, (files[0][0], 1 << 40)]:
            call = Call(Op.FSYNC, nodeid, fuse.FSYNC_IN.pack(fh=fh))
            offered[queue.add([call.header(), call.body], [OUT_HEADER.size])] = call, fh
        queue.kick()
        if turn % 2:
            base = quick.device.get_vring_base(REQUESTS)
            assert queue.used_idx == base
            quick.start_ring(REQUESTS, base)
        while offered:
            answer = queue.wait(TIMEOUT)
            assert answer is not None
            call, fh = offered.pop(answer[0])
            reply = quick.check(call, answer[1], b"".join(queue.take(answer[0])))
            assert reply.error == (errno.EBADF if fh == 1 << 40 else 0)
        for nodeid, fh in files[:4]:
            quick.ask(Op.WRITE, nodeid, fuse.WRITE_IN.pack(fh=fh, size=5) + b"after")
    assert (quick.shared / "f3").read_bytes() == b"aftere"
