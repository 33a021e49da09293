"""A guest that opens too much gets ENFILE, and everybody is served on: in a process of its own, with a limit."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import pytest
from namespaces import needs_mounts

from ferryfs.vhost.events import EventKind

TESTS = Path(__file__).parents[2]
PRELUDE = """
import errno, os, resource, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
limit = {limit}
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
from engine_guest import Call, Guest
from ferryfs.passthrough.config import HandleMode, ShareConfig
from ferryfs.wire import fuse
from ferryfs.wire.fuse import Op
shared = Path({shared!r})
for i in range(1000):
    (shared / f"f{{i}}").write_text(str(i))
    (shared / f"d{{i}}").mkdir()
guest = Guest(shared, ShareConfig(handles=HandleMode({mode!r})))
"""


def child(program: str, shared: Path, mode: str, limit: int = 400, within: Sequence[str] = ()) -> list[str]:
    """The lines that the program prints."""
    shared.mkdir()
    text = PRELUDE.format(tests=str(TESTS), shared=str(shared), mode=mode, limit=limit) + textwrap.dedent(program)
    command = [*within, sys.executable, "-X", "faulthandler", "-X", "dev", "-c", text]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.stderr, done.returncode) == ("", 0)
    return done.stdout.split("\n")


MODES = pytest.mark.parametrize("mode", ["never", "prefer"])


@MODES
def test_open_files(tmp_path: Path, mode: str) -> None:
    """Files, then directories, are opened until it fails; then one is closed and there is room again."""
    said = child(
        """
        answers = []
        fhs = []
        for i in range(1000):
            looked = guest.send(Call(Op.LOOKUP, 1, f"f{i}\\0".encode()))
            if looked.error:
                answers.append(looked.error)
                break
            nodeid = fuse.ENTRY_OUT.unpack(looked.body)["nodeid"]
            opened = guest.send(Call(Op.OPEN, nodeid, bytes(8)))
            if opened.error:
                answers.append(opened.error)
                break
            fhs.append((nodeid, fuse.OPEN_OUT.unpack(opened.body)["fh"]))
        print(len(fhs) > 50, len(fhs) < limit, answers == [errno.ENFILE])
        for op, body in (
            (Op.CREATE, fuse.CREATE_IN.pack(flags=os.O_RDWR, mode=0o100644) + b"new\\0"),
            (Op.TMPFILE, fuse.CREATE_IN.pack(flags=os.O_RDWR, mode=0o100644) + b"/\\0"),
            (Op.OPENDIR, bytes(8)),
        ):
            print(guest.send(Call(op, 1, body)).error == errno.ENFILE, (shared / "new").exists())
        print([event[0] for event in guest.complaints()])
        for nodeid, fh in fhs:
            data = guest.ask(Op.READ, nodeid, fuse.READ_IN.pack(fh=fh, size=10))
            assert data == str(fhs.index((nodeid, fh))).encode(), data
        guest.ask(Op.STATFS, 1)
        guest.ask(Op.SYNCFS, 1, bytes(8))
        guest.serves()
        for _ in range(3):
            nodeid, fh = fhs.pop()
            guest.ask(Op.RELEASE, nodeid, fuse.RELEASE_IN.pack(fh=fh))
            guest.open(fhs[0][0], os.O_RDONLY)
        guest.ask(Op.DESTROY, 0)
        guest.serves()
        print(len(os.listdir("/proc/self/fd")) < 120)
        guest.close()
        """,
        tmp_path / "shared",
        mode,
    )
    assert said == ["True True True", *["True False"] * 3, f"[{EventKind.FILE_LIMIT:d}]", "True", ""]


@MODES
def test_known_inodes(tmp_path: Path, mode: str) -> None:
    """Names are looked up without end: held by handle they cost no fd, else ENFILE comes and FORGET helps."""
    said = child(
        """
        known = []
        errors = set()
        for i in range(1000):
            looked = guest.send(Call(Op.LOOKUP, 1, f"d{i}\\0".encode()))
            if looked.error:
                errors.add(looked.error)
            else:
                known.append(fuse.ENTRY_OUT.unpack(looked.body)["nodeid"])
        by_handle = guest.device.uses_file_handles
        print(len(known) == 1000 if by_handle else 100 < len(known) < limit)
        print(errors == (set() if by_handle else {errno.ENFILE}))
        fh = guest.open(1, os.O_DIRECTORY) if by_handle else None
        if fh is not None:
            body = guest.ask(Op.READDIRPLUS, 1, fuse.READ_IN.pack(fh=fh, size=1 << 16), room=1 << 16)
            print(len(body) > 1 << 15)
        else:
            print(guest.send(Call(Op.OPENDIR, 1, bytes(8))).error == errno.ENFILE)
        if not by_handle:
            for op, body in (
                (Op.MKDIR, fuse.MKDIR_IN.pack(mode=0o755) + b"new\\0"),
                (Op.MKNOD, fuse.MKNOD_IN.pack(mode=0o100644) + b"new\\0"),
                (Op.SYMLINK, b"new\\0target\\0"),
            ):
                assert guest.send(Call(op, 1, body)).error == errno.ENFILE
                assert not os.path.lexists(shared / "new")
        for nodeid in known:
            guest.ask(Op.GETATTR, nodeid, bytes(16))
        for nodeid in known[:10]:
            guest.send(Call(Op.FORGET, nodeid, (1).to_bytes(8, "little")))
        guest.lookup(b"d999")
        guest.serves()
        guest.close()
        """,
        tmp_path / "shared",
        mode,
    )
    assert said == ["True", "True", "True", ""]


def test_the_process_itself_has_no_fd_left(tmp_path: Path) -> None:
    """Somebody else in the process took all fds: requests that need one fail with ENFILE, the others are served."""
    said = child(
        """
        nodeid = guest.lookup(b"f1")
        fh = guest.open(nodeid)
        taken = []
        try:
            while True:
                taken.append(os.dup(0))
        except OSError:
            pass
        errors = {
            guest.send(Call(Op.OPEN, nodeid, bytes(8))).error,
            guest.send(Call(Op.CREATE, 1, fuse.CREATE_IN.pack(flags=os.O_RDWR, mode=0o644) + b"new\\0")).error,
            guest.send(Call(Op.OPENDIR, 1, bytes(8))).error,
            guest.send(Call(Op.LOOKUP, 1, b"d7\\0")).error,
        }
        guest.ask(Op.READ, nodeid, fuse.READ_IN.pack(fh=fh, size=1))
        guest.serves()
        for fd in taken:
            os.close(fd)
        print(*sorted(errno.errorcode[e] if e else "OK" for e in errors))
        guest.lookup(b"d8")
        guest.open(nodeid)
        guest.serves()
        guest.close()
        """,
        tmp_path / "shared",
        "prefer",
    )
    assert set(" ".join(said).split()) <= {"ENFILE", "OK"}


def test_half_read_directories(tmp_path: Path) -> None:
    """Some 27 KiB of entries could be kept of each: of 64 MiB they are. All go on where they were."""
    said = child(
        """
        def rest(fh, offset=0):
            return guest.ask(Op.READDIRPLUS, 1, fuse.READ_IN.pack(fh=fh, offset=offset, size=1 << 15), room=1 << 15)

        def names(fh):
            offset = 0
            while body := rest(fh, offset):
                at = 0
                while at < len(body):
                    entry = fuse.DIRENTPLUS.unpack(body, at)
                    yield body[at + fuse.DIRENTPLUS.size :][: entry["namelen"]].decode()
                    at += fuse.direntplus_size(entry["namelen"])
                offset = entry["off"]

        def resident():
            return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

        fhs = [guest.open(1, os.O_DIRECTORY)]
        rest(fhs[0])
        before = resident()
        for _ in range(4000):
            fhs.append(guest.open(1, os.O_DIRECTORY))
            rest(fhs[-1])
        # The address sanitizer keeps what is freed for a while.
        print("libasan" in os.environ.get("LD_PRELOAD", "") or resident() - before < 85 << 20)
        for fh in (fhs[1], fhs[-1]):
            print(sorted(names(fh)) == sorted([".", "..", *os.listdir(shared)]))
        for fh in fhs:
            guest.ask(Op.RELEASEDIR, 1, fuse.RELEASE_IN.pack(fh=fh))
        guest.close()
        """,
        tmp_path / "shared",
        "prefer",
        6000,
    )
    assert said == ["True", "True", "True", ""]


@needs_mounts()
def test_mounts_below_the_share(tmp_path: Path) -> None:
    """Each on which the guest holds something costs an fd, of those that the guest may have."""
    said = child(
        """
        import ctypes
        mount = ctypes.CDLL(None, use_errno=True).mount

        def open_all():
            fhs = []
            while True:
                opened = guest.send(Call(Op.OPENDIR, 1, bytes(8)))
                if opened.error:
                    assert opened.error == errno.ENFILE
                    break
                fhs.append(fuse.OPEN_OUT.unpack(opened.body)["fh"])
            beyond = guest.send(Call(Op.LOOKUP, 1, b"d100\\0")).error
            for fh in fhs:
                guest.ask(Op.RELEASEDIR, 1, fuse.RELEASE_IN.pack(fh=fh))
            return len(fhs), beyond

        for i in range(101):
            path = os.fsencode(shared / f"d{i}")
            assert mount(path, path, None, 4096, None) == 0     # MS_BIND
        most, beyond = open_all()
        print(most > 101, beyond == errno.ENFILE)
        inside = [guest.lookup(f"d{i}".encode()) for i in range(100)]
        print(open_all() == (most - 100, errno.ENFILE))
        for nodeid in inside:
            guest.send(Call(Op.FORGET, nodeid, (1).to_bytes(8, "little")))
        print(open_all() == (most, errno.ENFILE))
        guest.lookup(b"d100")
        guest.serves()
        guest.close()
        """,
        tmp_path / "shared",
        "prefer",
        within=("unshare", "--mount", "--propagation", "private"),
    )
    assert said == ["True True", "True", "True", ""]
