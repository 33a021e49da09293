"""One migration of a guest without a machine, from one daemon to another of its kind, and what it costs.

Some facts about the measures. *Downtime* begins with the first GET_VRING_BASE at the source and ends with the first
answer at the destination, as a guest meets it; the stream goes through a relay while it is written, as through QEMU.
*Collecting* is the processor time of the daemon from F_LOG_ALL until it has no more threads than before and none
of them is runnable, of an idle guest; it may have more threads when they have slept for two seconds.
*Guest while collecting* is the rate of GETATTR, sixteen in flight, in the first part of a second after F_LOG_ALL, over
that of the part before: the median of some such pairs. Memory is RssAnon beyond the daemon's first, over the inodes,
when the guest has looked them up (source), when the state is written (saved), and when it is loaded and the first
answer is out (destination).
"""

from __future__ import annotations

import contextlib
import os
import select
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ferryfs.bench import usage
from ferryfs.bench.guest import PAGE, BenchGuest, request
from ferryfs.bench.results import Turn
from ferryfs.errors import PeerError
from ferryfs.frontend.attachment import Attachment, negotiate
from ferryfs.frontend.client import Direction
from ferryfs.frontend.daemon_process import DaemonProcess
from ferryfs.frontend.driver import DriverQueue
from ferryfs.frontend.load import LoadGenerator, LoadRequest
from ferryfs.wire.fuse import (
    ATTR_OUT,
    DIRENT,
    ENTRY_OUT,
    GETATTR_IN,
    OPEN_IN,
    OPEN_OUT,
    OUT_HEADER,
    READ_IN,
    RELEASE_IN,
    ROOT_ID,
    Op,
    record_size,
)

OPEN_FILES: Final = 1000
IN_FLIGHT: Final = 16
LOAD_PAIRS: Final = 7
READDIR_BYTES: Final = 3 * PAGE
# A daemon is done with collecting when none of its threads was runnable at so many looks in a row.
QUIET_LOOKS: Final = 5
LOOK_S: Final = 0.02
# The same where it has threads that it had not before: one that leaves the processor to the guest, or an idle one.
SLEEPING_LOOKS: Final = 100
RELAY_BYTES: Final = 1 << 20
ANSWER_S: Final = 300.0
"""How long a daemon may take to load or save a million inodes on a slow machine."""


@dataclass
class Held:
    """What the guest holds: nodeid -> inode number of some files, and the handles of those that are open."""

    numbers: dict[int, int]
    opened: dict[int, int]


def fill(guest: BenchGuest, folders: Sequence[str]) -> Held:
    """Looks up every file of these folders as `find` does (READDIRPLUS), and opens some of them."""
    held = Held({}, {})
    for folder in folders:
        nodeid = guest.lookup(ROOT_ID, folder)
        with guest.opened(nodeid, os.O_RDONLY | os.O_DIRECTORY) as fh:
            offset = 0
            asked = {"fh": fh, "size": READDIR_BYTES}
            while answer := guest.call(
                Op.READDIRPLUS, nodeid, READ_IN.pack(offset=offset, **asked), room=READDIR_BYTES
            ):
                at = 0
                while at < len(answer):
                    entry = DIRENT.unpack(answer, at + ENTRY_OUT.size)
                    offset = entry["off"]
                    if len(held.numbers) < OPEN_FILES and entry["type"] == 8:
                        found = ENTRY_OUT.unpack(answer, at)
                        held.numbers[found["nodeid"]] = found["attr_ino"]
                    at += record_size(ENTRY_OUT.size + DIRENT.size + entry["namelen"])
    for nodeid in held.numbers:
        answer = guest.call(Op.OPEN, nodeid, OPEN_IN.pack(flags=os.O_RDWR))
        held.opened[OPEN_OUT.unpack(answer)["fh"]] = nodeid
    return held


def rate(guest: BenchGuest, held: Held, seconds: float) -> float:
    """GETATTR a second of a busy guest."""
    mark = guest.ram.mark()
    nodeids = list(held.numbers)[:IN_FLIGHT]
    lanes = [
        [LoadRequest(request(Op.GETATTR, nodeid, GETATTR_IN.pack()), [OUT_HEADER.size + ATTR_OUT.size])]
        for nodeid in nodeids
    ]
    result = LoadGenerator(guest.queue, lanes).run(seconds=seconds)
    guest.ram.rewind(mark)
    if result.errors:
        raise PeerError(f"{guest.name} failed {result.errors} of {result.done} GETATTR while it collected.")
    return result.done / result.seconds


def ask(queue: DriverQueue, op: Op, nodeid: int, body: bytes, room: int) -> bytes:
    """One request of the guest, whoever serves it. Fails loudly."""
    used, answer = queue.transact(request(op, nodeid, body), [OUT_HEADER.size, room], timeout=60)
    error = OUT_HEADER.unpack(answer[0])["error"]
    if error:
        raise PeerError(f"The destination answered {op.name} of nodeid {nodeid} with {os.strerror(-error)}.")
    return answer[1][: used - OUT_HEADER.size]


