"""Record locks, open-file-description locks and flock(2)."""

import errno
import fcntl
import os
from pathlib import Path

from ..assertions import equal, fails
from ..files import make, opened
from ..processes import Child, Signpost, in_child
from ..registry import check
from ..syscalls import getlk, ofd_lock

NOW = fcntl.LOCK_NB


def _refused(file: Path, operation: int, length: int = 0, start: int = 0) -> None:
    with opened(file, os.O_RDWR) as fd, fails(errno.EAGAIN, errno.EACCES):
        fcntl.lockf(fd, operation | NOW, length, start)


def _granted(file: Path, operation: int, length: int = 0, start: int = 0) -> None:
    with opened(file, os.O_RDWR) as fd:
        fcntl.lockf(fd, operation | NOW, length, start)


@check()
def record_lock_keeps_others_out(directory: Path) -> None:
    file = make(directory / "file", bytes(100))
    with opened(file, os.O_RDWR) as fd:
        fcntl.lockf(fd, fcntl.LOCK_EX | NOW)
        in_child(lambda: _refused(file, fcntl.LOCK_EX))
        in_child(lambda: _refused(file, fcntl.LOCK_SH))
        fcntl.lockf(fd, fcntl.LOCK_UN)
        in_child(lambda: _granted(file, fcntl.LOCK_EX))


@check()
def record_read_locks_are_shared(directory: Path) -> None:
    file = make(directory / "file", bytes(100))
    with opened(file, os.O_RDWR) as fd:
        fcntl.lockf(fd, fcntl.LOCK_SH | NOW)
        in_child(lambda: _granted(file, fcntl.LOCK_SH))
        in_child(lambda: _refused(file, fcntl.LOCK_EX))


@check()
def record_locks_are_ranges(directory: Path) -> None:
    file = make(directory / "file", bytes(100))
    with opened(file, os.O_RDWR) as fd:
        fcntl.lockf(fd, fcntl.LOCK_EX | NOW, 20, 40)
        in_child(lambda: _granted(file, fcntl.LOCK_EX, 40, 0))
        in_child(lambda: _granted(file, fcntl.LOCK_EX, 0, 60))
        in_child(lambda: _refused(file, fcntl.LOCK_EX, 1, 59))
        in_child(lambda: _refused(file, fcntl.LOCK_EX, 100, 0))
        fcntl.lockf(fd, fcntl.LOCK_UN, 10, 45)
        in_child(lambda: _granted(file, fcntl.LOCK_EX, 10, 45))
        in_child(lambda: _refused(file, fcntl.LOCK_EX, 1, 44))
        in_child(lambda: _refused(file, fcntl.LOCK_EX, 1, 55))


@check()
def getlk_names_the_holder(directory: Path) -> None:
    file = make(directory / "file", bytes(100))
    holder = os.getpid()
    with opened(file, os.O_RDWR) as fd:
        fcntl.lockf(fd, fcntl.LOCK_EX | NOW, 20, 40)

        def look() -> None:
            with opened(file, os.O_RDWR) as other:
                equal((fcntl.F_WRLCK, 40, 20, holder), getlk(other, fcntl.F_WRLCK, 0, 0), "lock in the way")
                equal(fcntl.F_UNLCK, getlk(other, fcntl.F_WRLCK, 0, 40)[0], "lock in the way of a free range")

        in_child(look)


@check()
def record_locks_end_with_any_close(directory: Path) -> None:
    file = make(directory / "file", bytes(100))
    with opened(file, os.O_RDWR) as fd:
        fcntl.lockf(fd, fcntl.LOCK_EX | NOW)
        os.close(os.open(file, os.O_RDONLY))
        in_child(lambda: _granted(file, fcntl.LOCK_EX))


@check()
def record_locks_are_not_inherited(directory: Path) -> None:
    file = make(directory / "file", bytes(100))
    with opened(file, os.O_RDWR) as fd:
        fcntl.lockf(fd, fcntl.LOCK_EX | NOW)

        def child() -> None:
            with fails(errno.EAGAIN, errno.EACCES):
                fcntl.lockf(fd, fcntl.LOCK_EX | NOW)

        in_child(child)


@check()
def waiting_for_a_record_lock(directory: Path) -> None:
    file = make(directory / "file", b"")
    locked = Signpost()

    def hold() -> None:
        with opened(file, os.O_RDWR) as fd:
            fcntl.lockf(fd, fcntl.LOCK_EX)
            locked.reached()
            os.write(fd, b"holder ")
            fcntl.lockf(fd, fcntl.LOCK_UN)

    child = Child(hold)
    locked.wait()
    with opened(file, os.O_RDWR | os.O_APPEND) as fd:
        fcntl.lockf(fd, fcntl.LOCK_EX)
        os.write(fd, b"waiter")
    child.wait()
    equal(b"holder waiter", file.read_bytes(), "content")


@check()
def lock_needs_the_right_access_mode(directory: Path) -> None:
    file = make(directory / "file")
    with opened(file) as fd, fails(errno.EBADF):
        fcntl.lockf(fd, fcntl.LOCK_EX | NOW)
    with opened(file, os.O_WRONLY) as fd, fails(errno.EBADF):
        fcntl.lockf(fd, fcntl.LOCK_SH | NOW)


