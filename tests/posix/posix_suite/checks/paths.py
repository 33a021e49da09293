"""Walking a path: dots, slashes, and calls relative to an fd."""

import errno
import os
import stat
from pathlib import Path

from ..assertions import ensure, equal, fails
from ..files import LONG_AGO_NS, make, opened
from ..processes import working_directory
from ..registry import check

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY


@check()
def dot_and_dot_dot(directory: Path) -> None:
    (directory / "a" / "b").mkdir(parents=True)
    inode = directory.stat().st_ino
    for tail in (".", "a/..", "a/b/../..", "./a/./b/.././..", "a/b/../../a/.."):
        equal(inode, os.stat(f"{directory}/{tail}").st_ino, f"inode of {tail}")


@check()
def missing_part_before_dot_dot_is_enoent(directory: Path) -> None:
    make(directory / "file")
    with fails(errno.ENOENT):
        os.stat(f"{directory}/missing/..")
    with fails(errno.ENOTDIR):
        os.stat(f"{directory}/file/..")
    with fails(errno.ENOTDIR):
        os.stat(f"{directory}/file/.")


@check()
def many_slashes_are_one(directory: Path) -> None:
    (directory / "dir").mkdir()
    make(directory / "dir" / "file")
    equal(7, os.stat(f"{directory}///dir////file").st_size, "size")


@check()
def slash_after_a_file_is_enotdir(directory: Path) -> None:
    make(directory / "file")
    for call in (
        os.stat,
        os.lstat,
        os.unlink,
        lambda path: os.open(path, os.O_RDONLY),
        lambda path: os.truncate(path, 0),
    ):
        with fails(errno.ENOTDIR):
            call(f"{directory}/file/")
    equal(b"content", (directory / "file").read_bytes(), "content")


@check()
def slash_after_a_directory_is_fine(directory: Path) -> None:
    os.mkdir(f"{directory}/dir/")
    ensure(stat.S_ISDIR(os.lstat(f"{directory}/dir/").st_mode), "it is a directory")
    os.rename(f"{directory}/dir/", f"{directory}/moved/")
    os.chmod(f"{directory}/moved/", 0o700)
    os.rmdir(f"{directory}/moved///")
    equal([], os.listdir(directory), "listing")


@check()
def slash_after_a_new_name_is_for_directories(directory: Path) -> None:
    make(directory / "file")
    with fails(errno.ENOENT):
        os.symlink("x", f"{directory}/new/")
    with fails(errno.ENOENT):
        os.link(directory / "file", f"{directory}/new/")
    with fails(errno.ENOENT):
        os.mkfifo(f"{directory}/new/")
    equal(["file"], os.listdir(directory), "listing")


@check()
def file_in_the_middle_is_enotdir(directory: Path) -> None:
    make(directory / "file")
    below = directory / "file" / "below"
    for call in (os.stat, os.mkdir, os.rmdir, os.unlink, os.listdir, os.mkfifo, os.readlink):
        with fails(errno.ENOTDIR):
            call(below)


@check()
def all_calls_relative_to_an_fd(directory: Path) -> None:
    with opened(directory, DIRECTORY) as fd:
        os.mkdir("dir", dir_fd=fd)
        with open(os.open("dir/file", os.O_CREAT | os.O_WRONLY, dir_fd=fd), "wb") as file:
            file.write(b"content")
        os.symlink("dir/file", "link", dir_fd=fd)
        os.link("dir/file", "hard", src_dir_fd=fd, dst_dir_fd=fd)
        os.mkfifo("fifo", dir_fd=fd)
        os.mknod("node", stat.S_IFREG | 0o600, dir_fd=fd)
        equal("dir/file", os.readlink("link", dir_fd=fd), "target")
        equal(2, os.stat("link", dir_fd=fd).st_nlink, "links")
        os.chmod("hard", 0o604, dir_fd=fd)
        os.chown("hard", os.getuid(), os.getgid(), dir_fd=fd)
        os.utime("hard", ns=(LONG_AGO_NS, LONG_AGO_NS), dir_fd=fd)
        status = os.stat("dir/file", dir_fd=fd)
        equal((0o604, LONG_AGO_NS), (stat.S_IMODE(status.st_mode), status.st_mtime_ns), "mode and mtime")
        ensure(os.access("hard", os.R_OK, dir_fd=fd), "access by the fd")
        with opened("/proc/self/fd", DIRECTORY) as elsewhere, fails(errno.ENOENT):
            os.stat("dir", dir_fd=elsewhere)
        os.rename("hard", "dir/moved", src_dir_fd=fd, dst_dir_fd=fd)
        for name in ("dir/moved", "dir/file", "link", "fifo", "node"):
            os.unlink(name, dir_fd=fd)
        os.rmdir("dir", dir_fd=fd)
        equal([], os.listdir(fd), "listing")


