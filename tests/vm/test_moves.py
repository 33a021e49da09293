"""One guest that moves again and again: over TCP, with several queues, mounted or not, with locks and mappings."""

from __future__ import annotations

from pathlib import Path

from daemons import StartDaemon

from ferryfs.guest import moving
from ferryfs.guest.backend import Backend
from ferryfs.guest.command_line import Share
from ferryfs.guest.machine import Guest
from vm.conftest import MOUNT_POINT, TAG, Boot

QUEUES = 2
# Holds locks of both kinds and a shared mapping, says so by a file of its own, and works on both when it is told to.
HOLDER = """
import fcntl, mmap, os, time
whole = open("/mnt/flock", "r+b")
fcntl.flock(whole, fcntl.LOCK_EX)
part = open("/mnt/fcntl", "r+b")
fcntl.lockf(part, fcntl.LOCK_EX, 10, 5)
mapped = mmap.mmap(os.open("/mnt/mapped", os.O_RDWR), 8192)
mapped[:6] = b"before"
open("/tmp/held", "w").close()
with open("/tmp/go") as go:
    go.read()  # who writes there gets a SIGPIPE when nobody reads
assert bytes(mapped[:6]) == b"before" and bytes(mapped[4096:4101]) == b"there"
mapped[:6] = b"after!"
mapped.flush()
print("held")
"""
# What another process gets while they are held.
TRY = """
import fcntl
tries = [
    lambda: fcntl.flock(open("/mnt/flock", "r+b"), fcntl.LOCK_EX | fcntl.LOCK_NB),
    lambda: fcntl.lockf(open("/mnt/fcntl", "r+b"), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 12),
    lambda: fcntl.lockf(open("/mnt/fcntl", "r+b"), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 20),
]
for one in tries:
    try:
        one()
        print("taken")
    except BlockingIOError:
        print("locked")
"""


def test_one_guest_moves_on_and_on(own: tuple[str, ...], start_daemon: StartDaemon, boot: Boot, tmp_path: Path) -> None:
    """Before it mounts; over TCP by several connections, with what it holds; after it unmounted; after a reboot."""
    shared = tmp_path / "shared"
    shared.mkdir()
    for name in ("flock", "fcntl"):
        (shared / name).write_bytes(bytes(64))
    (shared / "mapped").write_bytes(bytes(4096) + b"there".ljust(4096, b"\0"))

    def start(incoming: str) -> tuple[Guest, Backend]:
        backend = start_daemon(own, shared)
        share = Share(TAG, backend.socket, queues=QUEUES)
        return boot(share, python=True, cpus=QUEUES, memory=512, incoming=incoming), backend

    def move(source: Guest, backend: Backend, *, capabilities: tuple[str, ...] = (), tcp: bool = False) -> None:
        nonlocal guest, daemon
        guest, daemon = start("defer")
        moving.move(source, guest, capabilities=capabilities, tcp=tcp)
        source.stop()
        assert backend.wait() == 0

    guest, daemon = start("")
    move(guest, daemon)
    mount = f"mount -t virtiofs {TAG} {MOUNT_POINT}"
    guest.check(f"{mount} && mkfifo /tmp/go")
    guest.agent.put("/tmp/holder", HOLDER.encode())
    guest.agent.put("/tmp/try", TRY.encode())
    holder = guest.agent.start("python3 /tmp/holder")
    guest.check("until test -e /tmp/held; do usleep 10000; done")
    work = "mkdir /mnt/{0} && i=0; while test ! -e /tmp/stop; do echo {0}.$i >/mnt/{0}/$i && read -r b </mnt/{0}/$i"
    work += " && test $b = {0}.$i || exit 1; i=$((i + 1)); done; echo $i"
    jobs = [guest.agent.start(f"taskset {1 << number:x} sh -c '{work.format(number)}'") for number in range(QUEUES)]
    guest.check("until test -e /mnt/0/1 -a -e /mnt/1/1; do usleep 10000; done")

    move(guest, daemon, capabilities=("multifd",), tcp=True)
    assert guest.check("python3 /tmp/try").split() == ["locked", "locked", "taken"]
    guest.check("echo >/tmp/go; touch /tmp/stop")
    assert guest.agent.result(holder) == (0, "held\n")
    assert (shared / "mapped").read_bytes()[:6] == b"after!"
    for number, job in enumerate(jobs):
        status, output = guest.agent.result(job)
        assert (status, len(list((shared / str(number)).iterdir()))) == (0, int(output)), output
    assert guest.check("python3 /tmp/try").split() == ["taken", "taken", "taken"]

    guest.check(f"umount {MOUNT_POINT}")
    move(guest, daemon)
    assert guest.check(f"{mount} && ls {MOUNT_POINT}").split() == ["0", "1", "fcntl", "flock", "mapped"]

    guest.reset()
    assert guest.check(f"{mount} && cat {MOUNT_POINT}/0/0") == "0.0\n"
    move(guest, daemon)
    assert guest.check(f"echo on >{MOUNT_POINT}/on && cat {MOUNT_POINT}/on") == "on\n"
