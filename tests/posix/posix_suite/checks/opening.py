"""open(2) and its flags."""

import errno
import fcntl
import mmap
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..assertions import ensure, equal, fails
from ..files import make, mode_of, opened, pattern
from ..processes import umask, working_directory
from ..registry import check
from ..syscalls import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, link_fd, openat2

DIRECT_UNIT = 4096


@check()
def o_creat_makes_and_o_excl_insists(directory: Path) -> None:
    path = directory / "file"
    with fails(errno.ENOENT):
        os.open(path, os.O_RDWR)
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    with fails(errno.EEXIST):
        os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
    with fails(errno.EEXIST):
        os.open(directory, os.O_CREAT | os.O_EXCL)


@check()
def o_trunc_empties(directory: Path) -> None:
    file = make(directory / "file")
    with opened(file, os.O_WRONLY | os.O_TRUNC) as fd:
        equal(0, os.fstat(fd).st_size, "size by the fd")
        equal(0, file.stat().st_size, "size")
        os.write(fd, b"new")
    equal(b"new", file.read_bytes(), "content")


@check()
def o_trunc_with_o_creat_on_both(directory: Path) -> None:
    for _ in range(3):
        with opened(directory / "file", os.O_RDWR | os.O_CREAT | os.O_TRUNC) as fd:
            equal(b"", os.read(fd, 10), "content")
            os.write(fd, b"something")


@check()
def o_trunc_under_other_open_fds(directory: Path) -> None:
    file = make(directory / "file", b"x" * 10_000)
    with opened(file, os.O_RDWR) as other:
        os.read(other, 5000)
        os.close(os.open(file, os.O_WRONLY | os.O_TRUNC))
        equal(b"", os.read(other, 100), "content by the other fd")
        equal(0, os.fstat(other).st_size, "size by the other fd")


@check()
def directory_for_writing_is_eisdir(directory: Path) -> None:
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDWR | os.O_CREAT, os.O_WRONLY | os.O_TRUNC):
        with fails(errno.EISDIR):
            os.open(directory, flags)


@check()
def o_directory(directory: Path) -> None:
    make(directory / "file")
    (directory / "to_dir").symlink_to(".")
    with fails(errno.ENOTDIR):
        os.open(directory / "file", os.O_RDONLY | os.O_DIRECTORY)
    with opened(directory / "to_dir", os.O_RDONLY | os.O_DIRECTORY) as fd:
        equal(directory.stat().st_ino, os.fstat(fd).st_ino, "inode")
    with fails(errno.ENOTDIR, errno.ELOOP):
        os.open(directory / "to_dir", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)


@check()
def missing_and_below_a_file(directory: Path) -> None:
    make(directory / "file")
    with fails(errno.ENOENT):
        os.open(directory / "missing" / "file", os.O_CREAT)
    with fails(errno.ENOTDIR):
        os.open(directory / "file" / "below", os.O_CREAT)
    with fails(errno.ENOTDIR):
        os.open(f"{directory}/file/", os.O_RDONLY)
    with fails(errno.EISDIR):
        os.open(f"{directory}/new/", os.O_CREAT)


@check()
def socket_is_enxio(directory: Path) -> None:
    with working_directory(directory), socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
    with fails(errno.ENXIO):
        os.open(directory / "socket", os.O_RDWR)


@check()
def flags_of_the_fd_are_as_asked(directory: Path) -> None:
    file = make(directory / "file")
    for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND, os.O_RDWR | os.O_NONBLOCK):
        with opened(file, flags) as fd:
            shown = fcntl.fcntl(fd, fcntl.F_GETFL) & (os.O_ACCMODE | os.O_APPEND | os.O_NONBLOCK)
            equal(flags, shown, "flags")


@check()
def o_nonblock_changes_nothing_for_a_file(directory: Path) -> None:
    with opened(make(directory / "file"), os.O_RDWR | os.O_NONBLOCK) as fd:
        equal(b"content", os.read(fd, 100), "content")
        equal(3, os.write(fd, b"abc"), "bytes written")


@check()
def o_cloexec_is_kept(directory: Path) -> None:
    with opened(make(directory / "file"), os.O_RDONLY | os.O_CLOEXEC) as fd:
        equal(fcntl.FD_CLOEXEC, fcntl.fcntl(fd, fcntl.F_GETFD), "fd flags")


