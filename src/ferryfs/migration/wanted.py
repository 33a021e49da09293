"""What is still to be restored, as objects: an inode, where it should be, and why it could not be had."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence

from ferryfs.migration.carried import Carried
from ferryfs.migration.state import ROOT_ID, ByHandle, FullPath, Inode, Path
from ferryfs.values import mutable


@mutable
class Wanted:
    """One inode that is to be restored."""

    inode: Inode
    lookups: int
    # Where it should be; parent 0: ``name`` is a path from the root, or there is none.
    parent: int = 0
    name: bytes = b""
    error: OSError | None = None
    why: str = ""
    # It has no name any more: its file handle says so, or the whole share was seen.
    gone: bool = False
    # Its file handle can't be asked: that takes a capability.
    unasked: bool = False
    # Made anew from what travels.
    anew: bool = False
    # And its content did not travel.
    hollow: bool = False
    # Its file handle leads to another file: it is to be found nowhere else.
    other: bool = False


def wanted_of(inode: Inode, lookups: int, carried: Carried) -> Wanted:
    """An inode of the stream, with the place at which its location or the trailer's name puts it."""
    match inode.location:
        case Path(parent, filename):
            return Wanted(inode, lookups, parent, filename.encode())
        case FullPath(filename):
            return Wanted(inode, lookups, 0, filename.encode())
        case _:
            name = carried.names.get(inode.id)
            return Wanted(inode, lookups, name.parent, name.name) if name else Wanted(inode, lookups)


def counted(inodes: Sequence[Inode]) -> list[tuple[Inode, int]]:
    """All inodes but the root, each with the number of its children."""
    children: dict[int, int] = {}
    for inode in inodes:
        if isinstance(inode.location, Path):
            children[inode.location.parent] = children.get(inode.location.parent, 0) + 1
    return [(inode, children.get(inode.id, 0)) for inode in inodes if inode.id != ROOT_ID]


def places(inodes: Sequence[Inode], carried: Carried) -> Iterator[tuple[int, int, bytes]]:
    """(nodeid, parent, name) of every inode whose place at the source is known; parent 0: a path from the root."""
    for inode in inodes:
        match inode.location:
            case Path(parent, filename):
                yield inode.id, parent, filename.encode()
            case FullPath(filename):
                yield inode.id, 0, filename.encode()
            case ByHandle():
                expected = carried.identities.get(inode.id)
                if expected and expected.name:
                    yield inode.id, expected.parent, expected.name
            case _:
                name = carried.names.get(inode.id)
                if name:
                    yield inode.id, name.parent, name.name


def taken_along(wanted: Wanted, below: dict[int, list[Wanted]]) -> list[Wanted]:
    """What is in a directory that can't be had: can't be had for the same reason, unless it is found elsewhere."""
    children = below.pop(wanted.inode.id, [])
    for child in children:
        child.error, child.why = wanted.error, wanted.why
    return children


def name_of(inode: Inode) -> str:
    match inode.location:
        case Path(_, filename) | FullPath(filename):
            return f"inode {inode.id} ({filename!r})"
        case _:
            return f"inode {inode.id}"


def called(number: int, inodes: Mapping[int, Inode], carried: Carried) -> str:
    """An inode for the log, with its last name wherever the stream has one."""
    inode = inodes[number]
    odd = carried.names.get(number)
    told = carried.identities.get(number)
    name = odd.name if odd else told.name if told else b""
    if isinstance(inode.location, Path | FullPath) or not name:
        return name_of(inode)
    return f"inode {number} ({os.fsdecode(name)!r})"
