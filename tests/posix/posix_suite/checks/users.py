"""Permissions and ownership as several users: every step runs in a process that has really become that user."""

import errno
import os
import stat
from pathlib import Path

from ..assertions import equal, fails
from ..files import LONG_AGO_NS, make, mode_of, opened
from ..people import file_of, home_of, owner_of
from ..processes import ALICE, BOB, CAROL, TEAM_GID, User, as_user, umask
from ..registry import check
from ..syscalls import AT_EACCESS, faccessat2

ROOT = "root"
NO_CHANGE = -1


def _denied(path: Path, flags: int, code: int = errno.EACCES) -> None:
    with fails(code):
        os.open(path, flags)


def _allowed(path: Path, flags: int) -> None:
    os.close(os.open(path, flags))


@check(ROOT)
def owner_bits(directory: Path) -> None:
    file = file_of(directory, ALICE, 0o600)
    as_user(ALICE, lambda: _allowed(file, os.O_RDWR))
    as_user(BOB, lambda: _denied(file, os.O_RDONLY))
    file.chmod(0o400)
    as_user(ALICE, lambda: _allowed(file, os.O_RDONLY))
    as_user(ALICE, lambda: _denied(file, os.O_WRONLY))
    file.chmod(0o077)
    as_user(ALICE, lambda: _denied(file, os.O_RDONLY))
    as_user(BOB, lambda: _allowed(file, os.O_RDWR))


@check(ROOT)
def group_bits_by_the_primary_group(directory: Path) -> None:
    file = file_of(directory, ALICE, 0o640)
    friend = User(BOB.uid, ALICE.gid)
    as_user(friend, lambda: _allowed(file, os.O_RDONLY))
    as_user(friend, lambda: _denied(file, os.O_WRONLY))
    as_user(BOB, lambda: _denied(file, os.O_RDONLY))
    file.chmod(0o604)
    as_user(friend, lambda: _denied(file, os.O_RDONLY))


@check(ROOT)
def group_bits_by_a_supplementary_group(directory: Path) -> None:
    file = file_of(directory, ALICE, 0o660)
    os.chown(file, NO_CHANGE, TEAM_GID)
    as_user(CAROL, lambda: _allowed(file, os.O_RDWR))
    as_user(BOB, lambda: _denied(file, os.O_RDONLY))


@check(ROOT)
def supplementary_group_may_create(directory: Path) -> None:
    """The directory is writable by the group only: the daemon must create with it, or as somebody who may."""
    folder = directory / "team"
    folder.mkdir()
    os.chown(folder, 0, TEAM_GID)
    folder.chmod(0o770)

    def create() -> None:
        make(folder / "file")
        (folder / "dir").mkdir()
        (folder / "link").symlink_to("x")
        os.mkfifo(folder / "fifo")
        (folder / "file").rename(folder / "renamed")
        os.link(folder / "renamed", folder / "linked")
        (folder / "linked").unlink()

    as_user(CAROL, create)
    for name in ("renamed", "dir", "link", "fifo"):
        equal((CAROL.uid, CAROL.gid), owner_of(folder / name), f"owner of {name}")

    def refused() -> None:
        with fails(errno.EACCES):
            (folder / "new").mkdir()

    as_user(BOB, refused)


@check(ROOT)
def directory_without_x_hides_what_is_inside(directory: Path) -> None:
    home = home_of(directory, ALICE)
    make(home / "file")
    home.chmod(0o744)

    def try_it() -> None:
        equal(["file"], os.listdir(home), "listing")
        with fails(errno.EACCES):
            os.stat(home / "file")
        with fails(errno.EACCES):
            os.stat(home / "missing")
        with fails(errno.EACCES):
            os.chdir(home)

    as_user(BOB, try_it)


@check(ROOT)
def directory_without_r_can_not_be_listed(directory: Path) -> None:
    home = home_of(directory, ALICE)
    make(home / "file")
    home.chmod(0o711)

    def try_it() -> None:
        with fails(errno.EACCES):
            os.listdir(home)
        equal(7, os.stat(home / "file").st_size, "size")

    as_user(BOB, try_it)


@check(ROOT)
def directory_without_w_can_not_be_changed(directory: Path) -> None:
    home = home_of(directory, ALICE, 0o755)
    make(home / "file")
    (home / "file").chmod(0o666)
    (home / "dir").mkdir()

    def try_it() -> None:
        for act in (
            lambda: (home / "new").touch(),
            lambda: (home / "new").mkdir(),
            lambda: (home / "new").symlink_to("x"),
            lambda: os.mkfifo(home / "new"),
            lambda: os.link(home / "file", home / "new"),
            lambda: (home / "file").unlink(),
            lambda: (home / "dir").rmdir(),
            lambda: (home / "file").rename(home / "new"),
        ):
            with fails(errno.EACCES):
                act()
        make(home / "file", b"written")

    as_user(BOB, try_it)
    equal({"file", "dir"}, set(os.listdir(home)), "listing")


