"""rename(2) and renameat2(2): the matrix of what may replace what, and the cases around it."""

import errno
import os
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ..assertions import ensure, equal, fails
from ..files import make, opened
from ..processes import ALICE, as_user, working_directory
from ..registry import check, register
from ..syscalls import RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT, renameat2


def _full_directory(path: Path) -> None:
    path.mkdir()
    make(path / "inside", b"inside " + os.fsencode(path.name))


KINDS: dict[str, Callable[[Path], object]] = {
    "file": lambda path: make(path, b"content of " + os.fsencode(path.name)),
    "empty_dir": lambda path: path.mkdir(),
    "full_dir": _full_directory,
    "symlink": lambda path: path.symlink_to(f"target of {path.name}"),
    "fifo": lambda path: os.mkfifo(path),
}
DIRECTORIES = ("empty_dir", "full_dir")


def _expected(source: str, target: str) -> int:
    """0, or the errno value of renaming a `source` onto an existing `target`."""
    if source not in DIRECTORIES:
        return errno.EISDIR if target in DIRECTORIES else 0
    if target not in DIRECTORIES:
        return errno.ENOTDIR
    return errno.ENOTEMPTY if target == "full_dir" else 0


def _look(path: Path) -> tuple[object, ...]:
    """What makes the thing itself: type, inode and content."""
    status = path.lstat()
    kind = stat.S_IFMT(status.st_mode)
    if stat.S_ISREG(kind):
        return kind, status.st_ino, path.read_bytes()
    if stat.S_ISDIR(kind):
        return kind, status.st_ino, sorted(os.listdir(path))
    return kind, status.st_ino, os.readlink(path) if stat.S_ISLNK(kind) else None


def _matrix_cell(source: str, target: str, directory: Path) -> None:
    """Inside one directory, and from one to another."""
    for parent in (directory / "same", directory / "other"):
        (directory / "same").mkdir(exist_ok=True)
        parent.mkdir(exist_ok=True)
        old, new = directory / "same" / f"old in {parent.name}", parent / "new"
        KINDS[source](old)
        KINDS[target](new)
        before_old, before_new = _look(old), _look(new)
        if code := _expected(source, target):
            with fails(code):
                os.rename(old, new)
            equal((before_old, before_new), (_look(old), _look(new)), "both, after the refused rename")
        else:
            os.rename(old, new)
            ensure(not os.path.lexists(old), "the old name is gone")
            equal(before_old, _look(new), "what has the new name")
            equal(1, os.listdir(parent).count("new"), "times that the new name is listed")


def _onto_missing(source: str, directory: Path) -> None:
    (directory / "other").mkdir()
    old = directory / "old"
    KINDS[source](old)
    thing = _look(old)
    for step in (directory / "new", directory / "other" / "new", directory / "old"):
        old.rename(step)
        ensure(not os.path.lexists(old), "the old name is gone")
        equal(thing, _look(step), "what has the new name")
        old = step


def _onto_itself(source: str, directory: Path) -> None:
    path = directory / "name"
    KINDS[source](path)
    thing = _look(path)
    path.rename(path)
    equal(thing, _look(path), "the thing after the rename")


def _noreplace(target: str, directory: Path) -> None:
    make(directory / "old", b"old")
    KINDS[target](directory / "new")
    thing = _look(directory / "new")
    with fails(errno.EEXIST):
        renameat2(directory / "old", directory / "new", RENAME_NOREPLACE)
    equal(thing, _look(directory / "new"), "the target")
    equal(b"old", (directory / "old").read_bytes(), "the source")


def _exchange(first: str, second: str, directory: Path) -> None:
    for parent in (directory / "here", directory / "there"):
        (directory / "here").mkdir(exist_ok=True)
        parent.mkdir(exist_ok=True)
        one, two = directory / "here" / f"one {parent.name}", parent / "two"
        KINDS[first](one)
        KINDS[second](two)
        look_one, look_two = _look(one), _look(two)
        renameat2(one, two, RENAME_EXCHANGE)
        equal((look_two, look_one), (_look(one), _look(two)), "both after the exchange")


for one_kind in KINDS:
    register(f"rename.{one_kind}_to_a_new_name", partial(_onto_missing, one_kind))
    register(f"rename.{one_kind}_onto_itself", partial(_onto_itself, one_kind))
    register(f"rename.noreplace_of_existing_{one_kind}", partial(_noreplace, one_kind), "rename_flags")
    for other_kind in KINDS:
        register(f"rename.{one_kind}_onto_{other_kind}", partial(_matrix_cell, one_kind, other_kind))
for one_kind, other_kind in (
    ("file", "file"),
    ("file", "full_dir"),
    ("full_dir", "empty_dir"),
    ("full_dir", "full_dir"),
    ("symlink", "file"),
    ("symlink", "fifo"),
):
    register(f"rename.exchange_{one_kind}_and_{other_kind}", partial(_exchange, one_kind, other_kind), "rename_flags")


