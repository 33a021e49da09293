"""What no sane guest says: names that lead elsewhere, counts and offsets at the edges, files not to be opened."""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from engine_calls import CALLS, CONTENT, FS_IOC_FSGETXATTR, FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, groups, prepare
from engine_guest import Call, Guest

from ferryfs.passthrough.config import IdRange as Ids
from ferryfs.passthrough.config import ShareConfig
from ferryfs.wire import fuse
from ferryfs.wire.fuse import Op

TOP = 1 << 64


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    shared = tmp_path / "shared"
    shared.mkdir()
    prepare(shared)
    (tmp_path / "outside").write_text("secret")
    return shared


@pytest.fixture
def guest(shared: Path) -> Iterator[Guest]:
    with Guest(shared, ShareConfig(xattr=True, allow_set_flags=True), at_end=True) as guest:
        yield guest
        guest.serves()


# --- names

MKDIR = fuse.MKDIR_IN.pack(mode=0o755)
MKNOD = fuse.MKNOD_IN.pack(mode=0o100644)
CREATE = fuse.CREATE_IN.pack(flags=os.O_RDWR, mode=0o100644)
NAMED: dict[str, tuple[Op, Callable[[bytes], bytes]]] = {
    "LOOKUP": (Op.LOOKUP, lambda name: name),
    "MKDIR": (Op.MKDIR, lambda name: MKDIR + name),
    "MKNOD": (Op.MKNOD, lambda name: MKNOD + name),
    "CREATE": (Op.CREATE, lambda name: CREATE + name),
    "SYMLINK": (Op.SYMLINK, lambda name: name + b"target\0"),
    "UNLINK": (Op.UNLINK, lambda name: name),
    "RMDIR": (Op.RMDIR, lambda name: name),
    "LINK": (Op.LINK, lambda name: fuse.LINK_IN.pack(oldnodeid=1) + name),
    "RENAME from": (Op.RENAME, lambda name: fuse.RENAME_IN.pack(newdir=1) + name + b"new\0"),
    "RENAME to": (Op.RENAME, lambda name: fuse.RENAME_IN.pack(newdir=1) + b"other\0" + name),
    "RENAME2 to": (Op.RENAME2, lambda name: fuse.RENAME2_IN.pack(newdir=1) + b"other\0" + name),
}
BAD_NAMES = {
    "empty": (b"\0", errno.EINVAL),
    "dot": (b".\0", errno.EINVAL),
    "dot dot": (b"..\0", errno.EINVAL),
    "slash": (b"/\0", errno.EINVAL),
    "slash inside": (b"dir/entry00\0", errno.EINVAL),
    "up and out": (b"../outside\0", errno.EINVAL),
    "absolute": (b"/etc/passwd\0", errno.EINVAL),
    "slash behind": (b"dir/\0", errno.EINVAL),
    "256 bytes": (b"n" * 256 + b"\0", errno.ENAMETOOLONG),
    "4096 bytes": (b"n" * 4096 + b"\0", errno.ENAMETOOLONG),
    "no end": (b"name", errno.EINVAL),
}


# Behind a name without an end another one follows here, and they are one good name.
ENDED_BY_THE_NEXT = {("SYMLINK", "no end"), ("RENAME from", "no end")}


@pytest.mark.parametrize(
    ("operation", "kind"), [(o, k) for o in NAMED for k in BAD_NAMES if (o, k) not in ENDED_BY_THE_NEXT]
)
def test_bad_names(guest: Guest, operation: str, kind: str) -> None:
    op, body = NAMED[operation]
    name, error = BAD_NAMES[kind]
    before = sorted(guest.shared.rglob("*"))
    assert guest.refused(op, 1, body(name)) == error
    assert sorted(guest.shared.rglob("*")) == before


def test_the_longest_name_is_good(guest: Guest) -> None:
    name = b"n" * 255
    guest.ask(Op.MKDIR, 1, MKDIR + name + b"\0")
    assert guest.lookup(name) > 1


