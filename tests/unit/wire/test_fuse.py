"""wire/fuse.py: sizes, offsets and numbers against values worked out by hand from fuse.h 7.45, not from a header."""

import struct

import pytest

from ferryfs.wire import fuse
from ferryfs.wire.fuse import Bound, InitFlag, Layout, Op, Tail, Travel

SIZES = {
    "in_header": 40,
    "out_header": 16,
    "attr": 88,
    "statx": 256,
    "dirent": 24,
    "direntplus": 152,
    "forget_one": 16,
    "removemapping_one": 16,
    "ext_header": 8,
    "secctx_header": 8,
    "secctx": 8,
    "supp_groups": 4,
    "forget_in": 8,
    "batch_forget_in": 8,
    "getattr_in": 16,
    "statx_in": 24,
    "setattr_in": 88,
    "mknod_in": 16,
    "mkdir_in": 8,
    "rename_in": 8,
    "rename2_in": 16,
    "link_in": 8,
    "open_in": 8,
    "create_in": 16,
    "read_in": 40,
    "write_in": 40,
    "release_in": 24,
    "flush_in": 24,
    "fsync_in": 16,
    "setxattr_in": 16,
    "getxattr_in": 8,
    "lk_in": 48,
    "access_in": 8,
    "init_in": 64,
    "interrupt_in": 8,
    "bmap_in": 16,
    "ioctl_in": 32,
    "poll_in": 24,
    "notify_retrieve_in": 40,
    "fallocate_in": 32,
    "lseek_in": 24,
    "copy_file_range_in": 56,
    "setupmapping_in": 40,
    "removemapping_in": 4,
    "syncfs_in": 8,
    "cuse_init_in": 16,
    "entry_out": 128,
    "attr_out": 104,
    "statx_out": 288,
    "open_out": 16,
    "entry_out + open_out": 144,
    "write_out": 8,
    "statfs_out": 80,
    "getxattr_out": 8,
    "lk_out": 24,
    "init_out": 64,
    "bmap_out": 8,
    "ioctl_out": 16,
    "poll_out": 8,
    "lseek_out": 8,
    "copy_file_range_out": 8,
}
LAYOUTS = [value for value in vars(fuse).values() if isinstance(value, Layout)]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_size(layout: Layout) -> None:
    assert layout.size == SIZES[layout.name]


def test_every_size_is_of_a_layout() -> None:
    assert {layout.name for layout in LAYOUTS} == set(SIZES)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_round_trip_truncated_and_with_rubbish_behind(layout: Layout) -> None:
    values = {name: index + 1 for index, name in enumerate(layout.fields)}
    data = layout.pack(**values)
    assert layout.unpack(data) == values
    assert layout.unpack(b"\xee" * 5 + data + b"\xdd" * 9, 5) == values
    for length in range(len(data)):
        with pytest.raises(struct.error):
            layout.unpack(data[:length])


def test_pack_names_a_wrong_field() -> None:
    with pytest.raises(KeyError, match="fuse_open_in has no field mode"):
        fuse.OPEN_IN.pack(mode=1)
    with pytest.raises(struct.error):
        fuse.OPEN_IN.pack(flags=1 << 32)


@pytest.mark.parametrize(
    ("layout", "name", "offset"),
    [
        (fuse.IN_HEADER, "total_extlen", 36),
        (fuse.ATTR, "mode", 60),
        (fuse.ENTRY_OUT, "attr_ino", 40),
        (fuse.CREATE_OUT, "fh", 128),
        (fuse.STATX_OUT, "stat_mask", 32),
        (fuse.STATX, "mode", 28),
        (fuse.STATX, "ino", 32),
        (fuse.STATX, "mtime_sec", 112),
        (fuse.STATX, "dev_minor", 140),
        (fuse.SETATTR_IN, "uid", 76),
        (fuse.INIT_OUT, "max_write", 20),
        (fuse.INIT_OUT, "max_pages", 28),
        (fuse.INIT_OUT, "flags2", 32),
        (fuse.INIT_OUT, "request_timeout", 40),
        (fuse.INIT_IN, "flags2", 16),
        (fuse.NOTIFY_RETRIEVE_IN, "size", 16),
        (fuse.DIRENTPLUS, "namelen", 144),
    ],
)
def test_offset(layout: Layout, name: str, offset: int) -> None:
    assert layout.pack(**{name: 1}).index(1) == offset


