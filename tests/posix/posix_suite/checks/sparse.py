"""Size changes, holes and allocation."""

import errno
import os
from pathlib import Path

from ..assertions import ensure, equal, fails
from ..files import make, opened, pattern, read_at, write_at
from ..registry import check
from ..syscalls import (
    FALLOC_COLLAPSE_RANGE,
    FALLOC_INSERT_RANGE,
    FALLOC_KEEP_SIZE,
    FALLOC_PUNCH_HOLE,
    FALLOC_ZERO_RANGE,
    fallocate,
)

MIB = 1 << 20
# A multiple of the block size of every file system (64 KiB pages are the largest).
BLOCK = 65_536
RDWR_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL


@check()
def hole_reads_as_zeros(directory: Path) -> None:
    with opened(directory / "file", RDWR_NEW) as fd:
        os.pwrite(fd, b"end", 3 * MIB)
        equal(3 * MIB + 3, os.fstat(fd).st_size, "size")
        equal(bytes(3 * MIB) + b"end", read_at(fd, 4 * MIB, 0), "content")


@check("holes")
def hole_takes_no_blocks(directory: Path) -> None:
    with opened(directory / "file", RDWR_NEW) as fd:
        os.pwrite(fd, b"end", 64 * MIB)
        os.fsync(fd)
        ensure(os.fstat(fd).st_blocks * 512 < MIB, "a hole of 64 MiB takes less than 1 MiB")


@check("holes")
def seek_data_and_seek_hole(directory: Path) -> None:
    with opened(directory / "file", RDWR_NEW) as fd:
        write_at(fd, b"x" * BLOCK, 2 * BLOCK)
        write_at(fd, b"x" * BLOCK, 8 * BLOCK)
        os.ftruncate(fd, 16 * BLOCK)
        os.fsync(fd)
        for offset, data in ((0, 2), (2, 2), (3, 8), (8, 8)):
            equal(data * BLOCK, os.lseek(fd, offset * BLOCK, os.SEEK_DATA), f"data from block {offset}")
        for offset, hole in ((0, 0), (2, 3), (8, 9), (15, 15)):
            equal(hole * BLOCK, os.lseek(fd, offset * BLOCK, os.SEEK_HOLE), f"hole from block {offset}")
        equal(15 * BLOCK, os.lseek(fd, 0, os.SEEK_CUR), "position after the last seek")
        for whence in (os.SEEK_DATA, os.SEEK_HOLE):
            with fails(errno.ENXIO):
                os.lseek(fd, 16 * BLOCK, whence)
        with fails(errno.ENXIO):
            os.lseek(fd, 9 * BLOCK, os.SEEK_DATA)


@check()
def seek_hole_of_a_full_file_is_its_end(directory: Path) -> None:
    with opened(make(directory / "file", b"x" * 10_000)) as fd:
        equal(10_000, os.lseek(fd, 0, os.SEEK_HOLE), "hole")
        equal(5, os.lseek(fd, 5, os.SEEK_DATA), "data")


@check()
def data_that_was_just_written_is_no_hole(directory: Path) -> None:
    """Neither to its writer nor to others: a program that copies data only must not leave it out."""
    file = directory / "file"
    with opened(file, os.O_RDWR | os.O_CREAT) as writer, opened(file) as reader:
        for turn in range(3):
            os.pwrite(writer, b"x" * 100_000, turn * 100_000)
            for fd in (writer, reader):
                equal(turn * 100_000, os.lseek(fd, turn * 100_000, os.SEEK_DATA), "data")
                equal((turn + 1) * 100_000, os.lseek(fd, turn * 100_000, os.SEEK_HOLE), "hole")


@check("fallocate")
def allocate_extends(directory: Path) -> None:
    with opened(make(directory / "file", b"x" * 10), os.O_RDWR) as fd:
        fallocate(fd, 0, 0, MIB)
        equal(MIB, os.fstat(fd).st_size, "size")
        ensure(os.fstat(fd).st_blocks * 512 >= MIB, "the blocks are there")
        equal(b"x" * 10 + bytes(100), os.pread(fd, 110, 0), "content")


