"""A hostile guest: requests that change while they are served, too much of everything, and requests with bytes changed.

Played as the rings are, see test_chains_and_rings.py: whatever happens, each queue answers afterwards.
"""

from __future__ import annotations

import random
import shutil
import struct
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from engine_calls import CALLS, CONTENT, prepare
from engine_guest import HIPRIO, REQUESTS, Call, Guest

from ferryfs.frontend.driver import DriverQueue
from ferryfs.passthrough.config import ShareConfig
from ferryfs.wire import fuse
from ferryfs.wire.fuse import Op

from .lab import GETATTR, INDIRECT, NEXT, SIZE, WRITE, Cases, Lab
from .seeds import rounds

case = Cases()


# --- a guest that writes while it is served


def meanwhile(action: Callable[[int], None]) -> Callable[[], None]:
    """Another thread does this until the result is called."""
    stop = threading.Event()

    def run() -> None:
        turn = 0
        while not stop.is_set():
            action(turn)
            turn += 1

    thread = threading.Thread(target=run)
    thread.start()

    def end() -> None:
        stop.set()
        thread.join()

    return end


def changing(
    lab: Lab, offset: int, values: list[bytes], op: Op = Op.GETATTR, body: bytes = GETATTR, nodeid: int = 1
) -> None:
    """Bytes of a request change all the time while it is served: an answer comes, whatever it is."""
    at, length = lab.call(op, nodeid, body)
    reply = lab.room(8192)
    end = meanwhile(lambda turn: lab.ram.write(at + offset, values[turn % len(values)]))
    try:
        for _ in range(1500):
            lab.offer((at, length, NEXT, 1), (reply, 8192, WRITE, 0))
            used = lab.answer()
            assert used == 0 or 16 <= used <= 8192
            assert used in (0, struct.unpack("=I", lab.ram.read(reply, 4))[0])
    finally:
        end()


@case
def the_length_changes(lab: Lab) -> None:
    changing(lab, 0, [struct.pack("=I", n) for n in (56, 0, 40, 0xFFFFFFFF, 57)])


@case
def the_opcode_changes(lab: Lab) -> None:
    changing(lab, 4, [struct.pack("=I", n) for n in (3, 44, 4096, 0xFFFFFFFF, 36, 1, 17, 2, 42)])


@case
def the_name_changes(lab: Lab) -> None:
    changing(lab, 40, [b"file\0", b"../a\0", b"a/b/c", b"/////", b"..\0\0\0"], Op.LOOKUP, b"file\0")


@case
def the_batch_count_changes(lab: Lab) -> None:
    at, length = lab.call(Op.BATCH_FORGET, 0, fuse.BATCH_FORGET_IN.pack(count=1) + bytes(16))
    end = meanwhile(lambda turn: lab.ram.write(at + 40, struct.pack("=I", (1, 0xFFFFFFFF, 1000)[turn % 3])))
    try:
        for _ in range(1500):
            lab.offer((at, length, 0, 0))
            assert lab.answer() == 0
    finally:
        end()


@case
def the_write_size_changes(lab: Lab) -> None:
    nodeid = lab.guest.lookup(b"other")
    body = fuse.WRITE_IN.pack(fh=lab.guest.open(nodeid), size=64) + bytes(64)
    changing(lab, 56, [struct.pack("=I", n) for n in (64, 65, 0, 0xFFFFFFFF)], Op.WRITE, body, nodeid)


@case
def the_extensions_change(lab: Lab) -> None:
    ext = fuse.EXT_HEADER.pack(size=16, type=fuse.EXT_GROUPS) + struct.pack("=II", 1, 0)
    body = fuse.MKDIR_IN.pack(mode=0o755) + b"changing" + b"\0" * 8 + ext
    values = [
        struct.pack("=IIII", size, kind, count, 0)
        for size in (16, 0, 0xFFFFFFFF)
        for kind in (32, 1)
        for count in (1, 9)
    ]
    changing(lab, 40 + 24, values, Op.MKDIR, body)


@case
def the_descriptors_change(lab: Lab) -> None:
    """Address, length and flags of both descriptors change while the chain is walked and served."""
    at, length = lab.call()
    reply = lab.room(8192)
    good = DriverQueue.pack_desc(at, length, NEXT, 1) + DriverQueue.pack_desc(reply, 8192, WRITE)
    values = [
        good,
        DriverQueue.pack_desc(lab.end - 8, 0xFFFFFFFF, NEXT, 1) + DriverQueue.pack_desc(lab.end, 8192, WRITE),
        DriverQueue.pack_desc(at, length, NEXT, 0) + DriverQueue.pack_desc(at, 16, INDIRECT, 0),
        DriverQueue.pack_desc(lab.queue.desc_gpa, 32, INDIRECT, 1) + DriverQueue.pack_desc(reply, 3, WRITE | NEXT, 0),
    ]
    end = meanwhile(lambda turn: lab.ram.write(lab.queue.desc_gpa, values[turn % len(values)]))
    try:
        for _ in range(1500):
            lab.queue.publish(0)
            lab.queue.kick(force=True)
            assert lab.answer() <= 8192
    finally:
        end()
    lab.guest.complaints()


