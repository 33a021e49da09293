"""Each page of guest memory that the device writes while the log is on is in the log, or a migrated guest has it stale.

What really changed is compared with the log page by page, over every operation, good and failed.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_calls import CALLS, prepare
from engine_guest import HIPRIO, REQUESTS, Call, Guest

from ferryfs.frontend.client import VHOST_F_LOG_ALL
from ferryfs.passthrough.config import ShareConfig
from ferryfs.wire import fuse
from ferryfs.wire.fuse import OUT_HEADER, Op
from ferryfs.wire.vhost_user import VRING_F_LOG

PAGE = 4096
SLOT = 16384
SIZE = 16


class Logged:
    """A device whose dirty log is on, and what its memory was when the log was last cleared."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self.end = max(gpa + size for gpa, size, *_ in guest.ram.regions)
        self.fd = os.memfd_create("log")
        os.ftruncate(self.fd, self.end // PAGE // 8 + 1)
        guest.device.set_log(self.fd, 0, os.fstat(self.fd).st_size)
        guest.device.set_features(guest.features | VHOST_F_LOG_ALL)
        for index, queue in enumerate(guest.queues):
            guest.set_addr(index, queue.used_gpa, VRING_F_LOG)
        self.clear()

    def memory(self) -> dict[int, bytes]:
        """All pages by number."""
        return {
            at // PAGE: self.guest.ram.read(at, PAGE)
            for gpa, size, *_ in self.guest.ram.regions
            for at in range(gpa, gpa + size, PAGE)
        }

    def logged(self) -> set[int]:
        raw = os.pread(self.fd, os.fstat(self.fd).st_size, 0)
        return {8 * i + bit for i, byte in enumerate(raw) for bit in range(8) if byte >> bit & 1}

    def clear(self) -> None:
        os.pwrite(self.fd, bytes(os.fstat(self.fd).st_size), 0)
        self.before = self.memory()

    def changed_by_the_device(self, own: set[int]) -> set[int]:
        """Pages with another content than before, but for those that only the driver writes to."""
        after = self.memory()
        return {number for number, content in after.items() if content != self.before[number]} - own


@pytest.fixture
def logged(tmp_path: Path) -> Iterator[Logged]:
    shared = tmp_path / "shared"
    shared.mkdir()
    prepare(shared)
    with Guest(shared, ShareConfig(xattr=True), size=SIZE, slot_bytes=SLOT) as guest:
        logged = Logged(guest)
        yield logged
        os.close(logged.fd)


def place(logged: Logged, call: Call, room: int, queue: int, split: list[int]) -> None:
    """Sends a request whose buffers each have pages of their own: the driver's pages are known from the device's."""
    guest = logged.guest
    driver = guest.queues[queue]
    region = guest.ram.regions[queue]
    base = (region[0] + region[1] // 2) & ~(PAGE - 1)
    guest.ram.write(base, call.data)
    reply = base + 4 * PAGE + 17
    guest.ram.write(reply, b"\xa5" * room)
    parts = []
    at = 0
    for size in split:
        if at < room:
            parts.append((reply + at, min(size, room - at)))
            at += size
    driver.write_desc(0, base, len(call.data), 1 if parts else 0, 1)
    for number, (address, length) in enumerate(parts):
        driver.write_desc(1 + number, address, length, 2 | (number + 1 < len(parts)), 2 + number)
    logged.clear()
    driver.publish(0)
    driver.kick(force=True)
    found = driver.wait(20.0)
    assert found is not None
    # A pause waits for the worker to rest: what it wrote there is part of the comparison.
    guest.set_addr(queue, driver.used_gpa, VRING_F_LOG)
    own = {at // PAGE for at in range(driver.avail_gpa, driver.avail_gpa + 6 + 2 * SIZE)}
    used = {at // PAGE for at in range(driver.used_gpa, driver.used_gpa + 6 + 8 * SIZE)}
    missing = logged.changed_by_the_device(own - used) - logged.logged()
    assert missing == set(), f"{call}: changed and not in the log"
    assert used <= logged.logged()


@pytest.mark.parametrize("op", [op for op in Op if op.served], ids=lambda op: op.name)
def test_every_operation(logged: Logged, op: Op) -> None:
    for room, split in ((9000, [9000]), (9000, [16, 4000, 5000]), (16, [16]), (150, [7, 143])):
        place(logged, CALLS[op](logged.guest), room, REQUESTS, split)
        if op is Op.DESTROY:
            logged.guest.init()


def test_failed_reads(logged: Logged) -> None:
    """A READ that fails halfway may have changed the guest's pages all the same."""
    guest = logged.guest
    nodeid = guest.lookup(b"file")
    fh = guest.open(nodeid)
    directory = guest.open(guest.lookup(b"dir"), os.O_DIRECTORY)
    for number, offset in ((fh, 0), (fh, 10_000), (fh, 1 << 62), (fh, (1 << 63) - 1), (directory, 0), (77, 0)):
        call = Call(Op.READ, nodeid, fuse.READ_IN.pack(fh=number, offset=offset, size=8000))
        place(logged, call, 8016, REQUESTS, [16, 3000, 2000, 4000])
    write_only = guest.open(nodeid, os.O_WRONLY)
    call = Call(Op.READ, nodeid, fuse.READ_IN.pack(fh=write_only, size=8000))
    place(logged, call, 8016, REQUESTS, [16, 8000])


def test_random_sizes(logged: Logged) -> None:
    rng = random.Random(5)
    guest = logged.guest
    nodeid = guest.lookup(b"file")
    fh = guest.open(nodeid)
    for _ in range(100):
        size = rng.randrange(9000)
        fields = {"fh": fh, "offset": rng.randrange(12_000), "size": size}
        split = [rng.randint(1, 5000) for _ in range(3)] + [20_000]
        call = Call(Op.READ, nodeid, fuse.READ_IN.pack(**fields))
        place(logged, call, OUT_HEADER.size + size, rng.choice((HIPRIO, REQUESTS)), split)


def test_nothing_is_logged_when_it_is_off(logged: Logged) -> None:
    guest = logged.guest
    guest.device.set_features(guest.features)
    logged.clear()
    guest.serves()
    assert logged.logged() == set()
