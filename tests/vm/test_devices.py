"""Reboots, several shares and several queues: what a monitor does with the device beyond one mount."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from daemons import StartDaemon, daemon_command

from ferryfs.guest.command_line import Share
from vm.conftest import Boot


def _open_files(pid: int) -> int:
    return sum(len(os.listdir(f"/proc/{one}/fd")) for one in [pid, *_children(pid)])


def _children(pid: int) -> list[int]:
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        found += [int(word) for word in Path(f"/proc/{pid}/task/{task}/children").read_text().split()]
    return [*found, *(below for child in found for below in _children(child))]


def test_a_guest_that_is_reset_starts_afresh(
    daemon: str, start_daemon: StartDaemon, boot: Boot, tmp_path: Path
) -> None:
    """Reset with files open and requests under way: the daemon drops them, and the next boot mounts and works."""
    shared = tmp_path / "shared"
    shared.mkdir()
    for number in range(40):
        (shared / f"file{number}").write_text(f"{number}\n")
    backend = start_daemon(daemon_command(daemon), shared)
    guest = boot(Share("share", backend.socket))
    assert backend.process is not None
    guest.check("mount -t virtiofs share /mnt && cat /mnt/file* >/dev/null")
    # Open for good, and busy at the moment of the reset.
    guest.agent.start("exec 5</mnt/file7 6>/mnt/held; while :; do ls -l /mnt >/dev/null; usleep 1000; done")
    guest.check("while ! test -e /mnt/held; do usleep 10000; done")
    held = _open_files(backend.process.pid)
    guest.reset()
    guest.check("mount -t virtiofs share /mnt")
    assert _open_files(backend.process.pid) < held, "the daemon kept what the guest had open before its reset"
    assert guest.check("cat /mnt/file39") == "39\n"
    guest.check("umount /mnt")


def test_two_shares_are_two_file_systems(daemon: str, start_daemon: StartDaemon, boot: Boot, tmp_path: Path) -> None:
    """Two daemons serve one guest: each directory stays itself, and a rename between them is refused."""
    sockets = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "name").write_text(name)
        sockets.append(start_daemon(daemon_command(daemon), tmp_path / name).socket)
    guest = boot(Share("one", sockets[0]), Share("two", sockets[1]))
    guest.check("mkdir /one /two && mount -t virtiofs one /one && mount -t virtiofs two /two")
    assert guest.check("cat /one/name /two/name") == "onetwo"
    guest.check("mv /one/name /two/from-one")
    assert (tmp_path / "two" / "from-one").read_text() == "one"
    assert not (tmp_path / "one" / "name").exists()
    assert "Invalid cross-device link" in guest.run("ln /two/name /one/link").output
    guest.check("umount /one /two")


@pytest.mark.parametrize("queues", [1, 2, 4])
def test_several_queues(
    queues: int, own: tuple[str, ...], start_daemon: StartDaemon, boot: Boot, tmp_path: Path
) -> None:
    """As many processors as queues, each with work of its own; nothing is lost and nothing hangs.

    The reference daemon has one request queue only.
    """
    shared = tmp_path / "shared"
    shared.mkdir()
    backend = start_daemon(own, shared)
    guest = boot(Share("share", backend.socket, queues=queues), cpus=queues)
    guest.check("mount -t virtiofs share /mnt")
    work = "mkdir /mnt/{0} && for i in $(seq 60); do echo {0}.$i >/mnt/{0}/$i; cat /mnt/{0}/$i; done"
    jobs = [guest.agent.start(f"taskset {1 << number:x} sh -c '{work.format(number)}'") for number in range(queues)]
    for number, job in enumerate(jobs):
        result = guest.agent.result(job, 120)
        assert result.status == 0, result.output
        assert result.output.split() == [f"{number}.{i}" for i in range(1, 61)]
        assert len(list((shared / str(number)).iterdir())) == 60
    guest.check("umount /mnt")


def test_a_queue_of_the_smallest_size(daemon: str, start_daemon: StartDaemon, boot: Boot, tmp_path: Path) -> None:
    """128 descriptors is what QEMU takes by default; large requests are cut to what fits."""
    shared = tmp_path / "shared"
    shared.mkdir()
    backend = start_daemon(daemon_command(daemon), shared)
    guest = boot(Share("share", backend.socket, queue_size=128))
    guest.check("mount -t virtiofs share /mnt")
    guest.check("dd if=/dev/zero of=/mnt/large bs=4M count=4 && cmp -n 16777216 /mnt/large /dev/zero")
    assert (shared / "large").stat().st_size == 16 << 20
    guest.check("umount /mnt")
