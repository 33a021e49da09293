"""Every operation, whole and spoiled: the reply's two lengths are always right, and the device goes on serving.

The Linux guest trusts `out_header.len` and the used length blindly; Guest.check compares them in every answer.
"""

from __future__ import annotations

import dataclasses
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_calls import CALLS, CONTENT, prepare
from engine_guest import HIPRIO, Call, Guest

from ferryfs.passthrough.config import ShareConfig
from ferryfs.wire.fuse import IN_HEADER, OUT_HEADER, Op


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    shared = tmp_path / "shared"
    shared.mkdir()
    prepare(shared)
    with Guest(shared, ShareConfig(xattr=True), at_end=True) as guest:
        yield guest


every_op = pytest.mark.parametrize("op", list(Op), ids=lambda op: op.name)
# How many bytes a reply to the sane call has behind its header, where that is not the structure's size.
SIZES = {
    Op.READLINK: len("file"),
    Op.READ: 64,
    Op.GETXATTR: len("value"),
    Op.IOCTL: 16 + 4,
}


def test_no_operation_is_left_out() -> None:
    assert set(CALLS) == set(Op)


@every_op
def test_whole(guest: Guest, op: Op) -> None:
    """A sane request succeeds (or is refused on purpose) and its reply has exactly the size of its structure."""
    call = CALLS[op](guest)
    answer = guest.send(call)
    if not op.answered:
        assert answer.silent
    elif not op.served:
        assert answer.error == errno.ENOSYS
    else:
        assert (answer.silent, os.strerror(answer.error)) == (False, os.strerror(0))
        if op in SIZES:
            assert len(answer.body) == SIZES[op]
        elif op in (Op.READDIR, Op.READDIRPLUS, Op.LISTXATTR):
            assert 0 < len(answer.body) <= call.room
        else:
            assert len(answer.body) == (op.reply.size if op.reply else 0)
        if op is Op.READ:
            assert answer.body == CONTENT[100:164]
    guest.serves()
    assert guest.complaints() == []


@every_op
def test_truncated_at_every_byte(guest: Guest, op: Op) -> None:
    """The request ends too early, header and all: an error, or nothing where there is no reply."""
    whole = CALLS[op](guest)
    for length in range(len(whole.data)):
        call = CALLS[op](guest)
        short = dataclasses.replace(call, body=call.body[: max(0, length - IN_HEADER.size)])
        data = short.data[:length]
        used, written = guest.exchange([data] if data else [], [OUT_HEADER.size + call.room])
        answer = guest.check(short, used, written)
        if length < IN_HEADER.size:
            assert answer.silent or answer.error == errno.EINVAL
        elif not op.answered:
            assert answer.silent
        elif op.served and not (op is Op.INIT and length >= IN_HEADER.size + 16):
            without_ext = len(whole.body) - 8 * whole.extlen
            if not whole.extlen or length < IN_HEADER.size + without_ext:
                assert answer.error == errno.EINVAL, f"{length} of {len(whole.data)} bytes"
    guest.serves()


@every_op
def test_a_length_that_lies(guest: Guest, op: Op) -> None:
    """The header's length is another than the request's: more than there is, nothing, or all bits."""
    for length in (0, 1, IN_HEADER.size - 1, len(CALLS[op](guest).data) + 1, 1 << 31, (1 << 32) - 1):
        call = CALLS[op](guest)
        used, written = guest.exchange([call.header(length) + call.body], [OUT_HEADER.size + call.room])
        answer = guest.check(call, used, written)
        assert answer.silent or answer.error == errno.EINVAL
    guest.serves()


@every_op
@pytest.mark.parametrize("size", [8, 100_000])
def test_rubbish_behind(guest: Guest, op: Op, size: int) -> None:
    """More bytes than the request has: ignored when the length leaves them out, else right lengths."""
    call = CALLS[op](guest)
    used, written = guest.exchange([call.data + b"\xff" * size], [OUT_HEADER.size + call.room])
    answer = guest.check(call, used, written)
    assert answer.silent is not op.answered
    assert answer.error == (0 if op.served else errno.ENOSYS)
    call = CALLS[op](guest)
    long = dataclasses.replace(call, body=call.body + b"\xff" * size)
    used, written = guest.exchange([long.data], [OUT_HEADER.size + call.room])
    guest.check(call, used, written)
    guest.serves()


@every_op
def test_every_size_of_room(guest: Guest, op: Op) -> None:
    """The writable part has 0 bytes, 1, and so on up to what the reply needs: an error or nothing until it fits."""
    whole = guest.send(CALLS[op](guest))
    if op is Op.DESTROY:
        guest.init()
    full = OUT_HEADER.size + len(whole.body)
    rooms = [*range(min(full, 400) + 1), full - 1, full, full + 1]
    for room in rooms:
        call = CALLS[op](guest)
        used, written = guest.exchange([call.data], [room] if room else [])
        answer = guest.check(call, used, written)
        if not op.answered or room < OUT_HEADER.size:
            assert answer.silent, f"{room} bytes"
        elif room >= full and op.served:
            assert answer.error == 0
        elif op is Op.READ or op in (Op.READDIR, Op.READDIRPLUS):
            assert len(answer.body) <= room - OUT_HEADER.size
        else:
            assert answer.error == (errno.EINVAL if op.served else errno.ENOSYS), f"{room} bytes"
        if op is Op.DESTROY and room >= OUT_HEADER.size:
            guest.init()
    guest.serves()


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """`data` in parts of these sizes in turn."""
    parts = []
    at = turn = 0
    while at < len(data):
        parts.append(data[at : at + sizes[turn % len(sizes)]])
        at += len(parts[-1])
        turn += 1
    return parts


