"""A request is the same request, whatever way its bytes are cut into descriptors."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ring_pair import PAGE, Pair, Place, descriptor

from ferryfs.ring.harness import LIMITS
from ferryfs.ring.model import (
    DESC_F_INDIRECT,
    DESC_F_NEXT,
    DESC_F_WRITE,
    MAX_CHAIN,
    MAX_CHAIN_BYTES,
    Fault,
    Outcome,
)

USER = 0x7F0000000000
RING = Place(0, USER, 4 * PAGE)
DESC, AVAIL, USED = USER, USER + 2 * PAGE, USER + 3 * PAGE
DATA = 0x100000
FAR = 0x7E0000000000
# Two regions that touch for the guest, and lie far from each other for the front-end.
PLACES = (RING, Place(DATA, FAR, PAGE), Place(DATA + PAGE, FAR - (1 << 30), 3 * PAGE, PAGE))


def offer(pair: Pair, table: list[tuple[int, int, int, int]], *, at: int | None = None) -> None:
    """Puts the descriptors into the ring's table (or an indirect one at this address) and offers the first."""
    raw = b"".join(descriptor(*entry) for entry in table)
    if at is None:
        pair.poke_user(DESC, raw)
    else:
        pair.poke(at, raw)
        pair.poke_user(DESC, descriptor(at, len(raw), DESC_F_INDIRECT, 0))
    pair.poke_user(AVAIL, bytes((0, 0, 1, 0, 0, 0)))
    assert pair.attach(DESC, AVAIL, USED) == 0


def cut(length: int, cuts: list[int]) -> list[tuple[int, int]]:
    """[0, length) cut at these places: (offset, length) of the parts; a place that comes twice makes an empty part."""
    places = [0, *sorted(c % (length + 1) for c in cuts), length]
    return [(a, b - a) for a, b in itertools.pairwise(places)]


CUTS = st.lists(st.integers(0, 2 * PAGE), max_size=20)


