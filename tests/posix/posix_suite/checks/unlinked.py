"""Removing: unlink(2) and rmdir(2), and what lives on while it is open."""

import errno
import mmap
import os
import stat
from pathlib import Path

from ..assertions import ensure, equal, fails
from ..files import LONG_AGO_NS, make, opened, read_at
from ..processes import Child, Signpost, working_directory
from ..registry import check


def _open_and_unlink(directory: Path, content: bytes = b"content") -> int:
    file = make(directory / "file", content)
    fd = os.open(file, os.O_RDWR)
    file.unlink()
    with fails(errno.ENOENT):
        file.lstat()
    return fd


@check()
def open_file_can_be_asked(directory: Path) -> None:
    fd = _open_and_unlink(directory)
    status = os.fstat(fd)
    equal((0, 7), (status.st_nlink, status.st_size), "links and size")
    ensure(stat.S_ISREG(status.st_mode), "it is a regular file")


@check()
def open_file_can_be_read_and_written(directory: Path) -> None:
    fd = _open_and_unlink(directory)
    equal(b"content", os.read(fd, 100), "content")
    os.pwrite(fd, b"x" * 300_000, 3)
    equal(300_003, os.fstat(fd).st_size, "size")
    equal(b"con" + b"x" * 300_000, read_at(fd, 400_000, 0), "content after a write")
    os.fsync(fd)


@check()
def open_file_can_be_truncated(directory: Path) -> None:
    fd = _open_and_unlink(directory)
    os.ftruncate(fd, 3)
    equal(3, os.fstat(fd).st_size, "size")
    os.ftruncate(fd, 10)
    equal(b"con" + bytes(7), os.pread(fd, 100, 0), "content")


@check()
def open_file_can_change_mode_and_times(directory: Path) -> None:
    fd = _open_and_unlink(directory)
    os.fchmod(fd, 0o604)
    os.utime(fd, ns=(LONG_AGO_NS, LONG_AGO_NS))
    equal(0o604, stat.S_IMODE(os.fstat(fd).st_mode), "mode")
    equal(LONG_AGO_NS, os.fstat(fd).st_mtime_ns, "mtime")


@check("root")
def open_file_can_change_owner(directory: Path) -> None:
    fd = _open_and_unlink(directory)
    os.fchown(fd, 123, 456)
    equal((123, 456), (os.fstat(fd).st_uid, os.fstat(fd).st_gid), "owner")


@check()
def open_file_can_be_allocated_and_synced(directory: Path) -> None:
    fd = _open_and_unlink(directory)
    os.posix_fallocate(fd, 0, 100_000)
    equal(100_000, os.fstat(fd).st_size, "size")
    equal(100_000, os.lseek(fd, 0, os.SEEK_END), "end")
    os.fdatasync(fd)


@check()
def open_file_can_be_mapped(directory: Path) -> None:
    fd = _open_and_unlink(directory, b"x" * 5000)
    with mmap.mmap(fd, 0, access=mmap.ACCESS_READ) as memory:
        equal(b"x" * 5000, memory[:], "mapped content")


@check()
def open_file_can_be_opened_again_by_proc(directory: Path) -> None:
    fd = _open_and_unlink(directory)
    with opened(f"/proc/self/fd/{fd}", os.O_RDWR) as again:
        equal(b"content", os.read(again, 100), "content")
        os.pwrite(again, b"CON", 0)
    equal(b"CONtent", os.pread(fd, 100, 0), "content by the first fd")
    os.truncate(f"/proc/self/fd/{fd}", 2)
    equal(2, os.fstat(fd).st_size, "size")


@check("user_xattr")
def open_file_can_have_attributes(directory: Path) -> None:
    fd = _open_and_unlink(directory)
    os.setxattr(fd, "user.name", b"value")
    equal(b"value", os.getxattr(fd, "user.name"), "value")
    os.removexattr(fd, "user.name")


@check()
def the_name_can_be_used_again(directory: Path) -> None:
    fd = _open_and_unlink(directory)
    make(directory / "file", b"a new one")
    equal(b"content", os.pread(fd, 100, 0), "content by the fd")
    ensure(os.fstat(fd).st_ino != (directory / "file").stat().st_ino, "the new file is another one")
    equal(1, (directory / "file").stat().st_nlink, "links of the new one")


@check()
def many_open_at_once(directory: Path) -> None:
    fds = [_open_and_unlink(directory, b"file %d" % index) for index in range(200)]
    equal([], os.listdir(directory), "listing")
    for index, fd in enumerate(fds):
        equal(b"file %d" % index, os.pread(fd, 100, 0), "content")
        os.close(fd)


@check()
def open_in_another_process(directory: Path) -> None:
    file = make(directory / "file")
    ready, removed = Signpost(), Signpost()

    def hold() -> None:
        with opened(file, os.O_RDWR) as fd:
            ready.reached()
            removed.wait()
            equal(b"content", os.pread(fd, 100, 0), "content")
            os.pwrite(fd, b"more", 7)
            equal((0, 11), (os.fstat(fd).st_nlink, os.fstat(fd).st_size), "links and size")

    child = Child(hold)
    ready.wait()
    file.unlink()
    removed.reached()
    child.wait()
    equal([], os.listdir(directory), "listing")