@case
def an_indirect_table_changes(lab: Lab) -> None:
    at, length = lab.call()
    reply = lab.room(8192)
    table = lab.room(64, 16)
    values = [
        DriverQueue.pack_desc(at, length, NEXT, 1) + DriverQueue.pack_desc(reply, 8192, WRITE),
        DriverQueue.pack_desc(table, 32, INDIRECT, 1) + DriverQueue.pack_desc(lab.end - 1, 2, WRITE),
        DriverQueue.pack_desc(at, 0, NEXT, 9) + DriverQueue.pack_desc(0, 0xFFFFFFFF, NEXT, 0),
    ]
    end = meanwhile(lambda turn: lab.ram.write(table, values[turn % len(values)]))
    try:
        for _ in range(1500):
            lab.offer((table, 32, INDIRECT, 0))
            assert lab.answer() <= 8192
    finally:
        end()
    lab.guest.complaints()


# --- too much of something


@case
def init_again_and_again(lab: Lab) -> None:
    for _ in range(200):
        lab.guest.open(lab.guest.lookup(b"file"))
        lab.guest.init()


@case
def a_session_that_ends_while_others_are_served(lab: Lab) -> None:
    """INIT and DESTROY on one queue, everything else on the other."""
    guest = lab.guest
    init = Call(Op.INIT, 0, fuse.INIT_IN.pack(major=7, minor=45, flags=0xFFFFFFFF, flags2=0xFFFFFFFF))
    stop = threading.Event()

    def restart() -> None:
        while not stop.is_set():
            guest.send(init, queue=HIPRIO)
            guest.send(Call(Op.DESTROY, 0), queue=HIPRIO)

    thread = threading.Thread(target=restart)
    thread.start()
    try:
        for number in range(300):
            found = guest.send(Call(Op.LOOKUP, 1, b"file\0"))
            if found.error == 0:
                nodeid = fuse.ENTRY_OUT.unpack(found.body)["nodeid"]
                opened = guest.send(Call(Op.OPEN, nodeid, bytes(8)))
                fh = fuse.OPEN_OUT.unpack(opened.body)["fh"] if opened.error == 0 else number
                answer = guest.send(Call(Op.READ, nodeid, fuse.READ_IN.pack(fh=fh, size=100)))
                assert answer.error or answer.body == CONTENT[:100]
                guest.send(Call(Op.RELEASE, nodeid, fuse.RELEASE_IN.pack(fh=fh)))
    finally:
        stop.set()
        thread.join()


@case
def forgets_without_end(lab: Lab) -> None:
    body = fuse.BATCH_FORGET_IN.pack(count=4000) + fuse.FORGET_ONE.pack(nodeid=1, nlookup=1 << 40) * 4000
    for _ in range(50):
        lab.guest.send(Call(Op.BATCH_FORGET, 0, body))


@case
def a_request_of_64_kib_of_names(lab: Lab) -> None:
    assert lab.guest.send(Call(Op.LOOKUP, 1, b"n" * 65535 + b"\0")).error


@case
def a_request_larger_than_any(lab: Lab) -> None:
    assert lab.guest.send(Call(Op.LOOKUP, 1, b"n" * 100_000 + b"\0")).error


@case
def lookups_of_what_is_not_there(lab: Lab) -> None:
    for number in range(2000):
        assert lab.guest.send(Call(Op.LOOKUP, 1, f"nothing{number}\0".encode())).error


@pytest.mark.parametrize("name", case)
def test_hostile_guest(guest: Guest, name: str) -> None:
    case[name](Lab(guest))
    guest.serves()


# Not FALLOCATE: a length with a high bit changed is a full disk.
RANDOM = [op for op in CALLS if op not in (Op.SYNCFS, Op.FALLOCATE)]


def test_random_requests(tmp_path: Path) -> None:
    """Sane requests with some bytes changed, cut anywhere, into rooms of any size: a right answer or none."""
    for number, rng in enumerate(rounds()):
        shared = tmp_path / str(number)
        shared.mkdir()
        prepare(shared)
        with Guest(shared, ShareConfig(xattr=True), size=SIZE, at_end=True) as guest:
            for _ in range(300):
                if not guest.device.session_ready:
                    guest.init()
                try:
                    call = CALLS[rng.choice(RANDOM)](guest)
                except (OSError, AssertionError):
                    # What came before has taken away what this one is about.
                    break
                spoil(guest, call, rng)
            guest.complaints()
            guest.serves()
        shutil.rmtree(shared)


def spoil(guest: Guest, call: Call, rng: random.Random) -> None:
    """Sends a request that was sane, and checks the two lengths of the answer."""
    data = bytearray(call.data)
    for _ in range(rng.choice((0, 1, 1, 2, 5))):
        data[rng.randrange(len(data))] = rng.choice((0, 1, 0xFF, 0x7F, 0x80, rng.getrandbits(8)))
    del data[rng.choice((len(data), len(data), rng.randint(0, len(data)))) :]
    readable = []
    while data:
        size = rng.choice((1, 7, 40, len(data)))
        readable.append(bytes(data[:size]))
        del data[:size]
    writable = [rng.choice((1, 16, 100, 4096)) for _ in range(rng.randint(0, 4))]
    if not readable and not writable:
        return
    used, written = guest.exchange(readable, writable, queue=rng.choice((HIPRIO, REQUESTS)))
    assert used == 0 or 16 <= used <= len(written)
    if used:
        head = fuse.OUT_HEADER.unpack(written)
        assert head["len"] == used
        assert -4096 < head["error"] <= 0
