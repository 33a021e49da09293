"""Who owns what is made, who may change owner and mode, and when set-id bits go."""

import errno
import os
import stat
from functools import partial
from pathlib import Path

from ..assertions import equal, fails
from ..files import make, mode_of, opened
from ..people import file_of, home_of, owner_of
from ..processes import ALICE, BOB, CAROL, TEAM_GID, as_user
from ..registry import check
from ..syscalls import fallocate

ROOT = "root"
NO_CHANGE = -1


@check(ROOT)
def what_is_made_belongs_to_its_maker(directory: Path) -> None:
    home = home_of(directory, ALICE)

    def create() -> None:
        os.umask(0o022)
        make(home / "file")
        (home / "dir").mkdir()
        (home / "link").symlink_to("x")
        os.mkfifo(home / "fifo")
        os.mknod(home / "socket", stat.S_IFSOCK | 0o600)
        make(home / "dir" / "inside")

    as_user(ALICE, create)
    for name in ("file", "dir", "link", "fifo", "socket", "dir/inside"):
        equal((ALICE.uid, ALICE.gid), owner_of(home / name), f"owner of {name}")
    equal(os.geteuid(), directory.stat().st_uid, "owner of what root made")


@check(ROOT, "tmpfile")
def o_tmpfile_belongs_to_its_maker(directory: Path) -> None:
    home = home_of(directory, ALICE)

    def create() -> None:
        with opened(home, os.O_TMPFILE | os.O_RDWR) as fd:
            equal((ALICE.uid, ALICE.gid), (os.fstat(fd).st_uid, os.fstat(fd).st_gid), "owner")

    as_user(ALICE, create)


@check(ROOT)
def root_makes_files_of_root(directory: Path) -> None:
    home = home_of(directory, ALICE)
    make(home / "file")
    equal((0, os.getegid()), owner_of(home / "file"), "owner")


@check(ROOT)
def two_users_take_turns(directory: Path) -> None:
    directory.chmod(0o1777)
    for turn in range(10):
        user = (ALICE, BOB, CAROL)[turn % 3]
        as_user(user, partial(os.mkdir, directory / f"{turn}"))
        equal((user.uid, user.gid), owner_of(directory / f"{turn}"), "owner")


@check(ROOT)
def setgid_directory_gives_its_group(directory: Path) -> None:
    folder = directory / "team"
    folder.mkdir()
    os.chown(folder, 0, TEAM_GID)
    folder.chmod(0o2777)

    def create() -> None:
        make(folder / "file")
        (folder / "dir").mkdir()
        (folder / "link").symlink_to("x")
        os.mkfifo(folder / "fifo")
        make(folder / "dir" / "inside")

    for user in (ALICE, CAROL):
        as_user(user, create)
        for name in ("file", "dir", "link", "fifo", "dir/inside"):
            equal((user.uid, TEAM_GID), owner_of(folder / name), f"owner of {name}")
        equal(0o2755, mode_of(folder / "dir"), "mode of the new directory")
        equal(0o644, mode_of(folder / "file"), "mode of the new file")
        (folder / "dir" / "inside").unlink()
        (folder / "dir").rmdir()
        for name in ("file", "link", "fifo"):
            (folder / name).unlink()


@check(ROOT)
def setgid_file_by_a_stranger_to_the_group(directory: Path) -> None:
    """In a setgid directory, who is not in the group gets no setgid file of it."""
    folder = directory / "team"
    folder.mkdir()
    os.chown(folder, 0, TEAM_GID)
    folder.chmod(0o2777)

    def create(name: str) -> None:
        os.umask(0)
        os.close(os.open(folder / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o2775))

    as_user(ALICE, lambda: create("alices"))
    equal(0o775, mode_of(folder / "alices"), "mode of the stranger's file")
    as_user(CAROL, lambda: create("carols"))
    equal(0o2775, mode_of(folder / "carols"), "mode of the member's file")


@check(ROOT)
def chmod_by_others_is_eperm(directory: Path) -> None:
    file = file_of(directory, ALICE, 0o666)

    def stranger() -> None:
        with fails(errno.EPERM):
            file.chmod(0o777)
        with opened(file) as fd, fails(errno.EPERM):
            os.fchmod(fd, 0o777)

    as_user(BOB, stranger)
    as_user(ALICE, lambda: file.chmod(0o640))
    equal(0o640, mode_of(file), "mode")


@check(ROOT)
def chmod_setgid_by_a_stranger_to_the_group_is_dropped(directory: Path) -> None:
    file = file_of(directory, ALICE, 0o755)
    os.chown(file, NO_CHANGE, TEAM_GID)
    as_user(ALICE, lambda: file.chmod(0o2755))
    equal(0o755, mode_of(file), "mode")
    os.chown(file, CAROL.uid, TEAM_GID)
    as_user(CAROL, lambda: file.chmod(0o2755))
    equal(0o2755, mode_of(file), "mode by a member")


@check(ROOT)
def chown_by_others_is_eperm(directory: Path) -> None:
    file = file_of(directory, ALICE, 0o666)

    def try_it(uid: int, gid: int) -> None:
        with fails(errno.EPERM):
            os.chown(file, uid, gid)

    as_user(BOB, lambda: try_it(BOB.uid, NO_CHANGE))
    as_user(ALICE, lambda: try_it(BOB.uid, NO_CHANGE))
    as_user(ALICE, lambda: try_it(NO_CHANGE, TEAM_GID))
    equal((ALICE.uid, ALICE.gid), owner_of(file), "owner")


