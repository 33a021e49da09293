"""The request queue in the hands of somebody who writes every word of it himself, and a table of what he does."""

from __future__ import annotations

import os
import select
from collections.abc import Callable

from engine_guest import HIPRIO, REQUESTS, Call, Guest

from ferryfs.wire.fuse import Op

SIZE = 64
NEXT, WRITE, INDIRECT = 1, 2, 4
GETATTR = bytes(16)


class Lab:
    """One guest's request queue, and memory that ends at a guard page."""

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


class Cases(dict[str, Case]):
    """What is played, by the words of its name."""

    def __call__(self, function: Case) -> Case:
        """Decorator: one more."""
        self[function.__name__.replace("_", " ")] = function
        return function
