"""Whether what the destination opened is what the source had: by file handle in the same directory, else by type and
size.
"""

from __future__ import annotations

import os
import stat
from bisect import bisect_left
from collections.abc import Container, Iterator
from typing import Final

from ferryfs.migration import _syscalls, identity
from ferryfs.migration.trailer_identities import NO_HANDLE, NOT_MEASURED, InodeIdentities
from ferryfs.values import frozen

_KIND_SHIFT: Final = 12
_FILE: Final = stat.S_IFREG >> _KIND_SHIFT


@frozen
class Expected:
    """What the source said of an inode."""

    kind: int
    size: int
    mtime_ns: int
    handle_type: int
    # Empty: it had none.
    handle: bytes
    openable: bool
    # Index in the trailer's Mounts, -1 when there is no handle.
    mount: int
    parent: int
    name: bytes


class Identities:
    """The identities of a trailer, by nodeid. Rows are made when they are asked for."""

    def __init__(self, records: list[InodeIdentities]) -> None:
        self._records = sorted((record for record in records if record.ids), key=lambda record: record.ids[0])
        self._firsts = [record.ids[0] for record in self._records]
        # Where each row's handle and name begin, of the records that were asked for.
        self._starts: dict[int, tuple[list[int], list[int]]] = {}

    def __bool__(self) -> bool:
        return bool(self._records)

    def columns(self) -> list[InodeIdentities]:
        """All rows, as they came."""
        return self._records

    def unmeasured(self) -> bool:
        """Whether sizes were left out."""
        return any(NOT_MEASURED in record.sizes for record in self._records)

    def mounts(self) -> set[int]:
        """Indices of the mounts that inodes with a handle lie on."""
        return {shape.mount for record in self._records for shape in record.shapes}

    def lying_on(self, mounts: Container[int]) -> Iterator[int]:
        """The nodeids of inodes with a handle on these mounts."""
        for record in self._records:
            shapes = {index for index, shape in enumerate(record.shapes) if shape.mount in mounts}
            if shapes:
                yield from (
                    number for number, shape in zip(record.ids, record.shape_of, strict=True) if shape in shapes
                )

    def get(self, number: int) -> Expected | None:
        """None when the source said nothing."""
        at = bisect_left(self._firsts, number + 1) - 1
        if at < 0:
            return None
        record = self._records[at]
        index = bisect_left(record.ids, number)
        if index == len(record.ids) or record.ids[index] != number:
            return None
        shape_index = record.shape_of[index]
        if at not in self._starts:
            handles = _starts([_length(record, shape) for shape in record.shape_of])
            self._starts[at] = handles, _starts(list(record.name_lengths))
        handle_starts, name_starts = self._starts[at]
        start = handle_starts[index]
        shape = None if shape_index == NO_HANDLE else record.shapes[shape_index]
        name_start = name_starts[index] if record.parents else 0
        return Expected(
            kind=record.kinds[index],
            size=record.sizes[index],
            mtime_ns=record.mtimes_ns[index],
            handle_type=shape.handle_type if shape else 0,
            handle=bytes(record.handles[start : start + shape.length]) if shape else b"",
            openable=shape is not None and shape.openable,
            mount=shape.mount if shape else -1,
            parent=record.parents[index] if record.parents else 0,
            name=bytes(record.names[name_start : name_start + record.name_lengths[index]]) if record.parents else b"",
        )


def _length(record: InodeIdentities, shape: int) -> int:
    return 0 if shape == NO_HANDLE else record.shapes[shape].length


def _starts(lengths: list[int]) -> list[int]:
    starts = []
    total = 0
    for length in lengths:
        starts.append(total)
        total += length
    return starts


def same_file(fd: int, expected: Expected) -> str:
    """In the same directory: why ``fd`` is another file than the source's; empty when it is the same. Raises
    OSError.
    """
    if not expected.handle:
        return same_kind(fd, expected)
    made = identity.make_handle(fd)
    if made is None:
        return same_kind(fd, expected)
    if (made.handle_type, made.handle) != (expected.handle_type, expected.handle):
        return "another file has its name now"
    return ""


def same_kind(fd: int, expected: Expected, clone: bool = False) -> str:
    """In a copy: why ``fd`` can't be a copy of the source's file; empty when it may. Raises OSError.

    In a block clone a file that was left alone has its handle still. One that a copying tool has brought up to date may
    have another, but keeps its time of change.
    """
    status = os.fstat(fd)
    if status.st_mode >> _KIND_SHIFT != expected.kind:
        return "a file of another type has its name"
    if expected.size == NOT_MEASURED:
        return ""
    if expected.kind == _FILE and status.st_size != expected.size:
        return f"it has {status.st_size} bytes here, but {expected.size} at the source"
    if clone and expected.kind == _FILE and expected.openable and status.st_mtime_ns != expected.mtime_ns:
        made = identity.make_handle(fd)
        if made and (made.handle_type, made.handle) != (expected.handle_type, expected.handle):
            return "another file has its name now"
    return ""


def grown(fd: int, expected: Expected) -> str:
    """Why ``fd``, which has the source's file handle, is another file all the same: a block clone's has that handle
    too, but not what was written to the source's since. Empty when nothing says so, also where it was changed later
    than the source's: somebody else has written to the one file that there is. Raises OSError.
    """
    if not _was_measured(expected):
        return ""
    # By its server's word: this host may remember it from before.
    found = _syscalls.statx(fd, b"", _syscalls.AT_EMPTY_PATH | _syscalls.AT_STATX_FORCE_SYNC, _syscalls.STATX_BASIC)
    if found.size == expected.size or found.mtime_ns > expected.mtime_ns:
        return ""
    return f"it has {found.size} bytes here, but {expected.size} at the source"


def proof_of(expected: Expected) -> tuple[int, int, bytes] | None:
    """What the next destination has to find of a lost inode on the share's own mount: (file type, handle type,
    handle).
    """
    if not expected.handle or not expected.openable or expected.mount != 0:
        return None
    return expected.kind, expected.handle_type, expected.handle


def is_aged(fd: int, expected: Expected) -> bool:
    """In a copy: whether a file was changed at another time than the source's. Raises OSError."""
    return _was_measured(expected) and os.fstat(fd).st_mtime_ns != expected.mtime_ns


def _was_measured(expected: Expected) -> bool:
    """Whether it is a file of which the source knew size and time of change. Neither: it could not look at it."""
    known = expected.size != NOT_MEASURED and (expected.size != 0 or expected.mtime_ns != 0)
    return expected.kind == _FILE and known
