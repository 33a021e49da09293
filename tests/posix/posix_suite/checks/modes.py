"""Permission bits and the umask."""

import errno
import os
import stat
from functools import partial
from pathlib import Path

from ..assertions import equal, fails
from ..files import kind_of, make, mode_of, opened, until_changed
from ..processes import Child, umask
from ..registry import check, register


def _created_with(mask: int, directory: Path) -> None:
    with umask(mask):
        for mode in (0, 0o400, 0o444, 0o600, 0o644, 0o666, 0o750, 0o755, 0o777):
            file, folder, fifo = (directory / f"{kind}{mode:o}" for kind in ("file", "dir", "fifo"))
            os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_RDWR, mode))
            equal(mode & ~mask, mode_of(file), f"mode of the file made with {mode:o}")
            os.mkdir(folder, mode)
            equal(mode & ~mask, mode_of(folder), f"mode of the directory made with {mode:o}")
            os.mkfifo(fifo, mode)
            equal(mode & ~mask, mode_of(fifo), f"mode of the FIFO made with {mode:o}")


for one_mask in (0, 0o002, 0o022, 0o027, 0o077, 0o111, 0o777):
    register(f"modes.created_under_umask_{one_mask:03o}", partial(_created_with, one_mask))


@check()
def umask_is_the_process_own(directory: Path) -> None:
    def create(name: str, mask: int) -> None:
        os.umask(mask)
        os.mkdir(directory / name, 0o777)

    for mask in (0, 0o077, 0o022, 0o007):
        Child(partial(create, f"{mask:o}", mask)).wait()
        equal(0o777 & ~mask, mode_of(directory / f"{mask:o}"), "mode")


@check()
def chmod_to_every_permission(directory: Path) -> None:
    file = make(directory / "file")
    for mode in range(0o1000):
        file.chmod(mode)
        equal(mode, mode_of(file), "mode")
    equal(stat.S_IFREG, kind_of(file), "type")


@check("root")
def chmod_of_special_bits(directory: Path) -> None:
    file, folder = make(directory / "file"), directory / "dir"
    folder.mkdir()
    for mode in (0o4755, 0o2755, 0o1755, 0o6711, 0o7777, 0o7000, 0o0000):
        for path in (file, folder):
            path.chmod(mode)
            equal(mode, mode_of(path), f"mode of the {path.name}")


@check("root")
def create_with_setuid_bit(directory: Path) -> None:
    with umask(0o022):
        os.close(os.open(directory / "file", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o4777))
    equal(0o4755, mode_of(directory / "file"), "mode")


@check()
def mkdir_keeps_sticky_and_drops_setuid(directory: Path) -> None:
    with umask(0):
        os.mkdir(directory / "dir", 0o5777)
    equal(0o1777, mode_of(directory / "dir"), "mode")


@check()
def fchmod_changes_the_open_file(directory: Path) -> None:
    file = make(directory / "file")
    with opened(file) as fd:
        os.fchmod(fd, 0o640)
        equal(0o640, stat.S_IMODE(os.fstat(fd).st_mode), "mode by the fd")
        equal(0o640, mode_of(file), "mode by the path")


@check()
def fchmod_of_a_directory(directory: Path) -> None:
    (directory / "dir").mkdir()
    with opened(directory / "dir", os.O_RDONLY | os.O_DIRECTORY) as fd:
        os.fchmod(fd, 0o711)
    equal(0o711, mode_of(directory / "dir"), "mode")


@check()
def chmod_through_o_path(directory: Path) -> None:
    file = make(directory / "file")
    with opened(file, os.O_PATH) as fd:
        with fails(errno.EBADF):
            os.fchmod(fd, 0o600)
        os.chmod(f"/proc/self/fd/{fd}", 0o604)
    equal(0o604, mode_of(file), "mode")


@check()
def chmod_follows_a_symlink(directory: Path) -> None:
    file, link = make(directory / "file"), directory / "link"
    link.symlink_to("file")
    link.chmod(0o606)
    equal(0o606, mode_of(file), "mode of the target")
    equal(0o777, mode_of(link), "mode of the link")


@check()
def symlink_mode_is_777_whatever_the_umask(directory: Path) -> None:
    with umask(0o077):
        (directory / "link").symlink_to("target")
    equal(0o777, mode_of(directory / "link"), "mode")


@check()
def chmod_moves_ctime_and_not_mtime(directory: Path) -> None:
    file = make(directory / "file")
    mtime = file.stat().st_mtime_ns
    until_changed("ctime", lambda: file.stat().st_ctime_ns, lambda: file.chmod(0o600))
    equal(mtime, file.stat().st_mtime_ns, "mtime")


@check()
def file_made_read_only_stays_writable_where_open(directory: Path) -> None:
    file = make(directory / "file", b"")
    with opened(file, os.O_RDWR) as fd:
        file.chmod(0)
        equal(5, os.write(fd, b"still"), "bytes written")
        equal(b"still", os.pread(fd, 10, 0), "content")


@check()
def create_with_mode_zero_gives_a_usable_fd(directory: Path) -> None:
    with opened(directory / "file", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0) as fd:
        os.write(fd, b"content")
        equal(b"content", os.pread(fd, 10, 0), "content")
    equal(0, mode_of(directory / "file"), "mode")


@check()
def o_creat_leaves_the_mode_of_an_existing_file(directory: Path) -> None:
    file = make(directory / "file")
    file.chmod(0o604)
    os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o777))
    equal(0o604, mode_of(file), "mode")


@check()
def mode_is_shared_by_all_names(directory: Path) -> None:
    file = make(directory / "file")
    os.link(file, directory / "other")
    for mode in (0o600, 0o640, 0o644):
        (directory / "other").chmod(mode)
        equal(mode, mode_of(file), "mode by the first name")


@check()
def chmod_of_a_missing_name_is_enoent(directory: Path) -> None:
    with fails(errno.ENOENT):
        os.chmod(directory / "missing", 0o600)
    make(directory / "file")
    with fails(errno.ENOTDIR):
        os.chmod(directory / "file" / "below", 0o600)
