"""The trailer's records by the inode or open file that they speak of."""

from __future__ import annotations

from collections.abc import Iterable

from ferryfs.migration.trailer_identities import Folders, InodeIdentities
from ferryfs.migration.trailer_records import (
    Content,
    FileSystemIdentity,
    HalfRead,
    Lost,
    LostInodes,
    MountRoots,
    Mounts,
    Name,
    Nameless,
    Names,
    Negotiated,
    Record,
    Unlinked,
)
from ferryfs.migration.verify import Identities
from ferryfs.values import field, mutable


@mutable
class Carried:
    """What the trailer brought, by inode or handle."""

    identities: Identities
    mounts: Mounts | None = None
    folders: Folders | None = None
    negotiated: Negotiated | None = None
    unlinked: dict[int, Unlinked] = field(default_factory=dict)
    contents: dict[int, list[Content]] = field(default_factory=dict)
    half_read: dict[int, HalfRead] = field(default_factory=dict)
    names: dict[int, Name] = field(default_factory=dict)
    lost: dict[int, Lost] = field(default_factory=dict)
    nameless: set[int] = field(default_factory=set)
    mount_roots: dict[int, FileSystemIdentity] = field(default_factory=dict)


def sort(records: Iterable[Record]) -> Carried:
    """The records of a validated trailer."""
    records = tuple(records)
    carried = Carried(Identities([record for record in records if isinstance(record, InodeIdentities)]))
    for record in records:
        match record:
            case Mounts():
                carried.mounts = record
            case Folders():
                carried.folders = record
            case Negotiated():
                carried.negotiated = record
            case Unlinked(inode=inode):
                carried.unlinked[inode] = record
            case Content(inode=inode):
                carried.contents.setdefault(inode, []).append(record)
            case HalfRead(handle=handle):
                carried.half_read[handle] = record
            case Names(names):
                carried.names.update({name.inode: name for name in names})
            case LostInodes(lost):
                carried.lost.update({one.inode: one for one in lost})
            case MountRoots(roots):
                carried.mount_roots.update({root.inode: root.identity for root in roots})
            case Nameless(inodes):
                carried.nameless.update(inodes)
            case _:
                pass
    return carried