@check("rename_flags")
def noreplace_to_a_new_name(directory: Path) -> None:
    make(directory / "old")
    renameat2(directory / "old", directory / "new", RENAME_NOREPLACE)
    equal(["new"], os.listdir(directory), "listing")


@check("rename_flags")
def exchange_with_a_missing_name_is_enoent(directory: Path) -> None:
    make(directory / "old")
    with fails(errno.ENOENT):
        renameat2(directory / "old", directory / "missing", RENAME_EXCHANGE)
    with fails(errno.ENOENT):
        renameat2(directory / "missing", directory / "old", RENAME_EXCHANGE)
    equal(["old"], os.listdir(directory), "listing")


@check("rename_flags")
def exchange_with_the_own_parent_is_einval(directory: Path) -> None:
    (directory / "parent" / "child").mkdir(parents=True)
    with fails(errno.EINVAL):
        renameat2(directory / "parent", directory / "parent" / "child", RENAME_EXCHANGE)
    with fails(errno.EINVAL, errno.ENOTEMPTY):
        renameat2(directory / "parent" / "child", directory / "parent", RENAME_EXCHANGE)
    ensure((directory / "parent" / "child").is_dir(), "the child is where it was")


@check("rename_flags")
def flags_that_can_not_be_are_einval(directory: Path) -> None:
    make(directory / "old")
    make(directory / "new")
    for flags in (RENAME_NOREPLACE | RENAME_EXCHANGE, RENAME_WHITEOUT | RENAME_EXCHANGE, 1 << 20):
        with fails(errno.EINVAL):
            renameat2(directory / "old", directory / "new", flags)


@check("root", "whiteout")
def whiteout_leaves_a_device_behind(directory: Path) -> None:
    make(directory / "old", b"old")
    make(directory / "new", b"new")
    renameat2(directory / "old", directory / "new", RENAME_WHITEOUT)
    equal(b"old", (directory / "new").read_bytes(), "content of the target")
    status = (directory / "old").lstat()
    ensure(stat.S_ISCHR(status.st_mode), "the old name is a character device")
    equal(os.makedev(0, 0), status.st_rdev, "device number")


@check("root", "whiteout")
def whiteout_to_a_new_name(directory: Path) -> None:
    (directory / "sub").mkdir()
    make(directory / "old")
    renameat2(directory / "old", directory / "sub" / "new", RENAME_WHITEOUT | RENAME_NOREPLACE)
    ensure((directory / "sub" / "new").is_file(), "the new name is the file")
    ensure(stat.S_ISCHR((directory / "old").lstat().st_mode), "the old name is a character device")


@check("root", "whiteout")
def whiteout_belongs_to_whoever_asked(directory: Path) -> None:
    make(directory / "old")
    directory.chmod(0o777)
    as_user(ALICE, lambda: renameat2(directory / "old", directory / "new", RENAME_WHITEOUT))
    status = (directory / "old").lstat()
    equal((ALICE.uid, ALICE.gid), (status.st_uid, status.st_gid), "owner and group")


@check()
def names_of_the_same_file_do_nothing(directory: Path) -> None:
    """POSIX: where both names are links to one file, rename succeeds and both stay."""
    (directory / "sub").mkdir()
    file = make(directory / "file")
    for other in (directory / "other", directory / "sub" / "other"):
        os.link(file, other)
        os.rename(file, other)
        ensure(file.exists(), "the first name stays")
        ensure(other.exists(), "the second name stays")
    equal(3, file.stat().st_nlink, "links")


@check()
def into_the_own_child_is_einval(directory: Path) -> None:
    (directory / "parent" / "child" / "grandchild").mkdir(parents=True)
    for target in ("child/parent", "child/grandchild/parent", "child/grandchild"):
        with fails(errno.EINVAL):
            os.rename(directory / "parent", directory / "parent" / target)
    with fails(errno.EINVAL):
        os.rename(directory / "parent", directory / "parent" / "new")
    ensure((directory / "parent" / "child" / "grandchild").is_dir(), "the tree is where it was")


@check()
def onto_an_ancestor_is_enotempty(directory: Path) -> None:
    (directory / "parent" / "child" / "grandchild").mkdir(parents=True)
    with fails(errno.ENOTEMPTY):
        os.rename(directory / "parent" / "child", directory / "parent")
    with fails(errno.ENOTEMPTY):
        os.rename(directory / "parent" / "child" / "grandchild", directory / "parent")


@check()
def of_dot_and_dot_dot_is_refused(directory: Path) -> None:
    (directory / "dir").mkdir()
    for name in (".", ".."):
        with fails(errno.EBUSY, errno.EINVAL):
            os.rename(f"{directory}/dir/{name}", directory / "new")
        with fails(errno.EBUSY, errno.EINVAL):
            os.rename(directory / "dir", f"{directory}/dir/{name}")


