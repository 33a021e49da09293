"""`ferryfs mount` in front of every daemon there is: ours and the reference ones, with real work on it."""

from __future__ import annotations

import contextlib
import filecmp
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ferryfs.frontend.control import ask, control_path
from interop.mounting import NAMES, daemon_line, ferryfs, mounted, needs_fuse

pytestmark = needs_fuse


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    path = tmp_path / "shared"
    path.mkdir()
    return path


@pytest.fixture
def mountpoint(tmp_path: Path) -> Path:
    path = tmp_path / "mountpoint"
    path.mkdir()
    return path


def make_tree(folder: Path) -> None:
    """Directories, files from empty to several requests long, links."""
    generator = random.Random(7)
    for number in range(40):
        place = folder / f"d{number % 5}" / f"e{number % 3}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"f{number}").write_bytes(generator.randbytes(generator.choice([0, 1, 4095, 70_000, 3_000_000])))
    (folder / "link").symlink_to("d0/e0/f0")
    os.link(folder / "d1/e1/f1", folder / "second-name")


def same(left: Path, right: Path) -> bool:
    """Whether two trees have equal names and contents."""
    compared = filecmp.dircmp(left, right)
    if compared.left_only or compared.right_only or compared.funny_files:
        return False
    _, mismatch, errors = filecmp.cmpfiles(left, right, compared.common_files, shallow=False)
    return not mismatch and not errors and all(same(left / name, right / name) for name in compared.common_dirs)


@pytest.mark.parametrize("name", NAMES)
def test_a_tree_goes_in_and_comes_out(name: str, tmp_path: Path, shared: Path, mountpoint: Path) -> None:
    original = tmp_path / "original"
    original.mkdir()
    make_tree(original)
    with mounted(tmp_path / "socket", mountpoint, "--daemon", daemon_line(name, shared)):
        shutil.copytree(original, mountpoint / "copy", symlinks=True)
        assert same(original, mountpoint / "copy")
        assert same(original, shared / "copy")
        status = ask(str(mountpoint), "status")
        assert status["bad_replies"] == 0
        assert status["by_opcode"]["WRITE"] > 0
        os.rename(mountpoint / "copy", mountpoint / "moved")
        shutil.rmtree(mountpoint / "moved")
        assert os.listdir(shared) == []
    assert not control_path(str(mountpoint)).exists()


@pytest.mark.parametrize("name", NAMES)
def test_many_at_once(name: str, tmp_path: Path, shared: Path, mountpoint: Path) -> None:
    """Threads that write, sync, drop and read again at the same time, more requests than slots."""
    wrong: list[str] = []

    def work(number: int) -> None:
        generator = random.Random(number)
        path = mountpoint / f"file{number}"
        for _ in range(5):
            data = generator.randbytes(300_000)
            with path.open("wb") as file:
                file.write(data)
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            if hashlib.sha256(path.read_bytes()).digest() != hashlib.sha256(data).digest():
                wrong.append(str(path))
        path.unlink()

    options = ["--in-flight", "4", "--queue-size", "8", "--daemon", daemon_line(name, shared)]
    with mounted(tmp_path / "socket", mountpoint, *options):
        threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert ask(str(mountpoint), "status")["bad_replies"] == 0


def test_several_queues(tmp_path: Path, shared: Path, mountpoint: Path) -> None:
    make_tree(shared)
    daemon = daemon_line("ferryfsd", shared, "--num-request-queues=4")
    with mounted(tmp_path / "socket", mountpoint, "--queues", "4", "--daemon", daemon):
        found = subprocess.run(["find", mountpoint, "-type", "f"], check=True, capture_output=True, text=True)
        readers = [subprocess.Popen(["cat", path], stdout=subprocess.DEVNULL) for path in found.stdout.split()[:16]]
        assert [reader.wait() for reader in readers] == [0] * 16
        assert same(shared, mountpoint)


def test_a_shared_file_on_a_file(tmp_path: Path) -> None:
    shared = tmp_path / "one"
    shared.write_text("the only file\n")
    mountpoint = tmp_path / "place"
    mountpoint.touch()
    with mounted(tmp_path / "socket", mountpoint, "--daemon", daemon_line("ferryfsd", shared)):
        assert mountpoint.read_text() == "the only file\n"
        with mountpoint.open("a") as file:
            file.write("a second line\n")
    assert shared.read_text() == "the only file\na second line\n"


def close_without_a_daemon(fd: int) -> None:
    """close(2) may ask the daemon (FLUSH) and then says that there is none; the descriptor is gone all the same."""
    with contextlib.suppress(OSError):
        os.close(fd)


