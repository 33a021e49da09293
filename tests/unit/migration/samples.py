"""One stream with everything in it, for the tests that damage streams."""

from __future__ import annotations

from array import array

from ferryfs.migration.state import (
    ByHandle,
    FileHandle,
    FullPath,
    Handle,
    Inode,
    Invalid,
    MountPath,
    Options,
    Path,
    RootNode,
    StateV1,
    StateV2,
)
from ferryfs.migration.trailer_identities import NO_HANDLE, Folders, HandleShape, InodeIdentities
from ferryfs.migration.trailer_records import (
    Content,
    DirectoryEntry,
    FileSystemIdentity,
    HalfRead,
    Lost,
    LostInodes,
    Mount,
    MountRoot,
    MountRoots,
    Mounts,
    Name,
    Nameless,
    Names,
    Negotiated,
    Record,
    Unlinked,
)

STATE = StateV2(
    StateV1(
        (
            Inode(1, 4, RootNode(), None),
            Inode(2, 3, Path(1, "dir"), None),
            Inode(3, 1, Path(2, "file"), FileHandle(29, 1, bytes(8))),
            Inode(5, 1, Invalid(), None),
            Inode(6, 1, Invalid(), None),
            Inode(7, 1, Invalid(), None),
            Inode(8, 1, Invalid(), None),
            Inode(300, 1, FullPath("dir/sub/file"), None),
            Inode(301, 1 << 60, ByHandle(FileHandle(30, 0x81, bytes(range(12)))), None),
        ),
        302,
        (Handle(1, 3, 0o100001), Handle(2, 2, 0o200000), Handle(3, 7, 0o2)),
        4,
        Options(writeback=False, announce_submounts=True, posix_acl=False, sup_group_extension=True),
    ),
    (MountPath(29, "."), MountPath(30, "dir/mnt")),
)

EXT4 = FileSystemIdentity(
    0xEF53,
    1,
    b"\x02\0\0\0\0\0\0\0",
    True,
    bytes(range(16)),
    0xDEADBEEF12345678,
    2,
    1_700_000_000_000_000_000,
    bytes(16),
    2049,
)
BARE = FileSystemIdentity(0x01021994, 0, b"", False, b"", 0, 1, -1)

IDENTITIES = InodeIdentities(
    shapes=(HandleShape(0, 1, 8, True), HandleShape(1, 0x81, 12, False)),
    ids=array("Q", [1, 2, 3, 301]),
    shape_of=bytes([0, 0, NO_HANDLE, 1]),
    kinds=bytes([4, 4, 8, 8]),
    sizes=array("Q", [4096, 4096, 1 << 62, 0]),
    mtimes_ns=array("q", [-1, 0, 1_700_000_000_123_456_789, (1 << 63) - 1]),
    parents=array("Q", [0, 1, 2, 0]),
    name_lengths=array("Q", [0, 3, 4, 0]),
    names=b"dirfile",
    handles=bytes(range(28)),
)

RECORDS: tuple[Record, ...] = (
    Mounts((Mount(29, b".", EXT4), Mount(30, b"dir/mnt", BARE))),
    Negotiated(7, 39, 0x8_4844_F829, 1 << 20, 1 << 17, 256, 1, ("xattr", "announce-submounts")),
    IDENTITIES,
    HalfRead(2, 17, (DirectoryEntry(1 << 62, 99, 8, b"caf\xe9"), DirectoryEntry(1 << 63, 1, 4, b"..")), True),
    Unlinked(
        7, 0, 0o100644, 1000, 100, 0, 1 << 40, -5, 1_700_000_000_000_000_000, True, b"", ((b"user.a", b"\0\xff"),)
    ),
    Content(7, 0, b"beginning"),
    Content(7, (1 << 40) - 3, b"end"),
    Unlinked(99, 5, 0o40755, 0, 0, 0, 0, 0, 0, False, b"", ()),
    Names((Name(5, 2, b"caf\xe9"), Name(6, 0, b"dir/\xff/x"))),
    LostInodes((Lost(8, 0, 5, "outside the share"),)),
    Folders(1_790_000_000 * 10**9, array("Q", [2, 1]), array("q", [1_700_000_000_123_456_789, 1_700_000_000 * 10**9])),
    Nameless((301, 1)),
    MountRoots((MountRoot(2, EXT4), MountRoot(300, BARE))),
)
