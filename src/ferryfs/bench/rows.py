"""The micro benchmark's rows: one operation each, as lanes of prepared requests.

Some facts about what is fair. All daemons see the same share, except where a row makes or writes files: there each has
a folder of its own. Requests are cut as Linux' virtio-fs driver cuts them. A name that is looked up again and again
costs a Linux guest no FORGET (its dentry stays), so the rows send none; one that goes away does, so create+unlink does.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from ferryfs.bench import bare
from ferryfs.bench.guest import BenchGuest, pages, request
from ferryfs.bench.share import ENTRIES, FILE_BYTES, FILES, LANES_MAX, STREAM_BYTES, XATTR, spread
from ferryfs.frontend.load import LoadRequest
from ferryfs.wire.fuse import (
    CREATE_IN,
    ENTRY_OUT,
    FATTR_MODE,
    FORGET_IN,
    FSYNC_IN,
    GETATTR_IN,
    GETXATTR_IN,
    IN_HEADER,
    MKDIR_IN,
    OPEN_IN,
    OUT_HEADER,
    READ_IN,
    RELEASE_IN,
    RENAME2_IN,
    SETATTR_IN,
    STATX_IN,
    WRITE_IN,
    Op,
)

Lane = list[LoadRequest]
Lanes = Callable[[BenchGuest, int], contextlib.AbstractContextManager[list[Lane]]]


@dataclass(frozen=True, slots=True)
class Row:
    """One operation under measurement.

    ``lanes`` makes that many lanes for a guest, and may hold files open meanwhile. ``bare``: the system calls that the
    operation needs at least. ``requests``: how many answers of a lane are one operation, 0 for all of them. ``timed``:
    the position in an operation whose latency is reported. ``bytes``: that it moves. ``depths``: not as many requests
    in flight as asked for, but these. ``options``: that the daemons need for it.
    """

    name: str
    what: str
    lanes: Lanes
    bare: Callable[[bare.BareShare], list[bare.Operation]]
    requests: int = 1
    timed: int = 0
    bytes: int = 0
    depths: tuple[int, ...] = ()
    options: tuple[str, ...] = ()


def _one(op: Op, nodeid: int, *parts: bytes, room: int | None = None, error: int = 0) -> LoadRequest:
    size = op.reply.size if room is None and op.reply else room or 0
    return LoadRequest(request(op, nodeid, *parts), [OUT_HEADER.size, *([size] if size else [])], expected_error=error)


def _file(i: int) -> str:
    return f"files/file{i % FILES:04}"


def _own(guest: BenchGuest) -> int:
    return guest.walk(f"own-{guest.name}")


def _simple(make: Callable[[BenchGuest, int], Lane]) -> Lanes:
    """Lanes that need nothing kept open: ``make`` gives the lane of a number."""

    @contextlib.contextmanager
    def lanes(guest: BenchGuest, count: int) -> Iterator[list[Lane]]:
        yield [make(guest, i) for i in range(count)]

    return lanes


def _getattr(guest: BenchGuest, i: int) -> Lane:
    return [_one(Op.GETATTR, guest.walk(_file(i)), GETATTR_IN.pack())]


def _statx(guest: BenchGuest, i: int) -> Lane:
    return [_one(Op.STATX, guest.walk(_file(i)), STATX_IN.pack(sx_mask=0x7FF))]


def _lookup_hit(guest: BenchGuest, i: int) -> Lane:
    folder = guest.walk("files")
    guest.walk(_file(i))
    return [_one(Op.LOOKUP, folder, f"file{i:04}\0".encode())]


def _lookup_new(guest: BenchGuest, i: int) -> Lane:
    """A name that nobody knows, which is forgotten again: what each entry of a fresh mount costs."""
    name = f"file{i + LANES_MAX:04}\0".encode()
    return [_one(Op.LOOKUP, guest.walk("files"), name), _forget(0)]


def _lookup_miss(guest: BenchGuest, i: int) -> Lane:
    return [_one(Op.LOOKUP, guest.walk("files"), f"none{i:04}\0".encode(), error=errno.ENOENT)]


def _readlink(guest: BenchGuest, i: int) -> Lane:
    return [_one(Op.READLINK, guest.walk(f"files/link{i:04}"), room=4095)]


def _getxattr(guest: BenchGuest, i: int) -> Lane:
    return [_one(Op.GETXATTR, guest.walk(_file(i)), GETXATTR_IN.pack(size=64), XATTR + b"\0", room=64)]


def _setattr(guest: BenchGuest, i: int) -> Lane:
    nodeid = guest.walk(f"own-{guest.name}/data{i:04}")
    return [_one(Op.SETATTR, nodeid, SETATTR_IN.pack(valid=FATTR_MODE, mode=mode)) for mode in (0o600, 0o644)]


OPEN_FH: Final = OUT_HEADER.size
CREATE_NODEID: Final = OUT_HEADER.size
CREATE_FH: Final = OUT_HEADER.size + ENTRY_OUT.size
BODY_FH: Final = IN_HEADER.size
HEAD_NODEID: Final = 16


def _release(nodeid: int, position: int, source: int, flags: int, op: Op = Op.RELEASE) -> LoadRequest:
    patch = [(position, source, BODY_FH)]
    return LoadRequest(request(op, nodeid, RELEASE_IN.pack(flags=flags)), [OUT_HEADER.size], patch=patch)


def _open_release(guest: BenchGuest, i: int) -> Lane:
    nodeid = guest.walk(_file(i))
    return [_one(Op.OPEN, nodeid, OPEN_IN.pack(flags=os.O_RDONLY)), _release(nodeid, 0, OPEN_FH, os.O_RDONLY)]


def _forget(position: int) -> LoadRequest:
    """FORGET of the inode that the lane's request at ``position`` made."""
    patch = [(position, CREATE_NODEID, HEAD_NODEID)]
    return LoadRequest(request(Op.FORGET, 0, FORGET_IN.pack(nlookup=1)), [], patch=patch, hiprio=True)


