"""The FUSE protocol, 7.27 to 7.45, as tables: structures, operations, INIT flags.

The numbers are those of the kernel's ``include/uapi/linux/fuse.h`` at 7.45. They are our own on purpose: the header of
the machine that builds this may be years older. Everything is in the machine's byte order, as the protocol is.

``Op`` is the only list of operations and ``InitFlag`` the only list of INIT flags: dispatch, size checks, debug print,
documentation and tests all read these. A request is ``IN_HEADER``, ``Op.request``, ``Op.names`` names that end in NUL,
then what ``Op.tail`` says; a reply is ``OUT_HEADER``, ``Op.reply``, then at most as many bytes as ``Op.bound`` says.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Mapping
from typing import Final

from ferryfs.values import field, frozen

MAJOR: Final = 7
MINOR: Final = 45
MINOR_MIN: Final = 27
"""The oldest minor that is spoken: Linux 4.20's. virtio-fs itself came with 7.31 (Linux 5.4)."""

ROOT_ID: Final = 1
PAGE_SIZE: Final = 4096
"""READLINK's reply is bounded by the guest's page; guests with larger pages offer more room, which nothing needs."""

UNIQUE_RESEND: Final = 1 << 63
INVALID_ID: Final = 0xFFFFFFFF
"""uid or gid of a request that creates nothing, from an idmapped mount of the guest (``InitFlag.ALLOW_IDMAP``)."""


@frozen
class Layout:
    """One C structure: its name in fuse.h and its fields, as ``name:code`` with a code of ``struct``.

    A field without a name (``:4x``) is padding or reserved: written as zero, never looked at. ``pack`` takes the fields
    by name, those not given are 0; ``unpack`` gives them back by name. Both are for tests, tools and the front-end; the
    data path has the same layouts compiled, and a test compares the two.
    """

    name: str
    text: str
    fields: tuple[str, ...] = field(init=False)
    struct: struct.Struct = field(init=False)

    def __post_init__(self) -> None:
        pairs = [item.split(":") for item in self.text.split()]
        object.__setattr__(self, "fields", tuple(name for name, _ in pairs if name))
        object.__setattr__(self, "struct", struct.Struct("=" + "".join(code for _, code in pairs)))

    @property
    def size(self) -> int:
        """Size in bytes."""
        return self.struct.size

    def pack(self, **values: int) -> bytes:
        """The structure as bytes. Raises KeyError for a field it lacks, struct.error for a value that is too large."""
        for name in values:
            if name not in self.fields:
                raise KeyError(f"fuse_{self.name} has no field {name}")
        return self.struct.pack(*(values.get(name, 0) for name in self.fields))

    def unpack(self, data: bytes | bytearray | memoryview, offset: int = 0) -> dict[str, int]:
        """The fields of the structure at ``offset`` of ``data``. Raises struct.error where bytes are missing."""
        return dict(zip(self.fields, self.struct.unpack_from(data, offset), strict=True))


def _prefixed(prefix: str, text: str) -> str:
    """Field list of a structure inside a structure."""
    return " ".join(item if item.startswith(":") else prefix + item for item in text.split())


# --- structures shared by several operations

_ATTR = (
    "ino:Q size:Q blocks:Q atime:Q mtime:Q ctime:Q atimensec:I mtimensec:I ctimensec:I "
    "mode:I nlink:I uid:I gid:I rdev:I blksize:I flags:I"
)
_SX_TIMES = " ".join(f"{t}_sec:q {t}_nsec:I :4x" for t in ("atime", "btime", "ctime", "mtime"))
_STATX = (
    "mask:I blksize:I attributes:Q nlink:I uid:I gid:I mode:H :2x ino:Q size:Q blocks:Q attributes_mask:Q "
    f"{_SX_TIMES} rdev_major:I rdev_minor:I dev_major:I dev_minor:I :112x"
)
_FILE_LOCK = "start:Q end:Q type:I pid:I"
_ENTRY = "nodeid:Q generation:Q entry_valid:Q attr_valid:Q entry_valid_nsec:I attr_valid_nsec:I " + _prefixed(
    "attr_", _ATTR
)
_DIRENT = "ino:Q off:Q namelen:I type:I"