@check(ROOT)
def owner_gives_the_file_to_an_own_group(directory: Path) -> None:
    file = file_of(directory, CAROL, 0o644)
    as_user(CAROL, lambda: os.chown(file, NO_CHANGE, TEAM_GID))
    equal((CAROL.uid, TEAM_GID), owner_of(file), "owner")
    as_user(CAROL, lambda: os.chown(file, CAROL.uid, CAROL.gid))
    equal((CAROL.uid, CAROL.gid), owner_of(file), "owner")


@check(ROOT)
def chown_one_and_both_and_none(directory: Path) -> None:
    file = make(directory / "file")
    for uid, gid, expected in (
        (5, NO_CHANGE, (5, 0)),
        (NO_CHANGE, 6, (5, 6)),
        (NO_CHANGE, NO_CHANGE, (5, 6)),
        (0, 0, (0, 0)),
        (0xFFFF_FFFE, 0xFFFF_FFFE, (0xFFFF_FFFE, 0xFFFF_FFFE)),
        (65_534, 65_536, (65_534, 65_536)),
    ):
        os.chown(file, uid, gid)
        equal(expected, owner_of(file), "owner")
    with opened(file) as fd:
        os.fchown(fd, 1, 2)
    equal((1, 2), owner_of(file), "owner after fchown")


@check(ROOT)
def chown_drops_setuid_and_setgid(directory: Path) -> None:
    file = make(directory / "file")
    file.chmod(0o6755)
    os.chown(file, 1, 1)
    equal(0o755, mode_of(file), "mode after root's chown")
    os.chown(file, CAROL.uid, CAROL.gid)
    file.chmod(0o6711)
    as_user(CAROL, lambda: os.chown(file, NO_CHANGE, TEAM_GID))
    equal(0o711, mode_of(file), "mode after the owner's chgrp")


@check(ROOT)
def chown_keeps_the_bits_of_a_directory(directory: Path) -> None:
    folder = directory / "dir"
    folder.mkdir()
    folder.chmod(0o7777)
    os.chown(folder, 1, 1)
    equal(0o7777, mode_of(folder), "mode")


@check(ROOT)
def write_by_a_stranger_drops_setuid_and_setgid(directory: Path) -> None:
    file = file_of(directory, ALICE, 0o6777)

    def write() -> None:
        with opened(file, os.O_WRONLY) as fd:
            os.write(fd, b"x")

    as_user(BOB, write)
    equal(0o777, mode_of(file), "mode")


@check(ROOT, "fallocate")
def allocate_and_copy_by_a_stranger_drop_setuid_and_setgid(directory: Path) -> None:
    source = make(directory / "source", b"x" * 5000)
    source.chmod(0o644)

    def copy(file: Path) -> None:
        with opened(source) as reader, opened(file, os.O_WRONLY) as writer:
            equal(100, os.copy_file_range(reader, writer, 100, 0, 0), "bytes copied")

    def allocate(file: Path) -> None:
        with opened(file, os.O_WRONLY) as fd:
            fallocate(fd, 0, 0, 10_000)

    for name, act in {"copy": copy, "allocate": allocate}.items():
        file = file_of(directory, ALICE, 0o6777)
        as_user(BOB, partial(act, file))
        equal(0o777, mode_of(file), f"mode after {name}")


@check(ROOT)
def truncate_by_a_stranger_drops_setuid_and_setgid(directory: Path) -> None:
    for name, act in {
        "truncate": lambda file: os.truncate(file, 3),
        "o_trunc": _rewrite,
        "ftruncate": _ftruncate,
    }.items():
        file = file_of(directory, ALICE, 0o6777)
        as_user(BOB, partial(act, file))
        equal(0o777, mode_of(file), f"mode after {name}")


@check(ROOT)
def truncate_by_root_keeps_setuid(directory: Path) -> None:
    """As when root copies a new program over an old one."""
    for name, act in {"truncate": partial(os.truncate, length=3), "o_trunc": _rewrite, "ftruncate": _ftruncate}.items():
        file = file_of(directory, ALICE, 0o4755)
        act(file)
        equal(0o4755, mode_of(file), f"mode after {name}")


def _rewrite(file: Path) -> None:
    """An empty program harms nobody, so it may keep the bits until there is a byte in it."""
    with opened(file, os.O_WRONLY | os.O_TRUNC) as fd:
        os.write(fd, b"x")


def _ftruncate(file: Path) -> None:
    with opened(file, os.O_WRONLY) as fd:
        os.ftruncate(fd, 2)


@check(ROOT)
def write_by_root_keeps_setuid(directory: Path) -> None:
    file = make(directory / "file")
    file.chmod(0o4755)
    with opened(file, os.O_WRONLY) as fd:
        os.write(fd, b"x")
    equal(0o4755, mode_of(file), "mode")


@check(ROOT)
def setgid_without_x_is_no_setgid_program(directory: Path) -> None:
    """Without the group's x bit, setgid once meant mandatory locking: a write leaves it alone."""
    file = file_of(directory, CAROL, 0o2666)

    def write() -> None:
        with opened(file, os.O_WRONLY) as fd:
            os.write(fd, b"x")

    as_user(CAROL, write)
    equal(0o2666, mode_of(file), "mode")
