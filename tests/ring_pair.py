"""The compiled ring and its model side by side on equal memory: each call is made on both and compared."""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from ferryfs.ring import model
from ferryfs.ring.harness import Ring
from ferryfs.ring.memory import GuestMemory

PAGE = 4096


@dataclass(frozen=True, slots=True)
class Place:
    """One region: guest address, front-end address, size in bytes, and the offset of its first byte in its file."""

    guest: int
    user: int
    size: int
    offset: int = 0


class Pair:
    """A queue of `num` entries over these regions, compiled and in the model. ``files`` are the guest's own view."""

    def __init__(self, places: Sequence[Place], num: int, *, log_size: int = 0) -> None:
        self.places = tuple(places)
        self.memory = GuestMemory()
        self.files: list[mmap.mmap] = []
        for place in places:
            fd = os.memfd_create("ferryfs-test")
            try:
                os.ftruncate(fd, place.offset + place.size)
                self.files.append(mmap.mmap(fd, place.offset + place.size))
                self.memory.add(place.guest, place.size, place.user, place.offset, fd)
            finally:
                os.close(fd)
        self.slow_memory = model.Memory([model.Region(p.guest, p.user, bytearray(p.size)) for p in places])
        self.log: mmap.mmap | None = None
        if log_size:
            fd = os.memfd_create("ferryfs-test-log")
            try:
                os.ftruncate(fd, log_size)
                self.log = mmap.mmap(fd, log_size)
                self.memory.set_log(fd, 0, log_size)
            finally:
                os.close(fd)
            self.slow_memory.log = bytearray(log_size)
        self.ring = Ring(self.memory, num)
        self.slow = model.Queue(self.slow_memory, num)
        self.num = num
        self.chain = model.Chain()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.ring.detach()
        self.memory.close()
        for file in self.files:
            file.close()
        if self.log is not None:
            self.log.close()

    def poke(self, address: int, data: bytes) -> None:
        """The guest writes at a guest address; bytes outside of its memory are dropped."""
        for place, file, region in zip(self.places, self.files, self.slow_memory.regions, strict=True):
            first = max(address, place.guest)
            last = min(address + len(data), place.guest + place.size)
            if first < last:
                part = data[first - address : last - address]
                at = first - place.guest
                file[place.offset + at : place.offset + at + len(part)] = part
                region.data[at : at + len(part)] = part

    def poke_user(self, address: int, data: bytes) -> None:
        """As poke, by the front-end's address; all of it lies in one region."""
        for place in self.places:
            if place.user <= address < place.user + place.size:
                self.poke(address - place.user + place.guest, data)

    def attach(self, desc: int, avail: int, used: int, *, fresh: bool = True) -> int:
        result = self.ring.attach(desc, avail, used, fresh)
        assert self.slow.attach(desc, avail, used, fresh=fresh) == result
        return result

    def set_event_idx(self, on: bool) -> None:
        self.ring.set_event_idx(on)
        self.slow.event_idx = on

    def set_log(self, on: bool, used_log: int | None) -> None:
        """Switches the dirty log, and with an address the used ring's."""
        self.memory.set_log_on(on)
        self.slow_memory.log_on = on
        self.ring.set_log(used_log is not None, used_log or 0)
        self.slow.log_used = used_log is not None
        self.slow.used_log = used_log or 0

    def set_base(self, base: int) -> None:
        self.ring.set_base(base)
        self.slow.last_avail = base

    def pop(self) -> tuple[model.Outcome, int, bytes, int, model.Fault]:
        """What both found: outcome, head, readable bytes, room for the answer, fault."""
        outcome, self.chain, fault = self.slow.pop()
        slow = (outcome, self.chain.head, self.chain.read(), self.chain.room, fault)
        assert self.ring.pop() == slow
        return slow

    def write(self, offset: int, data: bytes) -> int:
        done = self.ring.write(offset, data)
        assert self.chain.write(offset, data) == done
        return done

    def mark(self, length: int) -> None:
        self.ring.mark(length)
        self.slow.mark(self.chain, length)

    def push(self, head: int, written: int) -> None:
        self.ring.push(head, written)
        self.slow.push(head, written)

    def should_notify(self) -> bool:
        result = self.ring.should_notify()
        assert self.slow.should_notify() == result
        return result

    def rest(self) -> bool:
        result = self.ring.rest()
        assert self.slow.rest() == result
        return result

    def wake(self) -> None:
        self.ring.wake()
        self.slow.wake()

    def compare(self) -> None:
        """Every byte of memory, every bit of the log, every counter."""
        for place, file, region in zip(self.places, self.files, self.slow_memory.regions, strict=True):
            assert file[place.offset :] == region.data, f"memory at {place.guest:#x} differs"
        if self.log is not None:
            assert self.log[:] == self.slow_memory.log
        assert self.ring.state() == (self.slow.last_avail, self.slow.next_used)
        assert self.ring.has_more() == self.slow.has_more()

    def snapshot(self) -> list[bytes]:
        return [bytes(region.data) for region in self.slow_memory.regions]


def descriptor(address: int, length: int, flags: int, following: int) -> bytes:
    """One descriptor's bytes (virtio 1.2, 2.7.5)."""
    return b"".join(
        (
            address.to_bytes(8, "little"),
            length.to_bytes(4, "little"),
            flags.to_bytes(2, "little"),
            following.to_bytes(2, "little"),
        )
    )
