"""The split virtqueue's device side in slow, obvious Python: what the compiled queue is compared with.

Virtio 1.2, section 2.7, and the vhost-user specification for memory regions and the dirty log. Written for reading:
every value is an int, guest memory is bytearrays, nothing is kept from one call to the next but what the fields of
`Queue` say. It is an oracle for tests and a description of the rules; the daemon never runs it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Final

MAX_CHAIN: Final = 32768
"""Descriptors of an indirect table: as many as the largest virtqueue has (2.7)."""
MAX_CHAIN_BYTES: Final = 64 << 20
PAGE: Final = 4096
"""What one bit of the dirty log stands for."""

DESC_SIZE: Final = 16
DESC_F_NEXT: Final = 1
DESC_F_WRITE: Final = 2
DESC_F_INDIRECT: Final = 4
AVAIL_F_NO_INTERRUPT: Final = 1
USED_F_NO_NOTIFY: Final = 1


class Outcome(enum.IntEnum):
    """What `Queue.pop` found."""

    EMPTY = 0
    GOT = 1
    BAD_CHAIN = 2
    BROKEN = 3


class Fault(enum.IntEnum):
    """What is wrong with a chain."""

    OK = 0
    BAD_INDEX = 1
    TOO_LONG = 2
    UNMAPPED = 3
    BAD_ORDER = 4
    BAD_INDIRECT = 5
    TOO_BIG = 6


class ChainError(Exception):
    """A chain that is dropped; ``fault`` says why."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.name)
        self.fault = fault


@dataclass(slots=True)
class Region:
    """One memory region: its bytes, and where they stand for the guest and for the front-end."""

    guest: int
    user: int
    data: bytearray