def test_numbers() -> None:
    numbers = [int(op) for op in Op]
    assert numbers == sorted(set(numbers))
    assert set(range(1, 54)) - set(numbers) == {7, 19}
    assert (Op.LOOKUP, Op.INIT, Op.SYNCFS, Op.TMPFILE, Op.STATX, Op.COPY_FILE_RANGE_64) == (1, 26, 50, 51, 52, 53)


def test_refusals() -> None:
    assert {op.name for op in Op if not op.served} == {
        "GETLK",
        "SETLK",
        "SETLKW",
        "INTERRUPT",
        "BMAP",
        "POLL",
        "NOTIFY_REPLY",
        "SETUPMAPPING",
        "REMOVEMAPPING",
        "CUSE_INIT",
    }
    assert {op.name for op in Op if not op.answered} == {"FORGET", "BATCH_FORGET"}


@pytest.mark.parametrize("op", Op, ids=lambda op: op.name)
def test_row_is_consistent(op: Op) -> None:
    """The fields that a tail or a bound speaks of are in the request."""
    fields = op.request.fields if op.request else ()
    needs = {
        Tail.DATA: "size",
        Tail.IOCTL_DATA: "in_size",
        Tail.FORGETS: "count",
        Tail.MAPPINGS: "count",
        Bound.SIZE: "size",
        Bound.SIZE_OR_PROBE: "size",
        Bound.OUT_SIZE: "out_size",
    }
    for column in (op.tail, op.bound):
        assert needs.get(column) in (None, *fields)
    assert op.since <= fuse.MINOR
    assert op.request_size_min() <= (op.request.size if op.request else 0)


@pytest.mark.parametrize(
    ("op", "request_fields", "room"),
    [
        (Op.LOOKUP, {}, 144),
        (Op.FORGET, {}, 0),
        (Op.BATCH_FORGET, {"count": 3}, 0),
        (Op.READLINK, {}, 16 + 4095),
        (Op.READ, {"size": 4096}, 4112),
        (Op.READDIRPLUS, {"size": 100}, 116),
        (Op.GETXATTR, {"size": 0}, 24),
        (Op.GETXATTR, {"size": 5}, 21),
        (Op.LISTXATTR, {"size": 0}, 24),
        (Op.IOCTL, {"out_size": 28}, 60),
        (Op.CREATE, {}, 160),
        (Op.UNLINK, {}, 16),
        (Op.INIT, {}, 80),
    ],
)
def test_reply_room(op: Op, request_fields: dict[str, int], room: int) -> None:
    assert op.reply_room(request_fields) == room


@pytest.mark.parametrize("flag", InitFlag, ids=lambda flag: flag.name)
def test_flag_row_is_consistent(flag: InitFlag) -> None:
    assert flag == 1 << flag.bit
    assert flag.when.startswith("never: ") == (flag.travel is Travel.NEVER)
    assert bool(flag.lacking) != (flag.travel is Travel.NEVER)


def test_flags_cover_every_bit() -> None:
    assert [flag.bit for flag in InitFlag] == list(range(43))


def test_flag_switches_are_fields_of_the_configuration() -> None:
    from dataclasses import fields

    from ferryfs.passthrough.config import ShareConfig

    names = {field.name for field in fields(ShareConfig)} | {"always"}
    assert {flag.when for flag in InitFlag if flag.travel is not Travel.NEVER} <= names


@pytest.mark.parametrize(("length", "size"), [(0, 24), (1, 32), (8, 32), (9, 40), (255, 280)])
def test_directory_entry_sizes(length: int, size: int) -> None:
    assert fuse.dirent_size(length) == size
    assert fuse.direntplus_size(length) == size + 128
