"""Going into the background once the work has begun well."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO

from ferryfs.errors import FerryError

Work = Callable[[IO[str], Callable[[], None]], None]


def run_in_background(work: Work, log_path: Path) -> int:
    """Runs ``work(log, on_ready)`` in a process of its own and returns when it called ``on_ready`` (0) or failed
    before (its exit code).

    What it logs before that goes to our stderr, afterwards to ``log_path``, which is removed again when it ends well.
    Call before any thread exists.
    """
    ready_read, ready_write = os.pipe2(os.O_CLOEXEC)
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(ready_read)
        status = 1
        try:
            os.setsid()
            status = _child(work, log_path, ready_write)
        finally:
            os._exit(status)
    os.close(ready_write)
    with os.fdopen(ready_read, "rb") as pipe:
        if pipe.read():
            return 0
    _, wait_status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(wait_status)


def _child(work: Work, log_path: Path, ready: int) -> int:
    is_ready = False

    def on_ready() -> None:
        nonlocal is_ready
        is_ready = True
        sys.stderr.flush()
        log_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        null = os.open(os.devnull, os.O_RDWR)
        log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        os.chdir("/")
        for target, source in ((0, null), (1, null), (2, log)):
            os.dup2(source, target)
        os.close(null)
        os.close(log)
        os.write(ready, b"1")
        os.close(ready)

    try:
        work(sys.stderr, on_ready)
    except FerryError as error:
        print(f"ferryfs: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    if is_ready:
        log_path.unlink(missing_ok=True)
    return 0