@given(
    start=st.integers(0, PAGE),
    request_cuts=CUTS,
    reply_cuts=CUTS,
    request=st.binary(max_size=2000),
    reply=st.binary(max_size=2000),
    room=st.integers(0, 3000),
    indirect=st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_any_cut(
    start: int,
    request_cuts: list[int],
    reply_cuts: list[int],
    request: bytes,
    reply: bytes,
    room: int,
    indirect: bool,
) -> None:
    at = DATA + PAGE // 2 + start
    answer_at = at + len(request) + 3
    parts = [(at + offset, length, 0) for offset, length in cut(len(request), request_cuts)]
    parts += [(answer_at + offset, length, DESC_F_WRITE) for offset, length in cut(room, reply_cuts)]
    table = [(a, n, f | (DESC_F_NEXT if i + 1 < len(parts) else 0), i + 1) for i, (a, n, f) in enumerate(parts)]
    with Pair(PLACES, 64) as pair:
        pair.poke(at, request)
        offer(pair, table, at=PAGE if indirect else None)
        assert pair.pop() == (Outcome.GOT, 0, request, room, Fault.OK)
        assert pair.write(0, reply) == min(len(reply), room)
        for offset in (0, 1, len(request) // 2, len(request), len(request) + 1):
            assert pair.ring.read(offset, 77) == request[offset : offset + 77]
            joined = b"".join(pair.ring.slices(False, offset, 1000, 64))
            assert joined == request[offset : offset + 1000]
        written = b"".join(pair.ring.slices(True, 1, MAX_CHAIN_BYTES, 64))
        assert written[: max(0, len(reply) - 1)] == reply[1:room]
        assert len(written) == max(0, room - 1)
        pair.push(0, min(len(reply), room))
        pair.compare()


def test_windows_end_at_the_room_that_there_is() -> None:
    with Pair(PLACES, 4) as pair:
        pair.poke(DATA, b"abcdef")
        offer(pair, [(DATA, 1, 1, 1), (DATA + 1, 2, 1, 2), (DATA + 3, 3, 0, 0)])
        pair.pop()
        assert pair.ring.slices(False, 0, 6, 2) == [b"a", b"bc"]
        assert pair.ring.slices(False, 0, 6, 0) == []
        assert pair.ring.slices(False, 2, 2, 8) == [b"c", b"d"]
        assert pair.ring.slices(True, 0, 6, 8) == []


def test_a_descriptor_over_two_regions_is_one_stream() -> None:
    with Pair(PLACES, 4) as pair:
        pair.poke(DATA + PAGE - 3, b"abcdef")
        offer(pair, [(DATA + PAGE - 3, 6, DESC_F_NEXT, 1), (DATA + PAGE - 3, 6, DESC_F_WRITE, 0)])
        assert pair.pop() == (Outcome.GOT, 0, b"abcdef", 6, Fault.OK)
        assert pair.ring.slices(False, 0, 6, 8) == [b"abc", b"def"]
        assert pair.write(1, b"12345") == 5
        pair.compare()


N, W, X = DESC_F_NEXT, DESC_F_WRITE, DESC_F_INDIRECT
END = DATA + 4 * PAGE
BAD_CHAINS: dict[str, tuple[Fault, list[tuple[int, int, int, int]]]] = {
    "next beyond the table": (Fault.BAD_INDEX, [(DATA, 1, N, 8)]),
    "next far beyond the table": (Fault.BAD_INDEX, [(DATA, 1, N, 0xFFFF)]),
    "a loop of one": (Fault.TOO_LONG, [(DATA, 1, N, 0)]),
    "a loop of two": (Fault.TOO_LONG, [(DATA, 1, N, 1), (DATA, 1, N, 0)]),
    "a loop of empty ones": (Fault.TOO_LONG, [(DATA, 0, N, 0)]),
    "no such memory": (Fault.UNMAPPED, [(END, 1, 0, 0)]),
    "one byte too long": (Fault.UNMAPPED, [(END - 4, 5, 0, 0)]),
    "the last address": (Fault.UNMAPPED, [((1 << 64) - 1, 1, 0, 0)]),
    "a length over the last address": (Fault.UNMAPPED, [((1 << 64) - 8, 0xFFFF, 0, 0)]),
    "readable behind writable": (Fault.BAD_ORDER, [(DATA, 1, N | W, 1), (DATA, 1, 0, 0)]),
    "more than 64 MiB": (Fault.TOO_BIG, [(DATA, MAX_CHAIN_BYTES + 1, 0, 0)]),
    "more than 4 GiB together": (Fault.UNMAPPED, [(DATA, 0xFFFFFF, N, 1), (DATA, 0xFFFFFFFF, 0, 0)]),
    "an empty indirect table": (Fault.BAD_INDIRECT, [(DATA, 0, X, 0)]),
    "an indirect table of 15 bytes": (Fault.BAD_INDIRECT, [(DATA, 15, X, 0)]),
    "an indirect table of 17 bytes": (Fault.BAD_INDIRECT, [(DATA, 17, X, 0)]),
    "an indirect table with next": (Fault.BAD_INDIRECT, [(DATA, 16, X | N, 1)]),
    "an indirect table of 32769": (Fault.BAD_INDIRECT, [(DATA, 16 * (MAX_CHAIN + 1), X, 0)]),
    "an indirect table that is not there": (Fault.UNMAPPED, [(END, 16, X, 0)]),
    "an indirect table over two regions": (Fault.UNMAPPED, [(DATA + PAGE - 8, 16, X, 0)]),
    "an indirect table beyond the end": (Fault.UNMAPPED, [(END - 16, 32, X, 0)]),
    "an indirect table at the last address": (Fault.UNMAPPED, [((1 << 64) - 16, 16, X, 0)]),
}


@pytest.mark.parametrize("name", BAD_CHAINS)
def test_bad_chains(name: str) -> None:
    fault, table = BAD_CHAINS[name]
    with Pair(PLACES, 8) as pair:
        offer(pair, table)
        assert pair.pop() == (Outcome.BAD_CHAIN, 0, b"", 0, fault)
        pair.push(0, 0)
        pair.compare()


BAD_TABLES: dict[str, tuple[Fault, list[tuple[int, int, int, int]]]] = {
    "a table in a table": (Fault.BAD_INDIRECT, [(DATA, 16, X, 0)]),
    "next beyond the table": (Fault.BAD_INDEX, [(DATA, 1, N, 2), (DATA, 1, 0, 0)]),
    "a loop": (Fault.TOO_LONG, [(DATA, 1, N, 1), (DATA, 1, N, 0)]),
    "readable behind writable": (Fault.BAD_ORDER, [(DATA, 1, N | W, 1), (DATA, 1, 0, 0)]),
    "no such memory": (Fault.UNMAPPED, [(DATA, 1, N, 1), (END, 1, 0, 0)]),
}


@pytest.mark.parametrize("name", BAD_TABLES)
@pytest.mark.parametrize("at", [3 * PAGE // 2, PAGE + 1, DATA + 4 * PAGE - 32], ids=["aligned", "odd", "at the end"])
def test_bad_indirect_tables(name: str, at: int) -> None:
    fault, table = BAD_TABLES[name]
    with Pair(PLACES, 8) as pair:
        offer(pair, table, at=at)
        assert pair.pop() == (Outcome.BAD_CHAIN, 0, b"", 0, fault)
        pair.compare()


def test_a_chain_of_the_largest_size() -> None:
    """32768 descriptors in an indirect table, the ring's own table full before it: good. The limits are the model's."""
    assert LIMITS == (MAX_CHAIN, MAX_CHAIN_BYTES, 32768)
    table = Place(1 << 32, 1 << 40, 16 * MAX_CHAIN)
    with Pair((*PLACES, table), 2) as pair:
        pair.poke(DATA, b"x")
        entries = [descriptor(DATA, 1, N if i + 1 < MAX_CHAIN else 0, i + 1) for i in range(MAX_CHAIN)]
        pair.poke(table.guest, b"".join(entries))
        offer(pair, [(DATA, 1, N, 1), (table.guest, table.size, X, 0)])
        assert pair.pop() == (Outcome.GOT, 0, b"x" * (MAX_CHAIN + 1), 0, Fault.OK)


def test_a_chain_of_the_most_bytes() -> None:
    big = Place(1 << 32, 1 << 40, MAX_CHAIN_BYTES)
    with Pair((*PLACES, big), 2) as pair:
        offer(pair, [(big.guest, big.size - 1, N | W, 1), (DATA, 1, W, 0)])
        assert pair.pop()[::3] == (Outcome.GOT, MAX_CHAIN_BYTES)
        offer(pair, [(big.guest, big.size, N | W, 1), (DATA, 1, W, 0)])
        pair.set_base(0)
        assert pair.pop()[::4] == (Outcome.BAD_CHAIN, Fault.TOO_BIG)
