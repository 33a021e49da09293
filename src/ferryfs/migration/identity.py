"""Whether the destination's share is the source's directory, and whether a file is the source's file.

Some facts about identity. A file handle carries no file-system id: the roots of two fresh ext4 images have equal
handles. A block clone has equal handles, UUID and birth time, until one side changes. Making a handle needs no
privilege; some file systems (overlayfs, without its ``nfs_export``) give one for comparing only, with AT_HANDLE_FID,
since kernel 6.5. FS_IOC_GETFSUUID is there since kernel 6.9. ``f_fsid`` of statfs(2) is made from the UUID by ext4 and
btrfs, so it is the same on every host; xfs and f2fs make it from the device number, which is not; network file systems
often leave it 0. A birth time of 0 was never set, and a UUID of zeros either (images made by copying tools). On one
running kernel, which its boot id names, an equal ``st_dev`` and inode number prove what nothing else does for a file
system without a UUID; a device number that differs proves nothing, as a file system may have been mounted again from
another device node. open_by_handle_at(2) needs CAP_DAC_READ_SEARCH in the initial user namespace.
"""

from __future__ import annotations

import enum
import errno
import os
import stat
from typing import Final

from ferryfs.migration import _syscalls
from ferryfs.migration.trailer_records import FileSystemIdentity
from ferryfs.values import frozen

# File systems whose f_fsid names the file system itself wherever it is mounted: ext2/3/4, btrfs, ceph, tmpfs (one
# mount for ever, on one host), bcachefs, erofs, overlayfs (of its own UUID).
STABLE_FSID_KINDS: Final = frozenset({0xEF53, 0x9123683E, 0x00C36400, 0x01021994, 0xCA451A4E, 0xE0F5E1E2, 0x794C7630})

# FUSE (sshfs, mergerfs, a virtiofs where the host is a virtual machine). A file handle there is the number that this
# mount's server gave the file when it was looked up. The next mount gives the same numbers, to others, and may have the
# same device number: 1. "a" is looked up as 2; 2. the guest goes into a file, and the mount goes; 3. "a" and "b" are
# swapped; 4. it is mounted again, and "a" is looked up first.
FLEETING_KINDS: Final = frozenset({0x65735546})

# What a file system answers that has no handles (of this sort), or a kernel that does not know the flag.
_NO_HANDLE_ERRNOS: Final = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EOVERFLOW})


@frozen
class MadeHandle:
    """A file handle as it was just made."""

    handle_type: int
    handle: bytes
    mount_id: int
    # False: made with AT_HANDLE_FID, for comparing only.
    openable: bool


class Sameness(enum.Enum):
    """What is known of two directories."""

    # Everything that can tell them apart is there and equal.
    SAME = "the same directory"
    # Nothing differs, but something that would prove it is missing. Counts as a copy.
    UNPROVEN = "not proven to be the same directory"
    # Something differs. Counts as a copy.
    DIFFERENT = "another directory"


@frozen
class Verdict:
    """Sameness, and what it rests on: the end of a sentence."""

    sameness: Sameness
    reason: str
    # Whether file handles of the one lead to anything in the other.
    handles: bool = True
    # Whether it rests on numbers of one running kernel, which no block clone has.
    firm: bool = False


def make_handle(dir_fd: int, name: bytes = b"") -> MadeHandle | None:
    """The file handle of ``name`` in ``dir_fd`` (of ``dir_fd`` itself when empty; a symbolic link is not followed).

    One that can be opened where there is one, else one for comparing, else None. Raises OSError when there is no such
    file.
    """
    flags = 0 if name else _syscalls.AT_EMPTY_PATH
    for extra, openable in ((0, True), (_syscalls.AT_HANDLE_FID, False)):
        try:
            handle_type, handle, mount_id = _syscalls.name_to_handle_at(dir_fd, name, flags | extra)
        except OSError as error:
            if error.errno not in _NO_HANDLE_ERRNOS:
                raise
        else:
            return MadeHandle(handle_type, handle, mount_id, openable)
    return None


