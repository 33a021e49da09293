"""Our own data behind the state: framing, checksum, and which record is under which tag.

    trailer = magic, version: varint, record*, end
    record  = tag: varint, length: varint, payload
    end     = tag 0, length 12, bytes of the whole stream: u64, checksum: u32 (both little-endian)

The checksum is over everything before it, the state included, so what virtiofsd's format leaves unprotected is
protected in our streams. It is CRC-32 (zlib.crc32): every flipped bit, and every burst of up to 32 bits, changes it
for certain; it is in the standard library at more than 1 GB/s, which CRC-32C is not, and nobody defends against an
adversary here: who writes the stream is trusted with the state anyway. The length is there to tell a cut stream from
a damaged one.

A tag with an odd number is optional: who does not know it skips it. An even one is critical: who does not know it
refuses.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from ferryfs.errors import StateError
from ferryfs.migration import columns
from ferryfs.migration.numbered import numbered
from ferryfs.migration.state import (
    MAX_FILE_HANDLE_BYTES,
    ROOT_ID,
    Inode,
    Invalid,
    Path,
    State,
    body,
    name_fault,
    path_fault,
)
from ferryfs.migration.trailer_identities import Folders, InodeIdentities
from ferryfs.migration.trailer_records import (
    Content,
    HalfRead,
    LostInodes,
    MountRoots,
    Mounts,
    Nameless,
    Names,
    Negotiated,
    Packed,
    Record,
    Unlinked,
)
from ferryfs.values import frozen
from ferryfs.wire.postcard import Reader, Writer

# Not UTF-8, and no beginning of anything that postcard writes behind a state.
MAGIC: Final = b"\xf5ferryfs"
VERSION: Final = 1
END_TAG: Final = 0
# off_t, and what Linux takes for an errno.
LARGEST_FILE_BYTES: Final = (1 << 63) - 1
LARGEST_ERRNO: Final = 4095
_END: Final = struct.Struct("<BBQI")
_END_PAYLOAD_BYTES: Final = 12

# One table for writing, reading and ``ferryfs inspect``. Critical (even): without it the guest would get wrong answers.
TAGS: Final[dict[int, type[Record]]] = {
    1: Mounts,
    2: Negotiated,
    3: InodeIdentities,
    4: HalfRead,
    5: Unlinked,
    7: Content,
    9: Names,
    11: LostInodes,
    13: Folders,
    15: Nameless,
    17: MountRoots,
}
_TAG_OF: Final = {kind: tag for tag, kind in TAGS.items()}


@frozen
class Trailer:
    """A trailer whose checksum was right."""

    version: int
    records: tuple[Record, ...]
    # Tags that this version does not know, all of them optional.
    skipped: tuple[int, ...] = ()

    def only(self, kind: type[Negotiated]) -> Negotiated | None:
        """The record of a kind that comes once at most."""
        found = [record for record in self.records if isinstance(record, kind)]
        if len(found) > 1:
            raise StateError(f"the trailer of the state has {len(found)} records {kind.__name__}, but one is possible")
        return found[0] if found else None


def write(state: Iterable[bytes | memoryview], records: Iterable[Record | Packed]) -> Iterator[bytes | memoryview]:
    """The whole stream, in pieces: ``state`` as the codec made it with ``trailer_follows``, then the trailer.

    Takes the records one by one, as they are asked for; never holds more than one.
    """
    checksum = 0
    length = 0
    for piece in _pieces(state, records):
        checksum = zlib.crc32(piece, checksum)
        length += len(piece)
        yield piece
    length += _END.size
    head = struct.pack("<BBQ", END_TAG, _END_PAYLOAD_BYTES, length)
    yield head + struct.pack("<I", zlib.crc32(head, checksum))


def _pieces(state: Iterable[bytes | memoryview], records: Iterable[Record | Packed]) -> Iterator[bytes | memoryview]:
    yield from state
    head = Writer()
    head.raw(MAGIC)
    head.u64(VERSION)
    yield head.getvalue()
    for record in records:
        kind: type[Record]
        if isinstance(record, Packed):
            kind, payload = record.kind, record.payload
        else:
            writer = Writer()
            record.write(writer)
            kind, payload = type(record), writer.getvalue()
        frame = Writer()
        frame.u64(_TAG_OF[kind])
        frame.u64(len(payload))
        yield frame.getvalue()
        yield payload


def begins(data: bytes | bytearray | memoryview, start: int) -> bool:
    """Whether a trailer stands at ``start``."""
    return bytes(memoryview(data)[start : start + len(MAGIC)]) == MAGIC


def read(data: bytes | bytearray | memoryview, start: int) -> Trailer:
    """The trailer at ``start`` of the whole stream ``data``. Raises StateError, before any record is looked at, for a
    stream that is cut or damaged anywhere."""
    view = memoryview(data)
    if not begins(view, start):
        raise StateError(f"byte {start} of the state: {len(view) - start} bytes follow that are no trailer of ferryfs")
    _check_end(view, start)
    reader = Reader(view[start : len(view) - _END.size], base=start)
    reader.take(len(MAGIC), "the magic")
    version = reader.u64("the trailer's version")
    if version != VERSION:
        raise reader.error(f"the trailer is of version {version}, and this ferryfs knows {VERSION}: use a newer one")
    records: list[Record] = []
    skipped: list[int] = []
    while reader.remaining:
        at = reader.offset
        tag = reader.u64("a record's tag")
        payload = reader.view("a record of the trailer")
        kind = TAGS.get(tag)
        if kind is None:
            if tag % 2 == 0:
                raise reader.error(f"the trailer needs a ferryfs that knows records of kind {tag}: use a newer one", at)
            skipped.append(tag)
            continue
        inner = Reader(payload, base=start + reader.offset - len(payload))
        records.append(kind.read(inner))
        inner.end(f"a record {kind.__name__}")
    return Trailer(version, tuple(records), tuple(skipped))


def _check_end(view: memoryview, start: int) -> None:
    """The end record, its length, its checksum."""
    end = len(view) - _END.size
    if end < start + len(MAGIC):
        raise StateError(f"the state is cut: it ends after {len(view)} bytes, within its trailer")
    tag, payload_bytes, length, checksum = _END.unpack_from(view, end)
    whole = tag == END_TAG and payload_bytes == _END_PAYLOAD_BYTES and length == len(view)
    right = zlib.crc32(view[: len(view) - 4]) == checksum
    if whole and right:
        return
    if whole or right:
        raise StateError(f"the state of {len(view)} bytes is damaged: its checksum is wrong")
    raise StateError(f"the state is cut or damaged: its {len(view)} bytes do not end as a trailer ends")


def validate(trailer: Trailer, state: State) -> Trailer:
    """Gives ``trailer`` back when it fits ``state`` and may be acted upon, else raises StateError."""
    inodes = numbered(state)
    handles = {handle.id for handle in body(state).handles}
    mounts = [record for record in trailer.records if isinstance(record, Mounts)]
    if len(mounts) > 1:
        raise StateError(f"the trailer of the state lists the mounts {len(mounts)} times, but once is possible")
    trailer.only(Negotiated)
    mount_count = len(mounts[0].mounts) if mounts else 0
    unlinked: dict[int, tuple[Unlinked, int]] = {}
    for record in trailer.records:
        match record:
            case Mounts(listed):
                for index, mount in enumerate(listed):
                    fault = "" if (mount.path == b".") == (index == 0) else "is out of place"
                    fault = fault or (path_fault(mount.path) if index else "")
                    if fault:
                        raise StateError(f"the trailer's mount {mount.mount_id} has a path {mount.path!r} that {fault}")
                    _check_handle_bytes(len(mount.identity.handle))
            case InodeIdentities():
                _check_identities(record, mount_count)
            case Unlinked(inode=inode):
                if inode in unlinked or not _belongs(inode, record.refcount, inodes, state):
                    raise StateError(f"the trailer has an unlinked file {inode}, which the state has not, or has twice")
                if record.size > LARGEST_FILE_BYTES:
                    raise StateError(f"the trailer's unlinked file {inode} has {record.size} bytes, which no file has")
                if any(not name or b"\0" in name for name, _ in record.xattrs) or b"\0" in record.target:
                    raise StateError(f"the trailer's unlinked file {inode} has a name that is empty or contains a NUL")
                unlinked[inode] = (record, 0)
            case Content(inode, offset, data):
                file, reached = unlinked.get(inode, (None, 0))
                if file is None or not file.has_content or offset < reached or offset + len(data) > file.size:
                    raise StateError(
                        f"the trailer has {len(data)} bytes for offset {offset} of the unlinked file {inode}, "
                        "where they can't be"
                    )
                unlinked[inode] = (file, offset + len(data))
            case HalfRead(handle=handle):
                if handle not in handles:
                    raise StateError(f"the trailer has a half-read directory {handle}, which the state has not")
                for entry in record.entries:
                    # Without a name it is a place in the directory, no entry.
                    if entry.name not in (b"", b".", b"..") and name_fault(entry.name):
                        raise StateError(f"the trailer's directory {handle} has an entry that {name_fault(entry.name)}")
            case Names(names):
                for name in names:
                    fault = name_fault(name.name) if name.parent else path_fault(name.name)
                    known = name.inode in inodes and (name.parent == 0 or name.parent in inodes)
                    if fault or not known or not isinstance(inodes[name.inode].location, Invalid):
                        raise StateError(
                            f"the trailer has a name {name.name!r} for inode {name.inode} that "
                            f"{fault or 'has none to be given'}"
                        )
            case LostInodes(lost):
                if any(not _belongs(one.inode, one.refcount, inodes, state) for one in lost):
                    raise StateError("the trailer gives a reason for a lost inode that the state has not")
                if any(one.errno > LARGEST_ERRNO for one in lost):
                    raise StateError(f"the trailer gives an errno for a lost inode that is above {LARGEST_ERRNO}")
            case MountRoots(roots):
                for root in roots:
                    if root.inode not in inodes:
                        raise StateError(
                            f"the trailer has the root of a mount, inode {root.inode}, which the state has not"
                        )
                    _check_handle_bytes(len(root.identity.handle))
            case Nameless(nameless):
                if any(one not in inodes for one in nameless):
                    raise StateError("the trailer says that an inode has no name which the state has not")
    _check_own_numbers(trailer)
    _check_name_loops(trailer, state)
    return trailer


def _belongs(inode: int, refcount: int, inodes: Mapping[int, Inode], state: State) -> bool:
    """Whether a record may speak of this inode: one of the state, or one of its own number that only the trailer
    has.
    """
    if refcount == 0:
        return inode in inodes
    return inode not in inodes and ROOT_ID < inode < body(state).next_inode


def _check_handle_bytes(length: int) -> None:
    if length > MAX_FILE_HANDLE_BYTES:
        raise StateError(f"the trailer has a file handle of {length} bytes; {MAX_FILE_HANDLE_BYTES} are possible")


def _check_identities(record: InodeIdentities, mount_count: int) -> None:
    for shape in record.shapes:
        _check_handle_bytes(shape.length)
        if shape.mount >= mount_count:
            raise StateError(f"the trailer has file handles of its mount {shape.mount}, but lists {mount_count}")
    bad = columns.first_bad_name(record.name_lengths, record.names)
    if bad >= 0:
        at = sum(record.name_lengths[:bad])
        name = bytes(record.names[at : at + record.name_lengths[bad]])
        raise StateError(f"the trailer names inode {record.ids[bad]} {name!r}, which {name_fault(name)}")


def _check_own_numbers(trailer: Trailer) -> None:
    """Two records of an inode that only the trailer has would be two inodes of one number."""
    seen: set[int] = set()
    for record in trailer.records:
        listed = (record,) if isinstance(record, Unlinked) else record.inodes if isinstance(record, LostInodes) else ()
        for one in listed:
            if one.refcount and one.inode in seen:
                raise StateError(f"the trailer has the inode {one.inode}, which the state has not, twice")
            if one.refcount:
                seen.add(one.inode)


def _check_name_loops(trailer: Trailer, state: State) -> None:
    """Names give parents to inodes that have none in the state; all parents together must still lead to the root."""
    if not any(isinstance(record, Names) for record in trailer.records):
        return
    named: set[int] = set()
    parents = {inode.id: inode.location.parent for inode in body(state).inodes if isinstance(inode.location, Path)}
    for record in trailer.records:
        if isinstance(record, Names):
            for name in record.names:
                if name.inode in named:
                    raise StateError(f"the trailer has two names for inode {name.inode}")
                named.add(name.inode)
                parents[name.inode] = name.parent
    settled: set[int] = set()
    for start in named:
        trail: set[int] = set()
        at = start
        while at in parents and at not in settled:
            if at in trail:
                raise StateError(f"the trailer's names lead in a loop at inode {at}")
            trail.add(at)
            at = parents[at]
        settled |= trail
