"""Time stamps: set by hand, and moved by what happens to a file and to its directory."""

import errno
import mmap
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ..assertions import ensure, equal, fails
from ..files import LONG_AGO_NS, age, make, opened, until_changed
from ..registry import check, register
from ..syscalls import AT_SYMLINK_NOFOLLOW, UTIME_NOW, UTIME_OMIT, utimensat

ATIME_NS, MTIME_NS = 1_111_111_111_987_654_321, 1_222_222_222_000_000_001
SECOND = 10**9


def _times(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_atime_ns, status.st_mtime_ns


@check()
def set_to_the_nanosecond(directory: Path) -> None:
    file = make(directory / "file")
    os.utime(file, ns=(ATIME_NS, MTIME_NS))
    equal((ATIME_NS, MTIME_NS), _times(file), "times")


@check()
def set_through_an_fd(directory: Path) -> None:
    file = make(directory / "file")
    with opened(file) as fd:
        os.utime(fd, ns=(ATIME_NS, MTIME_NS))
        equal(MTIME_NS, os.fstat(fd).st_mtime_ns, "mtime by the fd")
    equal((ATIME_NS, MTIME_NS), _times(file), "times")


@check()
def set_on_a_directory(directory: Path) -> None:
    folder = directory / "dir"
    folder.mkdir()
    os.utime(folder, ns=(ATIME_NS, MTIME_NS))
    equal((ATIME_NS, MTIME_NS), _times(folder), "times")


@check()
def set_on_a_symlink_itself(directory: Path) -> None:
    file, link = make(directory / "file"), directory / "link"
    link.symlink_to("file")
    os.utime(file, ns=(ATIME_NS, ATIME_NS))
    os.utime(link, ns=(ATIME_NS, MTIME_NS), follow_symlinks=False)
    equal(MTIME_NS, link.lstat().st_mtime_ns, "mtime of the link")
    equal(ATIME_NS, file.stat().st_mtime_ns, "mtime of the target")


@check()
def set_through_a_symlink(directory: Path) -> None:
    file, link = make(directory / "file"), directory / "link"
    link.symlink_to("file")
    os.utime(link, ns=(ATIME_NS, MTIME_NS))
    equal((ATIME_NS, MTIME_NS), _times(file), "times of the target")


@check()
def omit_atime(directory: Path) -> None:
    file = make(directory / "file")
    age(file)
    utimensat(file, (0, UTIME_OMIT), divmod(MTIME_NS, SECOND))
    equal((LONG_AGO_NS, MTIME_NS), _times(file), "times")


@check()
def omit_mtime(directory: Path) -> None:
    file = make(directory / "file")
    age(file)
    utimensat(file, divmod(ATIME_NS, SECOND), (0, UTIME_OMIT))
    equal((ATIME_NS, LONG_AGO_NS), _times(file), "times")


@check()
def omit_both_changes_nothing(directory: Path) -> None:
    file = make(directory / "file")
    age(file)
    before = file.stat()
    for _ in range(50):
        utimensat(file, (0, UTIME_OMIT), (0, UTIME_OMIT))
    after = file.stat()
    equal(before.st_ctime_ns, after.st_ctime_ns, "ctime")
    equal((before.st_atime_ns, before.st_mtime_ns), (after.st_atime_ns, after.st_mtime_ns), "times")


@check()
def now_for_one_and_omit_for_the_other(directory: Path) -> None:
    file = make(directory / "file")
    age(file)
    utimensat(file, (0, UTIME_NOW), (0, UTIME_OMIT))
    ensure(file.stat().st_atime_ns > LONG_AGO_NS, "atime is now")
    equal(LONG_AGO_NS, file.stat().st_mtime_ns, "mtime")
    age(file)
    utimensat(file, (0, UTIME_OMIT), (0, UTIME_NOW))
    equal(LONG_AGO_NS, file.stat().st_atime_ns, "atime")
    ensure(file.stat().st_mtime_ns > LONG_AGO_NS, "mtime is now")


@check()
def now_for_both_is_the_same_time(directory: Path) -> None:
    file = make(directory / "file")
    age(file)
    os.utime(file)
    atime, mtime = _times(file)
    equal(atime, mtime, "atime and mtime")
    ensure(mtime > LONG_AGO_NS, "mtime is now")


@check()
def nanoseconds_out_of_range_are_einval(directory: Path) -> None:
    file = make(directory / "file")
    with fails(errno.EINVAL):
        utimensat(file, (1, 10**9), (1, 0))
    with fails(errno.EINVAL):
        utimensat(file, (1, 0), (1, -1))


@check()
def set_on_a_missing_name_is_enoent(directory: Path) -> None:
    with fails(errno.ENOENT):
        utimensat(directory / "missing", (1, 0), (1, 0), AT_SYMLINK_NOFOLLOW)


@check()
def epoch_is_a_time(directory: Path) -> None:
    file = make(directory / "file")
    os.utime(file, ns=(0, 0))
    equal((0, 0), _times(file), "times")


@check("times_before_1970")
def before_1970(directory: Path) -> None:
    file = make(directory / "file")
    os.utime(file, ns=(-1_500_000_000, -300_000_000 * SECOND + 5))
    equal((-1_500_000_000, -300_000_000 * SECOND + 5), _times(file), "times")


@check("times_after_2106")
def after_2038_and_2106(directory: Path) -> None:
    file = make(directory / "file")
    for seconds in (2**31, 2**31 + 1, 2**32 - 1, 2**32, 2**32 + 77):
        when = seconds * SECOND + 123
        os.utime(file, ns=(when, when))
        equal((when, when), _times(file), "times")


@check()
def setting_times_moves_ctime(directory: Path) -> None:
    file = make(directory / "file")
    until_changed("ctime", lambda: file.stat().st_ctime_ns, lambda: age(file))


@check()
def new_file_is_not_older_than_the_one_before(directory: Path) -> None:
    first, second = make(directory / "first").stat(), make(directory / "second").stat()
    ensure(first.st_mtime_ns <= second.st_mtime_ns, "mtime does not run backwards")
    ensure(first.st_ctime_ns <= second.st_ctime_ns, "ctime does not run backwards")


def _after(directory: Path, act: Callable[[Path], None]) -> tuple[int, int]:
    file = make(directory / "file", b"x" * 10_000)
    age(file)
    act(file)
    return _times(file)


def _write(file: Path) -> None:
    with opened(file, os.O_WRONLY) as fd:
        os.pwrite(fd, b"new", 5)


def _truncate_by_open(file: Path) -> None:
    os.close(os.open(file, os.O_WRONLY | os.O_TRUNC))


def _ftruncate(file: Path) -> None:
    with opened(file, os.O_WRONLY) as fd:
        os.ftruncate(fd, 3)


def _truncate_to(size: int, file: Path) -> None:
    os.truncate(file, size)


def _map(file: Path) -> None:
    with opened(file, os.O_RDWR) as fd, mmap.mmap(fd, 0) as memory:
        memory[7] = 1
        memory.flush()


def _write_nothing(file: Path) -> None:
    with opened(file, os.O_RDWR) as fd:
        os.write(fd, b"")


def _moves_mtime(act: Callable[[Path], None], directory: Path) -> None:
    ensure(_after(directory, act)[1] > LONG_AGO_NS, "mtime has moved")


def _keeps_mtime(act: Callable[[Path], None], directory: Path) -> None:
    equal(LONG_AGO_NS, _after(directory, act)[1], "mtime")


MOVING: dict[str, Callable[[Path], None]] = {
    "write": _write,
    "truncate_to_shorter": partial(_truncate_to, 3),
    "truncate_to_longer": partial(_truncate_to, 20_000),
    "ftruncate": _ftruncate,
    "open_with_o_trunc": _truncate_by_open,
    "write_to_a_mapping": _map,
}
for label, move in MOVING.items():
    register(f"times.{label}_moves_mtime", partial(_moves_mtime, move))

for label, keep in {
    "read": lambda file: file.read_bytes(),
    "chmod": lambda file: file.chmod(0o600),
    "link": lambda file: os.link(file, file.with_name("other")),
    "open_for_writing": lambda file: os.close(os.open(file, os.O_RDWR)),
    "write_of_no_bytes": _write_nothing,
}.items():
    register(f"times.{label}_keeps_mtime", partial(_keeps_mtime, keep))


@check()
def rename_keeps_mtime(directory: Path) -> None:
    file = make(directory / "file")
    age(file)
    file.rename(directory / "other")
    equal(LONG_AGO_NS, (directory / "other").stat().st_mtime_ns, "mtime")


@check("relatime")
def read_moves_an_old_atime(directory: Path) -> None:
    file = make(directory / "file")
    os.utime(file, ns=(LONG_AGO_NS, LONG_AGO_NS + SECOND))
    file.read_bytes()
    ensure(file.stat().st_atime_ns > LONG_AGO_NS, "atime has moved")


@check()
def o_noatime_keeps_atime(directory: Path) -> None:
    file = make(directory / "file")
    os.utime(file, ns=(LONG_AGO_NS, LONG_AGO_NS + SECOND))
    with opened(file, os.O_RDONLY | os.O_NOATIME) as fd:
        os.read(fd, 10)
    equal(LONG_AGO_NS, file.stat().st_atime_ns, "atime")


def _ctime_moves(act: Callable[[Path], None], directory: Path) -> None:
    file = make(directory / "file")
    until_changed("ctime", lambda: file.stat().st_ctime_ns, lambda: act(file))


def _link_and_unlink(file: Path) -> None:
    os.link(file, file.with_name("other"))
    os.unlink(file.with_name("other"))


def _rename_and_back(file: Path) -> None:
    file.rename(file.with_name("other"))
    file.with_name("other").rename(file)


for label, act in {
    "write": _write,
    "link_and_unlink": _link_and_unlink,
    "rename": _rename_and_back,
    "chown": lambda file: os.chown(file, os.getuid(), os.getgid()),
}.items():
    register(f"times.{label}_moves_ctime", partial(_ctime_moves, act))


def _in_directory(act: Callable[[Path], object], directory: Path) -> None:
    parent = directory / "parent"
    parent.mkdir()
    make(parent / "file")
    (parent / "dir").mkdir()
    age(parent)
    act(parent)
    ensure(parent.stat().st_mtime_ns > LONG_AGO_NS, "mtime of the directory has moved")
    ensure(parent.stat().st_ctime_ns > LONG_AGO_NS, "ctime of the directory has moved")
    equal(LONG_AGO_NS, parent.stat().st_atime_ns, "atime of the directory")


for label, change in {
    "create": lambda parent: make(parent / "new"),
    "mkdir": lambda parent: (parent / "new").mkdir(),
    "mkfifo": lambda parent: os.mkfifo(parent / "new"),
    "symlink": lambda parent: (parent / "new").symlink_to("x"),
    "link": lambda parent: os.link(parent / "file", parent / "new"),
    "unlink": lambda parent: (parent / "file").unlink(),
    "rmdir": lambda parent: (parent / "dir").rmdir(),
    "rename_inside": lambda parent: (parent / "file").rename(parent / "new"),
    "rename_away": lambda parent: (parent / "file").rename(parent.parent / "new"),
    "rename_into": lambda parent: make(parent.parent / "new").rename(parent / "new"),
}.items():
    register(f"times.directory_mtime_moves_on_{label}", partial(_in_directory, change))


@check()
def directory_mtime_stays_when_a_file_changes(directory: Path) -> None:
    parent = directory / "parent"
    parent.mkdir()
    file = make(parent / "file")
    age(parent)
    _write(file)
    file.chmod(0o600)
    (parent / "file").read_bytes()
    equal(LONG_AGO_NS, parent.stat().st_mtime_ns, "mtime of the directory")


@check()
def mtime_set_after_write_survives_close(directory: Path) -> None:
    """What archivers do: write, set the time, close. A late write-back must not move it again."""
    file = directory / "file"
    with opened(file, os.O_CREAT | os.O_WRONLY) as fd:
        os.write(fd, b"x" * 100_000)
        os.utime(fd, ns=(ATIME_NS, MTIME_NS))
    equal(MTIME_NS, file.stat().st_mtime_ns, "mtime")
    with opened(file) as fd:
        os.fsync(fd)
    equal(MTIME_NS, file.stat().st_mtime_ns, "mtime after fsync")
