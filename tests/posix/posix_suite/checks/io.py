"""Reading, writing and seeking."""

import errno
import fcntl
import hashlib
import os
import resource
import signal
from functools import partial
from pathlib import Path

from ..assertions import ensure, equal, fails
from ..files import make, opened, pattern, read_at, write_at
from ..processes import Child, Signpost, in_child
from ..registry import check, register
from ..syscalls import sync_file_range, syncfs

RDWR_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL
MIB = 1 << 20


def _round_trip(size: int, directory: Path) -> None:
    content = pattern(size)
    with opened(directory / "file", RDWR_NEW) as fd:
        write_at(fd, content, 0)
        equal(size, os.fstat(fd).st_size, "size")
        equal(hashlib.sha256(content).digest(), hashlib.sha256(read_at(fd, size + 1, 0)).digest(), "hash by the fd")
    equal(hashlib.sha256(content).digest(), hashlib.sha256((directory / "file").read_bytes()).digest(), "hash")


for one_size in (1, 4095, 4096, 4097, 131_071, 131_073, MIB - 1, MIB, MIB + 1, 5 * MIB + 12_345):
    register(f"io.round_trip_of_{one_size}_bytes", partial(_round_trip, one_size))


@check()
def writes_across_page_borders(directory: Path) -> None:
    expected = bytearray(100_000)
    with opened(directory / "file", RDWR_NEW) as fd:
        os.ftruncate(fd, len(expected))
        for index in range(200):
            offset, size = (index * 4093) % 95_000, 1 + (index * 617) % 5000
            content = pattern(size, index)
            os.pwrite(fd, content, offset)
            expected[offset : offset + size] = content
        equal(bytes(expected), read_at(fd, 200_000, 0), "content")


@check()
def read_at_and_past_the_end(directory: Path) -> None:
    with opened(make(directory / "file", b"0123456789")) as fd:
        equal(b"789", os.pread(fd, 100, 7), "read over the end")
        for offset in (10, 11, 4096, 1 << 40):
            equal(b"", os.pread(fd, 100, offset), f"read at {offset}")
        equal(b"", os.pread(fd, 0, 0), "read of no bytes")


@check()
def read_of_an_empty_file(directory: Path) -> None:
    with opened(make(directory / "file", b"")) as fd:
        equal(b"", os.read(fd, 100), "content")


@check()
def vectors(directory: Path) -> None:
    parts = [b"a" * 10, b"", b"b" * 5000, b"c"]
    with opened(directory / "file", RDWR_NEW) as fd:
        equal(5011, os.writev(fd, parts), "bytes written")
        equal(5011, os.pwritev(fd, parts, 5011), "bytes written")
        buffers = [bytearray(7), bytearray(5000), bytearray(10_000)]
        equal(10_022, os.preadv(fd, buffers, 0), "bytes read")
        equal(b"".join(parts) * 2, b"".join(buffers)[:10_022], "content")


@check()
def a_thousand_buffers(directory: Path) -> None:
    parts = [pattern(37 + index % 5, index) for index in range(1000)]
    total = sum(map(len, parts))
    with opened(directory / "file", RDWR_NEW) as fd:
        equal(total, os.writev(fd, parts), "bytes written")
        buffers = [bytearray(len(part)) for part in reversed(parts)]
        equal(total, os.preadv(fd, buffers, 0), "bytes read")
        equal(b"".join(parts), b"".join(buffers), "content")


@check()
def flags_of_pwritev2_and_preadv2(directory: Path) -> None:
    with opened(directory / "file", RDWR_NEW) as fd:
        for flag in (os.RWF_DSYNC, os.RWF_SYNC):
            equal(4, os.pwritev(fd, [b"sync"], 0, flag), "bytes written")
        buffer = bytearray(10)
        try:
            length = os.preadv(fd, [buffer], 0, os.RWF_NOWAIT)
        except OSError as error:
            ensure(error.errno in (errno.EAGAIN, errno.EOPNOTSUPP), f"RWF_NOWAIT fails with {error}")
        else:
            equal(b"sync", bytes(buffer[:length]), "content")
        with fails(errno.EOPNOTSUPP, errno.EINVAL):
            os.preadv(fd, [buffer], 0, 1 << 20)


@check()
def rwf_append(directory: Path) -> None:
    flag = 0x10
    with opened(directory / "file", RDWR_NEW) as fd:
        os.pwrite(fd, b"first", 0)
        equal(4, os.pwritev(fd, [b"more"], 0, flag), "bytes written")
        equal(b"firstmore", os.pread(fd, 100, 0), "content")


@check()
def access_mode_is_kept_to(directory: Path) -> None:
    file = make(directory / "file")
    with opened(file, os.O_WRONLY) as fd, fails(errno.EBADF):
        os.read(fd, 1)
    with opened(file, os.O_RDONLY) as fd, fails(errno.EBADF):
        os.write(fd, b"x")
    with opened(directory, os.O_RDONLY) as fd, fails(errno.EISDIR):
        os.read(fd, 1)


@check()
def seek(directory: Path) -> None:
    with opened(make(directory / "file", b"0123456789"), os.O_RDWR) as fd:
        equal(3, os.lseek(fd, 3, os.SEEK_SET), "position")
        equal(b"34", os.read(fd, 2), "content")
        equal(4, os.lseek(fd, -1, os.SEEK_CUR), "position")
        equal(8, os.lseek(fd, -2, os.SEEK_END), "position")
        equal(100, os.lseek(fd, 90, os.SEEK_END), "position behind the end")
        equal(b"", os.read(fd, 1), "content behind the end")
        for offset, whence in ((-1, os.SEEK_SET), (-11, os.SEEK_END), (0, 99)):
            with fails(errno.EINVAL):
                os.lseek(fd, offset, whence)
        equal(100, os.lseek(fd, 0, os.SEEK_CUR), "position after the refused seeks")
        os.write(fd, b"x")
        equal(101, os.fstat(fd).st_size, "size")


