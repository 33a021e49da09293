"""What the trailer carries: one frozen dataclass a record kind, each with its fields' meaning and how it is written.

All of it is untrusted when it was read: types and lengths are right, nothing else is (``trailer.validate`` looks
further). Names and paths are bytes here, as Linux has them. Times are nanoseconds since the epoch.
"""

from __future__ import annotations

from typing import Final

from ferryfs.migration.trailer_identities import Folders, InodeIdentities
from ferryfs.values import frozen
from ferryfs.wire.postcard import Reader, Writer

# The most bytes that the writer puts into one CONTENT record, for the same reason.
CONTENT_BYTES: Final = 1 << 18


@frozen
class Negotiated:
    """What the guest and the source settled in FUSE_INIT; the guest never sends it again.

    The destination takes it over, and refuses, naming the switch, an option of ``options`` that it was not started
    with.
    """

    major: int
    minor: int
    # ``flags`` of fuse_init_out, and ``flags2`` in the upper half.
    flags: int
    max_write: int
    max_readahead: int
    max_pages: int
    time_gran: int
    # Long names of the source's switches that the guest relies on, as "writeback" or "xattr".
    options: tuple[str, ...]

    def write(self, writer: Writer) -> None:
        writer.u32(self.major)
        writer.u32(self.minor)
        writer.u64(self.flags)
        writer.u32(self.max_write)
        writer.u32(self.max_readahead)
        writer.u32(self.max_pages)
        writer.u32(self.time_gran)
        writer.u64(len(self.options))
        for option in self.options:
            writer.string(option)

    @classmethod
    def read(cls, reader: Reader) -> Negotiated:
        major, minor, flags = reader.u32("major"), reader.u32("minor"), reader.u64("the FUSE flags")
        max_write, max_readahead = reader.u32("max_write"), reader.u32("max_readahead")
        max_pages, time_gran = reader.u32("max_pages"), reader.u32("time_gran")
        count = reader.count(1, "options")
        options = tuple(reader.string("an option") for _ in range(count))
        return cls(major, minor, flags, max_write, max_readahead, max_pages, time_gran, options)


@frozen
class FileSystemIdentity:
    """What tells one mounted directory from another, as far as its file system says.

    None of it alone proves anything: two fresh ext4 images have equal handles, a block clone has all of it equal.
    """

    # ``f_type`` of statfs(2).
    kind: int
    # File handle of the directory, and whether it could be opened (else made with AT_HANDLE_FID); empty when none.
    handle_type: int
    handle: bytes
    openable: bool
    # FS_IOC_GETFSUUID; empty when the file system has none.
    uuid: bytes
    # ``f_fsid`` of statfs(2), as one little-endian number.
    fsid: int
    # The directory's inode number and birth time; -1 when the file system knows no birth.
    inode: int
    born_ns: int
    # Which running kernel saw it (its boot id; empty when unknown), and the ``st_dev`` there: proof on one host only.
    host: bytes = b""
    device: int = 0

    def write(self, writer: Writer) -> None:
        writer.u64(self.kind)
        writer.i32(self.handle_type)
        writer.byte_string(self.handle)
        writer.boolean(self.openable)
        writer.byte_string(self.uuid)
        writer.u64(self.fsid)
        writer.u64(self.inode)
        writer.i64(self.born_ns)
        writer.byte_string(self.host)
        writer.u64(self.device)

    @classmethod
    def read(cls, reader: Reader) -> FileSystemIdentity:
        return cls(
            kind=reader.u64("f_type"),
            handle_type=reader.i32("a handle type"),
            handle=reader.byte_string("a file handle"),
            openable=reader.boolean("whether a handle can be opened"),
            uuid=reader.byte_string("a file-system UUID"),
            fsid=reader.u64("f_fsid"),
            inode=reader.u64("an inode number"),
            born_ns=reader.i64("a birth time"),
            host=reader.byte_string("a boot id"),
            device=reader.u64("st_dev"),
        )


@frozen
class Mount:
    """A mount that the source knew in the share. The first of the record is the one that the share's root is on.

    Inodes on a mount that the destination lacks are lost, and what lies beneath its mount point must not be shown
    instead.
    """

    # The source's id of it, as in the state's ``mount_paths``.
    mount_id: int
    # Relative to the share's root; b"." for the root.
    path: bytes
    identity: FileSystemIdentity


