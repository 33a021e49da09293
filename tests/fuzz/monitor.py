"""A front-end that says anything: a connection to a running ferryfsd, memory and rings of its own."""

from __future__ import annotations

import os
import select
import struct
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from ferryfs.errors import PeerError, SetupError
from ferryfs.frontend.attachment import Attachment, negotiate
from ferryfs.frontend.client import VhostUserClient
from ferryfs.frontend.driver import DriverQueue
from ferryfs.frontend.ram import GuestRam
from ferryfs.guest.backend import Backend
from ferryfs.wire.fuse import IN_HEADER, INIT_IN, OUT_HEADER, Op
from ferryfs.wire.vhost_user import VringAddr

SIZE = 64
QUEUES = 2
TIMEOUT = 20.0
PAGE = 4096
TOP = 1 << 64


def request(op: Op, nodeid: int, body: bytes, unique: int) -> bytes:
    return IN_HEADER.pack(len=IN_HEADER.size + len(body), opcode=op, unique=unique, nodeid=nodeid) + body


def connect(backend: Backend) -> VhostUserClient:
    """A connection, as soon as there is room in the queue of those who wait for one."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        try:
            return VhostUserClient.connect(backend.socket, timeout_s=TIMEOUT)
        except SetupError as error:
            if not isinstance(error.__cause__, BlockingIOError) or time.monotonic() > deadline:
                raise
        select.select([], [], [], 0.002)


class Monitor:
    """Connected; ``begin`` negotiates, ``start`` starts the rings as well."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.client = connect(backend)
        self.ram = GuestRam([1 << 20, 1 << 20], base=0, gap=1 << 30)
        self.queues = [DriverQueue(self.ram, SIZE, slot_bytes=8192, region=i) for i in range(QUEUES)]
        self.attachment: Attachment | None = None
        self.features = 0
        self._uniques = iter(range(2, 1 << 62, 2))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        if self.attachment is not None:
            self.attachment.close()
        self.client.close()
        for queue in self.queues:
            queue.close()
        self.ram.close()

    def begin(self) -> None:
        self.features = negotiate(self.client, queues=QUEUES)
        self.attachment = Attachment(self.client, self.ram, self.queues, self.features)
        self.attachment.introduce()

    def start(self) -> None:
        """All that a monitor does until the guest has mounted."""
        self.begin()
        assert self.attachment is not None
        self.attachment.start([0] * QUEUES)
        body = INIT_IN.pack(major=7, minor=45, flags=0xFFFFFFFF)
        assert self.ask(Op.INIT, 0, body) == 0

    def ask(self, op: Op, nodeid: int = 1, body: bytes = bytes(16), *, queue: int = 1) -> int:
        """The errno of a request's answer; checks the two lengths."""
        return self.answer(op, nodeid, body, queue=queue)[0]

    def answer(self, op: Op, nodeid: int = 1, body: bytes = bytes(16), *, queue: int = 1) -> tuple[int, bytes]:
        """As ``ask``, with the answer's body."""
        data = request(op, nodeid, body, next(self._uniques))
        used, parts = self.queues[queue].transact([data], [OUT_HEADER.size, 4096], TIMEOUT)
        head = OUT_HEADER.unpack(parts[0])
        assert head["len"] == used
        return -head["error"], parts[1][: used - OUT_HEADER.size]

    def add(self, count: int, *, queue: int = 1) -> list[int]:
        """Queues GETATTRs without a kick; their tokens."""
        data = request(Op.GETATTR, 1, bytes(16), 2)
        return [self.queues[queue].add([data], [OUT_HEADER.size, 200]) for _ in range(count)]

    def collect(self, tokens: list[int], *, queue: int = 1) -> None:
        """Each of these is answered, once, and with what was asked for."""
        left = set(tokens)
        while left:
            found = self.queues[queue].wait(TIMEOUT)
            assert found is not None, f"{len(left)} requests were never answered"
            token, used = found
            left.remove(token)
            assert used == OUT_HEADER.size + 104
            self.queues[queue].take(token)

    def addr(self, index: int = 1, **other: int) -> VringAddr:
        """The right addresses of a ring, or others."""
        queue, user = self.queues[index], self.ram.user_addr
        values = {
            "flags": 0,
            "desc": user(queue.desc_gpa),
            "used": user(queue.used_gpa),
            "avail": user(queue.avail_gpa),
            "log": 0,
        }
        values.update(other)
        return VringAddr(index, *(values[name] for name in ("flags", "desc", "used", "avail", "log")))

    def refused(self, action: Callable[[], object]) -> None:
        """What is done is refused: by an answer, or by the end of the connection."""
        try:
            action()
        except PeerError:
            return
        raise AssertionError("the daemon took it")

    def ends(self) -> None:
        """The daemon ends the connection."""
        poller = select.poll()
        poller.register(self.client.fileno(), select.POLLIN | select.POLLHUP)
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            for _, event in poller.poll(1000):
                if event & select.POLLHUP or not self.read():
                    return
        raise AssertionError("the daemon goes on with the connection")

    def read(self) -> bytes:
        """Whatever it says; nothing at the end."""
        try:
            return os.read(self.client.fileno(), 65536)
        except ConnectionResetError:
            return b""


def raw(number: int, payload: bytes = b"", flags: int = 1, size: int | None = None) -> bytes:
    """A message's bytes; ``size`` lies about the payload's."""
    return struct.pack("=III", number, flags, len(payload) if size is None else size) + payload


Case = Callable[[Monitor], None]


class Cases(dict[str, Case]):
    """What a hostile front-end does, by name."""

    def add(self, function: Case) -> Case:
        """Files a function under its name."""
        self[function.__name__.replace("_", " ")] = function
        return function


def held(backend: Backend) -> tuple[int, int]:
    """Number of file descriptors and of threads of the daemon."""
    assert backend.process is not None
    proc = Path(f"/proc/{backend.process.pid}")
    return len(os.listdir(proc / "fd")), len(os.listdir(proc / "task"))


def served(backend: Backend) -> None:
    """A sane front-end comes and is served on every queue."""
    with Monitor(backend) as monitor:
        monitor.start()
        for queue in range(QUEUES):
            assert monitor.ask(Op.GETATTR, queue=queue) == 0
        assert monitor.ask(Op.LOOKUP, 1, b"file\0") == 0


def idle(backend: Backend) -> tuple[int, int]:
    """What the daemon holds while it waits for a front-end: the main thread and Patience's, and nothing changes."""
    deadline = time.monotonic() + TIMEOUT
    last = (0, 0)
    while (now := held(backend)) != last or now[1] != 2:
        assert time.monotonic() < deadline, f"the daemon does not come to rest: fds and threads {now}"
        last = now
        select.select([], [], [], 0.02)
    return now


def settles(backend: Backend, before: tuple[int, int]) -> None:
    """The daemon holds as much as before, once it has noticed that the front-end is gone."""
    deadline = time.monotonic() + TIMEOUT
    while held(backend) != before:
        assert time.monotonic() < deadline, f"fds and threads: {before} before, {held(backend)} after"
        select.select([], [], [], 0.002)


def play(backend: Backend, case: Case) -> None:
    """Plays a case; then the daemon must serve a sane front-end, and hold no more than before."""
    before = idle(backend)
    with Monitor(backend) as monitor:
        case(monitor)
    served(backend)
    settles(backend, before)