def _create_unlink(guest: BenchGuest, i: int) -> Lane:
    folder = _own(guest)
    name = f"new{i:05}\0".encode()
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR
    return [
        _one(Op.CREATE, folder, CREATE_IN.pack(flags=flags, mode=0o100644, umask=0o022), name),
        LoadRequest(
            request(Op.RELEASE, 0, RELEASE_IN.pack(flags=os.O_RDWR)),
            [OUT_HEADER.size],
            patch=[(0, CREATE_NODEID, HEAD_NODEID), (0, CREATE_FH, BODY_FH)],
        ),
        _one(Op.UNLINK, folder, name),
        _forget(0),
    ]


def _mkdir_rmdir(guest: BenchGuest, i: int) -> Lane:
    folder = _own(guest)
    name = f"dir{i:05}\0".encode()
    return [
        _one(Op.MKDIR, folder, MKDIR_IN.pack(mode=0o755, umask=0o022), name),
        _one(Op.RMDIR, folder, name),
        _forget(0),
    ]


def _symlink_unlink(guest: BenchGuest, i: int) -> Lane:
    folder = _own(guest)
    name = f"sym{i:05}\0".encode()
    return [_one(Op.SYMLINK, folder, name, b"target\0"), _one(Op.UNLINK, folder, name), _forget(0)]


def _rename(guest: BenchGuest, i: int) -> Lane:
    folder = _own(guest)
    names = (f"move{i:04}\0".encode(), f"away{i:04}\0".encode())
    head = RENAME2_IN.pack(newdir=folder)
    return [_one(Op.RENAME2, folder, head, *names), _one(Op.RENAME2, folder, head, *reversed(names))]