@check()
def deadlock_is_found(directory: Path) -> None:
    file = make(directory / "file", bytes(10))
    child_has_its_lock, parent_has_its_lock = Signpost(), Signpost()

    def other() -> None:
        with opened(file, os.O_RDWR) as fd:
            fcntl.lockf(fd, fcntl.LOCK_EX, 1, 1)
            child_has_its_lock.reached()
            parent_has_its_lock.wait()
            try:
                fcntl.lockf(fd, fcntl.LOCK_EX, 1, 0)
            except OSError as error:
                equal(errno.EDEADLK, error.errno, "errno")

    child = Child(other)
    child_has_its_lock.wait()
    with opened(file, os.O_RDWR) as fd:
        fcntl.lockf(fd, fcntl.LOCK_EX, 1, 0)
        parent_has_its_lock.reached()
        # One of the two is told; which one depends on who asks last.
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX, 1, 1)
        except OSError as error:
            equal(errno.EDEADLK, error.errno, "errno")
        fcntl.lockf(fd, fcntl.LOCK_UN)
    child.wait()


@check()
def ofd_locks_belong_to_the_open_file(directory: Path) -> None:
    file = make(directory / "file", bytes(100))
    with opened(file, os.O_RDWR) as one, opened(file, os.O_RDWR) as two:
        ofd_lock(one, fcntl.F_WRLCK, 0, 10)
        with fails(errno.EAGAIN):
            ofd_lock(two, fcntl.F_WRLCK, 5, 10)
        ofd_lock(two, fcntl.F_WRLCK, 10, 10)
        equal(fcntl.F_WRLCK, ofd_lock(two, fcntl.F_RDLCK, 0, 1, fcntl.F_OFD_GETLK), "lock in the way")
        os.close(os.open(file, os.O_RDWR))
        with fails(errno.EAGAIN):
            ofd_lock(two, fcntl.F_RDLCK, 0, 10)
        ofd_lock(one, fcntl.F_UNLCK, 0, 10)
        ofd_lock(two, fcntl.F_WRLCK, 0, 100)


@check()
def ofd_locks_are_inherited(directory: Path) -> None:
    file = make(directory / "file", bytes(100))
    with opened(file, os.O_RDWR) as fd:
        ofd_lock(fd, fcntl.F_WRLCK, 0, 0)
        in_child(lambda: equal(fcntl.F_WRLCK, ofd_lock(fd, fcntl.F_WRLCK, 0, 0) or fcntl.F_WRLCK, "lock"))
        in_child(lambda: _refused(file, fcntl.LOCK_EX))


def _flock_refused(file: Path, operation: int) -> None:
    with opened(file) as fd, fails(errno.EAGAIN):
        fcntl.flock(fd, operation | NOW)


def _flock_granted(file: Path, operation: int) -> None:
    with opened(file) as fd:
        fcntl.flock(fd, operation | NOW)


@check()
def flock_keeps_others_out(directory: Path) -> None:
    file = make(directory / "file")
    with opened(file) as fd:
        fcntl.flock(fd, fcntl.LOCK_EX | NOW)
        _flock_refused(file, fcntl.LOCK_SH)
        in_child(lambda: _flock_refused(file, fcntl.LOCK_EX))
        fcntl.flock(fd, fcntl.LOCK_UN)
        in_child(lambda: _flock_granted(file, fcntl.LOCK_EX))


@check()
def flock_shared_and_upgraded(directory: Path) -> None:
    file = make(directory / "file")
    with opened(file) as one:
        with opened(file) as two:
            fcntl.flock(one, fcntl.LOCK_SH | NOW)
            fcntl.flock(two, fcntl.LOCK_SH | NOW)
            with fails(errno.EAGAIN):
                fcntl.flock(one, fcntl.LOCK_EX | NOW)
        fcntl.flock(one, fcntl.LOCK_EX | NOW)
        in_child(lambda: _flock_refused(file, fcntl.LOCK_SH))


@check()
def flock_is_shared_by_dup_and_by_fork(directory: Path) -> None:
    file = make(directory / "file")
    with opened(file) as fd:
        fcntl.flock(fd, fcntl.LOCK_EX | NOW)
        copy = os.dup(fd)
        fcntl.flock(copy, fcntl.LOCK_EX | NOW)
        in_child(lambda: fcntl.flock(fd, fcntl.LOCK_EX | NOW))
        os.close(copy)
        _flock_refused(file, fcntl.LOCK_EX)
    _flock_granted(file, fcntl.LOCK_EX)


@check()
def flock_ends_with_the_process(directory: Path) -> None:
    file = make(directory / "file")

    def hold() -> None:
        fcntl.flock(os.open(file, os.O_RDONLY), fcntl.LOCK_EX | NOW)

    in_child(hold)
    _flock_granted(file, fcntl.LOCK_EX)


@check()
def locks_are_the_files_whatever_its_name(directory: Path) -> None:
    file = make(directory / "file")
    os.link(file, directory / "other")
    with opened(file, os.O_RDWR) as fd:
        fcntl.flock(fd, fcntl.LOCK_EX | NOW)
        fcntl.lockf(fd, fcntl.LOCK_EX | NOW)
        in_child(lambda: _flock_refused(directory / "other", fcntl.LOCK_EX))
        in_child(lambda: _refused(directory / "other", fcntl.LOCK_EX))


@check()
def flock_of_a_directory(directory: Path) -> None:
    with opened(directory) as fd:
        fcntl.flock(fd, fcntl.LOCK_EX | NOW)
        in_child(lambda: _flock_refused(directory, fcntl.LOCK_SH))