@frozen
class Mounts:
    """All mounts that the source knew, the share's own first: the identity of the share, and the known mount points."""

    mounts: tuple[Mount, ...]

    def write(self, writer: Writer) -> None:
        writer.u64(len(self.mounts))
        for mount in self.mounts:
            writer.u64(mount.mount_id)
            writer.byte_string(mount.path)
            mount.identity.write(writer)

    @classmethod
    def read(cls, reader: Reader) -> Mounts:
        count = reader.count(12, "mounts")
        return cls(
            tuple(
                Mount(reader.u64("a mount id"), reader.byte_string("a mount's path"), FileSystemIdentity.read(reader))
                for _ in range(count)
            )
        )


@frozen
class MountRoot:
    """An inode that must be the root of a mount, of which that is the identity."""

    inode: int
    identity: FileSystemIdentity


@frozen
class MountRoots:
    """Roots of mounts that are not in Mounts: no path leads to such a mount at the source, or an earlier destination
    lacked it.

    What lies beneath the mount, or another file system that is mounted there, is not the inode.
    """

    inodes: tuple[MountRoot, ...]

    def write(self, writer: Writer) -> None:
        writer.u64(len(self.inodes))
        for root in self.inodes:
            writer.u64(root.inode)
            root.identity.write(writer)

    @classmethod
    def read(cls, reader: Reader) -> MountRoots:
        count = reader.count(11, "roots of mounts")
        return cls(
            tuple(MountRoot(reader.u64("an inode number"), FileSystemIdentity.read(reader)) for _ in range(count))
        )


@frozen
class Unlinked:
    """An inode whose last name is gone while the guest holds it: what the destination makes a nameless file of.

    Its content follows in Content records where ``has_content``; else only the attributes travel, for GETATTR.
    """

    inode: int
    # 0 when the inode is in the state. Else it is not, as virtiofsd would refuse it, and has this lookup count.
    refcount: int
    # ``st_mode`` with the file type.
    mode: int
    uid: int
    gid: int
    rdev: int
    size: int
    atime_ns: int
    mtime_ns: int
    has_content: bool
    # Of a symbolic link, else empty.
    target: bytes
    # (name, value), as on the host.
    xattrs: tuple[tuple[bytes, bytes], ...]

    def write(self, writer: Writer) -> None:
        writer.u64(self.inode)
        writer.u64(self.refcount)
        writer.u32(self.mode)
        writer.u32(self.uid)
        writer.u32(self.gid)
        writer.u64(self.rdev)
        writer.u64(self.size)
        writer.i64(self.atime_ns)
        writer.i64(self.mtime_ns)
        writer.boolean(self.has_content)
        writer.byte_string(self.target)
        writer.u64(len(self.xattrs))
        for name, value in self.xattrs:
            writer.byte_string(name)
            writer.byte_string(value)

    @classmethod
    def read(cls, reader: Reader) -> Unlinked:
        inode, refcount = reader.u64("an inode number"), reader.u64("a lookup count")
        mode, uid, gid = (reader.u32(what) for what in ("a mode", "a user id", "a group id"))
        rdev, size = reader.u64("a device number"), reader.u64("a size")
        atime, mtime = reader.i64("an access time"), reader.i64("a modification time")
        has_content = reader.boolean("whether content follows")
        target = reader.byte_string("a link's target")
        count = reader.count(2, "extended attributes")
        xattrs = tuple(
            (reader.byte_string("an attribute's name"), reader.byte_string("an attribute's value"))
            for _ in range(count)
        )
        return cls(inode, refcount, mode, uid, gid, rdev, size, atime, mtime, has_content, target, xattrs)


@frozen
class Content:
    """Bytes of an unlinked file; between such records it has holes. Comes behind its Unlinked record, offsets
    ascending.
    """

    inode: int
    offset: int
    # A window into the stream when it was read: no copy.
    data: bytes | memoryview

    def write(self, writer: Writer) -> None:
        writer.u64(self.inode)
        writer.u64(self.offset)
        writer.byte_string(self.data)

    @classmethod
    def read(cls, reader: Reader) -> Content:
        return cls(reader.u64("an inode number"), reader.u64("an offset"), reader.view("the content of a file"))


