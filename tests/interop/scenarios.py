"""What a guest may hold and what the host may do while the guest's mount migrates, with what the guest must see then.

A table: each line is set up in a folder of its own through the mount, the mount migrates, the line is judged. Run as a
program (``python -m interop.scenarios DAEMON …``) it prints the outcome of every line for those daemons.
"""

from __future__ import annotations

import argparse
import fcntl
import mmap
import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from daemons import StartDaemon, daemon_command
from leaks import keep_apart

from ferryfs.errors import PeerError
from ferryfs.frontend.control import ask
from ferryfs.guest.backend import Backend
from ferryfs.wire.vhost_user import Request
from interop.cutting import CuttingProxy
from interop.mounting import daemon_line, mounted
from interop.mounts_over import mounts_over_the_file, mounts_over_the_parent, unmount_below

MODES = ("find-paths", "file-handles")
MOMENTS = ("before", "collecting", "between")

RIGHT = "right"
CARRIED = "right, as a copy"
WARNED = "other content, with a warning"
REFUSED = "refused"
FAILED = "error for the guest"
WRONG = "WRONG"
SEVERITY = (RIGHT, CARRIED, REFUSED, FAILED, WARNED, WRONG)

COLLECT_S = 0.4


class Held(Protocol):
    """What the guest holds."""

    def judge(self) -> str:
        """What has become of it, as the guest sees it."""

    def copied(self, folder: Path) -> None:
        """``folder`` is now what the line's own one is, in a copy of the share."""

    def arrived(self) -> None:
        """The destination serves that copy."""


class Scenario(Protocol):
    """One line of the table."""

    def __call__(self, guest: Path, host: Path, stack: ExitStack) -> Held:
        """Makes what the guest holds in the folder ``guest``, which is ``host`` on the host."""


def worst(outcomes: Sequence[str]) -> str:
    return max(outcomes, key=SEVERITY.index)


class OpenFile:
    """A file of the guest, open for reading and writing, and the host's own view of that same file."""

    def __init__(self, guest: Path, host: Path, name: str, stack: ExitStack) -> None:
        self._content = b"this is %s\n" % os.fsencode(f"{host.name}/{name}") * 100
        self._host = host
        (host / name).parent.mkdir(parents=True, exist_ok=True)
        (host / name).write_bytes(self._content)
        self._fd = os.open(guest / name, os.O_RDWR)
        self._theirs = os.open(host / name, os.O_RDONLY)
        stack.callback(_close, self._fd)
        stack.callback(os.close, self._theirs)
        self._stack = stack
        self._copy: tuple[Path, int] | None = None
        os.read(self._fd, 10)

    def copied(self, folder: Path) -> None:
        own = os.fstat(self._theirs).st_ino
        for path in self._host.rglob("*"):
            if path.lstat().st_ino == own:
                fd = os.open(folder / path.relative_to(self._host), os.O_RDONLY)
                self._stack.callback(os.close, fd)
                self._copy = folder, fd

    def arrived(self) -> None:
        if self._copy is not None:
            self._host, self._theirs = self._copy

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
        if os.pread(self._theirs, len(token), 0) == token:
            return CARRIED if self._copy else RIGHT
        others = (path for path in self._host.rglob("*") if stat.S_ISREG(path.lstat().st_mode))
        return WRONG if any(token in path.read_bytes() for path in others) else CARRIED


def _close(fd: int) -> None:
    """What became of the file was judged before: closing one that was lost says so once more."""
    with suppress(OSError):
        os.close(fd)


class Both:
    """Two open files, one of which the host leaves alone, or both of which it swaps."""

    def __init__(self, guest: Path, host: Path, stack: ExitStack) -> None:
        self._files = [OpenFile(guest, host, name, stack) for name in ("src/main.c", "README")]

    def judge(self) -> str:
        return worst([file.judge() for file in self._files])

    def copied(self, folder: Path) -> None:
        for file in self._files:
            file.copied(folder)

    def arrived(self) -> None:
        for file in self._files:
            file.arrived()