def test_names_are_bytes(guest: Guest) -> None:
    name = bytes(set(range(1, 256)) - {ord("/")})[:255]
    guest.ask(Op.MKDIR, 1, MKDIR + name + b"\0")
    assert name in os.listdir(os.fsencode(guest.shared))


def test_below_a_file_there_is_nothing(guest: Guest) -> None:
    for nodeid in (guest.lookup(b"file"), guest.lookup(b"link"), guest.lookup(b"fifo")):
        assert guest.refused(Op.LOOKUP, nodeid, b"name\0") == errno.ENOTDIR
        assert guest.refused(Op.MKDIR, nodeid, MKDIR + b"name\0") == errno.ENOTDIR


def test_a_symlink_is_never_followed(guest: Guest) -> None:
    """A link to the outside is a link, whatever is asked of it."""
    secret = guest.shared.parent / "outside"
    before = secret.stat()
    (guest.shared / "out").symlink_to("../outside")
    nodeid = guest.lookup(b"out")
    for flags in (os.O_RDONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC, os.O_PATH):
        assert guest.refused(Op.OPEN, nodeid, flags.to_bytes(4, "little") + bytes(4)) == errno.EBADF
    for valid in (fuse.FATTR_MODE, fuse.FATTR_SIZE):
        guest.refused(Op.SETATTR, nodeid, fuse.SETATTR_IN.pack(valid=valid, mode=0o777))
    times = fuse.SETATTR_IN.pack(valid=fuse.FATTR_MTIME | fuse.FATTR_UID, mtime=1, uid=5)
    assert fuse.ATTR_OUT.unpack(guest.ask(Op.SETATTR, nodeid, times))["attr_mtime"] == 1
    guest.refused(Op.SETXATTR, nodeid, fuse.SETXATTR_IN.pack(size=1) + b"user.x\0v")
    create = fuse.CREATE_IN.pack(flags=os.O_RDWR | os.O_TRUNC, mode=0o100644) + b"out\0"
    guest.refused(Op.CREATE, 1, create)
    guest.ask(Op.LINK, 1, fuse.LINK_IN.pack(oldnodeid=nodeid) + b"again\0")
    assert (guest.shared / "again").is_symlink()
    after = secret.stat()
    assert (after.st_mode, after.st_uid, after.st_mtime_ns) == (before.st_mode, before.st_uid, before.st_mtime_ns)
    assert secret.read_text() == "secret"


def test_special_files_are_never_opened(guest: Guest) -> None:
    """A FIFO would block, a device would act. Their attributes are served."""
    os.mknod(guest.shared / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    for name in (b"fifo", b"null"):
        nodeid = guest.lookup(name)
        for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_NONBLOCK):
            assert guest.refused(Op.OPEN, nodeid, flags.to_bytes(4, "little") + bytes(4)) == errno.EBADF
        assert guest.refused(Op.OPENDIR, nodeid, bytes(8)) == errno.ENOTDIR
        guest.refused(Op.SETATTR, nodeid, fuse.SETATTR_IN.pack(valid=fuse.FATTR_SIZE))
        create = fuse.CREATE_IN.pack(flags=os.O_RDWR, mode=0o100644) + name + b"\0"
        assert guest.refused(Op.CREATE, 1, create) == errno.ESTALE
        guest.ask(Op.GETATTR, nodeid, bytes(16))
        guest.ask(Op.SETATTR, nodeid, fuse.SETATTR_IN.pack(valid=fuse.FATTR_MODE, mode=0o600))


# --- lookup counts


def test_forget_of_more_than_there_is(guest: Guest) -> None:
    for count in (2, 1 << 32, TOP - 1):
        nodeid = guest.lookup(b"file")
        assert guest.send(Call(Op.FORGET, nodeid, count.to_bytes(8, "little"))).silent
        assert guest.refused(Op.GETATTR, nodeid, bytes(16)) == errno.ENOENT
        guest.send(Call(Op.FORGET, nodeid, count.to_bytes(8, "little")))