IN_HEADER: Final = Layout("in_header", "len:I opcode:I unique:Q nodeid:Q uid:I gid:I pid:I total_extlen:H :2x")
OUT_HEADER: Final = Layout("out_header", "len:I error:i unique:Q")
ATTR: Final = Layout("attr", _ATTR)
STATX: Final = Layout("statx", _STATX)
DIRENT: Final = Layout("dirent", _DIRENT)
DIRENTPLUS: Final = Layout("direntplus", _prefixed("entry_", _ENTRY) + " " + _DIRENT)
FORGET_ONE: Final = Layout("forget_one", "nodeid:Q nlookup:Q")
REMOVEMAPPING_ONE: Final = Layout("removemapping_one", "moffset:Q len:Q")
EXT_HEADER: Final = Layout("ext_header", "size:I type:I")
"""Head of one extension behind a request that creates (``in_header.total_extlen`` counts them all, in 8 bytes)."""
SECCTX_HEADER: Final = Layout("secctx_header", "size:I nr_secctx:I")
SECCTX: Final = Layout("secctx", "size:I :4x")
SUPP_GROUPS: Final = Layout("supp_groups", "nr_groups:I")

# --- requests

FORGET_IN: Final = Layout("forget_in", "nlookup:Q")
BATCH_FORGET_IN: Final = Layout("batch_forget_in", "count:I :4x")
GETATTR_IN: Final = Layout("getattr_in", "getattr_flags:I :4x fh:Q")
STATX_IN: Final = Layout("statx_in", "getattr_flags:I :4x fh:Q sx_flags:I sx_mask:I")
SETATTR_IN: Final = Layout(
    "setattr_in",
    "valid:I :4x fh:Q size:Q lock_owner:Q atime:Q mtime:Q ctime:Q atimensec:I mtimensec:I ctimensec:I "
    "mode:I :4x uid:I gid:I :4x",
)
MKNOD_IN: Final = Layout("mknod_in", "mode:I rdev:I umask:I :4x")
MKDIR_IN: Final = Layout("mkdir_in", "mode:I umask:I")
RENAME_IN: Final = Layout("rename_in", "newdir:Q")
RENAME2_IN: Final = Layout("rename2_in", "newdir:Q flags:I :4x")
LINK_IN: Final = Layout("link_in", "oldnodeid:Q")
OPEN_IN: Final = Layout("open_in", "flags:I open_flags:I")
CREATE_IN: Final = Layout("create_in", "flags:I mode:I umask:I open_flags:I")
READ_IN: Final = Layout("read_in", "fh:Q offset:Q size:I read_flags:I lock_owner:Q flags:I :4x")
WRITE_IN: Final = Layout("write_in", "fh:Q offset:Q size:I write_flags:I lock_owner:Q flags:I :4x")
RELEASE_IN: Final = Layout("release_in", "fh:Q flags:I release_flags:I lock_owner:Q")
FLUSH_IN: Final = Layout("flush_in", "fh:Q :8x lock_owner:Q")
FSYNC_IN: Final = Layout("fsync_in", "fh:Q fsync_flags:I :4x")
SETXATTR_IN: Final = Layout("setxattr_in", "size:I flags:I setxattr_flags:I :4x")
GETXATTR_IN: Final = Layout("getxattr_in", "size:I :4x")
LK_IN: Final = Layout("lk_in", "fh:Q owner:Q " + _prefixed("lk_", _FILE_LOCK) + " lk_flags:I :4x")
ACCESS_IN: Final = Layout("access_in", "mask:I :4x")
INIT_IN: Final = Layout("init_in", "major:I minor:I max_readahead:I flags:I flags2:I :44x")
INTERRUPT_IN: Final = Layout("interrupt_in", "unique:Q")
BMAP_IN: Final = Layout("bmap_in", "block:Q blocksize:I :4x")
IOCTL_IN: Final = Layout("ioctl_in", "fh:Q flags:I cmd:I arg:Q in_size:I out_size:I")
POLL_IN: Final = Layout("poll_in", "fh:Q kh:Q flags:I events:I")
NOTIFY_RETRIEVE_IN: Final = Layout("notify_retrieve_in", ":8x offset:Q size:I :20x")
FALLOCATE_IN: Final = Layout("fallocate_in", "fh:Q offset:Q length:Q mode:I :4x")
LSEEK_IN: Final = Layout("lseek_in", "fh:Q offset:Q whence:I :4x")
COPY_FILE_RANGE_IN: Final = Layout(
    "copy_file_range_in", "fh_in:Q off_in:Q nodeid_out:Q fh_out:Q off_out:Q len:Q flags:Q"
)
SETUPMAPPING_IN: Final = Layout("setupmapping_in", "fh:Q foffset:Q len:Q flags:Q moffset:Q")
REMOVEMAPPING_IN: Final = Layout("removemapping_in", "count:I")
SYNCFS_IN: Final = Layout("syncfs_in", ":8x")
CUSE_INIT_IN: Final = Layout("cuse_init_in", "major:I minor:I :4x flags:I")