@check("fallocate")
def allocate_keeping_the_size(directory: Path) -> None:
    with opened(make(directory / "file", b"x" * 10), os.O_RDWR) as fd:
        fallocate(fd, FALLOC_KEEP_SIZE, 0, MIB)
        equal(10, os.fstat(fd).st_size, "size")
        ensure(os.fstat(fd).st_blocks * 512 >= MIB, "the blocks are there")


@check("fallocate")
def allocate_inside_does_not_shrink(directory: Path) -> None:
    content = pattern(100_000)
    with opened(make(directory / "file", content), os.O_RDWR) as fd:
        fallocate(fd, 0, 10, 20)
        equal(content, read_at(fd, 200_000, 0), "content")


@check("punch_hole")
def punch_a_hole(directory: Path) -> None:
    content = pattern(8 * BLOCK)
    with opened(make(directory / "file", content), os.O_RDWR) as fd:
        os.fsync(fd)
        before = os.fstat(fd).st_blocks
        read_at(fd, 8 * BLOCK, 0)
        fallocate(fd, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, 2 * BLOCK + 100, 3 * BLOCK)
        expected = content[: 2 * BLOCK + 100] + bytes(3 * BLOCK) + content[5 * BLOCK + 100 :]
        equal(expected, read_at(fd, 9 * BLOCK, 0), "content")
        equal(8 * BLOCK, os.fstat(fd).st_size, "size")
        ensure(os.fstat(fd).st_blocks < before, "blocks were given back")


@check("punch_hole")
def punch_a_hole_past_the_end_changes_no_size(directory: Path) -> None:
    with opened(make(directory / "file", b"x" * 100), os.O_RDWR) as fd:
        fallocate(fd, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, 50, MIB)
        equal(b"x" * 50 + bytes(50), os.pread(fd, 200, 0), "content")


@check("zero_range")
def zero_a_range(directory: Path) -> None:
    content = pattern(4 * BLOCK)
    with opened(make(directory / "file", content), os.O_RDWR) as fd:
        fallocate(fd, FALLOC_ZERO_RANGE, BLOCK + 7, BLOCK)
        equal(content[: BLOCK + 7] + bytes(BLOCK) + content[2 * BLOCK + 7 :], read_at(fd, 5 * BLOCK, 0), "content")
        fallocate(fd, FALLOC_ZERO_RANGE, 4 * BLOCK - 5, 105)
        equal(4 * BLOCK + 100, os.fstat(fd).st_size, "size")
        fallocate(fd, FALLOC_ZERO_RANGE | FALLOC_KEEP_SIZE, 4 * BLOCK, BLOCK)
        equal(4 * BLOCK + 100, os.fstat(fd).st_size, "size, kept")


@check("collapse_range")
def collapse_a_range(directory: Path) -> None:
    content = pattern(4 * BLOCK)
    with opened(make(directory / "file", content), os.O_RDWR) as fd:
        fallocate(fd, FALLOC_COLLAPSE_RANGE, BLOCK, BLOCK)
        equal(content[:BLOCK] + content[2 * BLOCK :], read_at(fd, 5 * BLOCK, 0), "content")


@check("collapse_range")
def insert_a_range(directory: Path) -> None:
    content = pattern(4 * BLOCK)
    with opened(make(directory / "file", content), os.O_RDWR) as fd:
        fallocate(fd, FALLOC_INSERT_RANGE, BLOCK, BLOCK)
        equal(content[:BLOCK] + bytes(BLOCK) + content[BLOCK:], read_at(fd, 6 * BLOCK, 0), "content")


@check("fallocate")
def allocate_with_bad_arguments(directory: Path) -> None:
    file = make(directory / "file")
    with opened(file, os.O_RDWR) as fd:
        with fails(errno.EINVAL):
            fallocate(fd, 0, -1, 10)
        with fails(errno.EINVAL):
            fallocate(fd, 0, 0, 0)
        with fails(errno.EFBIG):
            fallocate(fd, 0, (1 << 63) - 10, 100)
        with fails(errno.EOPNOTSUPP):
            fallocate(fd, FALLOC_PUNCH_HOLE, 0, 10)
        with fails(errno.EOPNOTSUPP, errno.EINVAL):
            fallocate(fd, 1 << 20, 0, 10)
    with opened(file) as fd, fails(errno.EBADF):
        fallocate(fd, 0, 0, 10)
    equal(b"content", file.read_bytes(), "content")


