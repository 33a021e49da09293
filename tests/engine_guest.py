"""A device in this process, on a real directory, and a guest that says anything to it: our own driver, by hand.

Every answer is checked before anybody looks at it: the used length is the length in the reply's header, or there is no
reply at all; the header names the request; an error comes alone.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from ferryfs.engine.device import Device
from ferryfs.frontend.client import VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_VERSION_1
from ferryfs.frontend.driver import DriverQueue
from ferryfs.frontend.ram import GuestRam
from ferryfs.passthrough.config import ShareConfig
from ferryfs.wire.fuse import ATTR_OUT, ENTRY_OUT, IN_HEADER, INIT_IN, INIT_OUT, OPEN_OUT, OUT_HEADER, InitFlag, Op

FEATURES = VIRTIO_F_VERSION_1 | VIRTIO_F_EVENT_IDX | VIRTIO_F_INDIRECT_DESC
HIPRIO, REQUESTS = 0, 1
TIMEOUT = 20.0
ALL_FLAGS = 0
for _flag in InitFlag:
    ALL_FLAGS |= _flag


@dataclass(frozen=True, slots=True)
class Call:
    """One request before it is sent: what a sane guest would say, to be spoiled by tests."""

    op: int
    nodeid: int = 1
    body: bytes = b""
    room: int = 4096
    uid: int = 0
    gid: int = 0
    extlen: int = 0
    unique: int = field(default_factory=itertools.count(2, 2).__next__)

    def header(self, length: int | None = None) -> bytes:
        """The in_header; ``length`` lies about the request's."""
        return IN_HEADER.pack(
            len=IN_HEADER.size + len(self.body) if length is None else length,
            opcode=self.op,
            unique=self.unique,
            nodeid=self.nodeid,
            uid=self.uid,
            gid=self.gid,
            pid=1,
            total_extlen=self.extlen,
        )

    @property
    def data(self) -> bytes:
        return self.header() + self.body


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply after the checks; ``silent`` is one that did not come (used length 0)."""

    error: int
    body: bytes
    silent: bool = False


class Guest:
    """A started device with one hiprio and some request queues, served from ``shared``."""

    def __init__(
        self,
        shared: Path,
        config: ShareConfig | None = None,
        *,
        queues: int = 2,
        size: int = 64,
        slot_bytes: int = 1 << 17,
        event_idx: bool = True,
        at_end: bool = False,
        flags: int = ALL_FLAGS,
        init: bool = True,
    ) -> None:
        self.shared = shared
        root = os.open(shared, os.O_PATH | os.O_DIRECTORY)
        proc = os.open("/proc/self/fd", os.O_PATH | os.O_DIRECTORY)
        self.proc_fd = proc
        try:
            self.device = Device(config or ShareConfig(), root, proc, queues)
        except BaseException:
            os.close(proc)
            raise
        finally:
            os.close(root)
        ring_bytes = -(-(26 * size + 64) // 4096) * 4096
        self.ram = GuestRam([ring_bytes + slot_bytes * size + 65536] * queues)
        self.queues = [
            DriverQueue(self.ram, size, event_idx=event_idx, slot_bytes=slot_bytes, region=i, at_end=at_end)
            for i in range(queues)
        ]
        self.features = FEATURES if event_idx else FEATURES & ~VIRTIO_F_EVENT_IDX
        self.start()
        if init:
            self.init(flags)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self.device.close()
        os.close(self.proc_fd)
        for queue in self.queues:
            queue.close()
        self.ram.close()

    # The vhost-user layer's part.

    def start(self) -> None:
        self.device.set_features(self.features)
        self.device.set_mem_table(self.ram.regions)
        for index in range(len(self.queues)):
            self.start_ring(index)

    def start_ring(self, index: int, base: int = 0) -> None:
        queue = self.queues[index]
        self.device.set_vring_num(index, queue.size)
        self.set_addr(index)
        self.device.set_vring_base(index, base)
        self.device.set_vring_call(index, queue.call_fd)
        self.device.set_vring_err(index, queue.err_fd)
        self.device.set_vring_kick(index, queue.kick_fd)
        self.device.set_vring_enable(index, True)

    def set_addr(self, index: int, log_addr: int = 0, flags: int = 0) -> None:
        queue, user = self.queues[index], self.ram.user_addr
        desc, used, avail = user(queue.desc_gpa), user(queue.used_gpa), user(queue.avail_gpa)
        self.device.set_vring_addr(index, desc, used, avail, log_addr, flags)

    def fresh_queue(self, index: int) -> None:
        """A ring that was broken is reset by its driver: both indices 0, nothing offered."""
        self.device.get_vring_base(index)
        old = self.queues[index]
        old.close()
        start, size, *_ = self.ram.regions[index]
        low, high = self.ram.mark()
        low[index], high[index] = start, start + size
        self.ram.rewind((low, high))
        self.ram.write(start, bytes(26 * old.size + 64))
        self.queues[index] = DriverQueue(
            self.ram, old.size, event_idx=old.event_idx, slot_bytes=old.slot_bytes, region=index
        )
        self.start_ring(index)

    # The guest's part.

    def exchange(
        self, readable: Sequence[bytes], writable: Sequence[int], *, queue: int = REQUESTS
    ) -> tuple[int, bytes]:
        """Sends buffers as they are given: the used length, and all writable bytes."""
        used, parts = self.queues[queue].transact(readable, writable, TIMEOUT)
        return used, b"".join(parts)

    def send(self, call: Call, *, queue: int = REQUESTS) -> Answer:
        """Sends a call as Linux would: header and body readable, header and room writable."""
        return self.check(call, *self.exchange([call.header(), call.body], [OUT_HEADER.size, call.room], queue=queue))

    @staticmethod
    def check(call: Call, used: int, written: bytes) -> Answer:
        """The checks that hold for every reply to whatever request."""
        assert used <= len(written), f"{call}: used length {used} is more than the {len(written)} bytes there are"
        if used == 0:
            return Answer(0, b"", silent=True)
        assert used >= OUT_HEADER.size, f"{call}: half a header"
        head = OUT_HEADER.unpack(written)
        assert head["len"] == used, f"{call}: the header says {head['len']}, the used ring {used}"
        assert head["unique"] in (call.unique, 0), f"{call}: the reply is to another request"
        assert -4095 < head["error"] <= 0, f"{call}: error {head['error']}"
        if head["error"]:
            assert used == OUT_HEADER.size, f"{call}: an error with {used} bytes"
        return Answer(-head["error"], written[OUT_HEADER.size : used])

    def ask(self, op: Op, nodeid: int = 1, body: bytes = b"", **more: int) -> bytes:
        """A request that must succeed: the reply's body."""
        answer = self.send(Call(op, nodeid, body, **more))
        assert not answer.silent
        assert answer.error == 0, f"{op.name}: {os.strerror(answer.error)}"
        return answer.body

    def refused(self, op: Op, nodeid: int = 1, body: bytes = b"", **more: int) -> int:
        """A request that must fail: its errno."""
        answer = self.send(Call(op, nodeid, body, **more))
        assert not answer.silent
        assert answer.error != 0, f"{op.name} succeeded"
        return answer.error

    def init(self, flags: int = ALL_FLAGS) -> dict[str, int]:
        words = {"flags": flags & 0xFFFFFFFF, "flags2": flags >> 32}
        body = INIT_IN.pack(major=7, minor=45, max_readahead=1 << 20, **words)
        return INIT_OUT.unpack(self.ask(Op.INIT, 0, body))

    def serves(self) -> None:
        """The check behind every hostile case: each queue still answers."""
        for index in range(len(self.queues)):
            self.serves_on(index)

    def serves_on(self, queue: int) -> None:
        """One queue answers a GETATTR of the root."""
        call = Call(Op.GETATTR, 1, bytes(16))
        answer = self.send(call, queue=queue)
        assert not answer.silent
        if answer.error:
            # A guest that ended its session says INIT again, as Linux does when it mounts.
            self.send(Call(Op.INIT, 0, INIT_IN.pack(major=7, minor=45)), queue=queue)
            answer = self.send(call, queue=queue)
        assert answer.error == 0
        assert ATTR_OUT.unpack(answer.body)["attr_mode"] & 0o170000 == 0o040000

    def lookup(self, name: bytes, parent: int = 1) -> int:
        return ENTRY_OUT.unpack(self.ask(Op.LOOKUP, parent, name + b"\0"))["nodeid"]

    def open(self, nodeid: int, flags: int = os.O_RDWR) -> int:
        op = Op.OPENDIR if flags & os.O_DIRECTORY else Op.OPEN
        return OPEN_OUT.unpack(self.ask(op, nodeid, flags.to_bytes(4, "little") + bytes(4)))["fh"]

    def complaints(self) -> list[tuple[int, int, int, int, str]]:
        return self.device.drain_events()
