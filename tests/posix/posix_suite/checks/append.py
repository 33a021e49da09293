"""O_APPEND: set at open, and set or taken away later."""

import fcntl
import os
from functools import partial
from pathlib import Path

from ..assertions import equal
from ..files import make, opened
from ..processes import all_of, in_child
from ..registry import check

APPEND = os.O_RDWR | os.O_APPEND


def _set_append(fd: int, on: bool) -> None:
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_APPEND if on else flags & ~os.O_APPEND)


@check()
def writes_go_to_the_end(directory: Path) -> None:
    file = make(directory / "file")
    with opened(file, APPEND) as fd:
        os.lseek(fd, 0, os.SEEK_SET)
        os.write(fd, b"-1")
        os.lseek(fd, 3, os.SEEK_SET)
        os.write(fd, b"-2")
        equal(11, os.lseek(fd, 0, os.SEEK_CUR), "position")
    equal(b"content-1-2", file.read_bytes(), "content")


@check()
def pwrite_goes_to_the_end_on_linux(directory: Path) -> None:
    file = make(directory / "file")
    with opened(file, APPEND) as fd:
        os.pwrite(fd, b"X", 0)
    equal(b"contentX", file.read_bytes(), "content")


@check()
def two_fds_take_turns(directory: Path) -> None:
    file = make(directory / "file", b"")
    with opened(file, APPEND) as one, opened(file, APPEND) as two:
        for index in range(50):
            os.write(one, b"a%02d" % index)
            os.write(two, b"b%02d" % index)
    equal(b"".join(b"a%02db%02d" % (index, index) for index in range(50)), file.read_bytes(), "content")


@check()
def appending_and_plain_fd_mixed(directory: Path) -> None:
    file = make(directory / "file", b"0123456789")
    with opened(file, APPEND) as appending, opened(file, os.O_RDWR) as plain:
        os.pwrite(plain, b"AB", 2)
        os.write(appending, b"end")
        os.pwrite(plain, b"CD", 13)
        os.write(appending, b"fin")
        os.pwrite(plain, b"E", 0)
    equal(b"E1AB456789endCDfin", file.read_bytes(), "content")


@check()
def append_after_truncate(directory: Path) -> None:
    file = make(directory / "file", b"x" * 5000)
    with opened(file, APPEND) as fd:
        os.ftruncate(fd, 3)
        os.write(fd, b"abc")
        os.truncate(file, 0)
        os.write(fd, b"new")
    equal(b"new", file.read_bytes(), "content")


@check()
def flag_added_later(directory: Path) -> None:
    file = make(directory / "file", b"0123456789")
    with opened(file, os.O_RDWR) as fd:
        os.write(fd, b"ab")
        _set_append(fd, True)
        os.write(fd, b"end")
        os.pwrite(fd, b"END", 0)
        equal(os.O_APPEND, fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND, "flag")
    equal(b"ab23456789endEND", file.read_bytes(), "content")


@check()
def flag_taken_away_later(directory: Path) -> None:
    file = make(directory / "file", b"0123456789")
    with opened(file, APPEND) as fd:
        os.write(fd, b"end")
        _set_append(fd, False)
        os.pwrite(fd, b"ab", 0)
        os.lseek(fd, 4, os.SEEK_SET)
        os.write(fd, b"cd")
        equal(0, fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND, "flag")
    equal(b"ab23cd6789end", file.read_bytes(), "content")


@check()
def flag_on_and_off_many_times(directory: Path) -> None:
    file = make(directory / "file", b"........")
    with opened(file, os.O_RDWR) as fd:
        for index in range(10):
            _set_append(fd, True)
            os.pwrite(fd, b"+", 0)
            _set_append(fd, False)
            os.pwrite(fd, b"%d" % index, 1)
    equal(b".9......" + b"+" * 10, file.read_bytes(), "content")


@check()
def flag_changed_by_another_process(directory: Path) -> None:
    """An open file description is shared over fork, and so are its flags."""
    file = make(directory / "file", b"0123456789")
    with opened(file, os.O_RDWR) as fd:
        in_child(lambda: _set_append(fd, True))
        os.pwrite(fd, b"end", 0)
    equal(b"0123456789end", file.read_bytes(), "content")


@check()
def big_appends(directory: Path) -> None:
    file = make(directory / "file", b"head")
    with opened(file, os.O_WRONLY | os.O_APPEND) as fd:
        for index in range(5):
            block = bytes([65 + index]) * 333_333
            view = memoryview(block)
            while view:
                view = view[os.write(fd, view) :]
    equal(b"head" + b"".join(bytes([65 + index]) * 333_333 for index in range(5)), file.read_bytes(), "content")


@check()
def processes_append_whole_records(directory: Path) -> None:
    file = make(directory / "file", b"")

    def append(name: int) -> None:
        with opened(file, os.O_WRONLY | os.O_APPEND) as fd:
            for index in range(100):
                os.write(fd, b"%d:%04d%s\n" % (name, index, b"." * (name * 37 + 5)))

    all_of([partial(append, name) for name in range(4)])
    lines = file.read_bytes().splitlines()
    equal(400, len(lines), "records")
    for name in range(4):
        own = [line for line in lines if line.startswith(b"%d:" % name)]
        equal([b"%d:%04d%s" % (name, index, b"." * (name * 37 + 5)) for index in range(100)], own, f"records of {name}")


@check()
def append_only_fd_can_read_anywhere(directory: Path) -> None:
    with opened(make(directory / "file", b"0123456789"), APPEND) as fd:
        equal(b"012", os.read(fd, 3), "content")
        os.write(fd, b"x")
        equal(b"56", os.pread(fd, 2, 5), "content in the middle")
        equal(b"9x", os.pread(fd, 5, 9), "content at the end")