@contextlib.contextmanager
def _small_files(guest: BenchGuest, count: int) -> Iterator[list[Lane]]:
    """LOOKUP, OPEN, READ and RELEASE of every file: each lane takes its share of them."""
    folder = guest.walk("files")
    lanes: list[Lane] = []
    for i in range(count):
        lane: Lane = []
        for k in range(i, FILES, count):
            at = len(lane)
            nodeid = guest.lookup(folder, f"file{k:04}")
            read = request(Op.READ, nodeid, READ_IN.pack(size=FILE_BYTES, flags=os.O_RDONLY))
            lane += [
                _one(Op.LOOKUP, folder, f"file{k:04}\0".encode()),
                _one(Op.OPEN, nodeid, OPEN_IN.pack(flags=os.O_RDONLY)),
                LoadRequest(read, [OUT_HEADER.size, FILE_BYTES], patch=[(at + 1, OPEN_FH, BODY_FH)]),
                _release(nodeid, at + 1, OPEN_FH, os.O_RDONLY),
            ]
        lanes.append(lane)
    yield lanes


def _reading(size: int, *, random: bool) -> Lanes:
    @contextlib.contextmanager
    def lanes(guest: BenchGuest, count: int) -> Iterator[list[Lane]]:
        nodeid = guest.walk("stream")
        # Not more than fits into guest memory with 64 lanes; lanes read different parts of the file.
        each = max(1, min(64, (1 << 21) // size // max(1, count // 32)))
        with guest.opened(nodeid, os.O_RDONLY) as fh:
            result = []
            for i in range(count):
                order = spread(STREAM_BYTES // size, i, count, each, random=random)
                result.append(
                    [
                        LoadRequest(
                            request(
                                Op.READ, nodeid, READ_IN.pack(fh=fh, offset=k * size, size=size, flags=os.O_RDONLY)
                            ),
                            [OUT_HEADER.size, *pages(size)],
                        )
                        for k in order
                    ]
                )
            yield result

    return lanes


def _writing(size: int, *, random: bool = False) -> Lanes:
    @contextlib.contextmanager
    def lanes(guest: BenchGuest, count: int) -> Iterator[list[Lane]]:
        folder = _own(guest)
        block = os.urandom(size)
        cut = [block[at : at + 4096] for at in range(0, size, 4096)]
        each = max(1, min(16, (1 << 20) // size))
        with contextlib.ExitStack() as stack:
            result = []
            for i in range(count):
                nodeid = guest.lookup(folder, f"data{i:04}")
                fh = stack.enter_context(guest.opened(nodeid, os.O_RDWR))
                lane = []
                for k in spread((1 << 20) // size, 0, 1, each, random=random):
                    body = WRITE_IN.pack(fh=fh, offset=k * size, size=size, flags=os.O_RDWR)
                    head = IN_HEADER.pack(len=IN_HEADER.size + len(body) + size, opcode=Op.WRITE, nodeid=nodeid, pid=1)
                    lane.append(LoadRequest([head, body, *cut], [OUT_HEADER.size, 8]))
                result.append(lane)
            yield result

    return lanes


@contextlib.contextmanager
def _fsync(guest: BenchGuest, count: int) -> Iterator[list[Lane]]:
    folder = _own(guest)
    with contextlib.ExitStack() as stack:
        result: list[Lane] = []
        for i in range(count):
            nodeid = guest.lookup(folder, f"data{i:04}")
            fh = stack.enter_context(guest.opened(nodeid, os.O_RDWR))
            result.append([_one(Op.FSYNC, nodeid, FSYNC_IN.pack(fh=fh))])
        yield result


def _listing(op: Op, size: int) -> Lanes:
    """Whole walks through a directory, ``size`` bytes a request: OPENDIR, the requests, RELEASEDIR."""

    @contextlib.contextmanager
    def lanes(guest: BenchGuest, count: int) -> Iterator[list[Lane]]:
        nodeid = guest.walk("entries")
        offsets, _ = guest.directory_offsets(nodeid, op, size)
        flags = os.O_RDONLY | os.O_DIRECTORY
        lane: Lane = [_one(Op.OPENDIR, nodeid, OPEN_IN.pack(flags=flags))]
        for offset in offsets:
            read = request(op, nodeid, READ_IN.pack(offset=offset, size=size, flags=flags))
            lane.append(LoadRequest(read, [OUT_HEADER.size, *pages(size)], patch=[(0, OPEN_FH, BODY_FH)]))
        lane.append(_release(nodeid, 0, OPEN_FH, flags, Op.RELEASEDIR))
        yield [lane] * count

    return lanes


SIZES: Final = (("4k", 4 << 10, False), ("4k", 4 << 10, True), ("128k", 128 << 10, False), ("1M", 1 << 20, False))
LISTED: Final = f"{ENTRIES:,} entries by 4 KiB"
# A turn is at least one walk in every lane, so that more lanes would only make it longer.
LISTING_DEPTHS: Final = (1, 16)

ROWS: Final = (
    Row("getattr", "GETATTR of a known file", _simple(_getattr), bare.getattr_),
    Row("statx", "STATX of a known file", _simple(_statx), bare.getattr_),
    Row("lookup hit", "LOOKUP of a name that the guest knows", _simple(_lookup_hit), bare.lookup_hit),
    Row("lookup new", "LOOKUP of a name that the guest does not know, FORGET", _simple(_lookup_new), bare.lookup_hit),
    Row("lookup miss", "LOOKUP of a name that does not exist", _simple(_lookup_miss), bare.lookup_miss),
    Row("readlink", "READLINK", _simple(_readlink), bare.readlink),
    Row("getxattr", "GETXATTR of 16 bytes", _simple(_getxattr), bare.getxattr, options=("--xattr",)),
    Row("setattr", "SETATTR of the mode", _simple(_setattr), bare.setattr_),
    Row("open+release", "OPEN for reading, RELEASE", _simple(_open_release), bare.open_release, requests=2),
    Row("create+unlink", "CREATE, RELEASE, UNLINK, FORGET", _simple(_create_unlink), bare.create_unlink, requests=3),
    Row("mkdir+rmdir", "MKDIR, RMDIR, FORGET", _simple(_mkdir_rmdir), bare.mkdir_rmdir, requests=2),
    Row("symlink+unlink", "SYMLINK, UNLINK, FORGET", _simple(_symlink_unlink), bare.symlink_unlink, requests=2),
    Row("rename", "RENAME2 inside of a directory", _simple(_rename), bare.rename),
    Row("fsync", "FSYNC of a file without changes", _fsync, bare.fsync),
    Row("small file", f"LOOKUP, OPEN, READ 4k, RELEASE of {FILES:,} files", _small_files, bare.small_files, requests=4),
    *[
        Row(
            f"read {label}{' random' * random}",
            f"READ of {label}, {'anywhere' if random else 'in sequence'} in {STREAM_BYTES >> 20} MiB",
            _reading(size, random=random),
            bare.reading(size, random=random),
            bytes=size,
        )
        for label, size, random in SIZES
    ],
    *[
        Row(
            f"write {label}{' random' * random}",
            f"WRITE of {label} over what is there, {'anywhere' if random else 'in sequence'} in 1 MiB",
            _writing(size, random=random),
            bare.writing(size, random=random),
            bytes=size,
        )
        for label, size, random in SIZES
    ],
    Row(
        "readdir",
        f"OPENDIR, READDIR of {LISTED}, RELEASEDIR",
        _listing(Op.READDIR, 4096),
        bare.readdir,
        requests=0,
        timed=1,
        depths=LISTING_DEPTHS,
    ),
    Row(
        "readdirplus",
        f"OPENDIR, READDIRPLUS of {LISTED}, RELEASEDIR",
        _listing(Op.READDIRPLUS, 4096),
        bare.readdirplus,
        requests=0,
        timed=1,
        depths=LISTING_DEPTHS,
    ),
)
VARIED: Final = ("getattr", "lookup hit", "small file", "read 4k")
"""The rows that are also measured with several queues and with a front-end that polls."""
