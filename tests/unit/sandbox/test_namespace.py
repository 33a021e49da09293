"""The namespace sandbox: what the serving process sees, and what the outer one does for it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import PROGRAM, Inside


def test_serving_process_is_alone(inside: Inside) -> None:
    assert inside("print(os.getpid(), os.listdir('/'), os.listdir(at('.')))").said == "1 ['share'] ['hello']"


def test_new_root_takes_nothing(inside: Inside) -> None:
    refused = inside("os.mkdir('/x')", seccomp="none")
    assert "Read-only file system" in refused.complained


def test_nothing_above_proc_self_fd(inside: Inside) -> None:
    code = (
        "up = os.open('../..', os.O_RDONLY, dir_fd=confined.proc_self_fd)\n"
        "print(all(name.isdigit() for name in os.listdir(up)))"
    )
    assert inside(code).said == "True"


def test_nothing_above_the_share(inside: Inside) -> None:
    assert inside("print(os.listdir(at('../../..')))").said == "['share']"


def test_proc_self_fd_is_the_serving_process(inside: Inside) -> None:
    said = inside("print(os.readlink(str(confined.root_fd), dir_fd=confined.proc_self_fd))").said
    assert said == "/share"


def test_mountinfo_shows_the_share_alone(inside: Inside) -> None:
    said = inside("print(os.read(confined.mountinfo_fd, 65536).decode())").said
    assert sorted(line.split()[4] for line in said.splitlines()) == ["/", "/share"]


def test_no_network(inside: Inside) -> None:
    code = "s = socket.socket(); s.settimeout(2); s.connect(('127.0.0.1', 9))"
    assert "Network is unreachable" in inside(code, seccomp="none").complained


def test_a_single_file(inside: Inside, share: Path) -> None:
    code = "f = os.open(str(confined.root_fd), os.O_RDONLY, dir_fd=confined.proc_self_fd); print(os.read(f, 9))"
    assert inside(code, share=share / "hello").said == "b'hello\\n'"


def test_the_whole_host(inside: Inside) -> None:
    said = inside("print('etc' in os.listdir(at('.')))", share=Path("/")).said
    assert said == "True"


def test_symbolic_link_and_relative_path(inside: Inside, share: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (share.parent / "link").symlink_to(share)
    monkeypatch.chdir(share.parent)
    for mode in ("namespace", "chroot", "none"):
        assert inside("print(os.listdir(at('.')))", mode=mode, share=Path("link")).said == "['hello']"


def test_mount_that_appears_later_is_seen(inside: Inside, share: Path) -> None:
    (share / "sub").mkdir()
    subprocess.run(["mount", "--bind", str(share), str(share)], check=True)
    try:
        subprocess.run(["mount", "--make-shared", str(share)], check=True)
        code = "print('ready', flush=True); sys.stdin.readline(); print(os.listdir(at('sub')))"
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", PROGRAM, "namespace", str(share), "kill", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            subprocess.run(["mount", "-t", "tmpfs", "late", str(share / "sub")], check=True)
            (share / "sub" / "late").touch()
            said, _ = process.communicate("\n", timeout=30)
            assert said == "['late']\n"
        finally:
            process.kill()
            process.wait()
    finally:
        subprocess.run(["umount", "-R", str(share)], check=True)


def test_status_of_the_inner_process_is_the_outer_ones(inside: Inside) -> None:
    assert inside("os._exit(7)").status == 7


def start_waiting(share: Path) -> subprocess.Popen[str]:
    code = (
        "import signal, select\n"
        "def end(*_): print('ended in order', flush=True); os._exit(3)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "print('ready', flush=True)\n"
        "signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})\n"
        "select.poll().poll(30000)\n"
    )
    program = PROGRAM.replace("import socket, threading", "import socket, threading, select, signal")
    return subprocess.Popen(
        [sys.executable, "-I", "-c", program, "namespace", str(share), "kill", code], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="confinement of root's daemon is tried as root: run the tests as root")
class TestSignals:
    def test_outer_process_passes_them_on(self, share: Path) -> None:
        with start_waiting(share) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGTERM)
            assert process.stdout.readline() == "ended in order\n"
            assert process.wait(30) == 3

    def test_inner_process_dies_with_the_outer_one(self, share: Path) -> None:
        with start_waiting(share) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            process.kill()
            # The end of the pipe: nobody holds its other end any more.
            assert process.stdout.readline() == ""
