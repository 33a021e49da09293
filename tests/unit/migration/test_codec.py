"""Stream to state and back: by hand, by golden bytes, by every truncation and every flipped bit, by chance."""

from __future__ import annotations

from ferryfs.migration.codec import decode, encode
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
    validate,
)

EVERYTHING = StateV2(
    StateV1(
        (
            Inode(1, 4, RootNode(), FileHandle(29, 1, b"\x02\0\0\0\0\0\0\0")),
            Inode(2, 3, Path(1, "dir"), None),
            Inode(3, 1, Path(2, "naïve"), FileHandle(29, -1, b"abc")),
            Inode(5, 1, Invalid(), None),
            Inode(300, 1, FullPath("dir/sub/file"), None),
            Inode(301, 1 << 60, ByHandle(FileHandle(30, 0x81, bytes(range(12)))), None),
        ),
        302,
        (Handle(1, 3, 0o100001), Handle(2, 5, 0o2)),
        3,
        Options(writeback=False, announce_submounts=True, posix_acl=False, sup_group_extension=True),
    ),
    (MountPath(29, "."), MountPath(30, "dir/mnt")),
)
# Worked out by hand from the table in docs/state-format.md.
EVERYTHING_BYTES = bytes.fromhex(
    "01 06"
    " 01 04 00 01 1d 02 08 0200000000000000"
    " 02 03 01 01 03 646972 00"
    " 03 01 01 02 06 6e61c3af7665 01 1d 01 03 616263"
    " 05 01 02 00"
    " ac02 01 03 0c 6469722f7375622f66696c65 00"
    " ad02 808080808080808010 04 1e 8202 0c 000102030405060708090a0b 00"
    " ae02"
    " 02 01 03 00 828004 02 05 00 04"
    " 03"
    " 00 01 00 01"
    " 02 1d 01 2e 1e 07 6469722f6d6e74"
)


def test_everything_by_hand() -> None:
    """Every kind of record, byte by byte."""
    assert encode(EVERYTHING) == EVERYTHING_BYTES
    decoded = decode(EVERYTHING_BYTES)
    assert decoded.state == EVERYTHING
    assert len(EVERYTHING_BYTES) == decoded.end
    assert not decoded.trailer_promised


def test_a_guest_without_a_mount() -> None:
    """No inodes, no root: the shortest stream."""
    empty = StateV2(StateV1((), 2, (), 1, Options(False, False, False, False)), ())
    assert bytes.fromhex("01 00 02 00 01 00000000 00") == encode(empty)
    assert empty == validate(decode(encode(empty)).state)


def test_rubbish_behind_is_told_not_taken() -> None:
    """The decoder says where the state ended and leaves the rest alone."""
    assert len(EVERYTHING_BYTES) == decode(EVERYTHING_BYTES + b"rubbish").end


def test_the_promise_costs_one_byte() -> None:
    """The count of inodes, padded; the state is the same."""
    promised = encode(EVERYTHING, trailer_follows=True)
    assert b"\x01\x86\x00" + EVERYTHING_BYTES[2:] == promised
    decoded = decode(promised)
    assert decoded.trailer_promised
    assert decoded.state == EVERYTHING