@dataclass(frozen=True)
class Check:
    """Something that is true as long as nothing was lost."""

    holds: Callable[[], bool]

    def judge(self) -> str:
        try:
            return RIGHT if self.holds() else WRONG
        except OSError:
            return FAILED

    def copied(self, folder: Path) -> None:
        """Nothing in it is about the directory."""

    def arrived(self) -> None:
        """The same."""


# What the host does with src/main.c (and README), by itself.


def nothing(host: Path) -> None:
    """Nothing."""


def renames(host: Path) -> None:
    (host / "src" / "main.c").rename(host / "elsewhere.c")


def moves_the_parent(host: Path) -> None:
    (host / "other").mkdir()
    (host / "src").rename(host / "other" / "sources")


def swaps(host: Path) -> None:
    (host / "src" / "main.c").rename(host / "third")
    (host / "README").rename(host / "src" / "main.c")
    (host / "third").rename(host / "README")


def unlinks(host: Path) -> None:
    (host / "src" / "main.c").unlink()


def unlinks_and_recreates(host: Path) -> None:
    (host / "src" / "main.c").unlink()
    (host / "src" / "main.c").write_text("somebody else's\n")


def replaces(host: Path) -> None:
    """As an editor does: another file of the same size, renamed over it; no name is left."""
    size = (host / "src" / "main.c").stat().st_size
    (host / "new").write_bytes(b"n" * size)
    (host / "new").rename(host / "src" / "main.c")


def replaces_with_a_backup(host: Path) -> None:
    os.link(host / "src" / "main.c", host / "src" / "main.c~")
    replaces(host)


def chmods(host: Path) -> None:
    (host / "src" / "main.c").chmod(0)
    (host / "src").chmod(0)


CHANGES: tuple[Callable[[Path], None], ...] = (
    nothing,
    renames,
    moves_the_parent,
    swaps,
    unlinks,
    unlinks_and_recreates,
    replaces,
    replaces_with_a_backup,
    chmods,
    mounts_over_the_file,
    mounts_over_the_parent,
)


# What the guest holds, while the host does nothing.


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
        lambda: (
            all(file.read() == name for file, name in files)
            and all((guest / name).stat().st_size == len(name) for name in names[::7])
        )
    )


def hard_links(guest: Path, host: Path, stack: ExitStack) -> Held:
    """Three names of an open file, by each of which it was looked up; the first one goes."""
    held = OpenFile(guest, host, "one", stack)
    (guest / "two").hardlink_to(guest / "one")
    (guest / "three").hardlink_to(guest / "one")
    for name in ("two", "three"):
        (guest / name).stat()
    (guest / "one").unlink()
    same = Check(lambda: (guest / "two").stat().st_ino == (guest / "three").stat().st_ino)
    return _All([held, same])


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

    def holds() -> bool:
        kinds = [stat.S_IFMT(os.fstat(fd).st_mode) for fd in fds]
        return (
            kinds == [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR]
            and os.readlink(guest / "soft") == "nowhere/at all"
            and os.fstat(fds[3]).st_rdev == os.makedev(1, 3)
        )

    return Check(holds)


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

    def holds() -> bool:
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

    return Check(holds)


def mapped(guest: Path, host: Path, stack: ExitStack) -> Held:
    """A shared mapping whose descriptor is closed: dirty pages from before, faults and writes afterwards."""
    (host / "map").write_bytes(b"m" * (64 << 12))
    with (guest / "map").open("r+b") as file:
        area = stack.enter_context(mmap.mmap(file.fileno(), 0))
    area[:6] = b"before"

    def holds() -> bool:
        area[32 << 12 : (32 << 12) + 5] = b"after"
        area.flush()
        content = (host / "map").read_bytes()
        return content[:6] == b"before" and content[32 << 12 :][:5] == b"after" and area[63 << 12] == ord("m")

    return Check(holds)