def check(queue: DriverQueue, held: Held) -> None:
    """The destination must have the very files, and the open ones must be usable."""
    for nodeid, number in held.numbers.items():
        answer = ask(queue, Op.GETATTR, nodeid, GETATTR_IN.pack(), ATTR_OUT.size)
        if ATTR_OUT.unpack(answer)["attr_ino"] != number:
            raise PeerError(f"nodeid {nodeid} is another file at the destination.")
    for fh, nodeid in held.opened.items():
        ask(queue, Op.READ, nodeid, READ_IN.pack(fh=fh, offset=0, size=PAGE), PAGE)
    for fh, nodeid in held.opened.items():
        ask(queue, Op.RELEASE, nodeid, RELEASE_IN.pack(fh=fh), PAGE)


def threads(pids: list[int]) -> list[str]:
    """The state of each thread of a daemon."""
    states = []
    for pid in pids:
        for path in Path(f"/proc/{pid}/task").glob("*/stat"):
            with contextlib.suppress(OSError):  # it has ended
                states.append(path.read_text().rpartition(")")[2].split()[0])
    return states


def settle(pids: list[int], before: int) -> float:
    """Waits until a daemon that had ``before`` threads has no more and none wants to run; how long it was so, in s."""
    quiet = 0
    while True:
        select.select([], [], [], LOOK_S)
        states = threads(pids)
        quiet = 0 if {"R", "D"} & set(states) else quiet + 1
        if quiet >= (QUIET_LOOKS if len(states) <= before else SLEEPING_LOOKS):
            return quiet * LOOK_S


def relay(source: int, destination: int) -> int:
    """Moves the stream on as it comes; how many bytes."""
    total = 0
    while part := os.read(source, RELAY_BYTES):
        total += len(part)
        rest = memoryview(part)
        while rest:
            rest = rest[os.write(destination, rest) :]
    return total


def move(guest: BenchGuest, destination: DaemonProcess, folders: Sequence[str], inodes: int, load_s: float) -> Turn:
    """Has the guest look up so many inodes in these folders, and moves it. The destination runs already.

    ``load_s``: for how long the guest's rate is looked at, each time.

    Raises PeerError when a daemon fails, or when the destination has another file than the source had.
    """
    idle = guest.memory().anonymous
    held = fill(guest, folders)
    source_memory = guest.memory().anonymous
    source = guest.attachment

    idle_threads = len(threads(guest.pids))
    before, began = guest.cpu_ns(), time.monotonic()
    source.start_logging()
    quiet = settle(guest.pids, idle_threads)
    collect_s = time.monotonic() - began - quiet
    collect_cpu_s = (guest.cpu_ns() - before) / 1e9
    ratios = []
    for _ in range(LOAD_PAIRS):
        source.stop_logging()
        undisturbed = rate(guest, held, load_s)
        idle_threads = len(threads(guest.pids))
        source.start_logging()
        ratios.append(rate(guest, held, load_s) / undisturbed)
    settle(guest.pids, idle_threads)

    pids = usage.processes(destination.pid)
    client = destination.connect()
    with contextlib.closing(client):
        features = negotiate(client, queues=2)
        client.set_timeout(ANSWER_S)
        source.client.set_timeout(ANSWER_S)
        target = Attachment(client, guest.ram, (guest.hiprio, guest.queue), features)
        there = usage.memory(pids).anonymous
        idle_threads = len(threads(pids))
        before = guest.cpu_ns() + usage.cpu_ns(pids)
        began = time.monotonic()
        bases = source.stop()
        total = switch_over(source, target)
        saved, loaded = total[0] - began, total[1] - total[0]
        target.introduce()
        target.start(bases)
        ask(guest.queue, Op.GETATTR, ROOT_ID, GETATTR_IN.pack(), ATTR_OUT.size)
        downtime = time.monotonic() - began
        stop_cpu = (guest.cpu_ns() + usage.cpu_ns(pids) - before) / 1e9
        settle(pids, idle_threads)
        restored = usage.memory(pids).anonymous
        written = guest.memory().anonymous
        check(guest.queue, held)
        target.stop()
    each = 1024 / inodes
    return {
        "downtime_ms": downtime * 1000,
        "stop_cpu_ms": stop_cpu * 1000,
        "save_ms": saved * 1000,
        "load_ms": loaded * 1000,
        "collect_ms": collect_s * 1000,
        "collect_cpu_ms": collect_cpu_s * 1000,
        "guest_rate_while_collecting": statistics.median(ratios),
        "stream_mib": total[2] / (1 << 20),
        "source_bytes_each": (source_memory - idle) * each,
        "saved_bytes_each": (written - idle) * each,
        "destination_bytes_each": (restored - there) * each,
    }


def switch_over(source: Attachment, target: Attachment) -> tuple[float, float, int]:
    """(when the source had written all, when the destination had loaded it, bytes)."""
    out_read, out_write = os.pipe2(os.O_CLOEXEC)
    in_read, in_write = os.pipe2(os.O_CLOEXEC)
    with contextlib.ExitStack() as undo:
        undo.callback(os.close, out_read)
        theirs = source.client.set_device_state_fd(Direction.SAVE, out_write)
        os.close(out_write)
        ours = target.client.set_device_state_fd(Direction.LOAD, in_read)
        os.close(in_read)
        if theirs is not None or ours is not None:
            raise PeerError("A daemon wants the state to go through a descriptor of its own.")
        total = relay(out_read, in_write)
        os.close(in_write)
        source.client.check_device_state()
        saved = time.monotonic()
        target.client.check_device_state()
    return saved, time.monotonic(), total
