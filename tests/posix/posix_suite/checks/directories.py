"""Reading directories: big ones, while they change, and by position; and deep trees."""

import errno
import os
import stat
from pathlib import Path

from ..assertions import ensure, equal, fails
from ..files import make, opened
from ..processes import working_directory
from ..registry import check
from ..syscalls import Entry, getdents, getdents_all

MANY = 5000
DOTS = {b".", b".."}


def _fill(directory: Path, count: int, prefix: str = "entry") -> set[bytes]:
    with opened(directory, os.O_RDONLY | os.O_DIRECTORY) as fd:
        names = [f"{prefix}{index:05d}" for index in range(count)]
        for name in names:
            os.close(os.open(name, os.O_CREAT | os.O_EXCL, dir_fd=fd))
    return {name.encode() for name in names}


def _names(entries: list[Entry]) -> list[bytes]:
    return [entry.name for entry in entries if entry.name not in DOTS]


def _once_each(expected: set[bytes], names: list[bytes]) -> None:
    equal(len(expected), len(names), "entries")
    equal(expected, set(names), "names")


@check()
def five_thousand_entries(directory: Path) -> None:
    expected = _fill(directory, MANY)
    _once_each(expected, [os.fsencode(name) for name in os.listdir(directory)])
    _once_each(expected, [os.fsencode(entry.name) for entry in os.scandir(directory)])
    for name in sorted(expected)[::50]:
        ensure(stat.S_ISREG(os.stat(os.fsencode(directory) + b"/" + name).st_mode), "a listed name is a file")


@check()
def small_reads_give_the_same(directory: Path) -> None:
    expected = _fill(directory, 700)
    for size in (280, 1000, 4096, 1 << 20):
        with opened(directory, os.O_RDONLY | os.O_DIRECTORY) as fd:
            _once_each(expected, _names(getdents_all(fd, size)))


@check()
def long_names_in_small_reads(directory: Path) -> None:
    expected = {(f"{index:03d}" + "n" * 252).encode() for index in range(100)}
    for name in expected:
        os.close(os.open(os.fsencode(directory) + b"/" + name, os.O_CREAT))
    for size in (280, 600, 5000):
        with opened(directory, os.O_RDONLY | os.O_DIRECTORY) as fd:
            _once_each(expected, _names(getdents_all(fd, size)))


@check()
def read_too_small_for_an_entry_is_einval(directory: Path) -> None:
    _fill(directory, 3)
    with opened(directory, os.O_RDONLY | os.O_DIRECTORY) as fd, fails(errno.EINVAL):
        getdents(fd, 10)


@check()
def dot_and_dot_dot_are_listed(directory: Path) -> None:
    (directory / "sub").mkdir()
    with opened(directory / "sub", os.O_RDONLY | os.O_DIRECTORY) as fd:
        entries = {entry.name: entry for entry in getdents_all(fd)}
    equal(DOTS, set(entries), "entries of an empty directory")
    equal((directory / "sub").stat().st_ino, entries[b"."].inode, "inode of '.'")
    equal({stat.S_IFDIR >> 12}, {entry.kind for entry in entries.values()}, "types")
    with opened(directory / "sub") as fd:
        equal(directory.stat().st_ino, os.stat("..", dir_fd=fd).st_ino, "inode of '..' by stat")


@check()
def type_and_inode_agree_with_stat(directory: Path) -> None:
    make(directory / "file")
    (directory / "dir").mkdir()
    (directory / "link").symlink_to("file")
    os.mkfifo(directory / "fifo")
    os.link(directory / "file", directory / "second")
    os.mknod(directory / "socket", stat.S_IFSOCK | 0o600)
    _fill(directory, 100)
    for _ in range(2):
        with opened(directory, os.O_RDONLY | os.O_DIRECTORY) as fd:
            for entry in getdents_all(fd):
                if entry.name in DOTS:
                    continue
                status = os.lstat(entry.name, dir_fd=fd)
                equal(status.st_ino, entry.inode, f"inode of {entry.name!r}")
                ensure(entry.kind in (0, stat.S_IFMT(status.st_mode) >> 12), f"type of {entry.name!r} is right")


