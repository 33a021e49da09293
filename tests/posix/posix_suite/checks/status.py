"""stat, statx, statvfs, ioctl and notification."""

import errno
import fcntl
import os
import stat
from pathlib import Path

from ..assertions import ensure, equal, fails
from ..files import make, opened, pattern, write_at
from ..registry import check
from ..syscalls import (
    AT_EMPTY_PATH,
    AT_SYMLINK_NOFOLLOW,
    FIGETBSZ,
    FIONREAD,
    FS_IOC_FSGETXATTR,
    FS_IOC_GETFLAGS,
    IN_CREATE,
    IN_DELETE,
    IN_MODIFY,
    IN_MOVED_FROM,
    IN_MOVED_TO,
    STATX_BTIME,
    Inotify,
    statx,
)


@check()
def stat_lstat_and_fstat_agree(directory: Path) -> None:
    file = make(directory / "file")
    (directory / "dir").mkdir()
    for path in (file, directory / "dir"):
        with opened(path) as fd:
            equal(os.stat(path), os.fstat(fd), "stat and fstat")
            equal(os.stat(path), os.lstat(path), "stat and lstat")
    with opened(file, os.O_PATH) as fd:
        equal(os.stat(file), os.fstat(fd), "stat and fstat of O_PATH")


@check()
def statx_agrees_with_stat(directory: Path) -> None:
    file = make(directory / "file", pattern(10_000))
    (directory / "dir").mkdir()
    (directory / "link").symlink_to("file")
    os.mkfifo(directory / "fifo")
    for path in (file, directory / "dir", directory / "link", directory / "fifo"):
        status, extended = path.lstat(), statx(path)
        for name, expected, found in (
            ("mode", status.st_mode, extended.mode),
            ("inode", status.st_ino, extended.inode),
            ("links", status.st_nlink, extended.links),
            ("owner", (status.st_uid, status.st_gid), (extended.uid, extended.gid)),
            ("size", status.st_size, extended.size),
            ("blocks", status.st_blocks, extended.blocks),
            ("block size", status.st_blksize, extended.block_size),
            ("mtime", status.st_mtime_ns, extended.modified_ns),
            ("ctime", status.st_ctime_ns, extended.changed_ns),
            ("atime", status.st_atime_ns, extended.accessed_ns),
            ("device", (os.major(status.st_dev), os.minor(status.st_dev)), extended.device),
        ):
            equal(expected, found, f"{name} of {path.name}")


@check()
def statx_by_fd(directory: Path) -> None:
    file = make(directory / "file")
    with opened(file) as fd:
        equal(statx(file), statx(b"", fd, AT_EMPTY_PATH), "statx by path and by fd")
    with opened(file, os.O_PATH) as fd:
        equal(statx(file), statx(b"", fd, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW), "statx by path and by O_PATH")


@check("birth_time")
def birth_time_stays(directory: Path) -> None:
    file = make(directory / "file")
    born = statx(file)
    ensure(bool(born.mask & STATX_BTIME), "there is a birth time")
    ensure(born.born_ns > 0, "the birth time is set")
    with opened(file, os.O_WRONLY) as fd:
        os.write(fd, b"more")
    file.chmod(0o600)
    os.utime(file, ns=(5, 6))
    os.truncate(file, 1)
    file.rename(directory / "moved")
    equal(born.born_ns, statx(directory / "moved").born_ns, "birth time")


@check()
def inode_numbers_are_unique_and_stay(directory: Path) -> None:
    files = [make(directory / f"file{index}") for index in range(200)]
    numbers = [file.stat().st_ino for file in files]
    equal(200, len(set(numbers)), "different inode numbers")
    equal(1, len({file.stat().st_dev for file in [*files, directory]}), "devices")
    for file in files:
        file.read_bytes()
    equal(numbers, [file.stat().st_ino for file in files], "inode numbers the second time")
    equal(numbers, [os.stat(file.rename(file.with_suffix(".new"))).st_ino for file in files], "after a rename")


@check()
def size_and_blocks_follow_writes(directory: Path) -> None:
    with opened(directory / "file", os.O_RDWR | os.O_CREAT) as fd:
        equal((0, 0), (os.fstat(fd).st_size, os.fstat(fd).st_blocks), "size and blocks of an empty file")
        for step in range(1, 6):
            write_at(fd, pattern(1 << 18, step), (step - 1) << 18)
            equal(step << 18, os.fstat(fd).st_size, "size")
            os.fsync(fd)
            blocks = os.stat(directory / "file").st_blocks
            ensure(blocks * 512 >= step << 18, f"{blocks} blocks hold {step << 18} bytes")
        os.ftruncate(fd, 0)
        os.fsync(fd)
        equal((0, 0), (os.fstat(fd).st_size, os.fstat(fd).st_blocks), "size and blocks after truncation")