# --- replies

ENTRY_OUT: Final = Layout("entry_out", _ENTRY)
ATTR_OUT: Final = Layout("attr_out", "attr_valid:Q attr_valid_nsec:I :4x " + _prefixed("attr_", _ATTR))
STATX_OUT: Final = Layout("statx_out", "attr_valid:Q attr_valid_nsec:I flags:I :16x " + _prefixed("stat_", _STATX))
OPEN_OUT: Final = Layout("open_out", "fh:Q open_flags:I backing_id:i")
CREATE_OUT: Final = Layout("entry_out + open_out", ENTRY_OUT.text + " " + OPEN_OUT.text)
WRITE_OUT: Final = Layout("write_out", "size:I :4x")
STATFS_OUT: Final = Layout(
    "statfs_out", "blocks:Q bfree:Q bavail:Q files:Q ffree:Q bsize:I namelen:I frsize:I :4x :24x"
)
GETXATTR_OUT: Final = Layout("getxattr_out", "size:I :4x")
LK_OUT: Final = Layout("lk_out", _prefixed("lk_", _FILE_LOCK))
INIT_OUT: Final = Layout(
    "init_out",
    "major:I minor:I max_readahead:I flags:I max_background:H congestion_threshold:H max_write:I time_gran:I "
    "max_pages:H map_alignment:H flags2:I max_stack_depth:I request_timeout:H :22x",
)
BMAP_OUT: Final = Layout("bmap_out", "block:Q")
IOCTL_OUT: Final = Layout("ioctl_out", "result:i flags:I in_iovs:I out_iovs:I")
POLL_OUT: Final = Layout("poll_out", "revents:I :4x")
LSEEK_OUT: Final = Layout("lseek_out", "offset:Q")
COPY_FILE_RANGE_OUT: Final = Layout("copy_file_range_out", "bytes_copied:Q")

SETXATTR_IN_COMPAT_SIZE: Final = 8
"""Size of setxattr_in unless SETXATTR_EXT was negotiated."""
INIT_IN_COMPAT_SIZE: Final = 16
"""Size of init_in from guests before INIT_EXT (7.36): it ends behind ``flags``."""


class Tail(enum.Enum):
    """What follows the names of a request."""

    NOTHING = "nothing"
    DATA = "request.size bytes"
    IOCTL_DATA = "request.in_size bytes"
    FORGETS = "request.count times forget_one"
    MAPPINGS = "request.count times removemapping_one"
    EXTENSIONS = "extensions, in_header.total_extlen times 8 bytes (security context, supplementary group)"


