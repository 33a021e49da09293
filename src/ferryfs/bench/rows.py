"""The micro benchmark's rows: one operation each, as lanes of prepared requests.

Some facts about what is fair. All daemons see the same share, except where a row makes or writes files: there each has
a folder of its own. Requests are cut as Linux' virtio-fs driver cuts them. A name that is looked up again and again
costs a Linux guest no FORGET (its dentry stays), so the rows send none; one that goes away does, so create+unlink does.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ferryfs.bench.guest import BenchGuest, pages, request
from ferryfs.frontend.load import LoadRequest
from ferryfs.wire.fuse import (
    CREATE_IN,
    ENTRY_OUT,
    FATTR_MODE,
    FORGET_IN,
    GETATTR_IN,
    IN_HEADER,
    MKDIR_IN,
    OPEN_IN,
    OUT_HEADER,
    READ_IN,
    RELEASE_IN,
    RENAME2_IN,
    SETATTR_IN,
    WRITE_IN,
    Op,
)

FILES: Final = 2000
FILE_BYTES: Final = 4096
ENTRIES: Final = 1000
STREAM_BYTES: Final = 64 << 20
LANES_MAX: Final = 64
ENOENT: Final = 2

Lane = list[LoadRequest]


@dataclass(frozen=True, slots=True)
class Row:
    """One operation under measurement.

    ``lanes`` makes that many lanes for a guest, and may hold files open meanwhile. ``requests``: how many answers of a
    lane are one operation, 0 for all of them. ``timed``: the position in an operation whose latency is reported.
    ``bytes``: that it moves.
    """

    name: str
    what: str
    lanes: Callable[[BenchGuest, int], contextlib.AbstractContextManager[list[Lane]]]
    requests: int = 1
    timed: int = 0
    bytes: int = 0


def prepare(share: Path, names: list[str]) -> None:
    """Fills an empty directory with what the rows need; ``names``: of the daemons, for folders of their own."""
    for folder, count in (("files", FILES), ("entries", ENTRIES)):
        (share / folder).mkdir()
        for i in range(count):
            # Names of one length: every directory entry takes the same room.
            (share / folder / f"file{i:04}").write_bytes(
                os.urandom(64) * (FILE_BYTES // 64) if folder == "files" else b""
            )
    for i in range(LANES_MAX):
        (share / "files" / f"link{i:04}").symlink_to(f"file{i:04}")
    block = os.urandom(1 << 20)
    with (share / "stream").open("wb") as stream:
        for _ in range(STREAM_BYTES >> 20):
            stream.write(block)
    for name in names:
        own = share / f"own-{name}"
        own.mkdir()
        for i in range(LANES_MAX):
            (own / f"data{i:04}").write_bytes(block)
            (own / f"move{i:04}").write_bytes(b"")


def _one(op: Op, nodeid: int, *parts: bytes, room: int | None = None, error: int = 0) -> LoadRequest:
    size = op.reply.size if room is None and op.reply else room or 0
    return LoadRequest(request(op, nodeid, *parts), [OUT_HEADER.size, *([size] if size else [])], expected_error=error)


def _file(i: int) -> str:
    return f"files/file{i % FILES:04}"


def _own(guest: BenchGuest) -> int:
    return guest.walk(f"own-{guest.name}")


def _simple(
    make: Callable[[BenchGuest, int], Lane],
) -> Callable[[BenchGuest, int], contextlib.AbstractContextManager[list[Lane]]]:
    """Lanes that need nothing kept open: ``make`` gives the lane of a number."""

    @contextlib.contextmanager
    def lanes(guest: BenchGuest, count: int) -> Iterator[list[Lane]]:
        yield [make(guest, i) for i in range(count)]

    return lanes


def _getattr(guest: BenchGuest, i: int) -> Lane:
    return [_one(Op.GETATTR, guest.walk(_file(i)), GETATTR_IN.pack())]


def _lookup_hit(guest: BenchGuest, i: int) -> Lane:
    folder = guest.walk("files")
    guest.walk(_file(i))
    return [_one(Op.LOOKUP, folder, f"file{i:04}\0".encode())]


def _lookup_miss(guest: BenchGuest, i: int) -> Lane:
    return [_one(Op.LOOKUP, guest.walk("files"), f"none{i:04}\0".encode(), error=ENOENT)]


def _readlink(guest: BenchGuest, i: int) -> Lane:
    return [_one(Op.READLINK, guest.walk(f"files/link{i:04}"), room=4095)]


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


def _small_files(guest: BenchGuest, i: int) -> Lane:
    """LOOKUP, OPEN, READ and RELEASE of many different files."""
    folder = guest.walk("files")
    lane: Lane = []
    for k in range(i, FILES, FILES // 30):
        at = len(lane)
        nodeid = guest.walk(_file(k))
        read = request(Op.READ, nodeid, READ_IN.pack(size=FILE_BYTES, flags=os.O_RDONLY))
        lane += [
            _one(Op.LOOKUP, folder, f"file{k:04}\0".encode()),
            _one(Op.OPEN, nodeid, OPEN_IN.pack(flags=os.O_RDONLY)),
            LoadRequest(read, [OUT_HEADER.size, FILE_BYTES], patch=[(at + 1, OPEN_FH, BODY_FH)]),
            _release(nodeid, at + 1, OPEN_FH, os.O_RDONLY),
        ]
    return lane


def _reading(size: int, *, random: bool) -> Callable[[BenchGuest, int], contextlib.AbstractContextManager[list[Lane]]]:
    @contextlib.contextmanager
    def lanes(guest: BenchGuest, count: int) -> Iterator[list[Lane]]:
        nodeid = guest.walk("stream")
        # Not more than fits into guest memory with 64 lanes; lanes read different parts of the file.
        each = max(1, min(64, (1 << 21) // size // max(1, count // 32)))
        blocks = STREAM_BYTES // size
        with guest.opened(nodeid, os.O_RDONLY) as fh:
            result = []
            for i in range(count):
                first = i * blocks // count
                # 7919 is prime: a walk in such steps meets every block before it meets one again.
                order = [(first + k * (7919 if random else 1)) % blocks for k in range(each)]
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


def _writing(size: int) -> Callable[[BenchGuest, int], contextlib.AbstractContextManager[list[Lane]]]:
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
                for k in range(each):
                    body = WRITE_IN.pack(fh=fh, offset=k * size, size=size, flags=os.O_RDWR)
                    head = IN_HEADER.pack(len=IN_HEADER.size + len(body) + size, opcode=Op.WRITE, nodeid=nodeid, pid=1)
                    lane.append(LoadRequest([head, body, *cut], [OUT_HEADER.size, 8]))
                result.append(lane)
            yield result

    return lanes


def _listing(op: Op, size: int) -> Callable[[BenchGuest, int], contextlib.AbstractContextManager[list[Lane]]]:
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


ROWS: Final = (
    Row("getattr", "GETATTR of a known file", _simple(_getattr)),
    Row("lookup hit", "LOOKUP of a name that the guest knows", _simple(_lookup_hit)),
    Row("lookup miss", "LOOKUP of a name that does not exist", _simple(_lookup_miss)),
    Row("readlink", "READLINK", _simple(_readlink)),
    Row("setattr", "SETATTR of the mode", _simple(_setattr)),
    Row("open+release", "OPEN for reading, RELEASE", _simple(_open_release), requests=2),
    Row("create+unlink", "CREATE, RELEASE, UNLINK, FORGET", _simple(_create_unlink), requests=3),
    Row("mkdir+rmdir", "MKDIR, RMDIR, FORGET", _simple(_mkdir_rmdir), requests=2),
    Row("symlink+unlink", "SYMLINK, UNLINK, FORGET", _simple(_symlink_unlink), requests=2),
    Row("rename", "RENAME2 inside of a directory", _simple(_rename)),
    Row("small file", "LOOKUP, OPEN, READ 4k, RELEASE of 2,000 files", _simple(_small_files), requests=4),
    Row("read 4k", "READ of 4 KiB in sequence", _reading(4 << 10, random=False), bytes=4 << 10),
    Row("read 4k random", "READ of 4 KiB anywhere in 64 MiB", _reading(4 << 10, random=True), bytes=4 << 10),
    Row("read 128k", "READ of 128 KiB in sequence", _reading(128 << 10, random=False), bytes=128 << 10),
    Row("read 1M", "READ of 1 MiB in sequence", _reading(1 << 20, random=False), bytes=1 << 20),
    Row("write 4k", "WRITE of 4 KiB, overwriting", _writing(4 << 10), bytes=4 << 10),
    Row("write 128k", "WRITE of 128 KiB, overwriting", _writing(128 << 10), bytes=128 << 10),
    Row("write 1M", "WRITE of 1 MiB, overwriting", _writing(1 << 20), bytes=1 << 20),
    Row(
        "readdir", f"OPENDIR, READDIR of {ENTRIES} entries by 4 KiB, RELEASEDIR", _listing(Op.READDIR, 4096), requests=0
    ),
    Row(
        "readdirplus",
        f"OPENDIR, READDIRPLUS of {ENTRIES} entries by 4 KiB, RELEASEDIR",
        _listing(Op.READDIRPLUS, 4096),
        requests=0,
        timed=1,
    ),
)
