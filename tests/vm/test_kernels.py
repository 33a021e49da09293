"""A guest with an older kernel, whose virtio and FUSE are modules: Linux 6.1, Debian 12's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from daemons import StartDaemon

from ferryfs.errors import SetupError
from ferryfs.guest import moving
from ferryfs.guest.command_line import Share
from ferryfs.guest.image import find_parts
from vm.conftest import Boot

RELEASE = "6.1"
HOLDER = """
cd /mnt && exec 3<held 4<>gone && rm gone && echo kept >&4 && echo >/tmp/said
read -r word </tmp/go && cat <&3 && echo $word && cat /proc/self/fd/4
"""


@pytest.fixture
def kernel() -> str:
    """The release's name; skips where there is no such kernel."""
    try:
        find_parts(release=RELEASE)
    except SetupError:
        pytest.skip(f"Linux {RELEASE} is in no package of this release: Debian 12 has it")
    return RELEASE


def test_works_reboots_and_moves(
    kernel: str, own: tuple[str, ...], start_daemon: StartDaemon, boot: Boot, tmp_path: Path
) -> None:
    """Reads, writes and lists; reboots by itself with files open; and migrates then."""
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "held").write_text("held\n")
    guest = boot(Share("share", start_daemon(own, shared).socket), release=kernel, cpus=1, memory=256)
    assert guest.check("uname -r").startswith(f"{kernel}.")
    guest.check("mount -t virtiofs share /mnt && mkdir /mnt/many && cd /mnt/many && touch $(seq 500)")
    assert len(guest.check("ls /mnt/many").split()) == 500
    guest.check("dd if=/dev/zero of=/mnt/large bs=1M count=8 conv=fsync && cmp -n 8388608 /mnt/large /dev/zero")
    assert (shared / "large").stat().st_size == 8 << 20

    guest.agent.start("exec 5</mnt/held 6>/mnt/other; reboot -f")
    guest.wait_ready()
    guest.check("mount -t virtiofs share /mnt && cmp -n 8388608 /mnt/large /dev/zero && rm /mnt/large")

    guest.check("mkfifo /tmp/go /tmp/said")
    name = guest.agent.start(HOLDER)
    guest.check("cat /tmp/said")
    destination = boot(
        Share("share", start_daemon(own, shared).socket), release=kernel, cpus=1, memory=256, incoming="defer"
    )
    moving.move(guest, destination)
    guest.stop()
    destination.check("echo moved >/tmp/go")
    assert destination.agent.result(name) == (0, "held\nmoved\nkept\n")
    assert len(destination.check("ls /mnt/many").split()) == 500
    destination.check("umount /mnt")