class Bound(enum.Enum):
    """What bounds the part of a successful reply that has no fixed size."""

    FIXED = "nothing: the reply is its structure"
    SIZE = "request.size"
    SIZE_OR_PROBE = "request.size; for a size of 0 the reply is getxattr_out and nothing else"
    OUT_SIZE = "request.out_size, behind the structure"
    PAGE = "the guest's page, less one byte"


class Op(enum.IntEnum):
    """Every operation, a line each.

    number, minor that brought it, request structure, names, tail, reply structure, bound of the reply,
    and why it is answered ENOSYS ("" for what is served). FORGET and BATCH_FORGET have no reply at all.
    """

    since: int
    request: Layout | None
    names: int
    tail: Tail
    reply: Layout | None
    bound: Bound
    refusal: str

    def __new__(
        cls,
        number: int,
        since: int,
        request: Layout | None,
        names: int,
        tail: Tail,
        reply: Layout | None,
        bound: Bound,
        refusal: str = "",
    ) -> Op:
        op = int.__new__(cls, number)
        op._value_ = number
        op.since = since
        op.request = request
        op.names = names
        op.tail = tail
        op.reply = reply
        op.bound = bound
        op.refusal = refusal
        return op

    # fmt: off
    LOOKUP = 1, 1, None, 1, Tail.NOTHING, ENTRY_OUT, Bound.FIXED
    FORGET = 2, 1, FORGET_IN, 0, Tail.NOTHING, None, Bound.FIXED
    GETATTR = 3, 1, GETATTR_IN, 0, Tail.NOTHING, ATTR_OUT, Bound.FIXED
    SETATTR = 4, 1, SETATTR_IN, 0, Tail.NOTHING, ATTR_OUT, Bound.FIXED
    READLINK = 5, 1, None, 0, Tail.NOTHING, None, Bound.PAGE
    SYMLINK = 6, 1, None, 2, Tail.EXTENSIONS, ENTRY_OUT, Bound.FIXED
    MKNOD = 8, 1, MKNOD_IN, 1, Tail.EXTENSIONS, ENTRY_OUT, Bound.FIXED
    MKDIR = 9, 1, MKDIR_IN, 1, Tail.EXTENSIONS, ENTRY_OUT, Bound.FIXED
    UNLINK = 10, 1, None, 1, Tail.NOTHING, None, Bound.FIXED
    RMDIR = 11, 1, None, 1, Tail.NOTHING, None, Bound.FIXED
    RENAME = 12, 1, RENAME_IN, 2, Tail.NOTHING, None, Bound.FIXED
    LINK = 13, 1, LINK_IN, 1, Tail.NOTHING, ENTRY_OUT, Bound.FIXED
    OPEN = 14, 1, OPEN_IN, 0, Tail.NOTHING, OPEN_OUT, Bound.FIXED
    READ = 15, 1, READ_IN, 0, Tail.NOTHING, None, Bound.SIZE
    WRITE = 16, 1, WRITE_IN, 0, Tail.DATA, WRITE_OUT, Bound.FIXED
    STATFS = 17, 1, None, 0, Tail.NOTHING, STATFS_OUT, Bound.FIXED
    RELEASE = 18, 1, RELEASE_IN, 0, Tail.NOTHING, None, Bound.FIXED
    FSYNC = 20, 1, FSYNC_IN, 0, Tail.NOTHING, None, Bound.FIXED
    SETXATTR = 21, 1, SETXATTR_IN, 1, Tail.DATA, None, Bound.FIXED
    GETXATTR = 22, 1, GETXATTR_IN, 1, Tail.NOTHING, None, Bound.SIZE_OR_PROBE
    LISTXATTR = 23, 1, GETXATTR_IN, 0, Tail.NOTHING, None, Bound.SIZE_OR_PROBE
    REMOVEXATTR = 24, 1, None, 1, Tail.NOTHING, None, Bound.FIXED
    FLUSH = 25, 1, FLUSH_IN, 0, Tail.NOTHING, None, Bound.FIXED
    INIT = 26, 1, INIT_IN, 0, Tail.NOTHING, INIT_OUT, Bound.FIXED
    OPENDIR = 27, 1, OPEN_IN, 0, Tail.NOTHING, OPEN_OUT, Bound.FIXED
    READDIR = 28, 1, READ_IN, 0, Tail.NOTHING, None, Bound.SIZE
    RELEASEDIR = 29, 1, RELEASE_IN, 0, Tail.NOTHING, None, Bound.FIXED
    FSYNCDIR = 30, 2, FSYNC_IN, 0, Tail.NOTHING, None, Bound.FIXED
    GETLK = 31, 7, LK_IN, 0, Tail.NOTHING, LK_OUT, Bound.FIXED, \
        "POSIX_LOCKS is never negotiated: locks stay the guest's own"
    SETLK = 32, 7, LK_IN, 0, Tail.NOTHING, None, Bound.FIXED, \
        "POSIX_LOCKS and FLOCK_LOCKS are never negotiated: locks stay the guest's own"
    SETLKW = 33, 7, LK_IN, 0, Tail.NOTHING, None, Bound.FIXED, \
        "POSIX_LOCKS and FLOCK_LOCKS are never negotiated: locks stay the guest's own"
    ACCESS = 34, 3, ACCESS_IN, 0, Tail.NOTHING, None, Bound.FIXED
    CREATE = 35, 3, CREATE_IN, 1, Tail.EXTENSIONS, CREATE_OUT, Bound.FIXED
    INTERRUPT = 36, 7, INTERRUPT_IN, 0, Tail.NOTHING, None, Bound.FIXED, \
        "the virtio driver never sends it, and no request can be taken back; after ENOSYS a kernel does not ask again"
    BMAP = 37, 8, BMAP_IN, 0, Tail.NOTHING, BMAP_OUT, Bound.FIXED, \
        "it is for file systems on a block device of the guest, and a share has none"
    DESTROY = 38, 8, None, 0, Tail.NOTHING, None, Bound.FIXED
    IOCTL = 39, 11, IOCTL_IN, 0, Tail.IOCTL_DATA, IOCTL_OUT, Bound.OUT_SIZE
    POLL = 40, 11, POLL_IN, 0, Tail.NOTHING, POLL_OUT, Bound.FIXED, \
        "regular files and directories are always ready, which is what a kernel assumes after ENOSYS"
    NOTIFY_REPLY = 41, 15, NOTIFY_RETRIEVE_IN, 0, Tail.DATA, None, Bound.FIXED, \
        "it answers a NOTIFY_RETRIEVE, and none is ever sent"
    BATCH_FORGET = 42, 16, BATCH_FORGET_IN, 0, Tail.FORGETS, None, Bound.FIXED
    FALLOCATE = 43, 19, FALLOCATE_IN, 0, Tail.NOTHING, None, Bound.FIXED
    READDIRPLUS = 44, 21, READ_IN, 0, Tail.NOTHING, None, Bound.SIZE
    RENAME2 = 45, 23, RENAME2_IN, 2, Tail.NOTHING, None, Bound.FIXED
    LSEEK = 46, 24, LSEEK_IN, 0, Tail.NOTHING, LSEEK_OUT, Bound.FIXED
    COPY_FILE_RANGE = 47, 28, COPY_FILE_RANGE_IN, 0, Tail.NOTHING, WRITE_OUT, Bound.FIXED
    SETUPMAPPING = 48, 31, SETUPMAPPING_IN, 0, Tail.NOTHING, None, Bound.FIXED, \
        "it maps a file into the DAX window, and the device has none (vhost-user has no message for it)"
    REMOVEMAPPING = 49, 31, REMOVEMAPPING_IN, 0, Tail.MAPPINGS, None, Bound.FIXED, \
        "it unmaps a file from the DAX window, and the device has none"
    SYNCFS = 50, 34, SYNCFS_IN, 0, Tail.NOTHING, None, Bound.FIXED
    TMPFILE = 51, 37, CREATE_IN, 1, Tail.EXTENSIONS, CREATE_OUT, Bound.FIXED
    STATX = 52, 39, STATX_IN, 0, Tail.NOTHING, STATX_OUT, Bound.FIXED
    COPY_FILE_RANGE_64 = 53, 45, COPY_FILE_RANGE_IN, 0, Tail.NOTHING, COPY_FILE_RANGE_OUT, Bound.FIXED
    CUSE_INIT = 4096, 12, CUSE_INIT_IN, 0, Tail.NOTHING, None, Bound.FIXED, \
        "it is for character devices in user space, not for file systems"
    # fmt: on

    @property
    def served(self) -> bool:
        """Whether a request is carried out; else it is answered ENOSYS, for the reason in ``refusal``."""
        return not self.refusal

    @property
    def answered(self) -> bool:
        """Whether there is a reply at all, be it an error."""
        return self not in (Op.FORGET, Op.BATCH_FORGET)

    def request_size_min(self) -> int:
        """Smallest size in bytes of the request's structure, from the oldest guest that is spoken with."""
        if self is Op.INIT:
            return INIT_IN_COMPAT_SIZE
        if self is Op.SETXATTR:
            return SETXATTR_IN_COMPAT_SIZE
        return self.request.size if self.request else 0

    def reply_room(self, request: Mapping[str, int]) -> int:
        """Largest size in bytes of a successful reply, header included, to a request with these fields; 0 for no reply.

        It is the room that a guest offers in its reply buffers, so a front-end sizes them by it.
        """
        if not self.answered:
            return 0
        fixed = OUT_HEADER.size + (self.reply.size if self.reply else 0)
        match self.bound:
            case Bound.SIZE:
                return fixed + request["size"]
            case Bound.SIZE_OR_PROBE:
                return fixed + (request["size"] or GETXATTR_OUT.size)
            case Bound.OUT_SIZE:
                return fixed + request["out_size"]
            case Bound.PAGE:
                return fixed + PAGE_SIZE - 1
            case _:
                return fixed