def test_the_root_is_never_forgotten(guest: Guest) -> None:
    for _ in range(3):
        guest.send(Call(Op.FORGET, 1, (TOP - 1).to_bytes(8, "little")))
        one = fuse.FORGET_ONE.pack(nodeid=1, nlookup=TOP - 1)
        guest.send(Call(Op.BATCH_FORGET, 0, fuse.BATCH_FORGET_IN.pack(count=1) + one))
    guest.ask(Op.GETATTR, 1, bytes(16))


def test_forget_counts(guest: Guest) -> None:
    nodeid = guest.lookup(b"file")
    assert guest.lookup(b"file") == nodeid
    guest.send(Call(Op.FORGET, nodeid, (1).to_bytes(8, "little")))
    guest.ask(Op.GETATTR, nodeid, bytes(16))
    guest.send(Call(Op.FORGET, nodeid, (0).to_bytes(8, "little")))
    guest.ask(Op.GETATTR, nodeid, bytes(16))
    guest.send(Call(Op.FORGET, nodeid, (1).to_bytes(8, "little")))
    assert guest.refused(Op.GETATTR, nodeid, bytes(16)) == errno.ENOENT


def test_forget_of_an_open_file(guest: Guest) -> None:
    """The open file goes on; the inode ends with it."""
    nodeid = guest.lookup(b"file")
    fh = guest.open(nodeid)
    guest.send(Call(Op.FORGET, nodeid, (5).to_bytes(8, "little")))
    assert guest.ask(Op.READ, nodeid, fuse.READ_IN.pack(fh=fh, size=4)) == CONTENT[:4]
    guest.ask(Op.RELEASE, nodeid, fuse.RELEASE_IN.pack(fh=fh))
    assert guest.device.inode_count == 1
    assert guest.device.handle_count == 0


@pytest.mark.parametrize("count", [3, 4, 1 << 16, 1 << 28, (1 << 32) - 1])
def test_batch_forget_with_a_count_that_lies(guest: Guest, count: int) -> None:
    nodeid = guest.lookup(b"file")
    ones = fuse.FORGET_ONE.pack(nodeid=nodeid, nlookup=1) + fuse.FORGET_ONE.pack(nodeid=TOP - 1, nlookup=TOP - 1)
    assert guest.send(Call(Op.BATCH_FORGET, 0, fuse.BATCH_FORGET_IN.pack(count=count) + ones)).silent
    guest.ask(Op.GETATTR, nodeid, bytes(16))


def test_batch_forget_of_many(guest: Guest) -> None:
    nodeid = guest.lookup(b"file")
    ones = fuse.FORGET_ONE.pack(nodeid=nodeid, nlookup=0) * 4000 + fuse.FORGET_ONE.pack(nodeid=nodeid, nlookup=1)
    guest.send(Call(Op.BATCH_FORGET, 0, fuse.BATCH_FORGET_IN.pack(count=4001) + ones))
    assert guest.refused(Op.GETATTR, nodeid, bytes(16)) == errno.ENOENT


def test_release_twice(guest: Guest) -> None:
    nodeid = guest.lookup(b"file")
    fh = guest.open(nodeid)
    guest.ask(Op.RELEASE, nodeid, fuse.RELEASE_IN.pack(fh=fh))
    assert guest.refused(Op.RELEASE, nodeid, fuse.RELEASE_IN.pack(fh=fh)) == errno.EBADF


def test_init_again_drops_everything(guest: Guest) -> None:
    """A guest that was rebooted: nothing of before is left, and the ids of before name nothing."""
    nodeid = guest.lookup(b"file")
    fh = guest.open(nodeid)
    for _ in range(3):
        guest.init()
        assert guest.refused(Op.GETATTR, nodeid, bytes(16)) == errno.ENOENT
        assert guest.refused(Op.READ, nodeid, fuse.READ_IN.pack(fh=fh, size=4)) == errno.EBADF
    assert (guest.device.inode_count, guest.device.handle_count) == (1, 0)


