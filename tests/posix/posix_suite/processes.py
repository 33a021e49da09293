"""Running a part of a check in another process, as another user where wanted."""

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

from .assertions import equal


@dataclass(frozen=True, slots=True)
class User:
    """Ids to run as. `groups` are the supplementary ones."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()

    def become(self) -> None:
        """Takes these ids for the whole process, for good."""
        os.setgroups(list(self.groups))
        os.setresgid(self.gid, self.gid, self.gid)
        os.setresuid(self.uid, self.uid, self.uid)


ALICE = User(61_001, 61_001)
BOB = User(61_002, 61_002)
# Alice's twin: shares nothing with her but a supplementary group.
TEAM_GID = 61_900
CAROL = User(61_003, 61_003, (TEAM_GID, 61_901, 61_902))


class Child:
    """A forked process that runs one function; a failure there is raised by `wait` here."""

    def __init__(self, function: Callable[[], None], user: User | None = None) -> None:
        self._report, report = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._report)
            self._run(function, user, report)
        os.close(report)

    @staticmethod
    def _run(function: Callable[[], None], user: User | None, report: int) -> NoReturn:
        status = 0
        try:
            if user is not None:
                user.become()
            function()
        except BaseException:
            status = 1
            os.write(report, traceback.format_exc().encode(errors="replace")[-4000:])
        os._exit(status)

    def wait(self) -> None:
        """Waits for the end, and raises AssertionError with the child's traceback if it failed."""
        status = self.wait_status()
        with os.fdopen(self._report, "rb") as report:
            text = report.read().decode(errors="replace")
        if text:
            raise AssertionError(f"in the child process: {text.strip().splitlines()[-1]}\n{text}")
        equal(0, status, "status of the child process")

    def wait_status(self) -> int:
        """Waits for the end: the exit code, or minus the signal's number."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def as_user(user: User, function: Callable[[], None]) -> None:
    """Runs the function in a child process with these ids."""
    Child(function, user).wait()


def in_child(function: Callable[[], None]) -> None:
    """Runs the function in a child process."""
    Child(function).wait()


def all_of(functions: list[Callable[[], None]]) -> None:
    """Runs the functions at the same time, a process each, and waits for all."""
    children = [Child(function) for function in functions]
    failures = []
    for child in children:
        try:
            child.wait()
        except AssertionError as failure:
            failures.append(failure)
    if failures:
        raise failures[0]


class Signpost:
    """A one-way signal from one process to another."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()

    def reached(self) -> None:
        """Lets one waiting process go on."""
        os.write(self._write, b"!")

    def wait(self) -> None:
        """Waits until the other process has said `reached`."""
        os.read(self._read, 1)


@contextmanager
def umask(mask: int) -> Iterator[None]:
    """The body runs with this umask."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def working_directory(path: os.PathLike[str] | str) -> Iterator[None]:
    """The body runs with this working directory."""
    before = os.open(".", os.O_PATH | os.O_DIRECTORY)
    os.chdir(path)
    try:
        yield
    finally:
        os.fchdir(before)
        os.close(before)


def expect_signal(number: signal.Signals, function: Callable[[], None]) -> None:
    """The function must kill its process with this signal."""

    def run() -> None:
        signal.signal(number, signal.SIG_DFL)
        function()

    equal(-number, Child(run).wait_status(), "end of the child process (minus the signal)")