@check()
def block_size_is_a_power_of_two(directory: Path) -> None:
    size = make(directory / "file").stat().st_blksize
    ensure(size >= 512 and size & (size - 1) == 0, f"block size {size} is a power of two")


@check()
def statvfs_makes_sense(directory: Path) -> None:
    status = os.statvfs(directory)
    ensure(status.f_blocks >= status.f_bfree >= status.f_bavail >= 0, "blocks, free and available")
    ensure(status.f_files >= status.f_ffree >= 0, "files and free files")
    ensure(status.f_bsize > 0 and status.f_frsize > 0, "block sizes")
    equal(255, status.f_namemax, "longest name")
    with opened(make(directory / "file")) as fd:
        by_fd = os.fstatvfs(fd)
        equal(
            (status.f_blocks, status.f_bsize, status.f_frsize), (by_fd.f_blocks, by_fd.f_bsize, by_fd.f_frsize), "sizes"
        )
    with fails(errno.ENOENT):
        os.statvfs(directory / "missing")


@check("fallocate")
def statvfs_sees_space_go(directory: Path) -> None:
    before = os.statvfs(directory)
    with opened(directory / "file", os.O_RDWR | os.O_CREAT) as fd:
        os.posix_fallocate(fd, 0, 256 << 20)
        after = os.statvfs(directory)
        used = (before.f_bfree - after.f_bfree) * before.f_frsize
        # Others use the same disk at the same time: half is proof enough.
        ensure(used > 128 << 20, f"256 MiB more take {used} bytes")


@check()
def pathconf_limits(directory: Path) -> None:
    equal(255, os.pathconf(directory, "PC_NAME_MAX"), "NAME_MAX")
    equal(4096, os.pathconf(directory, "PC_PATH_MAX"), "PATH_MAX")


@check("flags_ioctl")
def flags_of_files_and_directories(directory: Path) -> None:
    for path in (make(directory / "file"), directory):
        with opened(path) as fd:
            answer = fcntl.ioctl(fd, FS_IOC_GETFLAGS, bytes(8))
            # FS_IMMUTABLE_FL and FS_APPEND_FL are never on something new.
            equal(0, int.from_bytes(answer[:4], "little") & 0x30, "immutable and append-only flag")


@check("fsxattr_ioctl")
def fsxattr_of_files_and_directories(directory: Path) -> None:
    for path in (make(directory / "file"), directory):
        with opened(path) as fd:
            answer = fcntl.ioctl(fd, FS_IOC_FSGETXATTR, bytes(28))
            equal(28, len(answer), "length of the answer")


@check()
def ioctl_of_the_kernel_itself(directory: Path) -> None:
    with opened(make(directory / "file", b"0123456789")) as fd:
        os.lseek(fd, 3, os.SEEK_SET)
        equal(7, int.from_bytes(fcntl.ioctl(fd, FIONREAD, bytes(4)), "little"), "bytes left to read")
        ensure(int.from_bytes(fcntl.ioctl(fd, FIGETBSZ, bytes(4)), "little") > 0, "block size")


@check()
def file_is_no_terminal(directory: Path) -> None:
    with opened(make(directory / "file")) as fd:
        ensure(not os.isatty(fd), "a file is no terminal")
        with fails(errno.ENOTTY):
            os.tcgetpgrp(fd)


@check()
def inotify_tells_of_own_changes(directory: Path) -> None:
    watch = Inotify(directory, IN_CREATE | IN_MODIFY | IN_MOVED_FROM | IN_MOVED_TO | IN_DELETE)
    make(directory / "file")
    (directory / "file").rename(directory / "moved")
    (directory / "moved").unlink()
    (directory / "dir").mkdir()
    (directory / "dir").rmdir()
    events = [(mask & 0xFFFF, name) for mask, name in watch.events()]
    watch.close()
    for expected in (
        (IN_CREATE, b"file"),
        (IN_MODIFY, b"file"),
        (IN_MOVED_FROM, b"file"),
        (IN_MOVED_TO, b"moved"),
        (IN_DELETE, b"moved"),
        (IN_CREATE, b"dir"),
        (IN_DELETE, b"dir"),
    ):
        ensure(expected in events, f"event {expected} is among {events}")


@check()
def types_are_told_apart(directory: Path) -> None:
    make(directory / "file")
    (directory / "dir").mkdir()
    (directory / "link").symlink_to("dir")
    os.mkfifo(directory / "fifo")
    kinds = {path.name: stat.S_IFMT(path.lstat().st_mode) for path in directory.iterdir()}
    expected = {"file": stat.S_IFREG, "dir": stat.S_IFDIR, "link": stat.S_IFLNK, "fifo": stat.S_IFIFO}
    equal(expected, kinds, "types")