@check()
def its_directory_can_go_too(directory: Path) -> None:
    folder = directory / "dir"
    folder.mkdir()
    fd = _open_and_unlink(folder)
    folder.rmdir()
    os.pwrite(fd, b"CON", 0)
    equal(b"CONtent", os.pread(fd, 100, 0), "content")


@check()
def things_without_a_name_stay_known_among_many(directory: Path) -> None:
    """Whatever a daemon caches is pushed out by 2000 other files; the holder of a nameless thing must not see that."""
    others = directory / "others"
    others.mkdir()
    for index in range(2000):
        make(others / str(index), b"")
    (directory / "dir").mkdir()
    os.mkfifo(directory / "fifo")
    with (
        opened(directory / "fifo", os.O_RDWR) as fifo,
        opened(make(directory / "file"), os.O_RDWR) as file,
        working_directory(directory / "dir"),
    ):
        (directory / "fifo").unlink()
        (directory / "file").unlink()
        (directory / "dir").rmdir()
        for index in range(2000):
            (others / str(index)).chmod(0o600)
        os.fchmod(fifo, 0o640)
        equal(0o640, stat.S_IMODE(os.fstat(fifo).st_mode), "mode of the FIFO")
        os.fchmod(file, 0o604)
        equal(0o604, stat.S_IMODE(os.fstat(file).st_mode), "mode of the file")
        os.chmod(".", 0o711)
        equal(0o711, stat.S_IMODE(os.stat(".").st_mode), "mode of the working directory")


@check()
def unlink_of_a_directory_is_eisdir(directory: Path) -> None:
    (directory / "dir").mkdir()
    with fails(errno.EISDIR):
        os.unlink(directory / "dir")


@check()
def unlink_of_a_missing_name_is_enoent(directory: Path) -> None:
    make(directory / "file")
    with fails(errno.ENOENT):
        os.unlink(directory / "missing")
    with fails(errno.ENOTDIR):
        os.unlink(directory / "file" / "below")
    with fails(errno.ENOTDIR):
        os.unlink(f"{directory}/file/")


@check()
def rmdir_of_a_full_directory_is_enotempty(directory: Path) -> None:
    (directory / "dir").mkdir()
    for name, fill in (("file", make), ("sub", Path.mkdir), (".hidden", make)):
        fill(directory / "dir" / name)
        with fails(errno.ENOTEMPTY):
            os.rmdir(directory / "dir")
        equal([name], os.listdir(directory / "dir"), "listing")
        (directory / "dir" / name).rmdir() if name == "sub" else (directory / "dir" / name).unlink()
    os.rmdir(directory / "dir")


@check()
def rmdir_of_something_else_is_enotdir(directory: Path) -> None:
    make(directory / "file")
    (directory / "dir").mkdir()
    (directory / "link").symlink_to("dir")
    for name in ("file", "link"):
        with fails(errno.ENOTDIR):
            os.rmdir(directory / name)
    with fails(errno.ENOENT):
        os.rmdir(directory / "missing")


@check()
def rmdir_of_dot_and_dot_dot(directory: Path) -> None:
    (directory / "dir" / "sub").mkdir(parents=True)
    with fails(errno.EINVAL):
        os.rmdir(f"{directory}/dir/sub/.")
    with fails(errno.ENOTEMPTY):
        os.rmdir(f"{directory}/dir/sub/..")
    os.rmdir(f"{directory}/dir/sub/")


@check()
def rmdir_of_the_working_directory(directory: Path) -> None:
    folder = directory / "dir"
    folder.mkdir()
    with working_directory(folder):
        folder.rmdir()
        with fails(errno.ENOENT):
            os.getcwd()
        with fails(errno.ENOENT):
            os.open("new", os.O_CREAT)
        with fails(errno.ENOENT):
            os.mkdir("new")
        equal([], os.listdir("."), "listing of the removed directory")


@check()
def removed_directory_held_open(directory: Path) -> None:
    folder = directory / "dir"
    folder.mkdir()
    with opened(folder, os.O_RDONLY | os.O_DIRECTORY) as fd:
        folder.rmdir()
        ensure(stat.S_ISDIR(os.fstat(fd).st_mode), "the fd is a directory")
        with fails(errno.ENOENT):
            os.open("new", os.O_CREAT, dir_fd=fd)
        with fails(errno.ENOENT):
            os.stat("missing", dir_fd=fd)
        folder.mkdir()
        make(folder / "file")
        with fails(errno.ENOENT):
            os.stat("file", dir_fd=fd)
        os.fchmod(fd, 0o700)


@check()
def mkdir_and_rmdir_again_and_again(directory: Path) -> None:
    folder = directory / "dir"
    for turn in range(100):
        folder.mkdir()
        make(folder / f"file{turn}").unlink()
        equal([], os.listdir(folder), "listing")
        folder.rmdir()
    equal([], os.listdir(directory), "listing")
