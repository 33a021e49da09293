"""Copies inside the kernel: copy_file_range(2), sendfile(2), splice(2)."""

import errno
import os
import shutil
import socket
from pathlib import Path

from ..assertions import ensure, equal, fails
from ..files import make, opened, pattern, read_at
from ..registry import check

RDWR_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL
MIB = 1 << 20


def _copy_all(source: int, target: int, size: int) -> int:
    """copy_file_range until that much or the end is copied, at the fds' own positions."""
    done = 0
    while done < size and (step := os.copy_file_range(source, target, size - done)):
        done += step
    return done


@check()
def copy_file_range_of_a_whole_file(directory: Path) -> None:
    content = pattern(3 * MIB + 777)
    with opened(make(directory / "source", content)) as source, opened(directory / "target", RDWR_NEW) as target:
        equal(len(content), _copy_all(source, target, 10 * MIB), "bytes copied")
        equal(len(content), os.lseek(source, 0, os.SEEK_CUR), "position in the source")
        equal(len(content), os.lseek(target, 0, os.SEEK_CUR), "position in the target")
    equal(content, (directory / "target").read_bytes(), "content")


@check()
def copy_file_range_with_offsets(directory: Path) -> None:
    content = pattern(100_000)
    target_file = make(directory / "target", b"t" * 50_000)
    with opened(make(directory / "source", content)) as source, opened(target_file, os.O_RDWR) as target:
        equal(10_000, os.copy_file_range(source, target, 10_000, 30_001, 45_003), "bytes copied")
        equal(0, os.lseek(source, 0, os.SEEK_CUR), "position in the source")
        expected = b"t" * 45_003 + content[30_001:40_001]
        equal(expected, read_at(target, 100_000, 0), "content")


@check()
def copy_file_range_stops_at_the_end(directory: Path) -> None:
    with opened(make(directory / "source", b"0123456789")) as source, opened(directory / "target", RDWR_NEW) as target:
        equal(3, os.copy_file_range(source, target, 100, 7, 0), "bytes copied")
        equal(0, os.copy_file_range(source, target, 100, 10, 0), "bytes copied from the end")
        equal(0, os.copy_file_range(source, target, 100, 1 << 30, 0), "bytes copied from behind the end")
        equal(b"789", os.pread(target, 100, 0), "content")


@check()
def copy_file_range_inside_one_file(directory: Path) -> None:
    with opened(make(directory / "file", pattern(20_000)), os.O_RDWR) as fd:
        equal(5000, os.copy_file_range(fd, fd, 5000, 0, 10_000), "bytes copied")
        expected = pattern(20_000)[:10_000] + pattern(5000) + pattern(20_000)[15_000:]
        equal(expected, read_at(fd, 30_000, 0), "content")
        with fails(errno.EINVAL):
            os.copy_file_range(fd, fd, 5000, 0, 1000)


@check()
def copy_file_range_sees_and_is_seen(directory: Path) -> None:
    """What was just written is copied, and what was just copied is read, through any cache."""
    with opened(directory / "source", RDWR_NEW) as source, opened(directory / "target", RDWR_NEW) as target:
        for turn in range(10):
            content = pattern(10_000, turn)
            os.pwrite(source, content, 0)
            os.pread(target, 10_000, 0)
            equal(10_000, os.copy_file_range(source, target, 10_000, 0, 0), "bytes copied")
            equal(content, os.pread(target, 20_000, 0), "content")
            equal(10_000, os.fstat(target).st_size, "size")


@check()
def copy_file_range_with_bad_arguments(directory: Path) -> None:
    file = make(directory / "file")
    target = make(directory / "target", b"")
    with opened(file) as source:
        with opened(target, os.O_RDONLY) as bad, fails(errno.EBADF):
            os.copy_file_range(source, bad, 5, 0)
        with opened(target, os.O_WRONLY | os.O_APPEND) as bad, fails(errno.EBADF):
            os.copy_file_range(source, bad, 5, 0)
        with opened(directory) as bad, fails(errno.EISDIR):
            os.copy_file_range(bad, source, 5, 0)
    with opened(file, os.O_WRONLY) as bad, opened(target, os.O_WRONLY) as good, fails(errno.EBADF):
        os.copy_file_range(bad, good, 5, 0)


@check()
def sendfile_to_a_socket(directory: Path) -> None:
    content = pattern(50_000)
    with opened(make(directory / "file", content)) as fd:
        here, there = socket.socketpair()
        with here, there:
            here.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            got = b""
            offset = 100
            while offset < len(content):
                offset += os.sendfile(here.fileno(), fd, offset, 4000)
                got += there.recv(1 << 20)
            here.shutdown(socket.SHUT_WR)
            while part := there.recv(1 << 20):
                got += part
    equal(content[100:], got, "what came through")


@check()
def sendfile_to_a_file(directory: Path) -> None:
    content = pattern(2 * MIB)
    with opened(make(directory / "source", content)) as source, opened(directory / "target", RDWR_NEW) as target:
        done = 0
        while done < len(content):
            done += os.sendfile(target, source, done, len(content) - done)
    equal(content, (directory / "target").read_bytes(), "content")


@check()
def splice_through_a_pipe(directory: Path) -> None:
    content = pattern(200_000)
    reader, writer = os.pipe()
    with opened(make(directory / "source", content)) as source, opened(directory / "target", RDWR_NEW) as target:
        done = 0
        while done < len(content):
            step = os.splice(source, writer, 30_000, offset_src=done)
            ensure(step > 0, "something was spliced from the file")
            left = step
            while left:
                left -= os.splice(reader, target, left, offset_dst=done + step - left)
            done += step
        equal(0, os.splice(source, writer, 100, offset_src=len(content)), "bytes spliced at the end")
    equal(content, (directory / "target").read_bytes(), "content")


@check()
def copying_a_tree(directory: Path) -> None:
    """shutil.copytree: what a user's copy is made of."""
    source = directory / "source"
    (source / "sub").mkdir(parents=True)
    make(source / "file", pattern(300_000)).chmod(0o640)
    make(source / "sub" / "empty", b"")
    (source / "link").symlink_to("sub/empty")
    os.utime(source / "file", ns=(10**18 + 1, 10**18 + 3))
    shutil.copytree(source, directory / "copy", symlinks=True)
    copied = directory / "copy" / "file"
    equal(pattern(300_000), copied.read_bytes(), "content")
    equal(0o640, copied.stat().st_mode & 0o7777, "mode")
    equal(10**18 + 3, copied.stat().st_mtime_ns, "mtime")
    equal("sub/empty", os.readlink(directory / "copy" / "link"), "target")
    shutil.rmtree(directory / "copy")
    ensure(not (directory / "copy").exists(), "the copy is gone")
