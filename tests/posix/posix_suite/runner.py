"""Runs checks, each in a process and a directory of its own, and removes what it has left."""

import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from .features import missing
from .registry import Check

TIME_LIMIT_SECONDS: Final = 60.0
REPORT_LIMIT_BYTES: Final = 8000


@dataclass(frozen=True, slots=True)
class Result:
    """How one check ended: `passed`, `failed` or `skipped`; the detail says why."""

    name: str
    status: str
    detail: str
    seconds: float


def run(check: Check, directory: Path, features: frozenset[str], limit: float = TIME_LIMIT_SECONDS) -> Result:
    """Runs one check below `directory`, which may be a mount; `features` are those of the bare directory."""
    if reason := missing(check.needs, features):
        return Result(check.name, "skipped", reason, 0.0)
    begin = time.monotonic()
    own = directory / f"check-{check.name}-{os.getpid()}"
    detail = _in_own_process(lambda: _run_and_remove(check, own), limit)
    if detail and os.path.lexists(own):
        # It was killed before it could tidy up.
        left = _in_own_process(lambda: remove(own), limit)
        detail += f"\n{own} can't be removed: {left}" if left else ""
    return Result(check.name, "failed" if detail else "passed", detail, time.monotonic() - begin)


def _run_and_remove(check: Check, own: Path) -> None:
    own.mkdir()
    os.chdir("/")
    try:
        check.run(own)
    finally:
        os.chdir("/")
        os.umask(0o022)
        remove(own)


def _in_own_process(function: Callable[[], None], limit: float) -> str:
    """Why it failed, or nothing."""
    sys.stdout.flush()
    sys.stderr.flush()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _child(function, writer)
    os.close(writer)
    try:
        report = _read_until(reader, time.monotonic() + limit)
    finally:
        os.close(reader)
        # The group outlives its leader where a check has left a process behind.
        _kill_group(pid)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if report is None:
        return f"did not end within {limit:.0f} s"
    text = report.decode(errors="replace")
    if not text.endswith("\0"):
        return f"its process ended with status {status}: {text}"
    return text[:-1]


def _read_until(fd: int, deadline: float) -> bytes | None:
    """What the child reports, up to the closing NUL; None where the time runs out."""
    report = b""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while not report.endswith(b"\0"):
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            return None
        part = os.read(fd, 65_536)
        if not part:
            break
        report += part
    return report


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        os.kill(pid, signal.SIGKILL)


def _child(function: Callable[[], None], report: int) -> NoReturn:
    os.setpgid(0, 0)
    os.umask(0o022)
    text = ""
    try:
        function()
    except BaseException as failure:
        text = f"{type(failure).__name__}: {failure}\n{traceback.format_exc()}"
    os.write(report, text.encode(errors="replace")[-REPORT_LIMIT_BYTES:].replace(b"\0", b"?") + b"\0")
    os._exit(0)


def remove(tree: Path) -> None:
    """Removes a tree of any depth, with names of any length, whatever modes it has."""
    fd = os.open(tree.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _remove_below(fd, os.fsencode(tree.name))
    finally:
        os.close(fd)


def _remove_below(parent: int, name: bytes) -> None:
    # A loop, not a recursion: a level holds one fd, and what is still to be removed in it.
    levels = [(os.dup(parent), [name])]
    tried: set[tuple[int, bytes]] = set()
    while levels:
        fd, names = levels[-1]
        if not names:
            os.close(fd)
            levels.pop()
        elif _remove_one(names[-1], fd, final=(fd, names[-1]) in tried):
            tried.discard((fd, names.pop()))
        else:
            tried.add((fd, names[-1]))
            if os.geteuid() != 0:
                os.chmod(names[-1], 0o700, dir_fd=fd)
            below = os.open(names[-1], os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
            levels.append((below, [os.fsencode(entry) for entry in os.listdir(below)]))


def _remove_one(name: bytes, parent: int, final: bool) -> bool:
    """Whether it is gone now; if not, it is a full directory. `final`: it was emptied, and must go."""
    try:
        os.unlink(name, dir_fd=parent)
    except (IsADirectoryError, PermissionError):
        try:
            os.rmdir(name, dir_fd=parent)
        except OSError:
            if final:
                raise
            return False
    return True
