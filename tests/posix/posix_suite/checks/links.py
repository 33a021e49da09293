"""Hard links and link counts."""

import errno
import os
from pathlib import Path

from ..assertions import ensure, equal, fails
from ..files import kind_of, make, opened
from ..registry import check
from ..syscalls import AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_FOLLOW, linkat


@check()
def count_goes_up_and_down(directory: Path) -> None:
    file = make(directory / "file")
    equal(1, file.stat().st_nlink, "links of a new file")
    os.link(file, directory / "second")
    os.link(directory / "second", directory / "third")
    equal(3, file.stat().st_nlink, "links after two more")
    file.unlink()
    equal(2, (directory / "second").stat().st_nlink, "links after an unlink")
    (directory / "third").unlink()
    equal(1, (directory / "second").stat().st_nlink, "links at the end")
    equal(b"content", (directory / "second").read_bytes(), "content")


@check()
def count_is_seen_through_an_open_fd(directory: Path) -> None:
    file = make(directory / "file")
    with opened(file) as fd:
        os.link(file, directory / "other")
        equal(2, os.fstat(fd).st_nlink, "links")
        file.unlink()
        equal(1, os.fstat(fd).st_nlink, "links")
        (directory / "other").unlink()
        equal(0, os.fstat(fd).st_nlink, "links")


@check()
def names_are_one_file(directory: Path) -> None:
    file, other = make(directory / "file"), directory / "sub" / "other"
    other.parent.mkdir()
    os.link(file, other)
    equal(file.stat(), other.stat(), "status")
    with opened(other, os.O_WRONLY | os.O_APPEND) as fd:
        os.write(fd, b" and more")
    equal(b"content and more", file.read_bytes(), "content by the first name")
    equal(16, file.stat().st_size, "size by the first name")
    os.truncate(file, 3)
    equal(b"con", other.read_bytes(), "content by the second name")


@check()
def of_a_directory_is_eperm(directory: Path) -> None:
    (directory / "dir").mkdir()
    with fails(errno.EPERM):
        os.link(directory / "dir", directory / "other")


@check()
def onto_an_existing_name_is_eexist(directory: Path) -> None:
    file = make(directory / "file")
    make(directory / "other", b"other")
    with fails(errno.EEXIST):
        os.link(file, directory / "other")
    with fails(errno.EEXIST):
        os.link(file, file)
    equal(b"other", (directory / "other").read_bytes(), "content")


@check()
def of_a_missing_name_is_enoent(directory: Path) -> None:
    with fails(errno.ENOENT):
        os.link(directory / "missing", directory / "other")
    make(directory / "file")
    with fails(errno.ENOENT):
        os.link(directory / "file", directory / "missing" / "other")
    with fails(errno.ENOTDIR):
        os.link(directory / "file", directory / "file" / "other")


@check()
def of_a_symlink_is_a_second_symlink(directory: Path) -> None:
    make(directory / "file")
    link, other = directory / "link", directory / "other"
    link.symlink_to("file")
    os.link(link, other, follow_symlinks=False)
    equal(link.lstat().st_ino, other.lstat().st_ino, "inode")
    equal(2, link.lstat().st_nlink, "links of the symlink")
    equal("file", os.readlink(other), "target")
    equal(1, (directory / "file").stat().st_nlink, "links of the target")


@check()
def with_follow_links_the_target(directory: Path) -> None:
    file, link, other = make(directory / "file"), directory / "link", directory / "other"
    link.symlink_to("file")
    linkat(AT_FDCWD, link, other, AT_SYMLINK_FOLLOW)
    equal(file.stat().st_ino, other.lstat().st_ino, "inode")


@check()
def by_proc_self_fd(directory: Path) -> None:
    file = make(directory / "file")
    with opened(file) as fd:
        linkat(AT_FDCWD, f"/proc/self/fd/{fd}", directory / "other", AT_SYMLINK_FOLLOW)
    equal(2, file.stat().st_nlink, "links")


@check("root")
def by_empty_path(directory: Path) -> None:
    file = make(directory / "file")
    with opened(file, os.O_PATH) as fd:
        linkat(fd, b"", directory / "other", AT_EMPTY_PATH)
    equal(file.stat().st_ino, (directory / "other").stat().st_ino, "inode")


@check()
def of_an_unlinked_file_is_enoent(directory: Path) -> None:
    file = make(directory / "file")
    with opened(file) as fd:
        file.unlink()
        with fails(errno.ENOENT):
            linkat(AT_FDCWD, f"/proc/self/fd/{fd}", directory / "back", AT_SYMLINK_FOLLOW)


@check()
def of_a_fifo(directory: Path) -> None:
    os.mkfifo(directory / "fifo")
    os.link(directory / "fifo", directory / "other")
    equal(2, (directory / "other").stat().st_nlink, "links")
    equal(kind_of(directory / "fifo"), kind_of(directory / "other"), "type")


@check()
def three_hundred_names(directory: Path) -> None:
    file = make(directory / "file")
    for index in range(300):
        os.link(file, directory / f"name{index}")
    equal(301, file.stat().st_nlink, "links")
    equal({file.stat().st_ino}, {entry.inode() for entry in os.scandir(directory)}, "inodes in the listing")
    for index in range(300):
        os.unlink(directory / f"name{index}")
    equal(1, file.stat().st_nlink, "links")


@check("directory_links")
def directory_counts_its_subdirectories(directory: Path) -> None:
    parent = directory / "parent"
    parent.mkdir()
    equal(2, parent.stat().st_nlink, "links of an empty directory")
    for index in range(5):
        (parent / str(index)).mkdir()
    make(parent / "file")
    equal(7, parent.stat().st_nlink, "links with five subdirectories")
    (parent / "0").rmdir()
    equal(6, parent.stat().st_nlink, "links after an rmdir")
    (parent / "1").rename(directory / "moved")
    equal(5, parent.stat().st_nlink, "links after a subdirectory moved away")


@check()
def to_another_directory_survives_the_first(directory: Path) -> None:
    first, second = directory / "first", directory / "second"
    first.mkdir()
    second.mkdir()
    os.link(make(first / "file"), second / "file")
    (first / "file").unlink()
    first.rmdir()
    equal(b"content", (second / "file").read_bytes(), "content")
    ensure(not first.exists(), "the first directory is gone")