def test_destroy_and_init(guest: Guest) -> None:
    fh = guest.open(guest.lookup(b"file"))
    guest.ask(Op.DESTROY, 0)
    guest.ask(Op.DESTROY, 0)
    assert guest.refused(Op.LOOKUP, 1, b"file\0") == errno.EIO
    guest.init()
    assert guest.refused(Op.FLUSH, 1, fuse.FLUSH_IN.pack(fh=fh)) == errno.EBADF
    guest.lookup(b"file")


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"major": 7, "minor": 26}, errno.EPROTO),
        ({"major": 6, "minor": 99}, errno.EPROTO),
        ({"major": 0, "minor": 0}, errno.EPROTO),
        ({"major": 7, "minor": 27}, 0),
        ({"major": 7, "minor": 45, "flags": 0xFFFFFFFF, "flags2": 0xFFFFFFFF}, 0),
        ({"major": 7, "minor": 0xFFFFFFFF}, 0),
        ({"major": 8, "minor": 0}, 0),
        ({"major": 0xFFFFFFFF, "minor": 0xFFFFFFFF}, 0),
    ],
)
def test_versions(shared: Path, fields: dict[str, int], error: int) -> None:
    with Guest(shared, init=False) as guest:
        answer = guest.send(Call(Op.INIT, 0, fuse.INIT_IN.pack(**fields)))
        assert answer.error == error
        if not error:
            out = fuse.INIT_OUT.unpack(answer.body)
            assert out["major"] == 7
            assert (out["flags"] | out["flags2"] << 32) & ~(fields.get("flags", 0) | fields.get("flags2", 0) << 32) == 0
        guest.serves()


# --- offsets and sizes

EDGES = (1 << 31, 1 << 32, (1 << 63) - 4097, (1 << 63) - 1, 1 << 63, TOP - 4096, TOP - 1)


@pytest.mark.parametrize("offset", EDGES)
def test_offsets_at_the_edges(guest: Guest, offset: int) -> None:
    """Beyond the end of the file nothing is read; what can't be a file offset is an error, and nothing wraps."""
    nodeid = guest.lookup(b"file")
    fh = guest.open(nodeid)
    answer = guest.send(Call(Op.READ, nodeid, fuse.READ_IN.pack(fh=fh, offset=offset, size=4096), 8192))
    assert answer.body == b""
    assert bool(answer.error) is (offset + 4096 > (1 << 63) - 1)
    write = fuse.WRITE_IN.pack(fh=fh, offset=offset, size=4096) + bytes(4096)
    answer = guest.send(Call(Op.WRITE, nodeid, write, 8))
    if offset + 4096 > (1 << 63) - 1:
        assert answer.error in (errno.EFBIG, errno.EINVAL)
    guest.send(Call(Op.SETATTR, nodeid, fuse.SETATTR_IN.pack(valid=fuse.FATTR_SIZE, size=len(CONTENT))))
    for op, body in (
        (Op.FALLOCATE, fuse.FALLOCATE_IN.pack(fh=fh, offset=offset, length=TOP - 1)),
        (Op.FALLOCATE, fuse.FALLOCATE_IN.pack(fh=fh, offset=0, length=1 << 63)),
        (Op.FALLOCATE, fuse.FALLOCATE_IN.pack(fh=fh, offset=offset, length=0)),
        (Op.LSEEK, fuse.LSEEK_IN.pack(fh=fh, offset=offset, whence=os.SEEK_DATA)),
        (Op.LSEEK, fuse.LSEEK_IN.pack(fh=fh, offset=TOP - 1, whence=0xFFFFFFFF)),
    ):
        guest.refused(op, nodeid, body)
    if offset >= 1 << 63:
        guest.refused(Op.SETATTR, nodeid, fuse.SETATTR_IN.pack(valid=fuse.FATTR_SIZE, size=offset))
    copy = {"fh_in": fh, "fh_out": fh, "nodeid_out": nodeid}
    guest.send(Call(Op.COPY_FILE_RANGE, nodeid, fuse.COPY_FILE_RANGE_IN.pack(off_in=offset, len=TOP - 1, **copy)))
    guest.send(Call(Op.COPY_FILE_RANGE, nodeid, fuse.COPY_FILE_RANGE_IN.pack(off_out=offset, len=TOP - 1, **copy)))
    assert guest.ask(Op.READ, nodeid, fuse.READ_IN.pack(fh=fh, size=100), room=100) == CONTENT[:100]