@check()
def o_path_of_a_file(directory: Path) -> None:
    file = make(directory / "file")
    with opened(file, os.O_PATH) as fd:
        equal(file.stat().st_ino, os.fstat(fd).st_ino, "inode")
        with fails(errno.EBADF):
            os.read(fd, 1)
        with fails(errno.EBADF):
            os.write(fd, b"x")
        with fails(errno.EBADF):
            os.ftruncate(fd, 0)
        with opened(f"/proc/self/fd/{fd}") as again:
            equal(b"content", os.read(again, 100), "content")


@check()
def o_path_of_a_directory(directory: Path) -> None:
    make(directory / "file")
    with opened(directory, os.O_PATH | os.O_DIRECTORY) as fd:
        equal(7, os.stat("file", dir_fd=fd).st_size, "size")
        with opened(os.fsencode(f"/proc/self/fd/{fd}/file")) as file:
            equal(b"content", os.read(file, 100), "content")
        with working_directory(f"/proc/self/fd/{fd}"):
            equal(str(directory), os.getcwd(), "working directory")
        with fails(errno.EBADF):
            os.listdir(fd)


@check()
def openat2_keeps_beneath(directory: Path) -> None:
    (directory / "sub").mkdir()
    make(directory / "sub" / "file")
    (directory / "sub" / "up").symlink_to("..")
    (directory / "sub" / "link").symlink_to("file")
    with opened(directory / "sub", os.O_PATH) as fd:
        os.close(openat2(fd, "file", os.O_RDONLY, RESOLVE_BENEATH))
        os.close(openat2(fd, "link", os.O_RDONLY, RESOLVE_BENEATH))
        with fails(errno.EXDEV):
            openat2(fd, "up/sub", os.O_RDONLY, RESOLVE_BENEATH)
        with fails(errno.ELOOP):
            openat2(fd, "link", os.O_RDONLY, RESOLVE_NO_SYMLINKS)


@check()
def hundreds_of_files_at_once(directory: Path) -> None:
    fds = []
    for index in range(400):
        fds.append(os.open(directory / f"file{index}", os.O_RDWR | os.O_CREAT | os.O_EXCL))
        os.write(fds[-1], b"%d" % index)
    for index, fd in enumerate(fds):
        equal(b"%d" % index, os.pread(fd, 10, 0), "content")
        os.close(fd)


@check()
def one_file_hundreds_of_times(directory: Path) -> None:
    file = make(directory / "file", bytes(400))
    fds = [os.open(file, os.O_RDWR) for _ in range(400)]
    for index, fd in enumerate(fds):
        os.pwrite(fd, bytes([index % 256]), index)
    for fd in fds:
        os.close(fd)
    equal(bytes(index % 256 for index in range(400)), file.read_bytes(), "content")


@check("tmpfile")
def o_tmpfile_has_no_name(directory: Path) -> None:
    with umask(0o027), opened(directory, os.O_TMPFILE | os.O_RDWR, 0o666) as fd:
        equal([], os.listdir(directory), "listing")
        os.write(fd, b"content")
        equal(b"content", os.pread(fd, 100, 0), "content")
        status = os.fstat(fd)
        equal((0, 7), (status.st_nlink, status.st_size), "links and size")
        equal(0o640, stat.S_IMODE(status.st_mode), "mode")


@check("tmpfile")
def o_tmpfile_gets_a_name(directory: Path) -> None:
    with opened(directory, os.O_TMPFILE | os.O_RDWR) as fd:
        os.write(fd, b"content")
        link_fd(fd, directory / "file")
        equal(1, os.fstat(fd).st_nlink, "links")
        os.write(fd, b" and more")
    equal(b"content and more", (directory / "file").read_bytes(), "content")
    equal(["file"], os.listdir(directory), "listing")


@check("tmpfile")
def o_tmpfile_with_o_excl_gets_none(directory: Path) -> None:
    with opened(directory, os.O_TMPFILE | os.O_RDWR | os.O_EXCL) as fd, fails(errno.ENOENT):
        link_fd(fd, directory / "file")
    equal([], os.listdir(directory), "listing")


