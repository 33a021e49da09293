"""System calls that fail, though there is nothing wrong: strace(1) sees to it, in this process."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

PATIENCE_SECONDS = 20.0

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


@contextmanager
def failing(*calls: str) -> Iterator[None]:
    """These calls fail, each as strace has it ("fsync:error=EIO"), in all threads, also in those that are new."""
    names = ",".join(call.partition(":")[0] for call in calls)
    command = ["strace", "-f", "-o", "/dev/null", "-e", f"trace={names}", "-p", str(os.getpid())]
    for call in calls:
        command += ["-e", f"inject={call}"]
    strace = subprocess.Popen(command, stderr=subprocess.PIPE, bufsize=0)
    assert strace.stderr is not None
    try:
        said = b""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while b"attached" not in said:
            assert select.select([strace.stderr], [], [], max(0.0, deadline - time.monotonic()))[0], said
            part = os.read(strace.stderr.fileno(), 4096)
            assert part, said
            said += part
        yield
    finally:
        strace.terminate()
        strace.wait()
        strace.stderr.close()
