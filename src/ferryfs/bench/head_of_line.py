"""Head of line: how long a GETATTR takes while the same guest keeps its one queue busy with something heavy.

Every load is made by lanes beside the one that is timed. "bare": a thread that does nothing but statx while others make
the same load with bare system calls. It never sleeps; so "bare, woken" is a thread that waits for a message (an eventfd
each way), does one statx and answers, which is what a daemon has to do at the least.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ferryfs.bench.bare import BareShare, Operation
from ferryfs.bench.calls import LAST_FD, Call, CallLoop
from ferryfs.bench.cold import evict, fill
from ferryfs.bench.guest import BenchGuest, guests, pages, request
from ferryfs.bench.micro import percentile
from ferryfs.bench.plan import Plan
from ferryfs.bench.results import BARE, WOKEN, Cell, Turn
from ferryfs.bench.share import spread
from ferryfs.errors import PeerError
from ferryfs.frontend.load import LoadGenerator, LoadRequest
from ferryfs.wire.fuse import FSYNC_IN, GETATTR_IN, IN_HEADER, OPEN_IN, OUT_HEADER, READ_IN, RELEASE_IN, WRITE_IN, Op

NAME: Final = "head-of-line"
ABOUT: Final = "one GETATTR at a time, while other lanes of the same queue do something heavy"
MOUNTS: Final = False
SECONDS: Final = 1.0
SAMPLES: Final = 1 << 20
COLD_BYTES: Final = 512 << 20
# Guest memory holds the data of a few requests: a file of 32 MiB is written over and over, a GiB and more in a turn.
WRITES: Final = 16
WRITE_SIZE: Final = 1 << 20
ENTRIES: Final = 100_000
COLD_LANES: Final = 4
WRITE_LANES: Final = 2

Lane = list[LoadRequest]


@dataclass(frozen=True, slots=True)
class Load:
    """Something heavy: as lanes of a guest, and as bare operations, a list for each thread."""

    name: str
    lanes: Callable[[BenchGuest, Path, contextlib.ExitStack], list[Lane]]
    bare: Callable[[BareShare, Path], list[list[Operation]]]


def _no_lanes(*_: object) -> list[Lane]:
    return []


def _no_threads(*_: object) -> list[list[Operation]]:
    return []


def _write(nodeid: int, fh: int, offset: int, data: bytes) -> LoadRequest:
    body = WRITE_IN.pack(fh=fh, offset=offset, size=len(data), flags=os.O_RDWR)
    head = IN_HEADER.pack(len=IN_HEADER.size + len(body) + len(data), opcode=Op.WRITE, nodeid=nodeid, pid=1)
    cut = [data[at : at + 4096] for at in range(0, len(data), 4096)]
    return LoadRequest([head, body, *cut], [OUT_HEADER.size, 8])


def _fsync_lanes(guest: BenchGuest, share: Path, stack: contextlib.ExitStack) -> list[Lane]:
    nodeid = guest.walk(f"own-{guest.name}/synced")
    fh = stack.enter_context(guest.opened(nodeid, os.O_RDWR))
    fsync = LoadRequest(request(Op.FSYNC, nodeid, FSYNC_IN.pack(fh=fh)), [OUT_HEADER.size])
    return [[_write(nodeid, fh, 0, os.urandom(4096)), fsync]]


def _fsync_bare(share: BareShare, folder: Path) -> list[list[Operation]]:
    fd = share.open(f"own-{BARE}/synced", os.O_RDWR)
    return [[[Call("pwrite", fd, bytearray(os.urandom(4096)), 4096, 0), Call("fsync", fd)]]]


def _cold_blocks(file: Path, lane: int) -> list[int]:
    return spread(file.stat().st_size // 4096, lane, COLD_LANES, 1024, random=True)


def _cold_lanes(guest: BenchGuest, share: Path, stack: contextlib.ExitStack) -> list[Lane]:
    nodeid = guest.walk("cold")
    fh = stack.enter_context(guest.opened(nodeid, os.O_RDONLY))
    return [
        [
            LoadRequest(
                request(Op.READ, nodeid, READ_IN.pack(fh=fh, offset=k * 4096, size=4096, flags=os.O_RDONLY)),
                [OUT_HEADER.size, *pages(4096)],
            )
            for k in _cold_blocks(share / "cold", lane)
        ]
        for lane in range(COLD_LANES)
    ]


def _cold_bare(share: BareShare, folder: Path) -> list[list[Operation]]:
    fd = share.open("cold", os.O_RDONLY)
    data = bytearray(4096)
    return [
        [[Call("pread", fd, data, 4096, k * 4096)] for k in _cold_blocks(folder / "cold", lane)]
        for lane in range(COLD_LANES)
    ]


def _write_lanes(guest: BenchGuest, share: Path, stack: contextlib.ExitStack) -> list[Lane]:
    nodeid = guest.walk(f"own-{guest.name}/written")
    fh = stack.enter_context(guest.opened(nodeid, os.O_RDWR))
    data = os.urandom(WRITE_SIZE)
    return [[_write(nodeid, fh, offset, data) for offset in _write_offsets(lane)] for lane in range(WRITE_LANES)]


def _write_bare(share: BareShare, folder: Path) -> list[list[Operation]]:
    fd = share.open(f"own-{BARE}/written", os.O_RDWR)
    data = bytearray(os.urandom(WRITE_SIZE))
    return [
        [[Call("pwrite", fd, data, WRITE_SIZE, offset)] for offset in _write_offsets(lane)]
        for lane in range(WRITE_LANES)
    ]


def _write_offsets(lane: int) -> list[int]:
    return [(lane * WRITES + k) * WRITE_SIZE for k in range(WRITES)]


def _listing_lanes(guest: BenchGuest, share: Path, stack: contextlib.ExitStack) -> list[Lane]:
    nodeid = guest.walk("entries")
    flags = os.O_RDONLY | os.O_DIRECTORY
    offsets, _ = guest.directory_offsets(nodeid, Op.READDIRPLUS, 4096)
    lane = [LoadRequest(request(Op.OPENDIR, nodeid, OPEN_IN.pack(flags=flags)), [OUT_HEADER.size, 16])]
    patch = [(0, OUT_HEADER.size, IN_HEADER.size)]
    for offset in offsets:
        body = READ_IN.pack(offset=offset, size=4096, flags=flags)
        lane.append(LoadRequest(request(Op.READDIRPLUS, nodeid, body), [OUT_HEADER.size, *pages(4096)], patch=patch))
    release = request(Op.RELEASEDIR, nodeid, RELEASE_IN.pack(flags=flags))
    return [[*lane, LoadRequest(release, [OUT_HEADER.size], patch=patch)]]


def _listing_bare(share: BareShare, folder: Path) -> list[list[Operation]]:
    entries = bytearray(32 << 10)
    names = share.entries()
    listing = [Call("getdents64", LAST_FD, entries, len(entries)) for _ in range(len(names) // 1000 + 2)]
    flags = os.O_RDONLY | os.O_DIRECTORY
    whole = [Call("openat", share.files, b"../entries\0", flags), *listing, Call("close", LAST_FD)]
    folder_fd = share.open("entries", flags)
    return [[whole, *([share.stat_name(folder_fd, name)] for name in names)]]


LOADS: Final = (
    Load("nothing", _no_lanes, _no_threads),
    Load("fsync", _fsync_lanes, _fsync_bare),
    Load("cold reads", _cold_lanes, _cold_bare),
    Load("1M writes", _write_lanes, _write_bare),
    Load("readdirplus 100,000", _listing_lanes, _listing_bare),
)


def names() -> list[str]:
    """The rows."""
    return [load.name for load in LOADS]


def run(plan: Plan) -> list[Cell]:
    """Each load."""
    cells: list[Cell] = []
    loads = [load for load in LOADS if plan.wants(load.name)]
    with plan.folder() as share:
        _fill(share, plan, [daemon.name for daemon in plan.daemons])
        with guests([(daemon.name, daemon.line_for_many(share)) for daemon in plan.daemons]) as all_guests:
            for load in loads:
                with contextlib.ExitStack() as stack:
                    drivers: dict[str, Callable[[float], Turn]] = {}
                    bare = stack.enter_context(BareShare(share))
                    drivers[BARE] = _bare(bare, load, share, woken=False)
                    drivers[WOKEN] = _bare(bare, load, share, woken=True)
                    for guest in all_guests:
                        drivers[guest.name] = _driver(stack, guest, load, share)
                    taken: dict[str, list[Turn]] = {name: [] for name in drivers}
                    seconds = max(0.05, SECONDS * min(1.0, plan.scale))
                    for order in plan.turns(list(drivers)):
                        for name in order:
                            evict(share / "cold")
                            taken[name].append(drivers[name](seconds))
                found = [Cell(NAME, load.name, "1 GETATTR", name, tuple(turns)) for name, turns in taken.items()]
                plan.progress(found)
                cells += found
    return cells


def _fill(share: Path, plan: Plan, daemons: list[str]) -> None:
    (share / "files").mkdir()
    (share / "files" / "file").write_bytes(b"")
    (share / "entries").mkdir()
    for i in range(plan.scaled(ENTRIES, 100)):
        (share / "entries" / f"file{i:011}").touch()
    fill(share / "cold", plan.scaled(COLD_BYTES, 8 << 20))
    for name in (*daemons, BARE):
        own = share / f"own-{name}"
        own.mkdir()
        (own / "synced").write_bytes(bytes(4096))
        (own / "written").touch()


def _turn(latencies: Iterator[int]) -> Turn:
    ordered = sorted(latencies)
    return {
        "p50_us": percentile(ordered, 0.5) / 1000,
        "p99_us": percentile(ordered, 0.99) / 1000,
        "p999_us": percentile(ordered, 0.999) / 1000,
        "samples": float(len(ordered)),
    }


def _driver(stack: contextlib.ExitStack, guest: BenchGuest, load: Load, share: Path) -> Callable[[float], Turn]:
    stack.callback(guest.ram.rewind, guest.ram.mark())
    nodeid = guest.walk("files/file")
    timed = [LoadRequest(request(Op.GETATTR, nodeid, GETATTR_IN.pack()), [OUT_HEADER.size, 104])]
    generator = LoadGenerator(guest.queue, [timed, *load.lanes(guest, share, stack)])

    def turn(seconds: float) -> Turn:
        result = generator.run(seconds=seconds, lane=0, capacity=SAMPLES)
        if result.errors:
            raise PeerError(f"{guest.name} answered {result.errors} of {result.done} requests with an error.")
        return _turn(iter(result.latencies_ns))

    return turn


def _bare(share: BareShare, load: Load, folder: Path, *, woken: bool) -> Callable[[float], Turn]:
    statx = share.stat_fd(share.open("files/file", os.O_PATH))

    def turn(seconds: float) -> Turn:
        with contextlib.ExitStack() as stack:
            loops = [CallLoop(operations) for operations in load.bare(share, folder)]
            timed = CallLoop([[statx]])
            if woken:
                call, answer = (stack.enter_context(_eventfd()) for _ in range(2))
                one, count = bytearray((1).to_bytes(8, "little")), bytearray(8)
                timed = CallLoop([[Call("write", call, one, 8), Call("read", answer, count, 8)]])
                loops.append(CallLoop([[Call("read", call, count, 8), statx, Call("write", answer, one, 8)]]))
            threads = [threading.Thread(target=loop.run, args=(3600.0,)) for loop in loops]
            for thread in threads:
                thread.start()
            timed.run(seconds, SAMPLES)
            for loop in loops:
                loop.stop()
            if woken:
                os.eventfd_write(call, 1)
            for thread in threads:
                thread.join()
            return _turn(iter(timed.latencies_ns))

    return turn


@contextlib.contextmanager
def _eventfd() -> Iterator[int]:
    fd = os.eventfd(0, os.EFD_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
