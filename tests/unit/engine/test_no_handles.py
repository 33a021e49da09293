"""A file system that makes no file handles: a file is one nodeid there too, however the guest comes to know it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[2]
SETUP = """
mkdir layers shared
mount -t tmpfs none layers
mkdir layers/lower layers/upper layers/work
mount -t overlay -o lowerdir=layers/lower,upperdir=layers/upper,workdir=layers/work none shared
exec "$0" -X faulthandler -c "$1"
"""
PROGRAM = """
import json, os, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from engine_guest import Guest
from ferryfs.wire import fuse
from ferryfs.wire.fuse import Op

def entry(op, body):
    return fuse.ENTRY_OUT.unpack(guest.ask(op, 1, body))["nodeid"]

nodeids = []
with Guest(Path("shared")) as guest:
    for i in range(50):
        name = b"file%d" % i
        made = entry(Op.CREATE, fuse.CREATE_IN.pack(flags=os.O_RDWR, mode=0o100644) + name + b"\\0")
        linked = entry(Op.LINK, fuse.LINK_IN.pack(oldnodeid=made) + b"link%d\\0" % i)
        nodeids.append([made, linked, guest.lookup(name), guest.lookup(b"link%d" % i)])
        made = entry(Op.MKDIR, fuse.MKDIR_IN.pack(mode=0o755) + b"dir%d\\0" % i)
        nodeids.append([made, guest.lookup(b"dir%d" % i)])
json.dump(nodeids, sys.stdout)
"""


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root and unshare to mount")
def test_one_nodeid_by_every_way(tmp_path: Path) -> None:
    """With two, the guest has two page caches: what is written by one name is not read by the other."""
    program = PROGRAM.format(tests=str(TESTS))
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", SETUP, sys.executable, program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    for same in json.loads(done.stdout):
        assert len(set(same)) == 1
