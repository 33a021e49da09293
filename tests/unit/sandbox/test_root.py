"""The share as an argument, leaked descriptors, and the plain modes."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ferryfs.errors import OptionError
from ferryfs.sandbox import root

from .conftest import Inside


def test_share_must_be_a_directory_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")
    assert root.check_shared(str(tmp_path))
    assert not root.check_shared(str(tmp_path / "file"))
    for name, says in (("none", "does not exist"), ("fifo", "neither a directory nor"), ("file/x", "can't be reached")):
        with pytest.raises(OptionError, match=says):
            root.check_shared(str(tmp_path / name))


def test_chroot_of_a_file_is_refused(inside: Inside, share: Path) -> None:
    assert "is a file and can't be a root" in inside("", mode="chroot", share=share / "hello").complained


def test_chroot_shows_the_share_as_root(inside: Inside) -> None:
    code = "print(os.listdir('/'), os.readlink(str(confined.root_fd), dir_fd=confined.proc_self_fd))"
    assert inside(code, mode="chroot").said == "['hello'] /"


def test_none_leaves_the_root(inside: Inside, share: Path) -> None:
    code = "print(os.path.exists('/etc'), os.readlink(str(confined.root_fd), dir_fd=confined.proc_self_fd))"
    assert inside(code, mode="none").said == f"True {share}"


def test_leaked_descriptors_are_closed_and_standard_ones_filled() -> None:
    program = "from ferryfs.sandbox import root; import os; n = root.close_leaked_files(KEEP)\n"
    program += "os.write(OUT, repr((n, sorted(int(x) for x in os.listdir('/proc/self/fd'))[:3])).encode())"
    reader, writer = os.pipe()
    leaked = os.open("/dev/null", os.O_RDONLY)
    try:
        text = program.replace("KEEP", str(writer)).replace("OUT", str(writer))
        command = 'exec "$0" -I -c "$1" <&- >&- 2>&-'
        subprocess.run(["sh", "-c", command, sys.executable, text], pass_fds=[writer, leaked], check=False, timeout=30)
        os.close(writer)
        with open(reader, "rb") as answer:
            assert answer.read() == b"(1, [0, 1, 2])"
    finally:
        os.close(leaked)


def test_locked_file_of_the_parent_stays_locked(tmp_path: Path) -> None:
    # As libvirt does it: the lock is taken between fork and exec, and looked for later by somebody else.
    program = (
        "import fcntl, os, sys\n"
        "fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)\n"
        "os.set_inheritable(fd, True)\n"
        "fcntl.lockf(fd, fcntl.LOCK_EX)\n"
        "os.execv(sys.executable, [sys.executable, '-I', '-c', sys.argv[2]])\n"
    )
    child = (
        "from ferryfs.sandbox import root\n"
        "root.close_leaked_files(None)\n"
        "print('ready', flush=True)\n"
        "import sys; sys.stdin.readline()\n"
        "print(root.close_leaked_files(None, locked_too=True))\n"
    )
    command = [sys.executable, "-I", "-c", program, str(tmp_path / "pid"), child]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with open(tmp_path / "pid", "r+b") as file, pytest.raises(BlockingIOError):
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        said, _ = process.communicate("\n", timeout=30)
        assert said == "1\n"
