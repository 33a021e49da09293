"""One sane request for each operation, on a directory made for it: what the tests then send whole, cut and spoiled."""

from __future__ import annotations

import itertools
import os
import struct
from collections.abc import Callable
from pathlib import Path

from engine_guest import Call, Guest

from ferryfs.wire import fuse
from ferryfs.wire.fuse import Op

CONTENT = bytes(range(256)) * 40
FS_IOC_GETFLAGS = 0x80086601
FS_IOC_FSGETXATTR = 0x801C581F
FS_IOC_SETFLAGS = 0x40086602

_numbers = itertools.count()


def prepare(shared: Path) -> None:
    """What the requests are about."""
    (shared / "file").write_bytes(CONTENT)
    (shared / "other").write_bytes(b"other")
    (shared / "dir").mkdir()
    for i in range(20):
        (shared / "dir" / f"entry{i:02}").touch()
    (shared / "link").symlink_to("file")
    os.mkfifo(shared / "fifo")
    os.setxattr(shared / "file", "user.known", b"value")


def new(prefix: str) -> bytes:
    """A name that nobody has used."""
    return f"{prefix}{next(_numbers)}".encode()


def entry_room(op: Op, fields: dict[str, int] | None = None) -> int:
    return op.reply_room(fields or {}) - fuse.OUT_HEADER.size


def call(op: Op, nodeid: int, body: bytes, fields: dict[str, int] | None = None, **more: int) -> Call:
    return Call(op, nodeid, body, entry_room(op, fields) if op.answered else 0, **more)


def extensions() -> bytes:
    """A security context and one supplementary group, as Linux packs them."""
    name, value = b"security.selinux\0", b"system_u:object_r:tmp_t:s0\0"
    inner = fuse.SECCTX.pack(size=len(value)) + name + value
    context = fuse.EXT_HEADER.pack(size=8 + len(inner), type=1) + inner
    groups = fuse.EXT_HEADER.pack(size=16, type=fuse.EXT_GROUPS) + struct.pack("=II", 1, 0)
    return b"".join(ext + bytes(-len(ext) % 8) for ext in (context, groups))


def groups() -> bytes:
    return fuse.EXT_HEADER.pack(size=16, type=fuse.EXT_GROUPS) + struct.pack("=II", 1, 0)


def _lookup(guest: Guest) -> Call:
    return call(Op.LOOKUP, 1, b"file\0")


def _forget(guest: Guest) -> Call:
    return call(Op.FORGET, guest.lookup(b"other"), fuse.FORGET_IN.pack(nlookup=1))


def _getattr(guest: Guest) -> Call:
    return call(Op.GETATTR, guest.lookup(b"file"), fuse.GETATTR_IN.pack())


def _setattr(guest: Guest) -> Call:
    body = fuse.SETATTR_IN.pack(valid=fuse.FATTR_MODE | fuse.FATTR_MTIME, mode=0o640, mtime=1_000_000_000)
    return call(Op.SETATTR, guest.lookup(b"file"), body)


def _readlink(guest: Guest) -> Call:
    return call(Op.READLINK, guest.lookup(b"link"), b"")


def _symlink(guest: Guest) -> Call:
    return call(Op.SYMLINK, 1, new("symlink") + b"\0target\0" + groups(), extlen=2)


def _mknod(guest: Guest) -> Call:
    body = fuse.MKNOD_IN.pack(mode=0o100600, umask=0o22) + new("node") + b"\0"
    body += groups()
    return call(Op.MKNOD, 1, body, extlen=2)


def _mkdir(guest: Guest) -> Call:
    body = fuse.MKDIR_IN.pack(mode=0o755) + new("made") + b"\0" + groups()
    return call(Op.MKDIR, 1, body, extlen=2)


def _unlink(guest: Guest) -> Call:
    name = new("gone")
    (guest.shared / name.decode()).touch()
    return call(Op.UNLINK, 1, name + b"\0")


def _rmdir(guest: Guest) -> Call:
    name = new("gonedir")
    (guest.shared / name.decode()).mkdir()
    return call(Op.RMDIR, 1, name + b"\0")


def _rename(guest: Guest) -> Call:
    name = new("from")
    (guest.shared / name.decode()).touch()
    body = fuse.RENAME_IN.pack(newdir=guest.lookup(b"dir")) + name + b"\0" + new("to") + b"\0"
    return call(Op.RENAME, 1, body)


