"""Runs checks, each in a process and a directory of its own, and removes what it has left."""

import os
import select
import signal
import sys
import time
import traceback
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
    detail = _in_own_process(check, directory, limit)
    return Result(check.name, "failed" if detail else "passed", detail, time.monotonic() - begin)


def _in_own_process(check: Check, directory: Path, limit: float) -> str:
    sys.stdout.flush()
    sys.stderr.flush()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _child(check, directory, writer)
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


def _child(check: Check, directory: Path, report: int) -> NoReturn:
    os.setpgid(0, 0)
    os.umask(0o022)
    text = ""
    own = directory / f"check-{check.name}"
    try:
        own.mkdir()
        os.chdir("/")
        try:
            check.run(own)
        finally:
            os.chdir("/")
            os.umask(0o022)
            remove(own)
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
    # A loop, not a recursion: each level holds one fd and trees are up to a few hundred levels deep.
    stack: list[tuple[int, bytes]] = [(os.dup(parent), name)]
    while stack:
        at, current = stack[-1]
        try:
            os.rmdir(current, dir_fd=at)
        except NotADirectoryError:
            os.unlink(current, dir_fd=at)
        except OSError:
            if os.geteuid() != 0:
                os.chmod(current, 0o700, dir_fd=at)
            fd = os.open(current, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
            folder = _unlink_files(fd)
            if folder is None:
                os.close(fd)
            else:
                stack.append((fd, folder))
            continue
        os.close(at)
        stack.pop()


def _unlink_files(fd: int) -> bytes | None:
    """Removes everything in the directory but its full subdirectories, of which it returns one."""
    left = None
    for text in os.listdir(fd):
        name = os.fsencode(text)
        try:
            os.unlink(name, dir_fd=fd)
        except (IsADirectoryError, PermissionError):
            try:
                os.rmdir(name, dir_fd=fd)
            except OSError:
                left = name
    return left
