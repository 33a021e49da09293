"""No memory is left for the daemon: what it has room for is served, and nothing is answered with nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[2]
PROGRAM = """
import ctypes, os, resource, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from engine_guest import Call, Guest
from ferryfs.wire.fuse import Op
malloc = ctypes.CDLL(None).malloc
malloc.argtypes, malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
with Guest(Path({shared!r}), init=False) as guest:
    call = Call(Op.DESTROY, 0)
    space = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (space, hard))
    for size in (1 << 20, 1 << 16, 1 << 12, 1 << 10):
        while malloc(size):
            pass
    used, _ = guest.exchange([call.header(), call.body], [16, 0])
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    print(used)
"""


def test_the_first_request_finds_room(tmp_path: Path) -> None:
    """A request that is answered with nothing is a success to Linux: to fsync(2), the file would be on the disk."""
    if "libasan" in os.environ.get("LD_PRELOAD", ""):
        pytest.skip("the address sanitizer has no use for a limit of memory.")
    text = PROGRAM.format(tests=str(TESTS), shared=str(tmp_path))
    command = [sys.executable, "-X", "faulthandler", "-c", text]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stderr, done.stdout) == ("", "16\n")