@check()
def seek_to_every_position(directory: Path) -> None:
    """telldir(3) and seekdir(3): d_off of an entry leads to the one after it."""
    _fill(directory, 300)
    with opened(directory, os.O_RDONLY | os.O_DIRECTORY) as fd:
        entries = getdents_all(fd, 1000)
        for index in (*range(0, len(entries) - 1, 7), len(entries) - 2, 0):
            os.lseek(fd, entries[index].next_offset, os.SEEK_SET)
            equal(entries[index + 1].name, getdents(fd, 1000)[0].name, f"entry after number {index}")
        os.lseek(fd, entries[-1].next_offset, os.SEEK_SET)
        equal([], getdents(fd, 1000), "entries after the last one")


@check()
def positions_hold_over_removals(directory: Path) -> None:
    _fill(directory, 300)
    with opened(directory, os.O_RDONLY | os.O_DIRECTORY) as fd:
        entries = getdents_all(fd, 1000)
        middle = 150
        gone = [entry for entry in entries[:middle] if entry.name not in DOTS]
        for entry in gone:
            os.unlink(entry.name, dir_fd=fd)
        os.lseek(fd, entries[middle].next_offset, os.SEEK_SET)
        rest = [entry.name for entry in getdents_all(fd, 1000)]
        equal([entry.name for entry in entries[middle + 1 :]], rest, "entries after the position")


@check()
def rewind_sees_what_has_changed(directory: Path) -> None:
    names = _fill(directory, 50)
    with opened(directory, os.O_RDONLY | os.O_DIRECTORY) as fd:
        _once_each(names, _names(getdents_all(fd)))
        make(directory / "new")
        os.unlink(directory / "entry00007")
        os.lseek(fd, 0, os.SEEK_SET)
        _once_each(names - {b"entry00007"} | {b"new"}, _names(getdents_all(fd)))
        os.lseek(fd, 0, os.SEEK_SET)
        _once_each(names - {b"entry00007"} | {b"new"}, _names(getdents_all(fd)))


@check()
def remove_all_while_listing(directory: Path) -> None:
    _fill(directory, 1000)
    seen = 0
    with opened(directory, os.O_RDONLY | os.O_DIRECTORY) as fd:
        while batch := _names(getdents(fd, 1000)):
            for name in batch:
                os.unlink(name, dir_fd=fd)
                seen += 1
    equal(1000, seen, "removed entries")
    equal([], os.listdir(directory), "listing")


@check()
def create_while_listing(directory: Path) -> None:
    """What was there before is listed once; what is new may be listed, at most once."""
    before = _fill(directory, 500)
    listed = []
    with opened(directory, os.O_RDONLY | os.O_DIRECTORY) as fd:
        turn = 0
        while batch := _names(getdents(fd, 1000)):
            listed += batch
            if turn < 100:
                make(directory / f"new{turn}")
            turn += 1
    equal(len(listed), len(set(listed)), "different names in the listing")
    ensure(before <= set(listed), "all that was there before is listed")


@check()
def rename_while_listing(directory: Path) -> None:
    before = _fill(directory, 300)
    listed = []
    with opened(directory, os.O_RDONLY | os.O_DIRECTORY) as fd:
        listed += _names(getdents(fd, 2000))
        victim = os.fsdecode(listed[0])
        os.rename(directory / victim, directory / "renamed")
        listed += _names(getdents_all(fd, 2000))
    ensure(before <= set(listed), "all that was not renamed is listed")
    ensure(listed.count(b"renamed") <= 1, "the new name is listed at most once")


@check()
def two_listings_at_once(directory: Path) -> None:
    expected = _fill(directory, 400)
    flags = os.O_RDONLY | os.O_DIRECTORY
    with opened(directory, flags) as one, opened(directory, flags) as two:
        from_one, from_two = [], []
        more = True
        while more:
            batch_one, batch_two = getdents(one, 700), getdents(two, 3000)
            from_one += _names(batch_one)
            from_two += _names(batch_two)
            more = bool(batch_one or batch_two)
    _once_each(expected, from_one)
    _once_each(expected, from_two)