def locks(guest: Path, host: Path, stack: ExitStack) -> Held:
    """fcntl and flock locks, which the guest's kernel keeps: another process still can't have them."""
    program = (
        "import fcntl, sys\n"
        "for name, lock in (('flock', fcntl.flock), ('fcntl', fcntl.lockf)):\n"
        "    with open(f'{sys.argv[1]}/{name}', 'r+') as file:\n"
        "        try: lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "        except BlockingIOError: continue\n"
        "        sys.exit(7)\n"
    )
    for name, lock in (("flock", fcntl.flock), ("fcntl", fcntl.lockf)):
        (host / name).touch()
        file = stack.enter_context((guest / name).open("r+"))
        lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return Check(lambda: subprocess.run([sys.executable, "-c", program, guest], check=False).returncode == 0)


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
    return Check(lambda: sorted([*seen, *(entry.name for entry in entries)]) == sorted(names))


def a_folder_to_sit_in(guest: Path, host: Path, stack: ExitStack) -> Held:
    """A directory that was removed while somebody is in it."""
    (guest / "nest").mkdir()
    fd = os.open(guest / "nest", os.O_RDONLY | os.O_DIRECTORY)
    stack.callback(os.close, fd)
    (guest / "nest").rmdir()
    return Check(lambda: os.fstat(fd).st_nlink in (0, 1, 2))


def dropped_dentries(guest: Path, host: Path, stack: ExitStack) -> Held:
    """The host forgets all names that nobody uses: what is held by file handle has no path in /proc then."""
    held = Both(guest, host, stack)
    for number in range(50):
        (host / f"cached {number}").write_text(f"{number}")
        (guest / f"cached {number}").stat()
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("2\n")
    same = Check(lambda: all((guest / f"cached {number}").read_text() == f"{number}" for number in range(50)))
    return _All([held, same])


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
    return Check(lambda: os.pread(fd, 100, 0) == content)


def submount(guest: Path, host: Path, stack: ExitStack) -> Held:
    """A file on another file system that is mounted in the share."""
    (host / "volume").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", host / "volume"], check=True)
    stack.callback(subprocess.run, ["umount", "--lazy", host / "volume"], check=True)
    return OpenFile(guest, host, "volume/file", stack)


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
)


@dataclass(frozen=True)
class _All:
    parts: Sequence[Held]

    def judge(self) -> str:
        return worst([part.judge() for part in self.parts])

    def copied(self, folder: Path) -> None:
        for part in self.parts:
            part.copied(folder)

    def arrived(self) -> None:
        for part in self.parts:
            part.arrived()


