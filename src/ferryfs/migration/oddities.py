"""What is strange about a stream that can be loaded all the same: for ``ferryfs inspect`` and for the destination's
log.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Final

from ferryfs.migration import state
from ferryfs.migration.state import ByHandle, Invalid, Path, RootNode, StateV1
from ferryfs.migration.stream import Stream
from ferryfs.migration.trailer_records import LostInodes, Mounts, Names, Record, Unlinked

# No guest looks anything up a million million times.
MANY_LOOKUPS: Final = 1 << 40
# Flags that must not be in force when a file is opened again.
FORBIDDEN_FLAGS: Final = os.O_CREAT | os.O_EXCL | os.O_TRUNC
# How many inodes or handles one line names.
NAMED: Final = 5


def oddities(stream: Stream) -> list[str]:
    """One sentence each; empty when all is as it should be. ``stream`` need not have passed the door."""
    v1 = state.body(stream.state)
    records = stream.trailer.records if stream.trailer else ()
    return [*_of_root(v1, records), *_of_inodes(stream, v1, records), *_of_handles(v1), *_of_trailer(stream)]


def _of_root(v1: StateV1, records: tuple[Record, ...]) -> Iterator[str]:
    root = next((inode for inode in v1.inodes if isinstance(inode.location, RootNode)), None)
    if root is None:
        if not v1.inodes:
            yield "The guest had not mounted the share."
        return
    if root.file_handle is None and not any(isinstance(record, Mounts) and record.mounts for record in records):
        yield "Nothing in it proves which directory the root was."
    children = sum(isinstance(inode.location, Path) and inode.location.parent == root.id for inode in v1.inodes)
    if root.refcount != children + 2:
        yield f"The root counts {root.refcount} references; {children + 2} are usual (2 and {children} children)."


def _of_inodes(stream: Stream, v1: StateV1, records: tuple[Record, ...]) -> Iterator[str]:
    carried = {record.inode for record in records if isinstance(record, Unlinked)}
    named = {name.inode for record in records if isinstance(record, Names) for name in record.names}
    reasons = {
        lost.inode: lost.reason for record in records if isinstance(record, LostInodes) for lost in record.inodes
    }
    invalid = [inode.id for inode in v1.inodes if isinstance(inode.location, Invalid)]
    lost = [number for number in invalid if number not in carried | named]
    if lost:
        why = sorted({reasons[number] for number in lost if number in reasons})
        yield f"The source could not locate {_which('inode', lost)}{': ' + '; '.join(why[:NAMED]) if why else ''}."
    mounts = {mount.mount_id for mount in state.mount_paths(stream.state)}
    stray = [
        inode.id
        for inode in v1.inodes
        if isinstance(inode.location, ByHandle) and inode.location.handle.mount_id not in mounts
    ]
    if stray:
        yield f"No path is given for the mount of {_which('inode', stray)}, so nobody can open the handle."
    parents = {inode.location.parent for inode in v1.inodes if isinstance(inode.location, Path)}
    unused = [inode.id for inode in v1.inodes if inode.refcount == 0 and inode.id not in parents]
    if unused:
        yield f"Nobody refers to {_which('inode', unused)}."
    many = [inode.id for inode in v1.inodes if inode.refcount > MANY_LOOKUPS]
    if many:
        yield f"The lookup count of {_which('inode', many)} is absurdly large."
    places: dict[tuple[int, str], int] = {}
    twice = []
    for inode in v1.inodes:
        if isinstance(inode.location, Path):
            place = (inode.location.parent, inode.location.filename)
            if places.setdefault(place, inode.id) != inode.id:
                twice.append(inode.id)
    if twice:
        yield f"Another inode has the same parent and name as {_which('inode', twice)}."


def _of_handles(v1: StateV1) -> Iterator[str]:
    forbidden = [handle.id for handle in v1.handles if handle.flags & FORBIDDEN_FLAGS]
    if forbidden:
        which = _which("handle", forbidden)
        yield f"The flags of {which} would create or truncate; the destination has to take them off."


def _of_trailer(stream: Stream) -> Iterator[str]:
    if stream.trailer is not None and stream.trailer.skipped:
        tags = ", ".join(str(tag) for tag in sorted(set(stream.trailer.skipped)))
        yield f"Its trailer has records of kind {tags}, which this ferryfs does not know and does not need."


def _which(noun: str, numbers: Iterable[int]) -> str:
    listed = list(numbers)
    if len(listed) == 1:
        return f"{noun} {listed[0]}"
    more = len(listed) - NAMED
    return f"{len(listed)} {noun}s ({', '.join(map(str, listed[:NAMED]))}{f' and {more} more' if more > 0 else ''})"