def _rename2(guest: Guest) -> Call:
    name = new("from")
    (guest.shared / name.decode()).touch()
    body = fuse.RENAME2_IN.pack(newdir=guest.lookup(b"dir"), flags=1) + name + b"\0" + new("to") + b"\0"
    return call(Op.RENAME2, 1, body)


def _link(guest: Guest) -> Call:
    return call(Op.LINK, 1, fuse.LINK_IN.pack(oldnodeid=guest.lookup(b"file")) + new("hard") + b"\0")


def _open(guest: Guest) -> Call:
    return call(Op.OPEN, guest.lookup(b"file"), fuse.OPEN_IN.pack(flags=os.O_RDONLY))


def _read(guest: Guest) -> Call:
    nodeid = guest.lookup(b"file")
    fields = {"fh": guest.open(nodeid), "offset": 100, "size": 64}
    return call(Op.READ, nodeid, fuse.READ_IN.pack(**fields), fields)


def _write(guest: Guest) -> Call:
    nodeid = guest.lookup(b"other")
    body = fuse.WRITE_IN.pack(fh=guest.open(nodeid), offset=3, size=24) + b"w" * 24
    return call(Op.WRITE, nodeid, body)


def _statfs(guest: Guest) -> Call:
    return call(Op.STATFS, 1, b"")


def _release(guest: Guest) -> Call:
    nodeid = guest.lookup(b"file")
    return call(Op.RELEASE, nodeid, fuse.RELEASE_IN.pack(fh=guest.open(nodeid)))


def _fsync(guest: Guest) -> Call:
    nodeid = guest.lookup(b"file")
    return call(Op.FSYNC, nodeid, fuse.FSYNC_IN.pack(fh=guest.open(nodeid)))


def _setxattr(guest: Guest) -> Call:
    body = fuse.SETXATTR_IN.pack(size=5) + b"user.set\0value"
    return call(Op.SETXATTR, guest.lookup(b"file"), body)


def _getxattr(guest: Guest) -> Call:
    fields = {"size": 64}
    return call(Op.GETXATTR, guest.lookup(b"file"), fuse.GETXATTR_IN.pack(**fields) + b"user.known\0", fields)


def _listxattr(guest: Guest) -> Call:
    fields = {"size": 256}
    return call(Op.LISTXATTR, guest.lookup(b"file"), fuse.GETXATTR_IN.pack(**fields), fields)


def _removexattr(guest: Guest) -> Call:
    name = new("user.gone")
    os.setxattr(guest.shared / "file", name, b"")
    return call(Op.REMOVEXATTR, guest.lookup(b"file"), name + b"\0")


def _flush(guest: Guest) -> Call:
    nodeid = guest.lookup(b"file")
    return call(Op.FLUSH, nodeid, fuse.FLUSH_IN.pack(fh=guest.open(nodeid)))


def _init(guest: Guest) -> Call:
    return call(Op.INIT, 0, fuse.INIT_IN.pack(major=7, minor=45, flags=fuse.InitFlag.INIT_EXT))


def _opendir(guest: Guest) -> Call:
    return call(Op.OPENDIR, guest.lookup(b"dir"), fuse.OPEN_IN.pack(flags=os.O_DIRECTORY))


def _in_dir(op: Op, layout: fuse.Layout) -> Callable[[Guest], Call]:
    def build(guest: Guest) -> Call:
        nodeid = guest.lookup(b"dir")
        fields = {"fh": guest.open(nodeid, os.O_DIRECTORY)}
        if op in (Op.READDIR, Op.READDIRPLUS):
            fields["size"] = 1024
        return call(op, nodeid, layout.pack(**fields), fields)

    return build


def _access(guest: Guest) -> Call:
    return call(Op.ACCESS, guest.lookup(b"file"), fuse.ACCESS_IN.pack(mask=4))


def _create(guest: Guest) -> Call:
    body = fuse.CREATE_IN.pack(flags=os.O_RDWR | os.O_EXCL, mode=0o100644) + new("created") + b"\0" + groups()
    return call(Op.CREATE, 1, body, extlen=2)


def _tmpfile(guest: Guest) -> Call:
    return call(Op.TMPFILE, 1, fuse.CREATE_IN.pack(flags=os.O_RDWR, mode=0o100600) + b"/\0" + groups(), extlen=2)


def _destroy(guest: Guest) -> Call:
    return call(Op.DESTROY, 0, b"")


