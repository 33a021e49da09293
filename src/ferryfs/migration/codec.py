"""Stream to state and back, in obvious Python: what each byte means, and the oracle for the compiled codec of the
live tables.

Decoding checks types and lengths only; ``state.validate`` is the door that decides whether the values make sense. The
stream tells where the state ends, so that something may stand behind it: our trailer (``trailer``), which virtiofsd
does not see.

A promise that a trailer follows is part of the state's bytes: the count of inodes is then spelled with one zero group
more than it needs. postcard reads both spellings alike, so virtiofsd loads such a stream, and we notice when the
stream was cut exactly where the trailer begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ferryfs.migration import bulk
from ferryfs.migration.state import (
    ByHandle,
    FileHandle,
    FullPath,
    Handle,
    Inode,
    Invalid,
    Location,
    MountPath,
    Options,
    Path,
    RootNode,
    State,
    StateV1,
    StateV2,
)
from ferryfs.values import frozen
from ferryfs.wire.postcard import Reader, Writer, is_padded

# Indexes of the enums, as the reference daemon declares them.
VERSION_1: Final = 0
VERSION_2: Final = 1
LOCATION_ROOT_NODE: Final = 0
LOCATION_PATH: Final = 1
LOCATION_INVALID: Final = 2
LOCATION_FULL_PATH: Final = 3
LOCATION_FILE_HANDLE: Final = 4
SOURCE_OPEN_INODE: Final = 0

# The least bytes of a record: what bounds a count before anything is allocated.
_INODE_LEAST_BYTES: Final = 4
_HANDLE_LEAST_BYTES: Final = 4
_MOUNT_PATH_LEAST_BYTES: Final = 2


@frozen
class Decoded:
    """A state as it stood in a stream."""

    state: State
    # Where the state ended, in bytes from the start of the stream.
    end: int
    # Whether the writer promised a trailer behind it.
    trailer_promised: bool


def decode(data: bytes | bytearray | memoryview) -> Decoded:
    """Reads the state at the beginning of ``data``. Raises StateError; the value is still to be validated."""
    reader = Reader(data)
    version = reader.variant(2, "the version")
    count_at = reader.offset
    count = reader.count(_INODE_LEAST_BYTES, "inodes")
    trailer_promised = is_padded(memoryview(data)[count_at : reader.offset])
    inodes = tuple(_read_inode(reader) for _ in range(count))
    return _decode_rest(reader, version, inodes, trailer_promised)


def decode_behind(
    data: bytes | bytearray | memoryview, offset: int, version: int, inodes: Sequence[Inode], trailer_promised: bool
) -> Decoded:
    """Reads what stands behind the inodes, which ``bulk`` has read; ``offset``: bytes from the start of the stream."""
    reader = Reader(data)
    reader.take(offset, "the inodes")
    return _decode_rest(reader, version, inodes, trailer_promised)


def _decode_rest(reader: Reader, version: int, inodes: Sequence[Inode], trailer_promised: bool) -> Decoded:
    next_inode = reader.u64("the next inode number")
    handles = _read_handles(reader)
    v1 = StateV1(inodes, next_inode, handles, reader.u64("the next handle number"), _read_options(reader))
    if version == VERSION_1:
        return Decoded(v1, reader.offset, trailer_promised)
    mount_count = reader.count(_MOUNT_PATH_LEAST_BYTES, "mount paths")
    mounts = tuple(
        MountPath(reader.u64("a mount id"), reader.string("the path of a mount")) for _ in range(mount_count)
    )
    return Decoded(StateV2(v1, mounts), reader.offset, trailer_promised)


def encode(state: State, *, trailer_follows: bool = False) -> bytes:
    """The stream of ``state``, byte for byte as virtiofsd writes it, but for the promise of a trailer."""
    writer = Writer()
    v1 = state.v1 if isinstance(state, StateV2) else state
    writer.u32(VERSION_2 if isinstance(state, StateV2) else VERSION_1)
    (writer.u64_padded if trailer_follows else writer.u64)(len(v1.inodes))
    for inode in v1.inodes:
        _write_inode(writer, inode)
    writer.u64(v1.next_inode)
    writer.u64(len(v1.handles))
    for handle in v1.handles:
        writer.u64(handle.id)
        writer.u64(handle.inode)
        writer.u32(SOURCE_OPEN_INODE)
        writer.i32(handle.flags)
    writer.u64(v1.next_handle)
    for option in (
        v1.options.writeback,
        v1.options.announce_submounts,
        v1.options.posix_acl,
        v1.options.sup_group_extension,
    ):
        writer.boolean(option)
    if isinstance(state, StateV2):
        writer.u64(len(state.mount_paths))
        for mount in state.mount_paths:
            writer.u64(mount.mount_id)
            writer.string(mount.path)
    return writer.getvalue()


def _read_inode(reader: Reader) -> Inode:
    number = reader.u64("an inode number")
    refcount = reader.u64("a lookup count")
    location = _read_location(reader)
    file_handle = _read_file_handle(reader) if reader.option("a file handle to compare") else None
    return Inode(number, refcount, location, file_handle)


def _read_location(reader: Reader) -> Location:
    kind = reader.variant(5, "the location of an inode")
    if kind == LOCATION_ROOT_NODE:
        return RootNode()
    if kind == LOCATION_PATH:
        return Path(reader.u64("the parent of an inode"), reader.string("a file name"))
    if kind == LOCATION_INVALID:
        return Invalid()
    if kind == LOCATION_FULL_PATH:
        return FullPath(reader.string("a path"))
    return ByHandle(_read_file_handle(reader))


def _read_file_handle(reader: Reader) -> FileHandle:
    mount_id = reader.u64("the mount id of a file handle")
    handle_type = reader.i32("the type of a file handle")
    return FileHandle(mount_id, handle_type, reader.byte_string("a file handle"))


def _read_handles(reader: Reader) -> tuple[Handle, ...]:
    count = reader.count(_HANDLE_LEAST_BYTES, "open files")
    found = bulk.handles(reader.rest(), count)
    if found is not None:
        reader.take(found[1], "open files")
        return found[0]
    return tuple(_read_handle(reader) for _ in range(count))


def _read_handle(reader: Reader) -> Handle:
    number = reader.u64("a handle number")
    inode = reader.u64("the inode of an open file")
    reader.variant(1, "the source of an open file")
    return Handle(number, inode, reader.i32("open flags"))


def _read_options(reader: Reader) -> Options:
    return Options(
        writeback=reader.boolean("the option writeback"),
        announce_submounts=reader.boolean("the option announce_submounts"),
        posix_acl=reader.boolean("the option posix_acl"),
        sup_group_extension=reader.boolean("the option sup_group_extension"),
    )


def _write_inode(writer: Writer, inode: Inode) -> None:
    writer.u64(inode.id)
    writer.u64(inode.refcount)
    match inode.location:
        case RootNode():
            writer.u32(LOCATION_ROOT_NODE)
        case Path(parent, filename):
            writer.u32(LOCATION_PATH)
            writer.u64(parent)
            writer.string(filename)
        case Invalid():
            writer.u32(LOCATION_INVALID)
        case FullPath(filename):
            writer.u32(LOCATION_FULL_PATH)
            writer.string(filename)
        case ByHandle(handle):
            writer.u32(LOCATION_FILE_HANDLE)
            _write_file_handle(writer, handle)
    writer.boolean(inode.file_handle is not None)
    if inode.file_handle is not None:
        _write_file_handle(writer, inode.file_handle)


def _write_file_handle(writer: Writer, handle: FileHandle) -> None:
    writer.u64(handle.mount_id)
    writer.i32(handle.handle_type)
    writer.byte_string(handle.handle)
