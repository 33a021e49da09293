"""Workers that get no working directory and umask of their own: no other file's xattr, no wrong mode."""

from __future__ import annotations

import errno
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[2]
UNSHARE = {"x86_64": 272, "aarch64": 97}
PROGRAM = """
import ctypes, os, struct, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from engine_guest import Call, Guest
from ferryfs.passthrough.config import ShareConfig
from ferryfs.wire import fuse
from ferryfs.wire.fuse import Op

# Load the number; unshare(2) fails with ENOMEM, all else passes.
code = struct.pack("=HBBI", 0x20, 0, 0, 0) + struct.pack("=HBBI", 0x15, 0, 1, {unshare})
code += struct.pack("=HBBI", 0x06, 0, 0, 0x50000 | {enomem}) + struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000)
block = ctypes.create_string_buffer(code)
program = struct.pack("=H6xQ", len(code) // 8, ctypes.addressof(block))
prctl = ctypes.CDLL(None).prctl
assert prctl(38, 1, 0, 0, 0) == 0
assert prctl(22, 2, program) == 0

os.chdir(sys.argv[1])
for number in range(200):
    Path(str(number)).touch()
with Guest(Path(sys.argv[1]), ShareConfig(xattr=True)) as guest:
    nodeid = guest.lookup(b"file")
    for op, body in (
        (Op.SETXATTR, fuse.SETXATTR_IN.pack(size=5) + b"user.set\\0value"),
        (Op.REMOVEXATTR, b"user.set\\0"),
        (Op.GETXATTR, fuse.GETXATTR_IN.pack(size=64) + b"user.set\\0"),
        (Op.LISTXATTR, fuse.GETXATTR_IN.pack(size=64)),
    ):
        print(guest.refused(op, nodeid, body))
    print(guest.refused(Op.MKDIR, 1, fuse.MKDIR_IN.pack(mode=0o755) + b"made\\0"))
    print(guest.refused(Op.CREATE, 1, fuse.CREATE_IN.pack(flags=2, mode=0o100644) + b"made\\0"))
    guest.serves()
    print(len(guest.complaints()) > 0)
"""


@pytest.mark.skipif(platform.machine() not in UNSHARE, reason="the number of unshare(2) is not known here.")
def test_no_other_file_is_touched(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    text = PROGRAM.format(tests=str(TESTS), unshare=UNSHARE[platform.machine()], enomem=errno.ENOMEM)
    command = [sys.executable, "-X", "faulthandler", "-c", text, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    assert done.stdout.split() == [str(errno.ENOMEM)] * 6 + ["True"]
    assert not (tmp_path / "made").exists()
    assert [name for name in os.listdir(tmp_path) if os.listxattr(tmp_path / name)] == []
