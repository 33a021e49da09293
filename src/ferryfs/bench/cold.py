"""Random reads of a file that the host has not in its page cache: whether one that waits for the disk delays others."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ferryfs.bench.guest import BenchGuest, guests, pages, request
from ferryfs.bench.plan import Plan
from ferryfs.bench.results import BARE, Cell, Turn
from ferryfs.bench.share import spread
from ferryfs.errors import PeerError
from ferryfs.frontend.load import LoadGenerator, LoadRequest
from ferryfs.wire.fuse import OUT_HEADER, READ_IN, Op

NAME: Final = "cold"
ABOUT: Final = (
    "reads of 4 KiB anywhere in a file that is not in the host's page cache, driven by the compiled front-end"
)
MOUNTS: Final = False
ROW: Final = "read 4k random, cold"
FILE_BYTES: Final = 512 << 20
READS: Final = 2048
IN_FLIGHT: Final = (1, 16)


def names() -> list[str]:
    """The rows."""
    return [ROW]


def evict(path: Path) -> None:
    """Takes a file out of the host's page cache."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def fill(path: Path, size: int) -> None:
    """A file of so many bytes that no file system stores as holes."""
    block = os.urandom(1 << 20)
    with path.open("wb") as file:
        for _ in range(max(1, size >> 20)):
            file.write(block)


def run(plan: Plan) -> list[Cell]:
    """Each depth."""
    if not plan.wants(ROW):
        return []
    cells: list[Cell] = []
    with plan.folder() as share:
        file = share / "cold"
        fill(file, plan.scaled(FILE_BYTES, 8 << 20))
        size = file.stat().st_size
        with guests([(daemon.name, daemon.line(share)) for daemon in plan.daemons]) as all_guests:
            for in_flight in IN_FLIGHT:
                reads = plan.scaled(READS if in_flight > 1 else READS // 4, 64) // in_flight * in_flight
                with contextlib.ExitStack() as stack:
                    turns: dict[str, Callable[[], Turn]] = {BARE: _bare(stack, file, size, in_flight, reads)}
                    for guest in all_guests:
                        turns[guest.name] = _driver(stack, guest, size, in_flight, reads)
                    taken: dict[str, list[Turn]] = {name: [] for name in turns}
                    for order in plan.turns(list(turns)):
                        for name in order:
                            evict(file)
                            taken[name].append(turns[name]())
                found = [Cell(NAME, ROW, str(in_flight), name, tuple(one)) for name, one in taken.items()]
                plan.progress(found)
                cells += found
    return cells


def _offsets(size: int, lane: int, lanes: int, reads: int) -> list[int]:
    return [block * 4096 for block in spread(size // 4096, lane, lanes, reads // lanes, random=True)]


def _driver(
    stack: contextlib.ExitStack, guest: BenchGuest, size: int, in_flight: int, reads: int
) -> Callable[[], Turn]:
    stack.callback(guest.ram.rewind, guest.ram.mark())
    nodeid = guest.walk("cold")
    fh = stack.enter_context(guest.opened(nodeid, os.O_RDONLY))
    lanes = [
        [
            LoadRequest(
                request(Op.READ, nodeid, READ_IN.pack(fh=fh, offset=offset, size=4096, flags=os.O_RDONLY)),
                [OUT_HEADER.size, *pages(4096)],
            )
            for offset in _offsets(size, lane, in_flight, reads)
        ]
        for lane in range(in_flight)
    ]
    load = LoadGenerator(guest.queue, lanes)

    def turn() -> Turn:
        before = guest.cpu_ns()
        # One answer is wanted, and every lane goes to its end: each block is read once.
        result = load.run(count=1)
        if result.errors:
            raise PeerError(f"{guest.name} answered {result.errors} of {result.done} reads with an error.")
        return {"rate": result.done / result.seconds, "cpu_us": (guest.cpu_ns() - before) / 1000 / result.done}

    return turn


def _bare(stack: contextlib.ExitStack, file: Path, size: int, in_flight: int, reads: int) -> Callable[[], Turn]:
    """A thread for each read in flight."""
    fd = os.open(file, os.O_RDONLY)
    stack.callback(os.close, fd)

    def lane(offsets: list[int]) -> None:
        for offset in offsets:
            os.pread(fd, 4096, offset)

    def turn() -> Turn:
        threads = [threading.Thread(target=lane, args=(_offsets(size, i, in_flight, reads),)) for i in range(in_flight)]
        began, cpu = time.monotonic(), time.process_time()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        used = time.process_time() - cpu
        return {"rate": reads / (time.monotonic() - began), "cpu_us": used * 1e6 / reads}

    return turn
