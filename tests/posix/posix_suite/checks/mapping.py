"""mmap(2), and running programs from the share."""

import errno
import mmap
import os
import shutil
import signal
import subprocess
from pathlib import Path

from ..assertions import ensure, equal, fails
from ..files import make, opened, pattern, read_at
from ..processes import Child, Signpost, expect_signal
from ..registry import check

PAGE = mmap.PAGESIZE


@check()
def shared_mapping_reads_the_file(directory: Path) -> None:
    content = pattern(10 * PAGE + 100)
    with opened(make(directory / "file", content)) as fd, mmap.mmap(fd, 0, access=mmap.ACCESS_READ) as memory:
        equal(content, memory[:], "mapped content")


@check()
def private_mapping_reads_the_file(directory: Path) -> None:
    content = pattern(3 * PAGE)
    with (
        opened(make(directory / "file", content)) as fd,
        mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ) as memory,
    ):
        equal(content, memory[:], "mapped content")


@check()
def private_write_stays_private(directory: Path) -> None:
    file = make(directory / "file", b"x" * PAGE)
    with opened(file) as fd, mmap.mmap(fd, 0, access=mmap.ACCESS_COPY) as memory:
        memory[:3] = b"abc"
        equal(b"abcx", memory[:4], "mapped content")
    equal(b"x" * PAGE, file.read_bytes(), "content")


@check()
def shared_write_is_read_at_once(directory: Path) -> None:
    file = make(directory / "file", bytes(5 * PAGE))
    with opened(file, os.O_RDWR) as fd, mmap.mmap(fd, 0) as memory:
        for offset in (0, PAGE - 1, 3 * PAGE, 5 * PAGE - 3):
            memory[offset : offset + 3 if offset != PAGE - 1 else PAGE + 2] = b"map"
            equal(b"map", os.pread(fd, 3, offset), "content by pread")


@check()
def shared_write_is_in_the_file_after_unmap(directory: Path) -> None:
    file = make(directory / "file", bytes(4 * PAGE))
    with opened(file, os.O_RDWR) as fd, mmap.mmap(fd, 0) as memory:
        memory[PAGE : 2 * PAGE] = pattern(PAGE)
    equal(bytes(PAGE) + pattern(PAGE) + bytes(2 * PAGE), file.read_bytes(), "content")


@check()
def mapping_sees_later_writes(directory: Path) -> None:
    file = make(directory / "file", bytes(2 * PAGE))
    with opened(file, os.O_RDWR) as fd, mmap.mmap(fd, 0, access=mmap.ACCESS_READ) as memory:
        equal(0, memory[10], "byte before")
        os.pwrite(fd, b"new", 10)
        equal(b"new", memory[10:13], "mapped content")
        with opened(file, os.O_WRONLY) as other:
            os.pwrite(other, b"other", PAGE)
        equal(b"other", memory[PAGE : PAGE + 5], "mapped content after a write by another fd")


@check()
def mapping_lives_after_close_and_unlink(directory: Path) -> None:
    file = make(directory / "file", bytes(PAGE))
    os.link(file, directory / "other")
    with opened(file, os.O_RDWR) as fd:
        memory = mmap.mmap(fd, 0)
    file.unlink()
    memory[:4] = b"late"
    memory.flush()
    memory.close()
    equal(b"late", (directory / "other").read_bytes()[:4], "content by the other name")


@check()
def two_processes_share_a_mapping(directory: Path) -> None:
    file = make(directory / "file", bytes(PAGE))
    written, answered = Signpost(), Signpost()

    def other() -> None:
        with opened(file, os.O_RDWR) as fd, mmap.mmap(fd, 0) as memory:
            written.wait()
            equal(b"ping", memory[:4], "mapped content in the child")
            memory[4:8] = b"pong"
            answered.reached()

    child = Child(other)
    with opened(file, os.O_RDWR) as fd, mmap.mmap(fd, 0) as memory:
        memory[:4] = b"ping"
        written.reached()
        answered.wait()
        equal(b"pong", memory[4:8], "mapped content in the parent")
    child.wait()


@check()
def rest_of_the_last_page_is_zero(directory: Path) -> None:
    with opened(make(directory / "file", b"x" * 100)) as fd, mmap.mmap(fd, 100, access=mmap.ACCESS_READ) as memory:
        equal(b"x" * 100, memory[:], "mapped content")
    with opened(directory / "file", os.O_RDWR) as fd, mmap.mmap(fd, 100) as memory:
        os.ftruncate(fd, PAGE)
        equal(b"x" * 100 + bytes(PAGE - 100), read_at(fd, PAGE, 0), "content after growing")
        equal(b"x", memory[99:100], "mapped content")


