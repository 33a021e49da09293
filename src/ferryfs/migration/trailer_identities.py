"""Who each inode is, and when directories were changed: records of the trailer in columns, so that a million inodes are
a few arrays and no objects.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Final

from ferryfs.migration import columns
from ferryfs.values import frozen
from ferryfs.wire.postcard import Reader, Writer

# Index in ``InodeIdentities.shape_of`` that means: no file handle could be made.
NO_HANDLE: Final = 255
# A size that was not looked at, because the inode's handle tells it from others.
NOT_MEASURED: Final = (1 << 64) - 1
# How many inodes the writer puts into one IDENTITIES record: it stays in the processor's cache while it is made, and
# its columns are narrow.
IDENTITIES_PER_RECORD: Final = 1 << 14

# Bytes that an item of a column takes.
_WIDTHS: Final = (1, 2, 4, 8)


@frozen
class HandleShape:
    """What the file handles of most inodes have in common."""

    # Index in the Mounts record.
    mount: int
    handle_type: int
    # Bytes of each handle of this shape.
    length: int
    # False when it was made with AT_HANDLE_FID: good for comparing, not for opening.
    openable: bool


@frozen
class InodeIdentities:
    """Who each inode is, in columns: no Python object an inode, and read at memory speed. One item an inode in each.

    The destination compares what it opened with this, and looks for the right file where it differs. ``parents`` and
    ``names`` are empty where the state itself has the inode's Path, else they have an item for each inode. What was
    read are windows into the stream: fresh memory for copies would cost more than reading.
    """

    shapes: tuple[HandleShape, ...]
    # FUSE nodeids, ascending.
    ids: Sequence[int]
    # Index in ``shapes``, or NO_HANDLE.
    shape_of: bytes | memoryview
    # ``st_mode >> 12``: the file type.
    kinds: bytes | memoryview
    # NOT_MEASURED: nothing is known of it, nor of its time of change.
    sizes: Sequence[int]
    mtimes_ns: Sequence[int]
    # The nodeid of the directory in which the source last saw it, 0 when unknown, and the name there.
    parents: Sequence[int]
    name_lengths: Sequence[int]
    names: bytes | memoryview
    # All file handles, one behind the other, each as long as its shape says.
    handles: bytes | memoryview

    def write(self, writer: Writer) -> None:
        writer.u64(len(self.shapes))
        for shape in self.shapes:
            writer.u64(shape.mount)
            writer.i32(shape.handle_type)
            writer.u64(shape.length)
            writer.boolean(shape.openable)
        writer.u64(len(self.ids))
        _write_column(writer, self.ids)
        writer.raw(self.shape_of)
        writer.raw(self.kinds)
        _write_column(writer, self.sizes)
        _write_column(writer, columns.biased(self.mtimes_ns))
        writer.boolean(bool(self.parents))
        if self.parents:
            _write_column(writer, self.parents)
            _write_column(writer, self.name_lengths)
            writer.byte_string(self.names)
        writer.byte_string(self.handles)

    @classmethod
    def read(cls, reader: Reader) -> InodeIdentities:
        shape_count = reader.count(4, "shapes of file handles")
        shapes = tuple(
            HandleShape(
                reader.u64("a mount's index"),
                reader.i32("a handle type"),
                reader.u64("the length of file handles"),
                reader.boolean("whether handles can be opened"),
            )
            for _ in range(shape_count)
        )
        count = reader.count(2, "identities of inodes")
        ids = _read_column(reader, count, "inode numbers")
        shape_of = reader.take(count, "shapes of handles")
        kinds = reader.take(count, "file types")
        sizes = _read_column(reader, count, "sizes")
        mtimes = _read_column(reader, count, "times", signed=True)
        parents: Sequence[int] = array("Q")
        name_lengths: Sequence[int] = array("Q")
        names: bytes | memoryview = b""
        if reader.boolean("whether names follow"):
            parents = _read_column(reader, count, "parents")
            name_lengths = _read_column(reader, count, "lengths of names")
            names = reader.view("names")
        found = cls(
            shapes,
            ids,
            shape_of,
            kinds,
            sizes,
            mtimes,
            parents,
            name_lengths,
            names,
            reader.view("file handles"),
        )
        found._check(reader)
        return found

    def _check(self, reader: Reader) -> None:
        """The columns fit each other, so that a walk along them stays inside."""
        lengths = [shape.length for shape in self.shapes]
        uses = columns.tally(self.shape_of)
        without = uses[NO_HANDLE]
        uses = uses[: len(lengths)]
        if sum(uses) + without != len(self.ids) or len(lengths) > NO_HANDLE:
            raise reader.error("an inode's identity names a shape of handles that is not there")
        if sum(use * length for use, length in zip(uses, lengths, strict=True)) != len(self.handles):
            raise reader.error("the file handles of the inodes' identities have not the length that they announce")
        if not columns.add_up(self.name_lengths, len(self.names)):
            raise reader.error("the names of the inodes' identities have not the length that they announce")
        if not columns.is_ascending(self.ids):
            raise reader.error("the inodes' identities are not in ascending order")


@frozen
class Folders:
    """Directories whose names were looked at by the source after it had noted when they were changed (``steady``).

    On the same running kernel the destination needs no look at a name in one that has the same change time still.
    """

    # CLOCK_REALTIME less CLOCK_BOOTTIME at the source: who sets the clock back moves it.
    ahead_ns: int
    # FUSE nodeids, in any order, and st_ctime.
    ids: array[int]
    changed_ns: array[int]

    def write(self, writer: Writer) -> None:
        writer.i64(self.ahead_ns)
        writer.u64(len(self.ids))
        _write_column(writer, self.ids)
        _write_column(writer, columns.biased(self.changed_ns))

    @classmethod
    def read(cls, reader: Reader) -> Folders:
        ahead_ns = reader.i64("how far the clock is ahead")
        count = reader.count(1, "directories")
        return cls(
            ahead_ns,
            _read_column(reader, count, "directories").numbers(),
            _read_column(reader, count, "change times", signed=True).numbers(),
        )


def _write_column(writer: Writer, values: Sequence[int]) -> None:
    """Equal-width numbers above a base: width in bytes (0 when all are equal), base, the differences little-endian."""
    base, most = columns.bounds(values)
    width = next(width for width in (0, *_WIDTHS) if most - base < 1 << (8 * width))
    writer.u8(width)
    writer.u64(base)
    if width:
        writer.raw(columns.narrow(values, width, base))


def _read_column(reader: Reader, count: int, what: str, signed: bool = False) -> columns.Column:
    """``signed``: the numbers stand there ``columns.biased``."""
    start = reader.offset
    width = reader.u8(f"the width of {what}")
    base = reader.u64(f"the base of {what}")
    if width not in (0, *_WIDTHS):
        raise reader.error(f"{what} are {width} bytes wide; it can be 0, 1, 2, 4 or 8", start)
    try:
        return columns.Column(reader.take(count * width, what), width, base, count, signed)
    except OverflowError:
        raise reader.error(f"{what} are larger than 64 bits", start) from None