@check()
def between_two_directory_fds(directory: Path) -> None:
    (directory / "a").mkdir()
    (directory / "b").mkdir()
    make(directory / "a" / "file")
    with opened(directory / "a", DIRECTORY) as a, opened(directory / "b", DIRECTORY) as b:
        os.link("file", "linked", src_dir_fd=a, dst_dir_fd=b)
        os.rename("file", "renamed", src_dir_fd=a, dst_dir_fd=b)
        equal(([], {"linked", "renamed"}), (os.listdir(a), set(os.listdir(b))), "listings")
        equal((directory / "b").stat().st_ino, os.stat("../b", dir_fd=a).st_ino, "inode by '..'")


@check()
def fd_that_is_no_directory(directory: Path) -> None:
    with opened(make(directory / "file")) as fd:
        with fails(errno.ENOTDIR):
            os.stat("name", dir_fd=fd)
        with fails(errno.ENOTDIR):
            os.mkdir("name", dir_fd=fd)
        with fails(errno.ENOTDIR):
            os.fchdir(fd)
        closed = os.dup(fd)
    os.close(closed)
    with fails(errno.EBADF):
        os.stat("name", dir_fd=closed)
    equal(7, os.stat(str(directory / "file"), dir_fd=closed).st_size, "size by an absolute path")


@check()
def working_directory_by_path_and_fd(directory: Path) -> None:
    (directory / "dir").mkdir()
    with working_directory(directory / "dir"):
        equal(f"{directory}/dir", os.getcwd(), "working directory")
        make(Path("file"))
        os.chdir("..")
        equal(str(directory), os.getcwd(), "working directory")
        with opened("dir", DIRECTORY) as fd:
            os.fchdir(fd)
        equal(["file"], os.listdir("."), "listing")
    with fails(errno.ENOTDIR):
        os.chdir(directory / "dir" / "file")
    with fails(errno.ENOENT):
        os.chdir(directory / "missing")


@check()
def fd_path_is_the_path(directory: Path) -> None:
    (directory / "dir").mkdir()
    file = make(directory / "dir" / "file")
    with opened(file) as fd:
        equal(str(file), os.readlink(f"/proc/self/fd/{fd}"), "path")
        file.unlink()
        equal(f"{file} (deleted)", os.readlink(f"/proc/self/fd/{fd}"), "path of the unlinked file")


@check()
def null_byte_ends_nothing_but_the_call(directory: Path) -> None:
    make(directory / "file")
    try:
        os.stat(f"{directory}/file\0tail")
    except ValueError:
        return
    raise AssertionError("a path with a NUL byte was taken")


@check()
def realpath_through_links(directory: Path) -> None:
    (directory / "a" / "b").mkdir(parents=True)
    (directory / "one").symlink_to("a")
    (directory / "a" / "two").symlink_to("../one/b")
    equal(f"{directory}/a/b", os.path.realpath(directory / "one" / "two"), "real path")


@check()
def resolving_a_moving_directory_by_fd(directory: Path) -> None:
    (directory / "a" / "b" / "c").mkdir(parents=True)
    (directory / "z").mkdir()
    with opened(directory / "a" / "b" / "c", DIRECTORY) as fd:
        (directory / "a" / "b").rename(directory / "z" / "b")
        equal((directory / "z").stat().st_ino, os.stat("../..", dir_fd=fd).st_ino, "inode two levels up")
        os.mkdir("new", dir_fd=fd)
    ensure((directory / "z" / "b" / "c" / "new").is_dir(), "what was made is at the new place")