@pytest.mark.parametrize("offset", [5, 1 << 31, 1 << 62, (1 << 63) - 1, 1 << 63, TOP - 1])
@pytest.mark.parametrize("op", [Op.READDIR, Op.READDIRPLUS], ids=lambda op: op.name)
def test_directory_offsets_that_were_never_given(guest: Guest, op: Op, offset: int) -> None:
    nodeid = guest.lookup(b"dir")
    fh = guest.open(nodeid, os.O_DIRECTORY)
    guest.send(Call(op, nodeid, fuse.READ_IN.pack(fh=fh, offset=offset, size=4096)))
    # Another handle: an fd of ext4 that was first of all moved to the end gives no entries at 0 either.
    fh = guest.open(nodeid, os.O_DIRECTORY)
    body = guest.ask(op, nodeid, fuse.READ_IN.pack(fh=fh, offset=0, size=4096))
    assert b"entry00" in body


@pytest.mark.parametrize("size", [0, 1, 23, 24, 31, 32, (1 << 32) - 1])
@pytest.mark.parametrize("op", [Op.READDIR, Op.READDIRPLUS], ids=lambda op: op.name)
def test_directory_sizes(guest: Guest, op: Op, size: int) -> None:
    nodeid = guest.lookup(b"dir")
    fh = guest.open(nodeid, os.O_DIRECTORY)
    answer = guest.send(Call(op, nodeid, fuse.READ_IN.pack(fh=fh, size=size)))
    assert len(answer.body) <= size


def test_reads_and_writes_of_the_wrong_kind(guest: Guest) -> None:
    nodeid = guest.lookup(b"file")
    directory = guest.lookup(b"dir")
    fh, dir_fh = guest.open(nodeid), guest.open(directory, os.O_DIRECTORY)
    assert guest.refused(Op.READ, directory, fuse.READ_IN.pack(fh=dir_fh, size=10)) == errno.EISDIR
    assert guest.refused(Op.WRITE, directory, fuse.WRITE_IN.pack(fh=dir_fh, size=1) + b"x") == errno.EISDIR
    assert guest.refused(Op.READDIR, nodeid, fuse.READ_IN.pack(fh=fh, size=100)) == errno.ENOTDIR
    assert guest.refused(Op.OPENDIR, nodeid, bytes(8)) == errno.ENOTDIR
    assert guest.refused(Op.OPEN, directory, bytes(8)) == errno.EISDIR
    read_only = guest.open(nodeid, os.O_RDONLY)
    assert guest.refused(Op.WRITE, nodeid, fuse.WRITE_IN.pack(fh=read_only, size=1) + b"x") == errno.EBADF


@pytest.mark.parametrize("size", [25, 1 << 16, 1 << 31, (1 << 32) - 1])
def test_a_write_that_claims_more_than_it_has(guest: Guest, size: int) -> None:
    nodeid = guest.lookup(b"other")
    fh = guest.open(nodeid)
    guest.refused(Op.WRITE, nodeid, fuse.WRITE_IN.pack(fh=fh, size=size) + b"w" * 24)
    assert (guest.shared / "other").read_bytes() == b"other"


def test_a_read_that_claims_more_than_there_is_room(guest: Guest) -> None:
    nodeid = guest.lookup(b"file")
    fh = guest.open(nodeid)
    answer = guest.send(Call(Op.READ, nodeid, fuse.READ_IN.pack(fh=fh, size=(1 << 32) - 1), 100))
    assert answer.error or answer.body == CONTENT[:100]


# --- extended attributes