@check("tmpfile")
def o_tmpfile_with_bad_arguments(directory: Path) -> None:
    make(directory / "file")
    with fails(errno.EINVAL):
        os.open(directory, os.O_TMPFILE | os.O_RDONLY)
    with fails(errno.ENOTDIR):
        os.open(directory / "file", os.O_TMPFILE | os.O_RDWR)
    with fails(errno.ENOENT):
        os.open(directory / "missing", os.O_TMPFILE | os.O_RDWR)


@contextmanager
def _aligned(size: int) -> Iterator[mmap.mmap]:
    """Memory that starts at a page, as O_DIRECT wants it."""
    with mmap.mmap(-1, size) as memory:
        yield memory


@check("direct")
def o_direct_reads_and_writes(directory: Path) -> None:
    size = 16 * DIRECT_UNIT
    file = directory / "file"
    with _aligned(size) as memory:
        memory[:] = pattern(size)
        with opened(file, os.O_RDWR | os.O_CREAT | os.O_DIRECT) as fd:
            equal(size, os.pwritev(fd, [memory], 0), "bytes written")
            memory[:] = bytes(size)
            equal(size, os.preadv(fd, [memory], 0), "bytes read")
            equal(pattern(size), memory[:], "content")
            equal(os.O_DIRECT, fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT, "flag of the fd")
    equal(pattern(size), file.read_bytes(), "content by ordinary reads")


@check("direct")
def o_direct_agrees_with_the_page_cache(directory: Path) -> None:
    file = make(directory / "file", b"a" * (4 * DIRECT_UNIT))
    with (
        _aligned(DIRECT_UNIT) as memory,
        opened(file, os.O_RDWR | os.O_DIRECT) as direct,
        opened(file, os.O_RDWR) as cached,
    ):
        equal(b"a", os.pread(cached, 1, DIRECT_UNIT), "content")
        memory[:] = b"b" * DIRECT_UNIT
        os.pwritev(direct, [memory], DIRECT_UNIT)
        equal(b"abba", b"".join(os.pread(cached, 1, at) for at in (4095, 4096, 8191, 8192)), "cached content")
        os.pwrite(cached, b"c" * DIRECT_UNIT, 0)
        os.preadv(direct, [memory], 0)
        equal(b"c" * DIRECT_UNIT, memory[:], "direct content")


@check("direct")
def o_direct_read_stops_at_the_end(directory: Path) -> None:
    file = make(directory / "file", b"x" * 5000)
    with opened(file, os.O_RDONLY | os.O_DIRECT) as fd, _aligned(4 * DIRECT_UNIT) as memory:
        equal(5000, os.preadv(fd, [memory], 0), "bytes read")
        equal(b"x" * 5000, memory[:5000], "content")


@check("direct")
def o_direct_by_fcntl(directory: Path) -> None:
    file = make(directory / "file", b"a" * (2 * DIRECT_UNIT))
    with opened(file, os.O_RDWR) as fd, _aligned(DIRECT_UNIT) as memory:
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_DIRECT)
        memory[:] = b"d" * DIRECT_UNIT
        equal(DIRECT_UNIT, os.pwritev(fd, [memory], DIRECT_UNIT), "bytes written")
        fcntl.fcntl(fd, fcntl.F_SETFL, 0)
        os.pwrite(fd, b"odd", 7)
    equal(b"a" * 7 + b"odd" + b"a" * (DIRECT_UNIT - 10) + b"d" * DIRECT_UNIT, file.read_bytes(), "content")


@check()
def new_file_for_reading_only(directory: Path) -> None:
    with opened(directory / "file", os.O_CREAT | os.O_EXCL | os.O_RDONLY, 0o600) as fd:
        equal(b"", os.read(fd, 10), "content")
    equal(0o600, mode_of(directory / "file"), "mode")


@check()
def reopening_sees_what_was_written(directory: Path) -> None:
    file = directory / "file"
    for turn in range(50):
        content = pattern(turn * 97, turn)
        file.write_bytes(content)
        equal(content, file.read_bytes(), "content")
    ensure(file.stat().st_size == 49 * 97, "the size is that of the last write")
