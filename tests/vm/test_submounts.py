"""File systems mounted below the shared directory, and syncfs(2): what /dev/fuse can't show and a guest can."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from daemons import StartDaemon, daemon_command

from ferryfs.guest import moving
from ferryfs.guest.command_line import Share
from vm.conftest import Boot

PATIENCE_SECONDS = 20.0
MARKER = "only syncfs brings this to the disk"


@dataclass(frozen=True)
class Disk:
    """A shared directory with a file system of its own below it, at ``inner``, whose disk is the file ``image``."""

    shared: Path
    inner: Path
    image: Path


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """An ext4 file system in a file, mounted below the shared directory. What is mounted and unmounted there later
    reaches a daemon in its own mount namespace, as on a host that systemd has started.
    """
    image = tmp_path / "disk.img"
    inner = tmp_path / "shared" / "inner"
    inner.mkdir(parents=True)
    with image.open("wb") as file:
        file.truncate(64 << 20)
    # Without lazy initialization nothing writes to the disk behind the tests' back.
    subprocess.run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(image)], check=True)
    shared = inner.parent
    subprocess.run(["mount", "--bind", shared, shared], check=True)
    try:
        subprocess.run(["mount", "--make-shared", shared], check=True)
        subprocess.run(["mount", "-o", "loop", image, inner], check=True)
        yield Disk(shared, inner, image)
    finally:
        while os.path.ismount(inner):
            subprocess.run(["umount", inner], check=True)
        subprocess.run(["umount", shared], check=True)


def loops(image: Path) -> str:
    """The loop devices that have the disk open: none, when nobody has the file system in use any more."""
    return subprocess.run(["losetup", "-j", image], check=True, capture_output=True, text=True).stdout


def test_a_submount_is_a_file_system_of_its_own(disk: Disk, daemon: str, start_daemon: StartDaemon, boot: Boot) -> None:
    """The guest sees another device and another size there, and equal inode numbers stay different files."""
    (disk.shared / "outside").write_text("outside\n")
    (disk.inner / "inside").write_text("inside\n")
    backend = start_daemon(daemon_command(daemon), disk.shared)
    guest = boot(Share("share", backend.socket))
    guest.check("mount -t virtiofs share /mnt")
    assert guest.check("cat /mnt/outside /mnt/inner/inside") == "outside\ninside\n"
    devices = guest.check("stat -c %d /mnt /mnt/inner /mnt/inner/inside").split()
    assert devices[0] != devices[1] == devices[2]
    assert "/mnt/inner virtiofs" in guest.check("cat /proc/mounts")
    guest.check("echo new >/mnt/inner/new && mkdir /mnt/inner/folder")
    assert (disk.inner / "new").read_text() == "new\n"
    assert "Invalid cross-device link" in guest.run("ln /mnt/outside /mnt/inner/link").output
    outer, inner = (int(word) for word in guest.check("stat -f -c %b /mnt /mnt/inner").split())
    assert outer != inner
    guest.check("umount /mnt/inner && umount /mnt")


def test_a_submount_that_is_not_announced_is_one_tree(
    disk: Disk, daemon: str, start_daemon: StartDaemon, boot: Boot
) -> None:
    """With --no-announce-submounts the guest has one file system, and still reaches every file."""
    (disk.inner / "inside").write_text("inside\n")
    backend = start_daemon(daemon_command(daemon), disk.shared, ["--no-announce-submounts"])
    guest = boot(Share("share", backend.socket))
    guest.check("mount -t virtiofs share /mnt")
    assert guest.check("cat /mnt/inner/inside") == "inside\n"
    assert "/mnt/inner" not in guest.check("cat /proc/mounts")
    guest.check("umount /mnt")


def test_syncfs_reaches_the_disk(disk: Disk, daemon: str, start_daemon: StartDaemon, boot: Boot) -> None:
    """What the guest wrote is on the host's disk when the guest's syncfs returns, and was not before."""
    backend = start_daemon(daemon_command(daemon), disk.shared)
    guest = boot(Share("share", backend.socket))
    guest.check(f"mount -t virtiofs share /mnt && echo '{MARKER}' >/mnt/inner/file")
    assert (disk.inner / "file").read_text() == f"{MARKER}\n"
    assert MARKER.encode() not in disk.image.read_bytes()
    guest.check("sync -f /mnt/inner")
    assert MARKER.encode() in disk.image.read_bytes()
    guest.check("umount /mnt/inner && umount /mnt")


def test_a_submount_vanishes_and_appears(disk: Disk, daemon: str, start_daemon: StartDaemon, boot: Boot) -> None:
    """Its open file goes on, its names lead to what lies beneath, and nothing holds the disk once the guest lets go."""
    (disk.inner / "file").write_text("mounted 1\nmounted 2\n")
    backend = start_daemon(daemon_command(daemon), disk.shared, ["--cache=never"])
    guest = boot(Share("share", backend.socket))
    guest.check("mount -t virtiofs share /mnt && mkfifo /tmp/go /tmp/said")
    holder = guest.agent.start(
        "exec 3</mnt/inner/file; read -r a <&3 && echo >/tmp/said && read -r word </tmp/go && cat <&3"
    )
    guest.check("cat /tmp/said")
    assert "/mnt/inner virtiofs" in guest.check("cat /proc/mounts")
    assert subprocess.run(["umount", disk.inner], check=False, capture_output=True).returncode, "it is in use"

    subprocess.run(["umount", "--lazy", disk.inner], check=True)
    (disk.inner / "file").write_text("beneath\n")
    assert guest.check("cat /mnt/inner/file") == "beneath\n"
    assert "/mnt/inner" not in guest.check("cat /proc/mounts")
    outer, inner = guest.check("stat -c %d /mnt /mnt/inner").split()
    assert outer == inner
    assert loops(disk.image)
    guest.check("echo go >/tmp/go")
    assert guest.agent.result(holder) == (0, "mounted 2\n")
    guest.check("echo 2 >/proc/sys/vm/drop_caches")
    deadline = time.monotonic() + PATIENCE_SECONDS
    while loops(disk.image) and time.monotonic() < deadline:
        select.select([], [], [], 0.05)
    assert not loops(disk.image), "the daemon holds it"

    subprocess.run(["mount", "-o", "loop", disk.image, disk.inner], check=True)
    assert guest.check("cat /mnt/inner/file") == "mounted 1\nmounted 2\n"
    outer, inner = guest.check("stat -c %d /mnt /mnt/inner/file").split()
    assert outer != inner
    guest.check("umount /mnt/inner; umount /mnt")


def test_a_submount_moves_with_the_guest(
    disk: Disk, own: tuple[str, ...], start_daemon: StartDaemon, boot: Boot
) -> None:
    """Open files on both file systems go on, equal inode numbers stay different files, and the guest's mounts stay."""
    for folder, text in ((disk.shared, "outside"), (disk.inner, "inside")):
        (folder / "file").write_text(f"{text} 1\n{text} 2\n")
    source = start_daemon(own, disk.shared)
    guest = boot(Share("share", source.socket), cpus=1, memory=256)
    guest.check("mount -t virtiofs share /mnt && mkfifo /tmp/go /tmp/said")
    name = guest.agent.start(
        "exec 3</mnt/file 4</mnt/inner/file; read -r a <&3 && read -r b <&4 && echo $a $b && echo >/tmp/said"
        " && read -r word </tmp/go && read -r a <&3 && read -r b <&4 && echo $a $b"
    )
    guest.check("cat /tmp/said")
    before = guest.check("stat -c '%d %i' /mnt/file /mnt/inner/file")
    destination = start_daemon(own, disk.shared)
    arrived = boot(Share("share", destination.socket), cpus=1, memory=256, incoming="defer")
    moving.move(guest, arrived)
    guest.stop()
    arrived.check("echo go >/tmp/go")
    assert arrived.agent.result(name) == (0, "outside 1 inside 1\noutside 2 inside 2\n")
    assert arrived.check("stat -c '%d %i' /mnt/file /mnt/inner/file") == before
    arrived.check("echo new >/mnt/inner/new && umount /mnt/inner && umount /mnt")
    assert (disk.inner / "new").read_text() == "new\n"