@check()
def posix_fallocate(directory: Path) -> None:
    with opened(directory / "file", RDWR_NEW) as fd:
        os.posix_fallocate(fd, 100, 900)
        equal(bytes(1000), os.read(fd, 2000), "content")


@check()
def truncate_to_longer_gives_zeros(directory: Path) -> None:
    file = make(directory / "file")
    os.truncate(file, 10_000)
    equal(b"content" + bytes(9993), file.read_bytes(), "content")


@check()
def truncate_to_shorter_and_longer_again(directory: Path) -> None:
    """What was cut off must not come back, neither from the page cache nor from the disk."""
    file = make(directory / "file", b"x" * 20_000)
    with opened(file, os.O_RDWR) as fd:
        for cut in (12_345, 4096, 1):
            read_at(fd, 20_000, 0)
            os.ftruncate(fd, cut)
            os.ftruncate(fd, 20_000)
            equal(b"x" * cut + bytes(20_000 - cut), read_at(fd, 30_000, 0), "content")


@check()
def truncate_by_name_is_seen_through_the_fd(directory: Path) -> None:
    file = make(directory / "file", b"x" * 10_000)
    with opened(file, os.O_RDWR) as fd:
        os.read(fd, 10_000)
        os.truncate(file, 50)
        equal(50, os.fstat(fd).st_size, "size")
        equal(b"", os.pread(fd, 100, 60), "read behind the new end")
        os.pwrite(fd, b"y", 99)
        equal(b"x" * 50 + bytes(49) + b"y", os.pread(fd, 200, 0), "content")


@check()
def truncate_to_the_same_size(directory: Path) -> None:
    file = make(directory / "file")
    os.truncate(file, 7)
    equal(b"content", file.read_bytes(), "content")


@check()
def truncate_with_bad_arguments(directory: Path) -> None:
    file = make(directory / "file")
    with fails(errno.EINVAL):
        os.truncate(file, -1)
    with fails(errno.EISDIR):
        os.truncate(directory, 0)
    with fails(errno.ENOENT):
        os.truncate(directory / "missing", 0)
    with fails(errno.ENOTDIR):
        os.truncate(file / "below", 0)
    with opened(file) as fd, fails(errno.EINVAL):
        os.ftruncate(fd, 0)
    os.mkfifo(directory / "fifo")
    with fails(errno.EINVAL):
        os.truncate(directory / "fifo", 0)
    equal(b"content", file.read_bytes(), "content")


@check("large_files")
def size_of_a_tebibyte(directory: Path) -> None:
    with opened(directory / "file", RDWR_NEW) as fd:
        os.ftruncate(fd, 1 << 40)
        os.pwrite(fd, b"far", (1 << 40) - 1)
        equal((1 << 40) + 2, os.fstat(fd).st_size, "size")
        equal(b"far", os.pread(fd, 10, (1 << 40) - 1), "content")
        equal(bytes(10), os.pread(fd, 10, 1 << 39), "content in the middle")


@check()
def offsets_around_4_gib(directory: Path) -> None:
    with opened(directory / "file", RDWR_NEW) as fd:
        for offset in (2**31 - 2, 2**32 - 2):
            os.pwrite(fd, b"1234", offset)
            equal(offset + 4, os.fstat(fd).st_size, "size")
            equal(b"1234", os.pread(fd, 10, offset), "content")
            equal(b"34", os.pread(fd, 10, offset + 2), "content behind the border")


@check()
def write_past_the_largest_size_is_efbig(directory: Path) -> None:
    with opened(directory / "file", RDWR_NEW) as fd:
        with fails(errno.EFBIG):
            os.pwrite(fd, b"x", (1 << 63) - 2)
        with fails(errno.EFBIG, errno.EINVAL):
            os.ftruncate(fd, (1 << 63) - 1)
        equal(0, os.fstat(fd).st_size, "size")