class Travel(enum.Enum):
    """How a negotiated INIT flag reaches the destination of a migration, where INIT is not sent again."""

    OPTS = "in the stream's opts, which every virtiofsd reads"
    TRAILER = "in the trailer; without one the destination assumes what its own options say"
    GUEST = "not at all: only the guest's kernel acts by it, and no request looks different"
    NEVER = "not at all: it is never negotiated"


class InitFlag(enum.IntEnum):
    """Every INIT flag, a line each; the value is the flag in the 64-bit word (``flags2`` is the upper half).

    bit, when it is negotiated if the guest offers it, how it travels in a migration, what happens when the destination
    lacks it. *When* is ``always``, ``never`` (with the reason), or the field of ``ShareConfig`` that switches it.
    """

    bit: int
    when: str
    travel: Travel
    lacking: str

    def __new__(cls, bit: int, when: str, travel: Travel, lacking: str) -> InitFlag:
        flag = int.__new__(cls, 1 << bit)
        flag._value_ = 1 << bit
        flag.bit = bit
        flag.when = when
        flag.travel = travel
        flag.lacking = lacking
        return flag

    # fmt: off
    ASYNC_READ = 0, "always", Travel.GUEST, "nothing: reads may come in any order to any daemon"
    POSIX_LOCKS = 1, "never: locks stay the guest's own, as with virtiofsd", Travel.NEVER, ""
    FILE_OPS = 2, "never: no kernel uses it", Travel.NEVER, ""
    ATOMIC_O_TRUNC = 3, "always", Travel.GUEST, "nothing: OPEN carries O_TRUNC, which open(2) obeys"
    EXPORT_SUPPORT = 4, "never: a LOOKUP of '.' or '..' has no place here", Travel.NEVER, ""
    BIG_WRITES = 5, "always", Travel.GUEST, "nothing: WRITE carries its size"
    DONT_MASK = 6, "posix_acl", Travel.OPTS, "the destination refuses the state: modes would be masked twice"
    SPLICE_WRITE = 7, "never: it is about /dev/fuse", Travel.NEVER, ""
    SPLICE_MOVE = 8, "never: it is about /dev/fuse", Travel.NEVER, ""
    SPLICE_READ = 9, "never: it is about /dev/fuse", Travel.NEVER, ""
    FLOCK_LOCKS = 10, "never: locks stay the guest's own, as with virtiofsd", Travel.NEVER, ""
    HAS_IOCTL_DIR = 11, "always", Travel.GUEST, "ioctl on a directory fails with ENOTTY, as without a migration there"
    AUTO_INVAL_DATA = 12, "always", Travel.GUEST, "nothing: the guest compares mtime and size of replies"
    DO_READDIRPLUS = 13, "readdirplus", Travel.GUEST, \
        "nothing: READDIRPLUS is served whatever the options say"
    READDIRPLUS_AUTO = 14, "readdirplus", Travel.GUEST, "nothing: the guest chooses between READDIR and READDIRPLUS"
    ASYNC_DIO = 15, "always", Travel.GUEST, "nothing: requests may come in any order to any daemon"
    WRITEBACK_CACHE = 16, "writeback", Travel.OPTS, \
        "the destination refuses the state: it would open files so that write-back can't read them"
    NO_OPEN_SUPPORT = 17, "never: OPEN is needed to keep an unlinked file", Travel.NEVER, ""
    PARALLEL_DIROPS = 18, "always", Travel.GUEST, "nothing: requests may come in any order to any daemon"
    HANDLE_KILLPRIV = 19, "never: HANDLE_KILLPRIV_V2 replaces it", Travel.NEVER, ""
    POSIX_ACL = 20, "posix_acl", Travel.OPTS, "the destination refuses the state: the guest relies on ACLs being kept"
    ABORT_ERROR = 21, "never: it is about /dev/fuse", Travel.NEVER, ""
    MAX_PAGES = 22, "always", Travel.GUEST, "nothing: requests of 1 MiB are taken by every daemon"
    CACHE_SYMLINKS = 23, "never: a link that changes on the host would stay stale in the guest", Travel.NEVER, ""
    NO_OPENDIR_SUPPORT = 24, "never: OPENDIR is needed to read a directory in one go", Travel.NEVER, ""
    EXPLICIT_INVAL_DATA = 25, "never: nothing here invalidates explicitly", Travel.NEVER, ""
    MAP_ALIGNMENT = 26, "never: it is about the DAX window", Travel.NEVER, ""
    SUBMOUNTS = 27, "announce_submounts", Travel.OPTS, \
        "the destination refuses the state: mounts of the guest would turn into plain directories"
    HANDLE_KILLPRIV_V2 = 28, "killpriv_v2", Travel.TRAILER, \
        "set-id bits stay when a guest's user writes: both hosts need the same option"
    SETXATTR_EXT = 29, "posix_acl", Travel.OPTS, \
        "the destination refuses the state, which says POSIX_ACL: setxattr_in would be read as 8 bytes of 16"
    INIT_EXT = 30, "always", Travel.GUEST, "nothing: it only says that INIT has a second word of flags"
    INIT_RESERVED = 31, "never: reserved", Travel.NEVER, ""
    SECURITY_CTX = 32, "security_label", Travel.TRAILER, \
        "new files get no label from the guest: both hosts need the same option"
    HAS_INODE_DAX = 33, "never: it is about the DAX window", Travel.NEVER, ""
    CREATE_SUPP_GROUP = 34, "always", Travel.OPTS, \
        "creating in a directory that only a supplementary group may write fails with EACCES"
    HAS_EXPIRE_ONLY = 35, "never: no notification is sent", Travel.NEVER, ""
    DIRECT_IO_ALLOW_MMAP = 36, "allow_mmap", Travel.GUEST, \
        "nothing: to the daemon, mmap of a file is ordinary READ and WRITE"
    PASSTHROUGH = 37, "never: it is about /dev/fuse", Travel.NEVER, ""
    NO_EXPORT_SUPPORT = 38, "never: without EXPORT_SUPPORT there is nothing to refuse", Travel.NEVER, ""
    HAS_RESEND = 39, "never: it is about /dev/fuse", Travel.NEVER, ""
    ALLOW_IDMAP = 40, "always", Travel.GUEST, \
        "nothing: requests that create carry mapped ids, for all others the daemon acts as itself"
    OVER_IO_URING = 41, "never: it is about /dev/fuse", Travel.NEVER, ""
    REQUEST_TIMEOUT = 42, "never: a slow host must not abort the guest's mount", Travel.NEVER, ""
    # fmt: on


