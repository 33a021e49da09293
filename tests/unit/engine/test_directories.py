"""Walks through directories in answers of any size: what is kept between two answers is given once, and not lost."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_guest import Guest

from ferryfs.wire import fuse
from ferryfs.wire.fuse import Op

NAMES = [f"{'n' * (k % 40)}{k:03}" for k in range(700)]
OPS = pytest.mark.parametrize("op", [Op.READDIR, Op.READDIRPLUS], ids=lambda op: op.name)


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    for name in NAMES:
        (tmp_path / name).touch()
    with Guest(tmp_path) as guest:
        yield guest


def read(guest: Guest, op: Op, fh: int, offset: int, size: int) -> list[tuple[str, int]]:
    """Name and offset of each entry of one answer."""
    answer = guest.ask(op, 1, fuse.READ_IN.pack(fh=fh, offset=offset, size=size), room=size)
    prefix = fuse.ENTRY_OUT.size if op is Op.READDIRPLUS else 0
    entries, at = [], 0
    while at < len(answer):
        entry = fuse.DIRENT.unpack(answer, at + prefix)
        name = answer[at + prefix + fuse.DIRENT.size :][: entry["namelen"]].decode()
        entries.append((name, entry["off"]))
        at += fuse.record_size(prefix + fuse.DIRENT.size + entry["namelen"])
    return entries


def walk(guest: Guest, op: Op, fh: int, offset: int, sizes: Iterator[int]) -> list[tuple[str, int]]:
    """All entries from an offset to the end."""
    entries: list[tuple[str, int]] = []
    while part := read(guest, op, fh, offset, next(sizes)):
        entries += part
        offset = part[-1][1]
    return entries


def always(size: int) -> Iterator[int]:
    while True:
        yield size


def anything(seed: int) -> Iterator[int]:
    choice = random.Random(seed)
    while True:
        yield choice.choice((240, 512, 4096, 5000, 65536))


@OPS
@pytest.mark.parametrize("size", [240, 1000, 4096, 32768, 100000])
def test_every_entry_once(guest: Guest, op: Op, size: int) -> None:
    fh = guest.open(1, os.O_DIRECTORY)
    entries = walk(guest, op, fh, 0, always(size))
    assert sorted(name for name, _ in entries) == sorted([".", "..", *NAMES])


@OPS
def test_a_walk_goes_on_at_any_offset_it_was_given(guest: Guest, op: Op) -> None:
    fh = guest.open(1, os.O_DIRECTORY)
    entries = walk(guest, op, fh, 0, anything(1))
    for seed, place in enumerate((0, 1, 30, 31, 300, 699, 701)):
        # From the middle of what the last answer left over as well as from far away.
        read(guest, op, fh, entries[place // 2][1], 512)
        assert walk(guest, op, fh, entries[place][1], anything(seed)) == entries[place + 1 :]


@OPS
def test_from_the_beginning_means_anew(guest: Guest, op: Op) -> None:
    fh = guest.open(1, os.O_DIRECTORY)
    first = read(guest, op, fh, 0, 4096)
    assert first
    for name in NAMES:
        (guest.shared / name).unlink()
    (guest.shared / "new").touch()
    assert {name for name, _ in walk(guest, op, fh, 0, always(4096))} == {".", "..", "new"}


@OPS
def test_too_little_room_for_the_next_entry(guest: Guest, op: Op) -> None:
    fh = guest.open(1, os.O_DIRECTORY)
    body = fuse.READ_IN.pack(fh=fh, size=16)
    assert guest.refused(op, 1, body, room=16) == 22
    assert len(walk(guest, op, fh, 0, always(4096))) == len(NAMES) + 2


def test_both_operations_share_a_stream(guest: Guest) -> None:
    fh = guest.open(1, os.O_DIRECTORY)
    first = read(guest, Op.READDIRPLUS, fh, 0, 4096)
    second = read(guest, Op.READDIR, fh, first[-1][1], 4096)
    rest = walk(guest, Op.READDIRPLUS, fh, second[-1][1], always(4096))
    assert sorted(name for name, _ in first + second + rest) == sorted([".", "..", *NAMES])