@frozen
class DirectoryEntry:
    """One entry as READDIR would give it."""

    # The offset that the guest continues from behind this entry: ``off`` of fuse_dirent.
    offset: int
    inode: int
    kind: int
    # Empty: no entry, only a place. The guest has its offset from an entry that is gone.
    name: bytes


@frozen
class HalfRead:
    """A directory that the guest is reading: what it may still ask for, so that it goes on without loss or repeat.

    The guest may go back to any offset of the last answer: the entries begin at ``start``, not where the source's fd
    is.
    """

    handle: int
    # The offset at which the first entry is found.
    start: int
    entries: tuple[DirectoryEntry, ...]
    # Whether the directory ends behind the last entry; else the rest was too long to travel.
    complete: bool

    def write(self, writer: Writer) -> None:
        writer.u64(self.handle)
        writer.u64(self.start)
        writer.u64(len(self.entries))
        for entry in self.entries:
            writer.u64(entry.offset)
            writer.u64(entry.inode)
            writer.u8(entry.kind)
            writer.byte_string(entry.name)
        writer.boolean(self.complete)

    @classmethod
    def read(cls, reader: Reader) -> HalfRead:
        handle, start = reader.u64("a handle number"), reader.u64("an offset in a directory")
        count = reader.count(4, "directory entries")
        entries = tuple(
            DirectoryEntry(
                reader.u64("an offset in a directory"),
                reader.u64("an inode number"),
                reader.u8("a file type"),
                reader.byte_string("a file name"),
            )
            for _ in range(count)
        )
        return cls(handle, start, entries, reader.boolean("whether the directory ends here"))


@frozen
class Name:
    """Where an inode is whose name is not UTF-8; in the state it is Invalid. Holds no reference on the parent."""

    inode: int
    # The nodeid of its directory; 0 when ``name`` is a path from the share's root.
    parent: int
    name: bytes


@frozen
class Names:
    """Locations that the state can't express."""

    names: tuple[Name, ...]

    def write(self, writer: Writer) -> None:
        writer.u64(len(self.names))
        for name in self.names:
            writer.u64(name.inode)
            writer.u64(name.parent)
            writer.byte_string(name.name)

    @classmethod
    def read(cls, reader: Reader) -> Names:
        count = reader.count(3, "names")
        return cls(
            tuple(
                Name(reader.u64("an inode number"), reader.u64("a parent"), reader.byte_string("a file name"))
                for _ in range(count)
            )
        )


@frozen
class Lost:
    """An inode that could not be located, with the reason: what the guest gets for it, and the log at the
    destination.
    """

    inode: int
    # As in Unlinked.
    refcount: int
    # What each access answers.
    errno: int
    reason: str


@frozen
class LostInodes:
    """The inodes that are Invalid in the state and nowhere else either."""

    inodes: tuple[Lost, ...]

    def write(self, writer: Writer) -> None:
        writer.u64(len(self.inodes))
        for lost in self.inodes:
            writer.u64(lost.inode)
            writer.u64(lost.refcount)
            writer.u32(lost.errno)
            writer.string(lost.reason)

    @classmethod
    def read(cls, reader: Reader) -> LostInodes:
        count = reader.count(4, "lost inodes")
        return cls(
            tuple(
                Lost(
                    reader.u64("an inode number"),
                    reader.u64("a lookup count"),
                    reader.u32("an errno"),
                    reader.string("a reason"),
                )
                for _ in range(count)
            )
        )


@frozen
class Nameless:
    """Open inodes that had no name left, of which nothing but the file handle travels.

    What the handle leads to must have no name either: in a block clone that was taken before it was removed, the file
    has its name still, and its old content.
    """

    inodes: tuple[int, ...]

    def write(self, writer: Writer) -> None:
        writer.u64(len(self.inodes))
        for inode in self.inodes:
            writer.u64(inode)

    @classmethod
    def read(cls, reader: Reader) -> Nameless:
        count = reader.count(1, "nameless inodes")
        return cls(tuple(reader.u64("an inode number") for _ in range(count)))


@frozen
class Packed:
    """A record whose payload stands there as bytes already."""

    kind: type[InodeIdentities]
    payload: bytes


Record = (
    Negotiated
    | Mounts
    | InodeIdentities
    | Unlinked
    | Content
    | HalfRead
    | Names
    | LostInodes
    | Folders
    | Nameless
    | MountRoots
)