@dataclass(slots=True)
class Memory:
    """Guest memory and its dirty log (one bit for each page from guest address 0; None: not given)."""

    regions: list[Region]
    log: bytearray | None = None
    log_on: bool = False

    def find(self, address: int) -> Region | None:
        """The region that has the byte at this guest address."""
        for region in self.regions:
            if region.guest <= address < region.guest + len(region.data):
                return region
        return None

    def pieces(self, address: int, length: int) -> list[tuple[Region, int, int]] | None:
        """Guest [address, address + length) as (region, offset, length), or None if a byte of it is not there."""
        found = []
        while length > 0:
            region = self.find(address)
            if region is None:
                return None
            offset = address - region.guest
            part = min(length, len(region.data) - offset)
            found.append((region, offset, part))
            address += part
            length -= part
        return found

    def user_window(self, address: int, length: int) -> tuple[Region, int] | None:
        """Where the front-end's [address, address + length) lies: all in one region, or nowhere."""
        for region in self.regions:
            if region.user <= address and address + length <= region.user + len(region.data):
                return region, address - region.user
        return None

    def mark(self, address: int, length: int) -> None:
        """Sets the log's bit of each page of guest [address, address + length), as far as the log reaches."""
        if not self.log_on or self.log is None or length == 0:
            return
        for page in range(address // PAGE, (address + length - 1) // PAGE + 1):
            if page // 8 >= len(self.log):
                return
            self.log[page // 8] |= 1 << page % 8


@dataclass(slots=True)
class Descriptor:
    """One entry of a descriptor table (2.7.5)."""

    address: int
    length: int
    flags: int
    following: int

    @classmethod
    def unpack(cls, data: bytes | bytearray) -> Descriptor:
        """The descriptor in these 16 bytes."""
        return cls(_int(data[0:8]), _int(data[8:12]), _int(data[12:14]), _int(data[14:16]))


@dataclass(slots=True)
class Chain:
    """A request: its head, and the pieces of guest memory that the device may read and write, with their addresses."""

    head: int = 0
    readable: list[tuple[Region, int, int]] = field(default_factory=list)
    writable: list[tuple[Region, int, int]] = field(default_factory=list)

    def read(self) -> bytes:
        """All readable bytes."""
        return b"".join(bytes(region.data[offset : offset + length]) for region, offset, length in self.readable)

    @property
    def room(self) -> int:
        """Number of writable bytes."""
        return sum(length for _, _, length in self.writable)

    def write(self, offset: int, data: bytes) -> int:
        """Puts data at this offset of the writable bytes; how many of them there was room for."""
        done = 0
        for region, start, length in self.writable:
            part = data[done : done + max(0, length - offset)]
            region.data[start + offset : start + offset + len(part)] = part
            done += len(part)
            offset = max(0, offset - length)
        return done


@dataclass(slots=True)
class Queue:
    """One split virtqueue, as the device sees it. ``desc``, ``avail`` and ``used`` are windows into memory."""

    memory: Memory
    num: int
    desc: tuple[Region, int] | None = None
    avail: tuple[Region, int] | None = None
    used: tuple[Region, int] | None = None
    event_idx: bool = False
    log_used: bool = False
    used_log: int = 0
    last_avail: int = 0
    next_used: int = 0
    signalled: int | None = None
    """``next_used`` when notifying was last decided; None: the next decision is yes."""

    def attach(self, desc: int, avail: int, used: int, *, fresh: bool) -> int:
        """Sets the three addresses; 0, or which of them (1 to 3) is not aligned or not in memory.

        A fresh start takes the used index from the ring. Here memory is aligned on the host as the front-end says.
        """
        self.desc = self.avail = self.used = None
        wanted = ((desc, DESC_SIZE * self.num, 16), (avail, 6 + 2 * self.num, 2), (used, 6 + 8 * self.num, 4))
        windows = []
        for number, (address, length, alignment) in enumerate(wanted, 1):
            window = self.memory.user_window(address, length)
            if window is None or address % alignment:
                return number
            windows.append(window)
        self.desc, self.avail, self.used = windows
        if fresh:
            self.next_used = self._load(self.used, 2, 2)
            self.signalled = None
        return 0

    def has_more(self) -> bool:
        """Whether the guest offers something."""
        return self._load(self.avail, 2, 2) != self.last_avail

    def pop(self) -> tuple[Outcome, Chain, Fault]:
        """Takes the next request (2.7.13.1 from the other side)."""
        offered = self._load(self.avail, 2, 2)
        waiting = (offered - self.last_avail) % 65536
        if waiting == 0:
            return Outcome.EMPTY, Chain(), Fault.OK
        if waiting > self.num:
            return Outcome.BROKEN, Chain(), Fault.OK
        head = self._load(self.avail, 4 + 2 * (self.last_avail % self.num), 2)
        if head >= self.num:
            return Outcome.BROKEN, Chain(), Fault.OK
        self.last_avail = (self.last_avail + 1) % 65536
        try:
            return Outcome.GOT, self._walk(head), Fault.OK
        except ChainError as error:
            return Outcome.BAD_CHAIN, Chain(head), error.fault

    def _walk(self, head: int) -> Chain:
        assert self.desc is not None
        region, offset = self.desc
        table = bytes(region.data[offset : offset + DESC_SIZE * self.num])
        chain = Chain(head)
        indirect = False
        index = head
        walked = 0
        total = 0
        while True:
            if index >= len(table) // DESC_SIZE:
                raise ChainError(Fault.BAD_INDEX)
            if walked == len(table) // DESC_SIZE:
                raise ChainError(Fault.TOO_LONG)
            walked += 1
            desc = Descriptor.unpack(table[DESC_SIZE * index : DESC_SIZE * (index + 1)])
            if desc.flags & DESC_F_INDIRECT:
                if indirect or desc.flags & DESC_F_NEXT or not _fits_a_table(desc.length):
                    raise ChainError(Fault.BAD_INDIRECT)
                pieces = self.memory.pieces(desc.address, desc.length)
                if pieces is None or len(pieces) != 1:
                    raise ChainError(Fault.UNMAPPED)
                region, offset, length = pieces[0]
                table = bytes(region.data[offset : offset + length])
                indirect, index, walked = True, 0, 0
                continue
            if chain.writable and not desc.flags & DESC_F_WRITE:
                raise ChainError(Fault.BAD_ORDER)
            total += desc.length
            if total > MAX_CHAIN_BYTES:
                raise ChainError(Fault.TOO_BIG)
            pieces = self.memory.pieces(desc.address, desc.length)
            if pieces is None:
                raise ChainError(Fault.UNMAPPED)
            (chain.writable if desc.flags & DESC_F_WRITE else chain.readable).extend(pieces)
            if not desc.flags & DESC_F_NEXT:
                return chain
            index = desc.following

    def mark(self, chain: Chain, length: int) -> None:
        """Marks the first ``length`` writable bytes of the chain."""
        for region, offset, part in chain.writable:
            self.memory.mark(region.guest + offset, min(part, length))
            length -= min(part, length)

    def push(self, head: int, written: int) -> None:
        """Puts an entry into the used ring and raises its index (2.7.8)."""
        slot = 4 + 8 * (self.next_used % self.num)
        self._store(slot, 4, head)
        self._store(slot + 4, 4, written)
        self.next_used = (self.next_used + 1) % 65536
        self._store(2, 2, self.next_used)

    def should_notify(self) -> bool:
        """Whether the guest wants an interrupt for what was pushed since this was last asked (2.7.7, 2.7.10)."""
        if not self.event_idx:
            return not self._load(self.avail, 0, 2) & AVAIL_F_NO_INTERRUPT
        before, self.signalled = self.signalled, self.next_used
        if before is None:
            return True
        event = self._load(self.avail, 4 + 2 * self.num, 2)
        pushed = (self.next_used - before) % 65536
        return event in {(before + i) % 65536 for i in range(pushed)}

    def rest(self) -> bool:
        """Asks for a kick at the next request; True when there is a request already."""
        if self.event_idx:
            self._store(4 + 8 * self.num, 2, self.last_avail)
        else:
            self._store(0, 2, 0)
        return self.has_more()

    def wake(self) -> None:
        """Says that no kick is needed, where there is a way to say it."""
        if not self.event_idx:
            self._store(0, 2, USED_F_NO_NOTIFY)

    def _load(self, window: tuple[Region, int] | None, offset: int, size: int) -> int:
        assert window is not None
        region, start = window
        return _int(region.data[start + offset : start + offset + size])

    def _store(self, offset: int, size: int, value: int) -> None:
        """Writes into the used ring, and marks it where the ring is logged."""
        assert self.used is not None
        region, start = self.used
        region.data[start + offset : start + offset + size] = value.to_bytes(size, "little")
        if self.log_used:
            self.memory.mark(self.used_log + offset, size)


def _int(data: bytes | bytearray) -> int:
    return int.from_bytes(data, "little")


def _fits_a_table(length: int) -> bool:
    return length > 0 and length % DESC_SIZE == 0 and length // DESC_SIZE <= MAX_CHAIN