@check()
def missing_parts_are_enoent(directory: Path) -> None:
    make(directory / "file")
    with fails(errno.ENOENT):
        os.rename(directory / "missing", directory / "new")
    with fails(errno.ENOENT):
        os.rename(directory / "file", directory / "missing" / "new")
    with fails(errno.ENOENT):
        os.rename(directory / "missing", directory / "missing")
    with fails(errno.ENOTDIR):
        os.rename(directory / "file" / "below", directory / "new")
    with fails(errno.ENOTDIR):
        os.rename(directory / "file", directory / "file" / "below")


@check()
def trailing_slashes(directory: Path) -> None:
    make(directory / "file")
    (directory / "dir").mkdir()
    with fails(errno.ENOTDIR):
        os.rename(directory / "file", f"{directory}/new/")
    with fails(errno.ENOTDIR):
        os.rename(f"{directory}/file/", directory / "new")
    os.rename(f"{directory}/dir/", f"{directory}/moved/")
    equal({"file", "moved"}, set(os.listdir(directory)), "listing")


@check()
def over_an_open_file_leaves_it_to_its_holder(directory: Path) -> None:
    old, new = make(directory / "old", b"old"), make(directory / "new", b"new")
    with opened(new, os.O_RDWR) as fd:
        old.rename(new)
        equal(b"new", os.pread(fd, 10, 0), "content by the old fd")
        equal(0, os.fstat(fd).st_nlink, "links of the replaced file")
        os.pwrite(fd, b"NEW", 0)
        equal(b"NEW", os.pread(fd, 10, 0), "content by the old fd after a write")
        equal(b"old", new.read_bytes(), "content by the name")


@check()
def open_file_follows_its_new_name(directory: Path) -> None:
    (directory / "sub").mkdir()
    old = make(directory / "old")
    with opened(old, os.O_RDWR) as fd:
        old.rename(directory / "sub" / "new")
        os.pwrite(fd, b"CONTENT", 0)
        equal(f"{directory}/sub/new", os.readlink(f"/proc/self/fd/{fd}"), "path of the fd")
        equal(os.fstat(fd).st_ino, (directory / "sub" / "new").stat().st_ino, "inode")
        make(old, b"another")
        equal(b"CONTENT", os.pread(fd, 10, 0), "content by the fd")
    equal(b"CONTENT", (directory / "sub" / "new").read_bytes(), "content by the new name")


@check()
def open_directory_follows_its_new_name(directory: Path) -> None:
    (directory / "old").mkdir()
    (directory / "deep").mkdir()
    with opened(directory / "old", os.O_RDONLY | os.O_DIRECTORY) as fd:
        (directory / "old").rename(directory / "deep" / "new")
        os.close(os.open("made", os.O_CREAT, dir_fd=fd))
        equal(["made"], os.listdir(fd), "listing by the fd")
        equal((directory / "deep").stat().st_ino, os.stat("..", dir_fd=fd).st_ino, "inode of '..'")
    equal(["made"], os.listdir(directory / "deep" / "new"), "listing by the new name")


@check()
def working_directory_follows(directory: Path) -> None:
    (directory / "old").mkdir()
    with working_directory(directory / "old"):
        (directory / "old").rename(directory / "new")
        equal(f"{directory}/new", os.getcwd(), "working directory")
        make(Path("made"))
    ensure((directory / "new" / "made").exists(), "the file is in the renamed directory")


@check()
def tree_moves_with_its_directory(directory: Path) -> None:
    (directory / "old" / "a" / "b").mkdir(parents=True)
    file = make(directory / "old" / "a" / "b" / "file")
    inode = file.stat().st_ino
    (directory / "elsewhere").mkdir()
    (directory / "old" / "a").rename(directory / "elsewhere" / "z")
    equal(inode, (directory / "elsewhere" / "z" / "b" / "file").stat().st_ino, "inode")
    with fails(errno.ENOENT):
        file.stat()
    make(directory / "elsewhere" / "z" / "b" / "second")
    equal({"file", "second"}, set(os.listdir(directory / "elsewhere" / "z" / "b")), "listing")


@check()
def replaced_file_loses_a_link(directory: Path) -> None:
    old, new = make(directory / "old"), make(directory / "new", b"kept")
    os.link(new, directory / "third")
    old.rename(new)
    equal(1, (directory / "third").stat().st_nlink, "links of the replaced file")
    equal(b"kept", (directory / "third").read_bytes(), "content of the replaced file")


@check()
def swapping_names_keeps_contents_apart(directory: Path) -> None:
    a, b, spare = directory / "a", directory / "b", directory / "spare"
    make(a, b"A")
    make(b, b"B")
    for turn in range(20):
        a.rename(spare)
        b.rename(a)
        spare.rename(b)
        expected = (b"B", b"A") if turn % 2 == 0 else (b"A", b"B")
        equal(expected, (a.read_bytes(), b.read_bytes()), "contents")


@check()
def long_target_names(directory: Path) -> None:
    make(directory / "file")
    (directory / "file").rename(directory / ("n" * 255))
    (directory / ("n" * 255)).rename(directory / ("m" * 255))
    with fails(errno.ENAMETOOLONG):
        (directory / ("m" * 255)).rename(directory / ("n" * 256))
    equal(["m" * 255], os.listdir(directory), "listing")