@pytest.mark.parametrize("name", NAMES)
def test_a_daemon_that_dies(name: str, tmp_path: Path, shared: Path, mountpoint: Path) -> None:
    """Nobody waits for ever, the mount answers ENOTCONN, one sentence says why."""
    (shared / "file").write_text("here")
    with_daemon = ["mount", "--foreground", "--daemon", daemon_line(name, shared), tmp_path / "socket", mountpoint]
    command = [sys.executable, "-m", "ferryfs.cli.tool", *map(str, with_daemon)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        said = ""
        while "is mounted on" not in said:
            line = process.stderr.readline()
            assert line, f"the mount ended: {said}"
            said += line
        fd = os.open(mountpoint / "file", os.O_RDONLY)
        try:
            os.kill(ask(str(mountpoint), "status")["daemon_pid"], signal.SIGKILL)
            said = process.stderr.read()
            assert process.wait(30) == 1
            assert "ended by SIGKILL" in said
            assert f"`umount {mountpoint}`" in said
            with pytest.raises(OSError, match="not connected"):
                os.pread(fd, 4, 0)
            with pytest.raises(OSError, match="not connected"):
                os.stat(mountpoint / "never seen")
        finally:
            close_without_a_daemon(fd)
    finally:
        process.kill()
        process.communicate()
        subprocess.run(["umount", "--lazy", mountpoint], check=True)


def test_ctrl_c_unmounts_although_it_is_busy(tmp_path: Path, shared: Path, mountpoint: Path) -> None:
    with_daemon = ["mount", "-f", "--daemon", daemon_line("ferryfsd", shared), tmp_path / "socket", mountpoint]
    command = [sys.executable, "-m", "ferryfs.cli.tool", *map(str, with_daemon)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        while "is mounted on" not in process.stderr.readline():
            assert process.poll() is None
        fd = os.open(mountpoint / "busy", os.O_WRONLY | os.O_CREAT)
        try:
            os.write(fd, b"written before")
            process.send_signal(signal.SIGINT)
            process.stderr.read()
            assert process.wait(30) == 0
        finally:
            close_without_a_daemon(fd)
    finally:
        process.kill()
        process.communicate()
    assert not os.path.ismount(mountpoint)
    assert (shared / "busy").read_text() == "written before"


def test_a_daemon_that_hangs_is_left_by_a_second_ctrl_c(tmp_path: Path, shared: Path, mountpoint: Path) -> None:
    with_daemon = ["mount", "-f", "--daemon", daemon_line("ferryfsd", shared), tmp_path / "socket", mountpoint]
    command = [sys.executable, "-m", "ferryfs.cli.tool", *map(str, with_daemon)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        while "is mounted on" not in process.stderr.readline():
            assert process.poll() is None
        os.kill(ask(str(mountpoint), "status")["daemon_pid"], signal.SIGSTOP)
        waiting = subprocess.Popen(["stat", mountpoint / "file"], stderr=subprocess.PIPE, text=True)
        while ask(str(mountpoint), "status")["in_flight"] == 0:
            assert waiting.poll() is None
        process.send_signal(signal.SIGINT)
        # Answered after the first signal was seen to: the second one is not merged with it.
        ask(str(mountpoint), "status")
        process.send_signal(signal.SIGINT)
        process.stderr.read()
        assert process.wait(30) == 0
        assert waiting.wait(10) == 1
        assert waiting.communicate()[1]
    finally:
        process.kill()
        process.communicate()
    assert not os.path.ismount(mountpoint)


def refusal(*words: str | Path) -> str:
    done = ferryfs("mount", *words, check=False)
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


def test_refusals_name_the_thing(tmp_path: Path, shared: Path, mountpoint: Path) -> None:
    socket = tmp_path / "socket"
    assert refusal(socket, mountpoint).endswith(f"at the socket {socket}: No such file or directory.")
    assert "mkdir" in refusal(socket, tmp_path / "nowhere")
    assert "--queue-size=100" in refusal("--queue-size", "100", socket, mountpoint)
    assert "--queues=65" in refusal("--queues", "65", socket, mountpoint)
    assert "-o suid" in refusal("-o", "ro,suid", socket, mountpoint)
    assert "no-such-daemon, is not found" in refusal("--daemon", "no-such-daemon", socket, mountpoint)
    assert "ended with status 3, saying: sorry" in refusal(
        "--daemon", "sh -c 'echo sorry >&2; exit 3'", socket, mountpoint
    )
    assert "ended with status" in refusal("--daemon", daemon_line("ferryfsd", tmp_path / "none"), socket, mountpoint)
    assert not os.path.ismount(mountpoint)


def test_read_only(tmp_path: Path, shared: Path, mountpoint: Path) -> None:
    with (
        mounted(tmp_path / "socket", mountpoint, "-o", "ro", "--daemon", daemon_line("ferryfsd", shared)),
        pytest.raises(OSError, match="Read-only"),
    ):
        (mountpoint / "new").touch()