# --- flags of single fields

FATTR_MODE: Final = 1 << 0
FATTR_UID: Final = 1 << 1
FATTR_GID: Final = 1 << 2
FATTR_SIZE: Final = 1 << 3
FATTR_ATIME: Final = 1 << 4
FATTR_MTIME: Final = 1 << 5
FATTR_FH: Final = 1 << 6
FATTR_ATIME_NOW: Final = 1 << 7
FATTR_MTIME_NOW: Final = 1 << 8
FATTR_LOCKOWNER: Final = 1 << 9
FATTR_CTIME: Final = 1 << 10
FATTR_KILL_SUIDGID: Final = 1 << 11

FOPEN_DIRECT_IO: Final = 1 << 0
FOPEN_KEEP_CACHE: Final = 1 << 1
FOPEN_NONSEEKABLE: Final = 1 << 2
FOPEN_CACHE_DIR: Final = 1 << 3
FOPEN_STREAM: Final = 1 << 4
FOPEN_NOFLUSH: Final = 1 << 5
FOPEN_PARALLEL_DIRECT_WRITES: Final = 1 << 6
FOPEN_PASSTHROUGH: Final = 1 << 7

RELEASE_FLUSH: Final = 1 << 0
RELEASE_FLOCK_UNLOCK: Final = 1 << 1
GETATTR_FH: Final = 1 << 0
LK_FLOCK: Final = 1 << 0
WRITE_CACHE: Final = 1 << 0
WRITE_LOCKOWNER: Final = 1 << 1
WRITE_KILL_SUIDGID: Final = 1 << 2
READ_LOCKOWNER: Final = 1 << 1
IOCTL_COMPAT: Final = 1 << 0
IOCTL_UNRESTRICTED: Final = 1 << 1
IOCTL_RETRY: Final = 1 << 2
IOCTL_32BIT: Final = 1 << 3
IOCTL_DIR: Final = 1 << 4
IOCTL_COMPAT_X32: Final = 1 << 5
FSYNC_FDATASYNC: Final = 1 << 0
ATTR_SUBMOUNT: Final = 1 << 0
ATTR_DAX: Final = 1 << 1
OPEN_KILL_SUIDGID: Final = 1 << 0
SETXATTR_ACL_KILL_SGID: Final = 1 << 0

EXT_SECCTX_MAX: Final = 31
"""Extension types up to this one are no types but the count of a secctx_header."""
EXT_GROUPS: Final = 32


def record_size(length: int) -> int:
    """``length`` rounded up to the 8 bytes that directory entries and extensions are aligned to."""
    return (length + 7) & ~7


def dirent_size(name_length: int) -> int:
    """Size in bytes of a READDIR entry with a name of this length."""
    return record_size(DIRENT.size + name_length)


def direntplus_size(name_length: int) -> int:
    """Size in bytes of a READDIRPLUS entry with a name of this length."""
    return record_size(DIRENTPLUS.size + name_length)
