"""Many inodes and long directories: memory of the daemon, processor time of LOOKUP (new, known) and FORGET, how long
a daemon with all of them takes to end.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from ferryfs.bench.guest import BenchGuest, guests, request
from ferryfs.bench.plan import Plan
from ferryfs.bench.results import Cell, Turn
from ferryfs.errors import PeerError
from ferryfs.frontend.load import LoadGenerator, LoadRequest
from ferryfs.wire.fuse import BATCH_FORGET_IN, ENTRY_OUT, FORGET_ONE, OUT_HEADER, ROOT_ID, Op

NAME: Final = "scale"
ABOUT: Final = "cached inodes (names of 16 bytes) and entries of a directory"
MOUNTS: Final = False
INODES: Final = (1_000, 10_000, 100_000, 1_000_000)
ENTRIES: Final = (10, 1_000, 10_000, 100_000)
IN_FOLDER: Final = 10_000
AT_ONCE: Final = 2048
LANES: Final = 8
FORGETS: Final = 8  # as many as fit into a request of the high-priority queue here
KNOWN: Final = 20_000


def names() -> list[str]:
    """The rows."""
    return ["inodes", "directory"]


def run(plan: Plan) -> list[Cell]:
    """A daemon after the other: what is measured is processor time and memory, not speed."""
    cells: list[Cell] = []
    with plan.folder() as share:
        if plan.wants("inodes"):
            counts = sorted({plan.scaled(count, 16) for count in INODES})
            _files(share, counts[-1])
            for daemon in plan.daemons:
                with guests([(daemon.name, daemon.line_for_many(share))]) as (guest,):
                    cells += _inodes(guest, counts)
                    began = time.monotonic()
                last = cells[-1]
                ended = {**last.turns[0], "end_ms": (time.monotonic() - began) * 1000}
                cells[-1] = Cell(NAME, last.row, last.case, last.subject, (ended,))
                plan.progress([cells[-1]])
    if plan.wants("directory"):
        for count in sorted({plan.scaled(count, 10) for count in ENTRIES}):
            with plan.folder() as share:
                (share / "entries").mkdir()
                for i in range(count):
                    (share / "entries" / f"{i:016}").touch()
                with guests([(daemon.name, daemon.line_for_many(share)) for daemon in plan.daemons]) as all_guests:
                    found = [_directory(guest, count) for guest in all_guests]
            plan.progress(found)
            cells += found
    return cells


def _files(share: Path, count: int) -> None:
    for folder in range(0, count, IN_FOLDER):
        place = share / f"{folder // IN_FOLDER:03}"
        place.mkdir()
        for i in range(folder, min(folder + IN_FOLDER, count)):
            (place / f"{i:016}").touch()


def _inodes(guest: BenchGuest, counts: list[int]) -> list[Cell]:
    """Each count goes on where the one before ended."""
    folders: list[int] = []
    idle = guest.memory().anonymous
    cells = [_cell(guest, 0, {"rss_mib": idle / 1024, "idle_mib": idle / 1024})]
    done = 0
    first = guest.lookup(ROOT_ID, "000")
    folders.append(first)
    for count in counts:
        while len(folders) * IN_FOLDER < count:
            folders.append(guest.lookup(ROOT_ID, f"{len(folders):03}"))
        new = _lookups(guest, folders, range(done, count))
        memory = guest.memory().anonymous
        turn = {
            "rss_mib": memory / 1024,
            "bytes_each": (memory - idle) * 1024 / count,
            "new_lookup_us": new,
            "known_lookup_us": _lookups(guest, folders, range(min(count, KNOWN))),
        }
        if count >= 100_000:
            # Fewer don't tell: what memory is taken in pieces for weighs more than they do.
            turn["bytes_per_inode"] = turn["bytes_each"]
        done = count
        cells.append(_cell(guest, count, turn))
    cost = _forgets(guest, first, done + len(folders))
    cells.append(_cell(guest, 0, {"rss_mib": guest.memory().anonymous / 1024, "forget_us": cost}, "inodes, forgotten"))
    return cells


def _cell(guest: BenchGuest, count: int, turn: Turn, row: str = "inodes") -> Cell:
    return Cell(NAME, row, f"{count:,}", guest.name, (turn,))


def _lookups(guest: BenchGuest, folders: list[int], numbers: range) -> float:
    """Looks names up, eight in flight: processor time of the daemon in microseconds a name."""
    used = 0
    for start in range(numbers.start, numbers.stop, AT_ONCE):
        mark = guest.ram.mark()
        lanes: list[list[LoadRequest]] = [[] for _ in range(LANES)]
        for i in range(start, min(start + AT_ONCE, numbers.stop)):
            asked = request(Op.LOOKUP, folders[i // IN_FOLDER], f"{i:016}\0".encode())
            lanes[i % LANES].append(LoadRequest(asked, [OUT_HEADER.size, ENTRY_OUT.size]))
        before = guest.cpu_ns()
        result = LoadGenerator(guest.queue, [lane for lane in lanes if lane]).run(count=1)
        used += guest.cpu_ns() - before
        if result.errors:
            raise PeerError(f"{guest.name} can't look up {result.errors} of {result.done} names.")
        guest.ram.rewind(mark)
    return used / 1000 / len(numbers)


def _forgets(guest: BenchGuest, first: int, count: int) -> float:
    """Forgets inodes from a nodeid on, as far as they are in sequence: processor time in microseconds an inode."""
    before = guest.cpu_ns()
    for start in range(first, first + count, FORGETS):
        ones = [FORGET_ONE.pack(nodeid=i, nlookup=1 << 20) for i in range(start, min(start + FORGETS, first + count))]
        body = BATCH_FORGET_IN.pack(count=len(ones)) + b"".join(ones)
        guest.hiprio.transact(request(Op.BATCH_FORGET, 0, body), [])
    return (guest.cpu_ns() - before) / 1000 / count


def _directory(guest: BenchGuest, count: int) -> Cell:
    """A whole directory, first with its entries unknown, then known."""
    nodeid = guest.walk("entries")
    turn: Turn = {}
    for title, op in (
        ("readdir", Op.READDIR),
        ("readdirplus_new", Op.READDIRPLUS),
        ("readdirplus_known", Op.READDIRPLUS),
    ):
        before = guest.cpu_ns()
        _, entries = guest.directory_offsets(nodeid, op, 4096)
        if entries < count:
            raise PeerError(f"{guest.name} shows {entries} of {count} directory entries.")
        turn[f"{title}_entry_us"] = (guest.cpu_ns() - before) / 1000 / count
    return Cell(NAME, "directory", f"{count:,}", guest.name, (turn,))
