"""What a guest may hold while its mount migrates: each set up in a folder of its own through the mount."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from interop.outcomes import CARRIED, FAILED, RIGHT, WRONG, Held, Scenario, worst

# Of madvise(2), since Linux 5.14.
MADV_POPULATE_READ = 22


class OpenFile:
    """A file of the guest, open for reading and writing, and the host's own view of that same file."""

    def __init__(self, guest: Path, host: Path, name: str, stack: ExitStack) -> None:
        self._content = b"this is %s\n" % os.fsencode(f"{host.name}/{name}") * 100
        self._host = host
        (host / name).parent.mkdir(parents=True, exist_ok=True)
        (host / name).write_bytes(self._content)
        self._fd = os.open(guest / name, os.O_RDWR)
        self._theirs = os.open(host / name, os.O_RDONLY)
        stack.callback(os.close, self._fd)
        stack.callback(os.close, self._theirs)
        self._stack = stack
        # Where the line's folder is in the destination's copy, and the file there.
        self._there: tuple[Path, list[int]] | None = None
        self._copies: list[int] | None = None
        os.read(self._fd, 10)

    def copied(self, folder: Path) -> None:
        own = os.fstat(self._theirs).st_ino
        names = [path.relative_to(self._host) for path in self._host.rglob("*") if path.lstat().st_ino == own]
        # What is mounted in the share is not there.
        fds = [os.open(folder / name, os.O_RDONLY) for name in names if (folder / name).exists()]
        for fd in fds:
            self._stack.callback(os.close, fd)
        self._there = folder, fds

    def arrived(self) -> None:
        if self._there is not None:
            self._host, self._copies = self._there

    def judge(self) -> str:
        token = os.urandom(16).hex().encode()
        try:
            os.fsync(self._fd)
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
            if os.pread(self._fd, 1 << 20, 0) != self._content:
                return WRONG
            os.pwrite(self._fd, token, 0)
            os.fsync(self._fd)
        except OSError:
            return FAILED
        self._content = token + self._content[len(token) :]
        if any(os.pread(fd, len(token), 0) == token for fd in self._copies or ()):
            return CARRIED
        if os.pread(self._theirs, len(token), 0) == token:
            # Else it is a file outside of the destination's directory.
            return RIGHT if self._copies is None else WRONG
        others = (path for path in self._host.rglob("*") if stat.S_ISREG(path.lstat().st_mode))
        return WRONG if any(token in path.read_bytes() for path in others) else CARRIED


class Check:
    """Something that is true as long as nothing was lost. ``holds`` is given the line's folder on the host."""

    def __init__(self, host: Path, holds: Callable[[Path], bool]) -> None:
        self._host = self._copy = host
        self._holds = holds

    def judge(self) -> str:
        try:
            return RIGHT if self._holds(self._host) else WRONG
        except OSError:
            return FAILED

    def copied(self, folder: Path) -> None:
        self._copy = folder

    def arrived(self) -> None:
        self._host = self._copy


@dataclass(frozen=True)
class All:
    """Several things at once; the worst outcome counts."""

    parts: Sequence[Held]

    def judge(self) -> str:
        return worst([part.judge() for part in self.parts])

    def copied(self, folder: Path) -> None:
        for part in self.parts:
            part.copied(folder)

    def arrived(self) -> None:
        for part in self.parts:
            part.arrived()


def two_files(guest: Path, host: Path, stack: ExitStack) -> Held:
    """Two open files, one of which somebody changes, or both of which are swapped."""
    return All([OpenFile(guest, host, name, stack) for name in ("src/main.c", "README")])


def many_inodes(guest: Path, host: Path, stack: ExitStack) -> Held:
    """5,000 inodes, 200 of them open."""
    names = [f"d{number % 50}/f{number}" for number in range(5000)]
    for number in range(50):
        (host / f"d{number}").mkdir()
    for name in names:
        (host / name).write_text(name)
    for name in names:
        (guest / name).stat()
    files = [(stack.enter_context((guest / name).open()), name) for name in names[::25]]
    return Check(
        host,
        lambda _: (
            all(file.read() == name for file, name in files)
            and all((guest / name).stat().st_size == len(name) for name in names[::7])
        ),
    )