def _ioctl(guest: Guest) -> Call:
    nodeid = guest.lookup(b"file")
    fields = {"fh": guest.open(nodeid), "cmd": FS_IOC_GETFLAGS, "out_size": 8}
    return call(Op.IOCTL, nodeid, fuse.IOCTL_IN.pack(**fields), fields)


def _batch_forget(guest: Guest) -> Call:
    ones = [fuse.FORGET_ONE.pack(nodeid=guest.lookup(name), nlookup=1) for name in (b"other", b"fifo")]
    return call(Op.BATCH_FORGET, 0, fuse.BATCH_FORGET_IN.pack(count=2) + b"".join(ones))


def _fallocate(guest: Guest) -> Call:
    nodeid = guest.lookup(b"other")
    return call(Op.FALLOCATE, nodeid, fuse.FALLOCATE_IN.pack(fh=guest.open(nodeid), length=4096))


def _lseek(guest: Guest) -> Call:
    nodeid = guest.lookup(b"file")
    return call(Op.LSEEK, nodeid, fuse.LSEEK_IN.pack(fh=guest.open(nodeid), whence=os.SEEK_HOLE))


def _copy(op: Op) -> Callable[[Guest], Call]:
    def build(guest: Guest) -> Call:
        source, target = guest.lookup(b"file"), guest.lookup(b"other")
        fhs = {"fh_in": guest.open(source), "fh_out": guest.open(target)}
        return call(op, source, fuse.COPY_FILE_RANGE_IN.pack(nodeid_out=target, off_in=5, len=50, **fhs))

    return build


def _syncfs(guest: Guest) -> Call:
    return call(Op.SYNCFS, 1, fuse.SYNCFS_IN.pack())


def _statx(guest: Guest) -> Call:
    return call(Op.STATX, guest.lookup(b"file"), fuse.STATX_IN.pack(sx_mask=0x7FF))


def _refused(op: Op) -> Callable[[Guest], Call]:
    """What is answered ENOSYS, with a body of the right size all the same."""

    def build(guest: Guest) -> Call:
        return call(op, guest.lookup(b"file"), op.request.pack() if op.request else b"")

    return build


CALLS: dict[Op, Callable[[Guest], Call]] = {
    Op.LOOKUP: _lookup,
    Op.FORGET: _forget,
    Op.GETATTR: _getattr,
    Op.SETATTR: _setattr,
    Op.READLINK: _readlink,
    Op.SYMLINK: _symlink,
    Op.MKNOD: _mknod,
    Op.MKDIR: _mkdir,
    Op.UNLINK: _unlink,
    Op.RMDIR: _rmdir,
    Op.RENAME: _rename,
    Op.LINK: _link,
    Op.OPEN: _open,
    Op.READ: _read,
    Op.WRITE: _write,
    Op.STATFS: _statfs,
    Op.RELEASE: _release,
    Op.FSYNC: _fsync,
    Op.SETXATTR: _setxattr,
    Op.GETXATTR: _getxattr,
    Op.LISTXATTR: _listxattr,
    Op.REMOVEXATTR: _removexattr,
    Op.FLUSH: _flush,
    Op.INIT: _init,
    Op.OPENDIR: _opendir,
    Op.READDIR: _in_dir(Op.READDIR, fuse.READ_IN),
    Op.RELEASEDIR: _in_dir(Op.RELEASEDIR, fuse.RELEASE_IN),
    Op.FSYNCDIR: _in_dir(Op.FSYNCDIR, fuse.FSYNC_IN),
    Op.ACCESS: _access,
    Op.CREATE: _create,
    Op.DESTROY: _destroy,
    Op.IOCTL: _ioctl,
    Op.BATCH_FORGET: _batch_forget,
    Op.FALLOCATE: _fallocate,
    Op.READDIRPLUS: _in_dir(Op.READDIRPLUS, fuse.READ_IN),
    Op.RENAME2: _rename2,
    Op.LSEEK: _lseek,
    Op.COPY_FILE_RANGE: _copy(Op.COPY_FILE_RANGE),
    Op.SYNCFS: _syncfs,
    Op.TMPFILE: _tmpfile,
    Op.STATX: _statx,
    Op.COPY_FILE_RANGE_64: _copy(Op.COPY_FILE_RANGE_64),
    **{op: _refused(op) for op in Op if not op.served},
}