class Stage:
    """A share, its mount, and the daemons of one kind that it goes to one after the other."""

    def __init__(self, daemon: str, mode: str, folder: Path, start: StartDaemon, options: Sequence[str] = ()) -> None:
        self._daemon = daemon
        self._folder = folder
        self._start = start
        self._count = 0
        self._proxies = ExitStack()
        self._targets: list[Backend] = []
        self.options = ["--modcaps=+dac_read_search", f"--migration-mode={mode}", *options]
        self.share = folder / "share"
        self.mountpoint = folder / "mount"

    @contextmanager
    def set_up(self) -> Iterator[None]:
        for path in (self.share, self.mountpoint):
            path.mkdir(exist_ok=True)
        line = daemon_line(self._daemon, self.share, *self.options)
        # A daemon is reached through its proxy as long as it serves the mount.
        with self._proxies, mounted(self._folder / "socket", self.mountpoint, "--daemon", line):
            yield
        # Each ends by itself when its front-end has gone; a signal in the middle of that would change its status.
        for target in self._targets:
            target.wait()

    def target_log(self) -> str:
        """What the last destination wrote."""
        return self._targets[-1].log_text()

    def play(
        self,
        scenario: Scenario,
        change: Callable[[Path], None] = nothing,
        moment: str = "before",
        elsewhere: Callable[[], Path] | None = None,
    ) -> str:
        """The outcome of one line. A refusal counts as such only when the source has everything right afterwards.

        ``elsewhere`` makes what the destination serves when the guest holds what it holds; ``moment`` "there" is a
        change in that.
        """
        self._count += 1
        name = f"line{self._count}"
        host = self.share / name
        host.mkdir()
        path = self._folder / f"proxy{self._count}"
        before = {int(Request.SET_DEVICE_STATE_FD): lambda: change(host)} if moment == "between" else {}
        with ExitStack() as stack:
            stack.callback(unmount_below, host)
            held = scenario(self.mountpoint / name, host, stack)
            if moment == "before":
                change(host)
            served = elsewhere() if elsewhere else self.share
            target = self._start(daemon_command(self._daemon), served, ["--sandbox=none", *self.options])
            self._targets.append(target)
            self._proxies.enter_context(CuttingProxy(path, target.socket, 1000, before))
            if not os.path.samefile(served, self.share):
                held.copied(served / name)
            if moment == "there":
                change(served / name)
            timer = threading.Timer(COLLECT_S / 2, change, [host])
            if moment == "collecting":
                timer.start()
                stack.callback(timer.join)
            try:
                request = {"destination": str(path), "collect_s": COLLECT_S if moment == "collecting" else 0.1}
                ask(str(self.mountpoint), "migrate", request)
            except PeerError:
                return worst([REFUSED, held.judge()])
            held.arrived()
            outcome = held.judge()
            warned = "changed at another time than the source's" in target.log.read_text(errors="replace")
            return WARNED if outcome == WRONG and warned else outcome


def title(thing: object) -> str:
    return str(getattr(thing, "__name__", thing)).replace("_", " ")


def host_changes(
    daemon: str, mode: str, moment: str, folder: Path, start: StartDaemon, options: Sequence[str] = ()
) -> dict[str, str]:
    """The outcome of every change of CHANGES at that moment."""
    stage = Stage(daemon, mode, folder, start, options)
    with stage.set_up():
        return {title(change): stage.play(Both, change, moment) for change in CHANGES}


def holdings(daemon: str, mode: str, folder: Path, start: StartDaemon, options: Sequence[str] = ()) -> dict[str, str]:
    """The outcome of everything in HOLDINGS."""
    stage = Stage(daemon, mode, folder, start, options)
    with stage.set_up():
        return {title(scenario): stage.play(scenario) for scenario in HOLDINGS}


def _alone(daemon: str, mode: str, moment: str, line: Callable[..., object]) -> str:
    """One line with a mount of its own: nothing of the lines before can be in its way."""
    with tempfile.TemporaryDirectory(prefix="ferryfs-scenarios-") as name, ExitStack() as running:

        def start(
            command: Sequence[str],
            shared: Path,
            options: Sequence[str] = (),
            *,
            socket: Path | None = None,
            allowed: Sequence[str] = (),
        ) -> Backend:
            # Not judged by its exit status: the outcome of the line is what counts here.
            place = socket or Path(name) / "target"
            return running.enter_context(Backend(command, shared, place, Path(name) / "target.log", options))

        stage = Stage(daemon, mode, Path(name), start)
        with stage.set_up():
            return stage.play(line) if line in HOLDINGS else stage.play(Both, line, moment)


def main() -> None:
    """Prints tables in Markdown: what the host does at each moment, what the guest holds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("daemons", nargs="*", default=["ferryfsd"], metavar="DAEMON")
    arguments = parser.parse_args()
    keep_apart()
    columns = [(name, mode) for name in arguments.daemons for mode in MODES]
    for moment, lines in (*((moment, CHANGES) for moment in MOMENTS), ("held", HOLDINGS)):
        heads = " | ".join(f"{name}, {mode}" for name, mode in columns)
        print(f"\n### {moment}\n\n| | {heads} |\n|---|{'---|' * len(columns)}")
        for line in lines:
            outcomes = " | ".join(_alone(name, mode, moment, line) for name, mode in columns)
            print(f"| {title(line)} | {outcomes} |", flush=True)


if __name__ == "__main__":
    main()