def hard_links(guest: Path, host: Path, stack: ExitStack) -> Held:
    """Three names of an open file, by each of which it was looked up; the first one goes."""
    held = OpenFile(guest, host, "one", stack)
    (guest / "two").hardlink_to(guest / "one")
    (guest / "three").hardlink_to(guest / "one")
    for name in ("two", "three"):
        (guest / name).stat()
    (guest / "one").unlink()
    same = Check(host, lambda _: (guest / "two").stat().st_ino == (guest / "three").stat().st_ino)
    return All([held, same])


def odd_types(guest: Path, host: Path, stack: ExitStack) -> Held:
    """A symlink, a FIFO, a socket, a device."""
    (guest / "soft").symlink_to("nowhere/at all")
    os.mkfifo(guest / "fifo")
    sock = stack.enter_context(socket.socket(socket.AF_UNIX))
    sock.bind(str(guest / "sock"))
    os.mknod(guest / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    fds = [os.open(guest / name, os.O_PATH | os.O_NOFOLLOW) for name in ("soft", "fifo", "sock", "null")]
    for fd in fds:
        stack.callback(os.close, fd)

    def holds(_: Path) -> bool:
        kinds = [stat.S_IFMT(os.fstat(fd).st_mode) for fd in fds]
        return (
            kinds == [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR]
            and os.readlink(guest / "soft") == "nowhere/at all"
            and os.fstat(fds[3]).st_rdev == os.makedev(1, 3)
        )

    return Check(host, holds)


def open_flags(guest: Path, host: Path, stack: ExitStack) -> Held:
    """O_APPEND, O_TRUNC and O_DIRECT handles, and F_SETFL that sets or takes O_APPEND."""
    flags = {
        "append": os.O_WRONLY | os.O_APPEND,
        "truncate": os.O_RDWR | os.O_TRUNC,
        "direct": os.O_RDWR | os.O_DIRECT,
        "later": os.O_WRONLY,
        "no longer": os.O_WRONLY | os.O_APPEND,
    }
    fds = {}
    for name, how in flags.items():
        (host / name).write_bytes(b"0" * 8192)
        fds[name] = os.open(guest / name, how)
        stack.callback(os.close, fds[name])
    fcntl.fcntl(fds["later"], fcntl.F_SETFL, os.O_APPEND)
    fcntl.fcntl(fds["no longer"], fcntl.F_SETFL, 0)
    os.write(fds["truncate"], b"fresh")

    def holds(host: Path) -> bool:
        block = mmap.mmap(-1, 4096)
        block[:] = b"d" * 4096
        try:
            os.pwrite(fds["direct"], block, 4096)
        finally:
            block.close()
        for name in ("append", "later", "no longer"):
            os.write(fds[name], b"end")
            os.fsync(fds[name])
        zeros = b"0" * 8192
        return {name: (host / name).read_bytes() for name in flags} == {
            "append": zeros + b"end",
            "truncate": b"fresh",
            "direct": zeros[:4096] + b"d" * 4096,
            "later": zeros + b"end",
            "no longer": b"end" + zeros[3:],
        }

    return Check(host, holds)


def mapped(guest: Path, host: Path, stack: ExitStack) -> Held:
    """A shared mapping whose descriptor is closed: dirty pages from before, faults and writes afterwards."""
    (host / "map").write_bytes(b"m" * (64 << 12))
    with (guest / "map").open("r+b") as file:
        area = stack.enter_context(mmap.mmap(file.fileno(), 0))
    area[:6] = b"before"

    def holds(host: Path) -> bool:
        # Where there is nothing to be had, touching it would be a SIGBUS.
        area.madvise(MADV_POPULATE_READ)
        area[32 << 12 : (32 << 12) + 5] = b"after"
        area.flush()
        content = (host / "map").read_bytes()
        return content[:6] == b"before" and content[32 << 12 :][:5] == b"after" and area[63 << 12] == ord("m")

    return Check(host, holds)


def locks(guest: Path, host: Path, stack: ExitStack) -> Held:
    """fcntl and flock locks, which the guest's kernel keeps: another process still can't have them."""
    program = (
        "import fcntl, sys\n"
        "for name, lock in (('flock', fcntl.flock), ('fcntl', fcntl.lockf)):\n"
        "    with open(f'{sys.argv[1]}/{name}', 'r+') as file:\n"
        "        try: lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "        except BlockingIOError: continue\n"
        "        sys.exit('taken')\n"
    )
    for name, lock in (("flock", fcntl.flock), ("fcntl", fcntl.lockf)):
        (host / name).touch()
        file = stack.enter_context((guest / name).open("r+"))
        lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def holds(_: Path) -> bool:
        done = subprocess.run([sys.executable, "-c", program, guest], check=False, capture_output=True, text=True)
        if done.returncode and done.stderr != "taken\n":
            raise OSError(done.stderr)
        return done.returncode == 0

    return Check(host, holds)


def unlinked_by_the_guest(guest: Path, host: Path, stack: ExitStack) -> Held:
    """An open file without a name."""
    held = OpenFile(guest, host, "gone", stack)
    (guest / "gone").unlink()
    return held


def half_read_directory(guest: Path, host: Path, stack: ExitStack) -> Held:
    """scandir(3) in the middle of 3,000 entries."""
    names = {f"entry {number}" for number in range(3000)}
    for name in names:
        (host / name).touch()
    entries = stack.enter_context(os.scandir(guest))
    seen = [next(entries).name for _ in range(700)]
    return Check(host, lambda _: sorted([*seen, *(entry.name for entry in entries)]) == sorted(names))


def a_folder_to_sit_in(guest: Path, host: Path, stack: ExitStack) -> Held:
    """A directory that was removed while somebody is in it."""
    (guest / "nest").mkdir()
    fd = os.open(guest / "nest", os.O_RDONLY | os.O_DIRECTORY)
    stack.callback(os.close, fd)
    (guest / "nest").rmdir()
    return Check(host, lambda _: os.fstat(fd).st_nlink in (0, 1, 2))


def dropped_dentries(guest: Path, host: Path, stack: ExitStack) -> Held:
    """The host forgets all names that nobody uses: what is held by file handle has no path in /proc then."""
    held = two_files(guest, host, stack)
    for number in range(50):
        (host / f"cached {number}").write_text(f"{number}")
        (guest / f"cached {number}").stat()
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("2\n")
    same = Check(host, lambda _: all((guest / f"cached {number}").read_text() == f"{number}" for number in range(50)))
    return All([held, same])


def odd_name(guest: Path, host: Path, stack: ExitStack) -> Held:
    """Neither the file's name nor its directory's is UTF-8."""
    return OpenFile(guest, host, os.fsdecode(b"caf\xe9/\xff\xfe"), stack)


def deep_and_long(guest: Path, host: Path, stack: ExitStack) -> Held:
    """40 directories deep, and a path of more than 4,800 bytes."""
    content = b"at the bottom\n"
    below = [os.open(host, os.O_RDONLY), os.open(guest, os.O_RDONLY)]
    for _ in range(40):
        os.mkdir("n" * 120, dir_fd=below[0])
        above, below = below, [os.open("n" * 120, os.O_RDONLY, dir_fd=fd) for fd in below]
        for fd in above:
            os.close(fd)
    with open(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=below[0]), "wb") as file:
        file.write(content)
    fd = os.open("file", os.O_RDONLY, dir_fd=below[1])
    for one in (fd, *below):
        stack.callback(os.close, one)
    return Check(host, lambda _: os.pread(fd, 100, 0) == content)


def submount(guest: Path, host: Path, stack: ExitStack) -> Held:
    """A file on another file system that is mounted in the share."""
    (host / "volume").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", host / "volume"], check=True)
    return OpenFile(guest, host, "volume/file", stack)


def read_only(guest: Path, host: Path, stack: ExitStack) -> Held:
    """A file that is open for reading, in a share that is served with ``--readonly``: it stays one."""
    (host / "file").write_text("to be read\n")
    file = stack.enter_context((guest / "file").open())

    def holds(host: Path) -> bool:
        try:
            (guest / "file").write_text("")
        except OSError as error:
            return error.errno == errno.EROFS and file.read() == (host / "file").read_text() == "to be read\n"
        return False

    return Check(host, holds)


HOLDINGS: tuple[Scenario, ...] = (
    many_inodes,
    hard_links,
    odd_types,
    open_flags,
    mapped,
    locks,
    unlinked_by_the_guest,
    half_read_directory,
    a_folder_to_sit_in,
    dropped_dentries,
    odd_name,
    deep_and_long,
    submount,
    read_only,
)
# What the daemons need for it.
OPTIONS: dict[Scenario, tuple[str, ...]] = {read_only: ("--readonly",)}