CUTS = {
    "bytes": [1],
    "two and one": [2, 1],
    "odd": [7, 3, 13],
    "header and rest": [40, 1 << 20],
    "large": [39, 2, 1000],
}


@every_op
@pytest.mark.parametrize("sizes", CUTS.values(), ids=CUTS.keys())
def test_cut_in_odd_ways(guest: Guest, op: Op, sizes: list[int]) -> None:
    """The same request and the same reply, whatever way the guest cut its buffers; as virtio 2.7.4.2 has it."""
    straight = guest.send(CALLS[op](guest))
    if op is Op.DESTROY:
        guest.init()
    call = CALLS[op](guest)
    room = [len(part) for part in cut(bytes(OUT_HEADER.size + call.room), sizes)]
    used, written = guest.exchange(cut(call.data, sizes), room)
    answer = guest.check(call, used, written)
    assert (answer.error, answer.silent) == (straight.error, straight.silent)
    assert len(answer.body) == len(straight.body)
    if op in (Op.READ, Op.READLINK, Op.GETXATTR, Op.LISTXATTR, Op.READDIR):
        assert answer.body == straight.body
    guest.serves()


@every_op
def test_on_the_hiprio_queue(guest: Guest, op: Op) -> None:
    """The hiprio queue is for FORGET, but nothing keeps a guest from sending anything there."""
    guest.send(CALLS[op](guest), queue=HIPRIO)
    guest.serves()


@every_op
@pytest.mark.parametrize("nodeid", [0, 1 << 32, (1 << 64) - 1])
def test_unknown_nodeids(guest: Guest, op: Op, nodeid: int) -> None:
    """A nodeid that was never given out: ENOENT where the operation goes by it, and right lengths anyway."""
    call = dataclasses.replace(CALLS[op](guest), nodeid=nodeid)
    answer = guest.send(call)
    by_nodeid = {
        Op.LOOKUP, Op.GETATTR, Op.SETATTR, Op.READLINK, Op.SYMLINK, Op.MKNOD, Op.MKDIR, Op.UNLINK, Op.RMDIR, Op.RENAME,
        Op.RENAME2, Op.LINK, Op.OPEN, Op.OPENDIR, Op.STATFS, Op.SETXATTR, Op.GETXATTR, Op.LISTXATTR, Op.REMOVEXATTR,
        Op.ACCESS, Op.CREATE, Op.TMPFILE, Op.STATX, Op.SYNCFS,
    }  # fmt: skip
    if op in by_nodeid:
        assert answer.error == errno.ENOENT
    guest.serves()


BY_FH = (
    Op.READ, Op.WRITE, Op.RELEASE, Op.FSYNC, Op.FLUSH, Op.READDIR, Op.RELEASEDIR, Op.FSYNCDIR, Op.IOCTL, Op.FALLOCATE,
    Op.READDIRPLUS, Op.LSEEK, Op.COPY_FILE_RANGE, Op.COPY_FILE_RANGE_64,
)  # fmt: skip


@pytest.mark.parametrize("op", BY_FH, ids=lambda op: op.name)
@pytest.mark.parametrize("fh", [0, 1 << 20, 1 << 32, (1 << 64) - 1])
def test_unknown_fhs(guest: Guest, op: Op, fh: int) -> None:
    call = CALLS[op](guest)
    call = dataclasses.replace(call, body=fh.to_bytes(8, "little") + call.body[8:])
    assert guest.send(call).error == errno.EBADF
    guest.serves()


@every_op
def test_without_a_session(guest: Guest, op: Op) -> None:
    """After DESTROY nothing is served until INIT comes again."""
    call = CALLS[op](guest)
    guest.ask(Op.DESTROY, 0)
    answer = guest.send(call)
    if not op.answered:
        assert answer.silent
    elif op in (Op.INIT, Op.DESTROY):
        assert answer.error == 0
    else:
        assert answer.error == (errno.EIO if op.served else errno.ENOSYS)
    guest.serves()


@pytest.mark.parametrize(
    "number", [0, 7, 19, 54, 55, 100, 255, 256, 4095, 4097, 1 << 16, 1 << 20, (1 << 31) - 1, 1 << 31]
)
def test_operations_that_do_not_exist(guest: Guest, number: int) -> None:
    assert guest.send(Call(number, 1, bytes(64))).error == errno.ENOSYS
    guest.serves()


def test_no_buffers_to_write(guest: Guest) -> None:
    """A request without room for a reply is dropped, and not carried out: nobody would know."""
    name = guest.shared / "never"
    used, _ = guest.exchange([Call(Op.MKDIR, 1, bytes(8) + b"never\0").data], [])
    assert used == 0
    assert not name.exists()
    guest.serves()