@check()
def access_behind_the_end_is_sigbus(directory: Path) -> None:
    file = make(directory / "file", b"x" * (3 * PAGE))

    def touch() -> None:
        with opened(file, os.O_RDWR) as fd, mmap.mmap(fd, 0) as memory:
            os.ftruncate(fd, PAGE)
            equal(b"x", memory[:1], "mapped content before the end")
            memory[2 * PAGE]

    expect_signal(signal.SIGBUS, touch)


@check()
def growing_the_file_under_a_mapping(directory: Path) -> None:
    with opened(make(directory / "file", b"x" * (2 * PAGE)), os.O_RDWR) as fd, mmap.mmap(fd, 0) as memory:
        os.ftruncate(fd, PAGE)
        os.ftruncate(fd, 2 * PAGE)
        equal(bytes(10), memory[PAGE : PAGE + 10], "mapped content that was cut off and came back")
        memory[PAGE] = 7
        equal(b"\x07", os.pread(fd, 1, PAGE), "content")


@check()
def writable_mapping_needs_a_writable_fd(directory: Path) -> None:
    with opened(make(directory / "file")) as fd, fails(errno.EACCES):
        mmap.mmap(fd, 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    with opened(directory / "file", os.O_WRONLY) as fd, fails(errno.EACCES):
        mmap.mmap(fd, 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)


@check()
def mapping_a_directory_is_enodev(directory: Path) -> None:
    with opened(directory, os.O_RDONLY) as fd, fails(errno.ENODEV):
        mmap.mmap(fd, PAGE, access=mmap.ACCESS_READ)


@check()
def writes_and_reads_mixed_with_a_mapping(directory: Path) -> None:
    expected = bytearray(8 * PAGE)
    with opened(make(directory / "file", bytes(expected)), os.O_RDWR) as fd, mmap.mmap(fd, 0) as memory:
        for turn in range(40):
            offset = (turn * 2917) % (len(expected) - 500)
            content = pattern(500, turn)
            if turn % 2:
                memory[offset : offset + 500] = content
            else:
                os.pwrite(fd, content, offset)
            expected[offset : offset + 500] = content
            equal(bytes(expected), memory[:], "mapped content")
            equal(bytes(expected), read_at(fd, 9 * PAGE, 0), "content by pread")


def _program(name: str, target: Path) -> Path:
    source = shutil.which(name)
    ensure(source is not None, f"there is a program {name}")
    # The base name is kept: with busybox it says which applet to be.
    target.mkdir(exist_ok=True)
    shutil.copy(os.path.realpath(source or name), target / name)
    (target / name).chmod(0o755)
    return target / name


@check("exec")
def binary_runs(directory: Path) -> None:
    program = _program("cat", directory / "bin")
    done = subprocess.run([program], input=b"through cat", stdout=subprocess.PIPE, check=True)
    equal(b"through cat", done.stdout, "output")


@check("exec")
def script_runs(directory: Path) -> None:
    script = make(directory / "script", b"#!/bin/sh\necho ran with $1\n")
    script.chmod(0o755)
    done = subprocess.run([script, "this"], stdout=subprocess.PIPE, check=True)
    equal(b"ran with this\n", done.stdout, "output")


@check("exec")
def file_without_x_bit_does_not_run(directory: Path) -> None:
    script = make(directory / "script", b"#!/bin/sh\nexit 0\n")
    script.chmod(0o644)
    with fails(errno.EACCES):
        os.execv(script, ["script"])
    with fails(errno.EACCES):
        os.execv(directory, ["directory"])


@check("exec")
def running_program_is_etxtbsy(directory: Path) -> None:
    program = _program("cat", directory / "bin")
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"x")
        process.stdin.flush()
        process.stdout.read(1)
        with fails(errno.ETXTBSY):
            os.open(program, os.O_WRONLY)
        with fails(errno.ETXTBSY):
            os.truncate(program, 0)
        program.rename(directory / "moved")
        (directory / "moved").unlink()
        process.stdin.close()
        equal(b"", process.stdout.read(), "rest of the output")
    equal(0, process.returncode, "status of the removed program")


@check("exec")
def program_open_for_writing_does_not_run(directory: Path) -> None:
    program = _program("cat", directory / "bin")
    with opened(program, os.O_WRONLY), fails(errno.ETXTBSY):
        os.execv(program, ["cat"])


@check("exec")
def new_program_replaces_the_old_one(directory: Path) -> None:
    script, fresh = directory / "script", directory / "fresh"
    for turn in range(5):
        make(fresh, b"#!/bin/sh\necho %d\n" % turn).chmod(0o755)
        fresh.rename(script)
        equal(b"%d\n" % turn, subprocess.run([script], stdout=subprocess.PIPE, check=True).stdout, "output")