@pytest.mark.parametrize("size", [6, 1 << 16, 65537, 1 << 31, (1 << 32) - 1])
def test_setxattr_that_claims_more_than_it_has(guest: Guest, size: int) -> None:
    nodeid = guest.lookup(b"file")
    guest.refused(Op.SETXATTR, nodeid, fuse.SETXATTR_IN.pack(size=size) + b"user.new\0value")
    assert "user.new" not in os.listxattr(guest.shared / "file")


def test_xattr_names_and_flags(guest: Guest) -> None:
    nodeid = guest.lookup(b"file")
    for name in (b"", b"x" * 256, b"user.", b"nonsense"):
        guest.refused(Op.SETXATTR, nodeid, fuse.SETXATTR_IN.pack(size=1) + name + b"\0v")
        guest.refused(Op.GETXATTR, nodeid, fuse.GETXATTR_IN.pack(size=10) + name + b"\0")
        guest.refused(Op.REMOVEXATTR, nodeid, name + b"\0")
    known = fuse.SETXATTR_IN.pack(size=1, flags=0xFFFFFFFF) + b"user.known\0v"
    assert guest.refused(Op.SETXATTR, nodeid, known) == errno.EINVAL
    for size in (1, 4):
        assert guest.refused(Op.GETXATTR, nodeid, fuse.GETXATTR_IN.pack(size=size) + b"user.known\0") == errno.ERANGE
        assert guest.refused(Op.LISTXATTR, nodeid, fuse.GETXATTR_IN.pack(size=size)) == errno.ERANGE
    big = fuse.GETXATTR_IN.pack(size=0xFFFFFFFF)
    assert guest.ask(Op.GETXATTR, nodeid, big + b"user.known\0") == b"value"
    assert b"user.known\0" in guest.ask(Op.LISTXATTR, nodeid, big)
    for op, name in ((Op.GETXATTR, b"user.known\0"), (Op.LISTXATTR, b"")):
        assert len(guest.ask(op, nodeid, fuse.GETXATTR_IN.pack() + name)) == 8


# --- extensions of requests that create


def ext(size: int, kind: int, data: bytes) -> bytes:
    return fuse.EXT_HEADER.pack(size=size, type=kind) + data


BAD_EXTENSIONS = {
    "size 0": ext(0, 32, bytes(8)),
    "size 7": ext(7, 32, bytes(8)),
    "no group": ext(8, 32, b""),
    "larger than the request": ext(1000, 32, struct.pack("=II", 1, 0)),
    "size of all bits": ext(0xFFFFFFFF, 32, struct.pack("=II", 1, 0)),
    "more groups than there are": ext(16, 32, struct.pack("=II", 2, 0)),
    "groups of all bits": ext(16, 32, struct.pack("=II", 0xFFFFFFFF, 0)),
    "groups that wrap": ext(16, 32, struct.pack("=II", 0x40000001, 0)),
    "a type that is not": ext(16, 33, bytes(8)),
    "a type of all bits": ext(16, 0xFFFFFFFF, bytes(8)),
    "context without room": ext(8, 1, b""),
    "context without a name": ext(16, 1, struct.pack("=II", 4, 0)),
    "context larger than it is": ext(32, 1, struct.pack("=II", 400, 0) + b"user.x\0" + b"v" * 9),
    "context of all bits": ext(32, 1, struct.pack("=II", 0xFFFFFFFF, 0) + b"user.x\0" + b"v" * 9),
    "31 contexts": ext(32, 31, struct.pack("=II", 1, 0) + b"user.x\0" + b"v" * 9),
    "context name over the end": ext(24, 1, struct.pack("=II", 1, 0) + b"x" * 8),
}
CREATING = {
    "MKDIR": (Op.MKDIR, MKDIR + b"made\0"),
    "MKNOD": (Op.MKNOD, MKNOD + b"made\0"),
    "SYMLINK": (Op.SYMLINK, b"made\0target\0"),
    "CREATE": (Op.CREATE, CREATE + b"made\0"),
    "TMPFILE": (Op.TMPFILE, CREATE + b"/\0"),
}