@check(ROOT)
def unlink_asks_the_directory_not_the_file(directory: Path) -> None:
    home = home_of(directory, ALICE)
    make(home / "of_root").chmod(0o600)
    as_user(ALICE, lambda: (home / "of_root").unlink())
    equal([], os.listdir(home), "listing")


@check(ROOT)
def sticky_directory(directory: Path) -> None:
    directory.chmod(0o1777)
    file = file_of(directory, ALICE, 0o666)
    sub = home_of(directory, ALICE, 0o777)

    def stranger() -> None:
        with fails(errno.EPERM):
            file.unlink()
        with fails(errno.EPERM):
            file.rename(directory / "taken")
        with fails(errno.EPERM):
            sub.rmdir()
        make(directory / "bobs")
        with fails(errno.EPERM):
            (directory / "bobs").rename(file)

    as_user(BOB, stranger)

    def owner() -> None:
        file.rename(directory / "moved")
        (directory / "moved").unlink()
        sub.rmdir()

    as_user(ALICE, owner)
    equal(["bobs"], os.listdir(directory), "listing")


@check(ROOT)
def owner_of_a_sticky_directory_removes_all(directory: Path) -> None:
    home = home_of(directory, ALICE, 0o1777)
    as_user(BOB, (home / "file").touch)
    as_user(ALICE, lambda: (home / "file").unlink())


@check(ROOT)
def times_by_others(directory: Path) -> None:
    file = file_of(directory, ALICE, 0o666)
    os.utime(file, ns=(LONG_AGO_NS, LONG_AGO_NS))

    def stranger() -> None:
        with fails(errno.EPERM):
            os.utime(file, ns=(1, 1))

    as_user(BOB, stranger)
    equal(LONG_AGO_NS, file.stat().st_mtime_ns, "mtime")
    as_user(BOB, lambda: os.utime(file))
    equal(True, file.stat().st_mtime_ns > LONG_AGO_NS, "who may write may set the time to now")
    file.chmod(0o644)

    def reader() -> None:
        with fails(errno.EACCES):
            os.utime(file)

    as_user(BOB, reader)
    as_user(ALICE, lambda: os.utime(file, ns=(1, 2)))
    equal((1, 2), (file.stat().st_atime_ns, file.stat().st_mtime_ns), "times set by the owner")


@check(ROOT)
def truncate_needs_write_permission(directory: Path) -> None:
    file = file_of(directory, ALICE, 0o644)

    def try_it() -> None:
        with fails(errno.EACCES):
            os.truncate(file, 0)
        with fails(errno.EACCES):
            os.open(file, os.O_RDONLY | os.O_TRUNC)

    as_user(BOB, try_it)
    equal(b"content", file.read_bytes(), "content")


@check(ROOT)
def create_for_writing_with_a_read_only_mode(directory: Path) -> None:
    home = home_of(directory, ALICE)

    def create() -> None:
        for mode in (0, 0o400, 0o444):
            with opened(home / f"file{mode:o}", os.O_CREAT | os.O_EXCL | os.O_RDWR, mode) as fd:
                os.write(fd, b"written")
                equal(b"written", os.pread(fd, 10, 0), "content")
            _denied(home / f"file{mode:o}", os.O_WRONLY)

    as_user(ALICE, create)


@check(ROOT)
def fd_stays_usable_when_permission_goes(directory: Path) -> None:
    file = file_of(directory, ALICE, 0o600)

    def use() -> None:
        with opened(file, os.O_RDWR) as fd:
            os.fchmod(fd, 0)
            os.pwrite(fd, b"CON", 0)
            os.ftruncate(fd, 5)
            equal(b"CONte", os.pread(fd, 10, 0), "content")
            os.fsync(fd)

    as_user(ALICE, use)


@check(ROOT)
def access_answers_for_the_caller(directory: Path) -> None:
    file = file_of(directory, ALICE, 0o640)

    def check_as(readable: bool, writable: bool) -> None:
        equal(readable, os.access(file, os.R_OK), "readable")
        equal(writable, os.access(file, os.W_OK), "writable")
        equal(False, os.access(file, os.X_OK), "executable")
        equal(True, os.access(file, os.F_OK), "there")
        equal(False, os.access(directory / "missing", os.F_OK), "missing file there")

    as_user(ALICE, lambda: check_as(True, True))
    as_user(User(BOB.uid, ALICE.gid), lambda: check_as(True, False))
    as_user(BOB, lambda: check_as(False, False))
    check_as(True, True)


@check(ROOT)
def access_by_real_and_by_effective_ids(directory: Path) -> None:
    file = file_of(directory, ALICE, 0o600)

    def try_it() -> None:
        os.setgroups([])
        os.setresuid(BOB.uid, ALICE.uid, 0)
        equal(False, os.access(file, os.R_OK), "readable by the real user")
        faccessat2(file, os.R_OK, AT_EACCESS)
        with fails(errno.EACCES):
            faccessat2(file, os.R_OK, 0)

    as_user(User(0, 0), try_it)