@check()
def position_is_shared_by_dup(directory: Path) -> None:
    expected = _fill(directory, 300)
    with opened(directory, os.O_RDONLY | os.O_DIRECTORY) as fd:
        copy = os.dup(fd)
        listed = _names(getdents(fd, 1000)) + _names(getdents(copy, 1000)) + _names(getdents_all(fd))
        os.close(copy)
    _once_each(expected, listed)


@check()
def listing_is_fresh_every_time(directory: Path) -> None:
    expected: set[str] = set()
    for turn in range(60):
        name = f"name{turn % 20}"
        if name in expected:
            os.unlink(directory / name)
            expected.remove(name)
        else:
            make(directory / name)
            expected.add(name)
        equal(expected, set(os.listdir(directory)), "listing")


@check()
def listing_of_a_file_is_enotdir(directory: Path) -> None:
    with opened(make(directory / "file")) as fd, fails(errno.ENOTDIR):
        getdents(fd)
    with fails(errno.ENOTDIR):
        os.listdir(directory / "file")


@check()
def listing_follows_a_renamed_directory(directory: Path) -> None:
    (directory / "old").mkdir()
    expected = _fill(directory / "old", 200)
    with opened(directory / "old", os.O_RDONLY | os.O_DIRECTORY) as fd:
        first = _names(getdents(fd, 1000))
        (directory / "old").rename(directory / "new")
        _once_each(expected, first + _names(getdents_all(fd)))


@check()
def listing_of_a_removed_directory_is_empty(directory: Path) -> None:
    (directory / "dir").mkdir()
    with opened(directory / "dir", os.O_RDONLY | os.O_DIRECTORY) as fd:
        (directory / "dir").rmdir()
        try:
            left = _names(getdents_all(fd))
        except FileNotFoundError:
            left = []
        equal([], left, "entries")


@check()
def five_hundred_subdirectories(directory: Path) -> None:
    for index in range(500):
        (directory / f"{index}").mkdir()
        make(directory / f"{index}" / "file")
    walked = {(Path(root).name, tuple(files)) for root, _, files in os.walk(directory) if root != str(directory)}
    equal({(str(index), ("file",)) for index in range(500)}, walked, "walked directories")


@check()
def sixty_levels(directory: Path) -> None:
    path = directory
    for index in range(60):
        path = path / f"level{index}"
        path.mkdir()
    make(path / "file", b"deep down")
    equal(b"deep down", (path / "file").read_bytes(), "content")
    equal(61, sum(1 for _ in os.walk(directory)), "walked directories")
    up = path
    for _ in range(60):
        up = up / ".."
    equal(directory.stat().st_ino, up.stat().st_ino, "inode after 60 times '..'")


@check()
def path_longer_than_path_max(directory: Path) -> None:
    """40 levels of 200 bytes: no path from the top leads there, one from fd to fd does."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    name = "d" * 200
    for _ in range(40):
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    with open(os.open("file", os.O_CREAT | os.O_RDWR, dir_fd=fd), "wb+") as file:
        file.write(b"deep down")
    equal(9, os.stat("file", dir_fd=fd).st_size, "size")
    equal(["file"], os.listdir(fd), "listing")
    os.rename("file", "moved", src_dir_fd=fd, dst_dir_fd=fd)
    with working_directory(f"/proc/self/fd/{fd}"):
        equal(b"deep down", Path("moved").read_bytes(), "content")
    for _ in range(40):
        above = os.open("..", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = above
    equal(directory.stat().st_ino, os.fstat(fd).st_ino, "inode at the top")
    os.close(fd)
    with fails(errno.ENAMETOOLONG):
        os.stat("/".join([str(directory)] + [name] * 40))


@check()
def mkdir_below_nothing(directory: Path) -> None:
    make(directory / "file")
    with fails(errno.ENOENT):
        (directory / "missing" / "dir").mkdir()
    with fails(errno.ENOTDIR):
        (directory / "file" / "dir").mkdir()
    with fails(errno.EEXIST):
        os.mkdir(f"{directory}/.")
    with fails(errno.EEXIST):
        os.mkdir(f"{directory}/..")
    with fails(errno.EEXIST):
        os.mkdir(directory)