@pytest.mark.parametrize("operation", CREATING)
@pytest.mark.parametrize("kind", BAD_EXTENSIONS)
def test_bad_extensions(shared: Path, operation: str, kind: str) -> None:
    op, body = CREATING[operation]
    config = ShareConfig(xattr=True)
    with Guest(shared, config, at_end=True) as guest:
        assert guest.refused(op, 1, body + BAD_EXTENSIONS[kind], extlen=4) == errno.EINVAL
        assert not (shared / "made").exists()
        guest.ask(op, 1, body + groups(), extlen=0xFFFF)
        guest.serves()


# --- ioctl


def test_only_inode_flags_pass_as_ioctl(guest: Guest) -> None:
    nodeid = guest.lookup(b"file")
    fh = guest.open(nodeid)
    fionread, fitrim, blkgetsize, tiocsti = 0x541B, 0xC0185879, 0x80081272, 0x5412
    for command in (0, fionread, fitrim, blkgetsize, tiocsti, 0xFFFFFFFF):
        body = fuse.IOCTL_IN.pack(fh=fh, cmd=command, in_size=8, out_size=64) + bytes(8)
        assert guest.refused(Op.IOCTL, nodeid, body) == errno.ENOTTY
    for command, size in ((FS_IOC_GETFLAGS, 4), (FS_IOC_FSGETXATTR, 28)):
        for out in range(size):
            body = fuse.IOCTL_IN.pack(fh=fh, cmd=command, out_size=out)
            assert guest.refused(Op.IOCTL, nodeid, body) == errno.EINVAL
        body = fuse.IOCTL_IN.pack(fh=fh, cmd=command, out_size=0xFFFFFFFF)
        answer = guest.send(Call(Op.IOCTL, nodeid, body))
        assert answer.error in (0, errno.ENOTTY, errno.EOPNOTSUPP)
    for claimed in (0, 3, 5, 0xFFFFFFFF):
        body = fuse.IOCTL_IN.pack(fh=fh, cmd=FS_IOC_SETFLAGS, in_size=claimed) + bytes(4)
        assert guest.refused(Op.IOCTL, nodeid, body) == errno.EINVAL


def test_flags_are_not_set_without_the_option(shared: Path) -> None:
    with Guest(shared) as guest:
        nodeid = guest.lookup(b"file")
        body = fuse.IOCTL_IN.pack(fh=guest.open(nodeid), cmd=FS_IOC_SETFLAGS, in_size=4) + bytes(4)
        assert guest.refused(Op.IOCTL, nodeid, body) == errno.EPERM


# --- whom a request acts as


def test_created_files_belong_to_the_guests_user(guest: Guest) -> None:
    os.chmod(guest.shared, 0o777)
    for op, body in CREATING.values():
        if op is not Op.TMPFILE:
            name = f"by{op.name}"
            guest.ask(op, 1, body.replace(b"made", name.encode()), uid=12345, gid=23456)
            found = (guest.shared / name).lstat()
            assert (found.st_uid, found.st_gid) == (12345, 23456), op.name
    guest.ask(Op.MKDIR, 1, MKDIR + b"mine again\0")
    assert (guest.shared / "mine again").stat().st_uid == os.geteuid()


@pytest.mark.parametrize("uid", [0xFFFFFFFF, 0xFFFFFFFE, 1 << 31])
def test_ids_that_mean_nobody(shared: Path, uid: int) -> None:
    """-1 is "leave it" to the kernel's calls: taken as an id it would leave the daemon's own, past any translation."""
    rules = (Ids("squash-guest", 0, 4000, 0xFFFFFFFF),)
    (shared / "open").mkdir()
    (shared / "open").chmod(0o777)
    with Guest(shared, ShareConfig(uid_rules=rules, gid_rules=rules)) as guest:
        parent = guest.lookup(b"open")
        guest.ask(Op.MKDIR, parent, MKDIR + b"squashed\0", uid=0, gid=0)
        assert (shared / "open" / "squashed").stat().st_uid == 4000
        for number, (op, body) in enumerate(CREATING.values()):
            name = f"made{number}".encode()
            for ids in ({"uid": uid, "gid": 0}, {"uid": 0, "gid": uid}):
                guest.send(Call(op, parent, body.replace(b"made", name), **ids))
                if (shared / "open" / name.decode()).exists():
                    found = (shared / "open" / name.decode()).stat()
                    assert 0 not in (found.st_uid, found.st_gid)
        guest.serves()


