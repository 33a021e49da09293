"""What somebody on the host does to files that a guest holds open, at each moment of a migration between two QEMUs.

docs/migration-scenarios.md has the same lines through `ferryfs mount`. Here all changes of one moment come at once.
"""

from __future__ import annotations

import itertools
import os
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from interop.changes import CHANGES
from interop.stage import BEFORE, COLLECTED, COLLECTING, SAVED, unmount_below

from ferryfs.guest.machine import Guest
from ferryfs.wire.vhost_user import Request
from vm.conftest import MOUNT_POINT, TAG
from vm.sides import Side, Sides, move

MODES = ("find-paths", "file-handles")
MOVES = list(itertools.product(MODES, (BEFORE, COLLECTING, COLLECTED, SAVED)))
FILES = [f"{change.__name__}/{name}" for change in CHANGES for name in ("src/main.c", "README")]
# "hold FOLDER" opens all files below it and remembers what is in them. "look FOLDER" sees whether that is so still, and
# writes to each what the host can tell it by. Every word is answered by a line.
HOLDER = f"""
import os
names = {FILES!r}
def content(fd):
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    return os.pread(fd, 1 << 16, 0)
go, said = (os.open("/tmp/" + name, os.O_RDWR) for name in ("go", "said"))
for line in os.fdopen(go):
    word, folder = line.split()
    try:
        if word == "hold":
            held = {{name: os.open(f"{MOUNT_POINT}/{{folder}}/{{name}}", os.O_RDWR) for name in names}}
            known = {{name: content(fd) for name, fd in held.items()}}
            answer = "held"
        else:
            wrong = [name for name, fd in held.items() if content(fd) != known[name]]
            for name, fd in held.items():
                os.pwrite(fd, f"{{folder}}/{{name}} was here".encode(), 0)
                os.close(fd)
            answer = f"wrong: {{wrong}}" if wrong else "right"
    except OSError as error:
        answer = repr(error)
    os.write(said, f"{{answer}}\\n".encode())
"""


def tell(guest: Guest, word: str, folder: str) -> str:
    return guest.check(f"echo {word} {folder} >/tmp/go; timeout 60 head -n 1 /tmp/said", timeout=90).strip()


def change_all(folder: Path) -> None:
    for change in CHANGES:
        change(folder / change.__name__)


def arrange(moment: str, source: Side, target: Side, folder: Path) -> None:
    """Lets the host change everything at that moment of the move to come."""
    act = partial(change_all, folder)
    if moment == BEFORE:
        act()
    elif moment == COLLECTING:
        # The last messages of a beginning migration: paths are being collected already.
        source.at(Request.SET_LOG_BASE, partial(source.at, Request.SET_VRING_ADDR, act))
    elif moment == COLLECTED:
        # The first one when the guest is stopped.
        source.at(Request.SET_VRING_ENABLE, act)
    else:
        target.at(Request.SET_DEVICE_STATE_FD, act)


def options(mode: str) -> list[str]:
    """Without a sandbox: a daemon sees what is mounted meanwhile."""
    return ["--sandbox=none", "--modcaps=+dac_read_search", f"--migration-mode={mode}"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mount(2) needs root")
def test_what_the_host_changes(tmp_path: Path) -> None:
    """One guest, moved once a mode and moment: it goes on with the very files that it had open."""
    shared = tmp_path / "shared"
    shared.mkdir()
    with ExitStack() as stack:
        stack.callback(unmount_below, shared)
        sides = Sides(tmp_path, shared, stack, python=True)
        source = sides.start("", options(MODES[0]))
        source.guest.check(f"mount -t virtiofs {TAG} {MOUNT_POINT} && mkfifo /tmp/go /tmp/said")
        source.guest.agent.put("/tmp/holder", HOLDER.encode())
        source.guest.agent.start("python3 /tmp/holder")
        # A daemon's mode is the one that it saves by, so the destination has that of the move after this one.
        for (mode, moment), (following, _) in zip(MOVES, [*MOVES[1:], MOVES[0]], strict=True):
            folder = shared / f"{mode}-{moment}"
            for name in FILES:
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(f"this is {folder.name}/{name}\n" * 20)
            theirs = {name: os.open(folder / name, os.O_RDONLY) for name in FILES}
            for fd in theirs.values():
                stack.callback(os.close, fd)
            assert tell(source.guest, "hold", folder.name) == "held"
            target = sides.start("defer", options(following))
            arrange(moment, source, target, folder)
            move(source, target)
            assert not (folder / "unlinks" / "src" / "main.c").exists(), "nothing was changed"
            assert tell(target.guest, "look", folder.name) == "right", folder.name
            for name, fd in theirs.items():
                words = f"{folder.name}/{name} was here".encode()
                assert os.pread(fd, len(words), 0) == words
            source = target