@check()
def negative_offsets_are_einval(directory: Path) -> None:
    with opened(make(directory / "file"), os.O_RDWR) as fd:
        with fails(errno.EINVAL):
            os.pread(fd, 1, -1)
        with fails(errno.EINVAL):
            os.pwrite(fd, b"x", -1)


@check()
def position_is_shared_by_dup_and_not_by_open(directory: Path) -> None:
    file = make(directory / "file", b"0123456789")
    with opened(file) as fd, opened(file) as other:
        copy = os.dup(fd)
        equal(b"012", os.read(fd, 3), "content")
        equal(b"34", os.read(copy, 2), "content by the copy")
        equal(b"0", os.read(other, 1), "content by another open file")
        os.close(copy)
        equal(b"5", os.read(fd, 1), "content after the copy is closed")


@check()
def position_is_shared_over_fork(directory: Path) -> None:
    with opened(make(directory / "file", b"0123456789")) as fd:
        in_child(lambda: equal(b"01", os.read(fd, 2), "content in the child"))
        equal(b"23", os.read(fd, 2), "content in the parent")


@check()
def write_is_seen_by_other_fds_at_once(directory: Path) -> None:
    file = make(directory / "file", b"")
    with opened(file, os.O_WRONLY) as writer, opened(file) as reader:
        for index in range(100):
            os.write(writer, b"%03d" % index)
            equal(b"%03d" % index, os.read(reader, 3), "content")
            equal(3 * index + 3, file.stat().st_size, "size")


@check()
def write_is_seen_by_another_process(directory: Path) -> None:
    file = make(directory / "file", b"")
    written, seen = Signpost(), Signpost()

    def reader() -> None:
        for index in range(20):
            written.wait()
            equal(b"%05d" % index, file.read_bytes()[-5:], "content")
            equal(5 * index + 5, file.stat().st_size, "size")
            seen.reached()

    child = Child(reader)
    with opened(file, os.O_WRONLY | os.O_APPEND) as fd:
        for index in range(20):
            os.write(fd, b"%05d" % index)
            written.reached()
            seen.wait()
    child.wait()


@check()
def sync_calls(directory: Path) -> None:
    with opened(directory / "file", RDWR_NEW) as fd:
        os.write(fd, pattern(100_000))
        os.fsync(fd)
        os.fdatasync(fd)
        syncfs(fd)
        sync_file_range(fd, 0, 4096, 7)
        equal(100_000, os.fstat(fd).st_size, "size")
    with opened(directory, os.O_RDONLY | os.O_DIRECTORY) as fd:
        os.fsync(fd)
        os.fdatasync(fd)
        syncfs(fd)
    with opened(directory / "file", os.O_PATH) as fd, fails(errno.EBADF):
        os.fsync(fd)


@check()
def fsync_of_a_read_only_fd(directory: Path) -> None:
    with opened(make(directory / "file")) as fd:
        os.fsync(fd)
        os.fdatasync(fd)


@check()
def o_sync_and_o_dsync(directory: Path) -> None:
    for flag in (os.O_SYNC, os.O_DSYNC):
        with opened(directory / f"file{flag}", RDWR_NEW | flag) as fd:
            equal(5, os.write(fd, b"12345"), "bytes written")
            equal(flag, fcntl.fcntl(fd, fcntl.F_GETFL) & flag, "flag of the fd")
            equal(b"12345", os.pread(fd, 10, 0), "content")


@check()
def advice_changes_nothing(directory: Path) -> None:
    content = pattern(300_000)
    with opened(make(directory / "file", content)) as fd:
        for advice in (
            os.POSIX_FADV_SEQUENTIAL,
            os.POSIX_FADV_RANDOM,
            os.POSIX_FADV_WILLNEED,
            os.POSIX_FADV_DONTNEED,
            os.POSIX_FADV_NOREUSE,
        ):
            os.posix_fadvise(fd, 0, 0, advice)
            equal(content, read_at(fd, 400_000, 0), "content")


@check()
def file_size_limit(directory: Path) -> None:
    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        with opened(directory / "file", RDWR_NEW) as fd:
            equal(10_000, os.write(fd, b"x" * 20_000), "bytes written")
            with fails(errno.EFBIG):
                os.write(fd, b"x")
            with fails(errno.EFBIG):
                os.ftruncate(fd, 10_001)

    in_child(limited)
    equal(10_000, (directory / "file").stat().st_size, "size")


@check()
def closed_fd_is_ebadf(directory: Path) -> None:
    fd = os.open(make(directory / "file"), os.O_RDWR)
    os.close(fd)
    with fails(errno.EBADF):
        os.read(fd, 1)
    with fails(errno.EBADF):
        os.close(fd)


@check()
def overwrite_in_place_keeps_the_rest(directory: Path) -> None:
    file = make(directory / "file", b"0123456789")
    with opened(file, os.O_WRONLY) as fd:
        os.pwrite(fd, b"XY", 4)
    equal(b"0123XY6789", file.read_bytes(), "content")


@check()
def sequential_lines(directory: Path) -> None:
    lines = [f"line {index} of the file\n" for index in range(20_000)]
    with open(directory / "file", "w") as file:
        file.writelines(lines)
    with open(directory / "file") as file:
        ensure(list(file) == lines, "the lines are those that were written")