# --- rename


@pytest.mark.parametrize("flags", [1 << 3, 1 << 31, 0xFFFFFFFF, 3, 6, 7])
def test_rename_flags_that_can_not_be(guest: Guest, flags: int) -> None:
    body = fuse.RENAME2_IN.pack(newdir=1, flags=flags) + b"file\0other\0"
    assert guest.refused(Op.RENAME2, 1, body) == errno.EINVAL
    assert (guest.shared / "file").read_bytes() == CONTENT


def test_rename_flags(guest: Guest) -> None:
    def rename(flags: int, old: bytes, new: bytes) -> Call:
        return Call(Op.RENAME2, 1, fuse.RENAME2_IN.pack(newdir=1, flags=flags) + old + b"\0" + new + b"\0")

    assert guest.send(rename(1, b"file", b"other")).error == errno.EEXIST
    assert guest.send(rename(2, b"file", b"other")).error == 0
    assert (guest.shared / "other").read_bytes() == CONTENT
    assert guest.send(rename(2, b"file", b"nothing")).error == errno.ENOENT
    answer = guest.send(rename(4, b"other", b"moved"))
    assert answer.error in (0, errno.EPERM, errno.EINVAL)
    if not answer.error:
        assert stat.S_ISCHR((guest.shared / "other").lstat().st_mode)


def test_a_directory_does_not_move_into_itself(guest: Guest) -> None:
    nodeid = guest.lookup(b"dir")
    for op, layout in ((Op.RENAME, fuse.RENAME_IN), (Op.RENAME2, fuse.RENAME2_IN)):
        assert guest.refused(op, 1, layout.pack(newdir=nodeid) + b"dir\0inside\0") == errno.EINVAL


# --- --readonly


READ_ONLY_REFUSES = (
    Op.SETATTR, Op.SYMLINK, Op.MKNOD, Op.MKDIR, Op.UNLINK, Op.RMDIR, Op.RENAME, Op.LINK, Op.WRITE, Op.SETXATTR,
    Op.REMOVEXATTR, Op.CREATE, Op.FALLOCATE, Op.RENAME2, Op.COPY_FILE_RANGE, Op.TMPFILE, Op.COPY_FILE_RANGE_64,
)  # fmt: skip


def tree(shared: Path) -> list[tuple[str, int, int, int]]:
    return sorted(
        (str(p), s.st_mode, s.st_size, s.st_mtime_ns) for p, s in ((p, p.lstat()) for p in [shared, *shared.rglob("*")])
    )


class ReadOnlyGuest(Guest):
    """Opens files as a guest of a read-only share can."""

    def open(self, nodeid: int, flags: int = os.O_RDONLY) -> int:
        return super().open(nodeid, flags)


@pytest.mark.parametrize("op", READ_ONLY_REFUSES, ids=lambda op: op.name)
def test_readonly_refuses_every_change(shared: Path, op: Op) -> None:
    with ReadOnlyGuest(shared, ShareConfig(xattr=True, readonly=True)) as guest:
        call = CALLS[op](guest)
        before = tree(shared)
        assert guest.send(call).error == errno.EROFS
        assert tree(shared) == before
        guest.serves()


def test_readonly_refuses_to_open_for_writing(shared: Path) -> None:
    with Guest(shared, ShareConfig(readonly=True)) as guest:
        nodeid = guest.lookup(b"file")
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC, os.O_RDWR | os.O_APPEND, 3):
            assert guest.refused(Op.OPEN, nodeid, flags.to_bytes(4, "little") + bytes(4)) == errno.EROFS
        guest.open(nodeid, os.O_RDONLY)
        assert (shared / "file").read_bytes() == CONTENT
        guest.serves()