@check(ROOT, "exec")
def program_without_any_x_bit_is_not_even_roots(directory: Path) -> None:
    script = make(directory / "script", b"#!/bin/sh\nexit 0\n")
    script.chmod(0o666)
    equal(False, os.access(script, os.X_OK), "executable by root")
    with fails(errno.EACCES):
        os.execv(script, ["script"])
    script.chmod(0o010)
    equal(True, os.access(script, os.X_OK), "executable by root")
    as_user(ALICE, lambda: equal(False, os.access(script, os.X_OK), "executable by Alice"))


@check(ROOT)
def root_reads_and_writes_everything(directory: Path) -> None:
    file = file_of(directory, ALICE, 0)
    home = home_of(directory, BOB, 0)
    _allowed(file, os.O_RDWR)
    make(home / "file")
    equal(["file"], os.listdir(home), "listing")


@check(ROOT)
def o_noatime_is_for_the_owner(directory: Path) -> None:
    file = file_of(directory, ALICE, 0o644)
    as_user(ALICE, lambda: _allowed(file, os.O_RDONLY | os.O_NOATIME))
    as_user(BOB, lambda: _denied(file, os.O_RDONLY | os.O_NOATIME, errno.EPERM))


@check(ROOT)
def device_nodes_are_for_root(directory: Path) -> None:
    home = home_of(directory, ALICE)

    def try_it() -> None:
        for kind in (stat.S_IFCHR, stat.S_IFBLK):
            with fails(errno.EPERM):
                os.mknod(home / "device", kind | 0o600, os.makedev(1, 3))

    as_user(ALICE, try_it)


@check(ROOT)
def moving_a_directory_needs_w_on_itself(directory: Path) -> None:
    """Because `..` changes; under another name in the same place it is not needed."""
    home = home_of(directory, ALICE)
    (home / "there").mkdir()
    os.chown(home / "there", ALICE.uid, ALICE.gid)
    (home / "roots").mkdir()

    def try_it() -> None:
        with fails(errno.EACCES):
            (home / "roots").rename(home / "there" / "roots")
        (home / "roots").rename(home / "renamed")

    as_user(ALICE, try_it)
    equal({"there", "renamed"}, set(os.listdir(home)), "listing")


@check(ROOT)
def symlink_mode_does_not_matter(directory: Path) -> None:
    file = file_of(directory, ALICE, 0o644)
    (directory / "link").symlink_to(file.name)
    as_user(BOB, lambda: equal(b"content", (directory / "link").read_bytes(), "content"))
    as_user(BOB, lambda: equal(file.name, os.readlink(directory / "link"), "target"))


@check(ROOT)
def umask_of_a_user(directory: Path) -> None:
    home = home_of(directory, ALICE)

    def create() -> None:
        with umask(0o077):
            make(home / "private")
            (home / "private_dir").mkdir()
        with umask(0o002):
            make(home / "shared")

    as_user(ALICE, create)
    modes = [mode_of(home / name) for name in ("private", "private_dir", "shared")]
    equal([0o600, 0o700, 0o664], modes, "modes")


@check(ROOT)
def path_through_a_closed_directory(directory: Path) -> None:
    outer = home_of(directory, ALICE, 0o700)
    (outer / "inner").mkdir()
    make(outer / "inner" / "file").chmod(0o666)
    as_user(BOB, lambda: _denied(outer / "inner" / "file", os.O_RDONLY))
    with opened(outer / "inner", os.O_RDONLY | os.O_DIRECTORY) as fd:
        as_user(BOB, lambda: os.close(os.open("file", os.O_RDWR, dir_fd=fd)))


@check(ROOT)
def statfs_and_stat_need_no_file_permission(directory: Path) -> None:
    file = file_of(directory, ALICE, 0)

    def look() -> None:
        equal((0, 7), (stat.S_IMODE(file.stat().st_mode), file.stat().st_size), "mode and size")
        equal(True, os.statvfs(file).f_blocks > 0, "blocks are known")

    as_user(BOB, look)


@check(ROOT)
def fd_opened_by_root_is_used_by_others(directory: Path) -> None:
    """What an fd allows was settled when it was opened, also for reads and writes that come much later."""
    file = make(directory / "file", b"x" * 300_000)
    file.chmod(0o600)
    with opened(file, os.O_RDWR) as fd:

        def use() -> None:
            equal(b"xx", os.pread(fd, 2, 200_000), "content")
            os.pwrite(fd, b"by Alice", 100)
            os.ftruncate(fd, 400_000)
            os.fsync(fd)

        as_user(ALICE, use)
    equal((b"by Alice", 400_000), (file.read_bytes()[100:108], file.stat().st_size), "content and size")
