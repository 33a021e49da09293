"""The dirty log switched on and off on running rings, as a front-end does at the begin and the end of a migration."""

import threading
from collections.abc import Sequence

from ferryfs.frontend.attachment import Attachment, negotiate
from ferryfs.frontend.client import VhostUserClient
from ferryfs.frontend.driver import DriverQueue
from ferryfs.frontend.ram import GuestRam
from ferryfs.wire import fuse
from ferryfs.wire.fuse import InitFlag, Op

from .bare_daemon import LIMIT_SECONDS, Daemon

QUEUES = 3
IN_FLIGHT = 8
TOGGLES = 1000


def request(op: Op, unique: int, body: bytes) -> bytes:
    size = fuse.IN_HEADER.size + len(body)
    return fuse.IN_HEADER.pack(len=size, opcode=op, unique=unique, nodeid=fuse.ROOT_ID) + body


def reply_of(parts: Sequence[bytes], unique: int) -> bytes:
    data = b"".join(parts)
    header = fuse.OUT_HEADER.unpack(data)
    assert (header["unique"], header["error"], header["len"]) == (unique, 0, len(data))
    return data[fuse.OUT_HEADER.size :]


class Load(threading.Thread):
    """Asks for the root's attributes on one queue without a pause until it is told to stop; looks at all answers."""

    def __init__(self, queue: DriverQueue, seed: int) -> None:
        super().__init__()
        self._queue = queue
        self._unique = seed
        self._wanted = threading.Event()
        self.answers = 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            self._ask()
        except BaseException as error:
            self.failure = error

    def _ask(self) -> None:
        waiting: dict[int, int] = {}
        while waiting or not self._wanted.is_set():
            while len(waiting) < IN_FLIGHT and not self._wanted.is_set():
                self._unique += 1
                room = Op.GETATTR.reply_room({})
                token = self._queue.add([request(Op.GETATTR, self._unique, fuse.GETATTR_IN.pack())], [room])
                waiting[token] = self._unique
            self._queue.kick()
            done = self._queue.wait(LIMIT_SECONDS)
            assert done is not None, f"{len(waiting)} requests are not answered"
            while done is not None:
                token, length = done
                reply = reply_of([part[:length] for part in self._queue.take(token)], waiting.pop(token))
                assert fuse.ATTR_OUT.unpack(reply)["attr_ino"] > 0
                self.answers += 1
                done = self._queue.poll()

    def finish(self) -> None:
        self._wanted.set()
        self.join(LIMIT_SECONDS)
        assert not self.is_alive()
        if self.failure is not None:
            raise self.failure


def test_no_answer_is_lost_when_logging_goes_on_and_off(daemon: Daemon) -> None:
    with VhostUserClient.connect(daemon.path, timeout_s=LIMIT_SECONDS) as client, GuestRam([4 << 20]) as ram:
        features = negotiate(client, queues=QUEUES)
        queues = [DriverQueue(ram, 16, slot_bytes=4096) for _ in range(QUEUES)]
        attachment = Attachment(client, ram, queues, features)
        attachment.introduce()
        attachment.start([0] * QUEUES)
        init = fuse.INIT_IN.pack(major=7, minor=fuse.MINOR, max_readahead=1 << 17, flags=InitFlag.ASYNC_READ)
        _, parts = queues[1].transact([request(Op.INIT, 2, init)], [Op.INIT.reply_room({})], LIMIT_SECONDS)
        assert fuse.INIT_OUT.unpack(reply_of(parts, 2))["major"] == fuse.MAJOR
        loads = [Load(queue, seed) for queue, seed in ((queues[1], 1000), (queues[2], 1 << 40))]
        for load in loads:
            load.start()
        dirty = 0
        for _ in range(TOGGLES):
            attachment.start_logging()
            dirty += attachment.dirty_pages()
            attachment.stop_logging()
        for load in loads:
            load.finish()
        # Each load went on all the time, and the pages that it wrote were marked.
        assert min(load.answers for load in loads) > TOGGLES / 10
        assert dirty > 0
        attachment.stop()
        for queue in queues:
            queue.close()
    daemon.clean_end()
