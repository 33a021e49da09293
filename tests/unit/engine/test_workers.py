"""The threads behind the rings: how many there are, and who watches them."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from engine_guest import REQUESTS, TIMEOUT, Call, Guest
from namespaces import needs_mounts
from page_fault import AwayPage

from ferryfs.passthrough.config import ShareConfig
from ferryfs.wire import fuse
from ferryfs.wire.fuse import OUT_HEADER, Op

RINGS = 2
# The number of futex(2).
FUTEX = {"x86_64": "202", "aarch64": "98"}[os.uname().machine]
WRITES = 12


def workers() -> int:
    """Threads of this process that serve rings."""
    return sum((task / "comm").read_text().strip() == "ferry-worker" for task in Path("/proc/self/task").iterdir())


def test_a_ring_that_is_stopped_and_started_keeps_its_thread(tmp_path: Path) -> None:
    """Where a limit of threads is reached, another one could not be had."""
    with Guest(tmp_path) as guest:
        guest.serves()
        before = workers()
        for _ in range(300):
            guest.device.set_vring_enable(REQUESTS, False)
            guest.device.set_vring_enable(REQUESTS, True)
        assert workers() == before
        guest.serves()


@contextmanager
def frozen(folder: Path) -> Iterator[None]:
    """Meanwhile whoever writes there waits."""
    subprocess.run(["fsfreeze", "--freeze", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", folder], check=True)


def wait_for(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + TIMEOUT
    while not condition() and time.monotonic() < deadline:
        select.select([], [], [], 0.01)
    return condition()


@needs_mounts("mkfs.ext4", "fsfreeze")
@pytest.mark.parametrize(("size", "most"), [(1, 1), (3, 3), (0, WRITES)])
def test_thread_pool_size(volume: Path, size: int, most: int) -> None:
    """So many requests may wait for the host and the ring is served on; one more waits in its leader, and all others
    with it. With 0 there is room for all of them here.
    """
    (volume / "file").touch()
    with Guest(volume, ShareConfig(thread_pool_size=size), queues=RINGS) as guest:
        nodeid = guest.lookup(b"file")
        fh = guest.open(nodeid)
        queue = guest.queues[REQUESTS]
        tokens = []

        def write(number: int) -> None:
            body = fuse.WRITE_IN.pack(fh=fh, offset=number, size=1) + b"x"
            call = Call(Op.WRITE, nodeid, body)
            tokens.append(queue.add([call.header(), call.body], [OUT_HEADER.size, call.room]))

        with frozen(volume):
            for number in range(most):
                write(number)
            queue.kick()
            guest.serves()
            assert wait_for(lambda: workers() == RINGS + most)
            for number in range(most, WRITES):
                write(number)
            queue.kick()
            guest.serves_on(0)
            assert queue.poll() is None, "all of them wait"
        while tokens:
            done = queue.wait(TIMEOUT)
            assert done is not None
            token, _used = done
            tokens.remove(token)
            assert OUT_HEADER.unpack(queue.take(token)[0])["error"] == 0
        assert workers() == RINGS + most
        guest.ask(Op.RELEASE, nodeid, fuse.RELEASE_IN.pack(fh=fh))
        guest.serves()
    assert (volume / "file").read_bytes() == b"x" * WRITES


def monitor_sleeps() -> bool:
    """Whether the monitor waits to be woken, rather than for its next look: seen several times, for one that was woken
    just now may not be up yet.
    """
    for _ in range(6):
        select.select([], [], [], 0.01)
        if not is_waiting_for_a_call():
            return False
    return True


def is_waiting_for_a_call() -> bool:
    (task,) = (task for task in Path("/proc/self/task").iterdir() if (task / "comm").read_text() == "ferry-monitor\n")
    return (task / "syscall").read_text().split()[0] == FUTEX


@needs_mounts("mkfs.ext4", "fsfreeze")
def test_a_leader_that_is_slow_to_begin_is_watched(volume: Path) -> None:
    """1. A leader wakes, and has to wait for a page of its ring (swap, the host's load); 2. the monitor has seen nobody
    at work, and goes to sleep; 3. the leader takes a request that waits for the host: the ring is handed on even so.
    """
    (volume / "file").touch()
    with Guest(volume) as guest:
        nodeid = guest.lookup(b"file")
        fh = guest.open(nodeid)
        queue = guest.queues[REQUESTS]
        assert wait_for(monitor_sleeps)
        call = Call(Op.WRITE, nodeid, fuse.WRITE_IN.pack(fh=fh, size=1) + b"x")
        with frozen(volume):
            with AwayPage(guest.ram, REQUESTS) as page:
                token = queue.add([call.header(), call.body], [OUT_HEADER.size, call.room])
                queue.kick()
                page.wait()
                assert wait_for(monitor_sleeps)
                page.give()
            # Only here: whoever serves another ring wakes the monitor.
            guest.serves_on(REQUESTS)
            assert queue.in_flight == 1
        done = queue.wait(TIMEOUT)
        assert done is not None
        assert done[0] == token
        queue.take(token)
        guest.ask(Op.RELEASE, nodeid, fuse.RELEASE_IN.pack(fh=fh))
    assert (volume / "file").read_bytes() == b"x"


@needs_mounts("mkfs.ext4", "fsfreeze")
def test_call_fd_comes_while_a_request_waits(volume: Path) -> None:
    """QEMU gives it anew when the guest masks its interrupts and takes them again: nobody may wait for the request."""
    (volume / "file").touch()
    with Guest(volume, queues=RINGS) as guest:
        nodeid = guest.lookup(b"file")
        fh = guest.open(nodeid)
        guest.serves()
        queue = guest.queues[REQUESTS]
        call = Call(Op.WRITE, nodeid, fuse.WRITE_IN.pack(fh=fh, size=1) + b"x")
        with frozen(volume):
            token = queue.add([call.header(), call.body], [OUT_HEADER.size, call.room])
            queue.kick()
            guest.serves_on(REQUESTS)
            for fd in (-1, queue.call_fd):
                guest.device.set_vring_call(REQUESTS, fd)
                guest.device.set_vring_err(REQUESTS, -1)
            guest.serves_on(REQUESTS)
            assert queue.in_flight == 1
        done = queue.wait(TIMEOUT)
        assert done is not None
        assert done[0] == token
        queue.take(token)
        guest.ask(Op.RELEASE, nodeid, fuse.RELEASE_IN.pack(fh=fh))