def boot_id() -> bytes:
    """What names this run of this kernel; empty when it can't be read. To be called before the sandbox is entered."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return bytes.fromhex(file.read().strip().replace("-", ""))
    except (OSError, ValueError):
        return b""


def of_mounted(fd: int, host: bytes = b"") -> FileSystemIdentity:
    """The identity of a directory, or of a single file that is mounted over another one (open with O_PATH, or as it
    likes); ``host`` is ``boot_id()``. Raises OSError.
    """
    status = _syscalls.statx(fd, b"", _syscalls.AT_EMPTY_PATH, _syscalls.STATX_BASIC | _syscalls.STATX_BTIME)
    kind, fsid, _ = _syscalls.file_system(fd)
    made = make_handle(fd)
    uuid = _uuid_of(fd)
    return FileSystemIdentity(
        kind=kind,
        handle_type=made.handle_type if made else 0,
        handle=made.handle if made else b"",
        openable=made is not None and made.openable,
        uuid=uuid if any(uuid) else b"",
        # ext4 makes it from the UUID, so a UUID of zeros makes it worthless too.
        fsid=0 if uuid and not any(uuid) else fsid,
        inode=status.ino,
        born_ns=status.btime_ns if status.btime_ns else -1,
        host=host,
        device=status.dev,
    )


def _uuid_of(fd: int) -> bytes:
    """The file system's UUID; empty where it has none, and of a directory that may be passed through but not read.

    Empty for a file: it would have to be opened, which a device or a FIFO may take for more than a look.
    """
    if not stat.S_ISDIR(os.fstat(fd).st_mode):
        return b""
    try:
        readable = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
    except OSError:
        return b""
    try:
        return _syscalls.file_system_uuid(readable)
    except OSError:
        return b""
    finally:
        os.close(readable)


def same_directory(source: FileSystemIdentity | None, here: FileSystemIdentity | None) -> Verdict:
    """Whether two identities (None: not known), taken on two hosts, are of one directory. Only complete proof makes it
    SAME.

    A block clone that is used on another host can't be told from its original: nothing in it differs, so that only what
    a file has become since tells (``verify.grown``). On the same host its device differs.
    """
    if source is None or here is None:
        return Verdict(Sameness.UNPROVEN, "there is no identity to compare")
    differs = _difference(source, here)
    if differs:
        return Verdict(Sameness.DIFFERENT, differs, handles=False)
    if source.kind in FLEETING_KINDS:
        return Verdict(Sameness.UNPROVEN, "file handles of FUSE last no longer than the mount", handles=False)
    if source.host and source.host == here.host:
        if source.device == here.device:
            return Verdict(Sameness.SAME, "host, device and inode number are equal", firm=True)
        if os.major(source.device) != 0:
            return Verdict(Sameness.UNPROVEN, "it is on another block device of the same host")
    missing = []
    if not source.handle or not here.handle:
        missing.append("file handle")
    if not _same_uuid(source, here) and not _same_fsid(source, here):
        missing.append("file-system UUID or lasting f_fsid")
    if source.born_ns < 0 or here.born_ns < 0:
        missing.append("birth time")
    if missing:
        return Verdict(Sameness.UNPROVEN, f"there is no {' and no '.join(missing)} to compare")
    return Verdict(Sameness.SAME, "file handle, file system and birth time are equal")


def _difference(source: FileSystemIdentity, here: FileSystemIdentity) -> str:
    """What proves that it is another directory; empty when nothing does."""
    if source.kind != here.kind:
        return f"its file system is of type {here.kind:#x}, the source's of type {source.kind:#x}"
    if source.uuid and here.uuid:
        if source.uuid != here.uuid:
            return f"its file system has the UUID {here.uuid.hex()}, the source's {source.uuid.hex()}"
    elif source.kind in STABLE_FSID_KINDS and source.fsid and here.fsid and source.fsid != here.fsid:
        return f"its file system has the f_fsid {here.fsid:#x}, the source's {source.fsid:#x}"
    if source.handle and here.handle and source.openable == here.openable:
        theirs, ours = (source.handle_type, source.handle), (here.handle_type, here.handle)
        if theirs != ours:
            return "its root directory has another file handle"
    if source.inode != here.inode:
        return f"its root directory is inode {here.inode}, the source's {source.inode}"
    if source.born_ns >= 0 and here.born_ns >= 0 and source.born_ns != here.born_ns:
        return "its root directory was made at another time"
    return ""


def _same_uuid(source: FileSystemIdentity, here: FileSystemIdentity) -> bool:
    return bool(source.uuid) and source.uuid == here.uuid


def _same_fsid(source: FileSystemIdentity, here: FileSystemIdentity) -> bool:
    return source.kind in STABLE_FSID_KINDS and source.fsid != 0 and source.fsid == here.fsid
