"""Shares that come and go while the guest runs: plugged and unplugged as PCI Express devices are, by QEMU's monitor."""

from __future__ import annotations

from pathlib import Path

from daemons import StartDaemon, daemon_command

from ferryfs.guest.backend import Backend
from ferryfs.guest.command_line import Share
from ferryfs.guest.machine import Guest
from vm.conftest import Boot

# A slot that is empty at first.
ROOT_PORT = ("-device", "pcie-root-port,id=port1,chassis=1,slot=1")


def plug(guest: Guest, backend: Backend) -> None:
    """A share with the tag "late" appears in the slot."""
    address = {"type": "unix", "data": {"path": str(backend.socket)}}
    guest.monitor.execute(
        "chardev-add", {"id": "late", "backend": {"type": "socket", "data": {"addr": address, "server": False}}}
    )
    guest.monitor.execute(
        "device_add", {"driver": "vhost-user-fs-pci", "id": "late", "chardev": "late", "tag": "late", "bus": "port1"}
    )
    guest.check("mkdir -p /late && until mount -t virtiofs late /late 2>/dev/null; do usleep 20000; done")


def unplug(guest: Guest) -> None:
    """The guest is asked for the device, and gives it away."""
    guest.monitor.execute("device_del", {"id": "late"})
    while guest.monitor.wait_event("DEVICE_DELETED", timeout=60.0)["data"].get("device") != "late":
        pass
    guest.monitor.execute("chardev-remove", {"id": "late"})


def test_a_share_comes_and_goes(daemon: str, start_daemon: StartDaemon, boot: Boot, tmp_path: Path) -> None:
    """Beside one that was there from the start, twice, with a daemon of its own each time; the daemon ends with it."""
    for name in ("first", "late"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "name").write_text(name)
    command = daemon_command(daemon)
    first = Share("first", start_daemon(command, tmp_path / "first").socket)
    guest = boot(first, memory=256, cpus=1, extra=ROOT_PORT)
    guest.check("mkdir /first && mount -t virtiofs first /first && cat /first/name")
    for word in ("once", "again"):
        backend = start_daemon(command, tmp_path / "late")
        plug(guest, backend)
        assert guest.check("cat /first/name /late/name") == "firstlate"
        guest.check(f"echo {word} >/late/{word} && umount /late")
        assert (tmp_path / "late" / word).read_text() == f"{word}\n"
        unplug(guest)
        assert backend.wait() == 0
        assert guest.check("cat /first/name") == "first"


def test_a_share_goes_while_it_is_in_use(
    own: tuple[str, ...], start_daemon: StartDaemon, boot: Boot, tmp_path: Path
) -> None:
    """Who still uses it gets errors, not a hang; the guest and its other share work on."""
    for name in ("first", "late"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "name").write_text(name)
    guest = boot(Share("first", start_daemon(own, tmp_path / "first").socket), memory=256, cpus=1, extra=ROOT_PORT)
    guest.check("mkdir /first && mount -t virtiofs first /first")
    backend = start_daemon(own, tmp_path / "late")
    plug(guest, backend)
    user = guest.agent.start("exec 5>/late/open; until ! echo line >&5; do usleep 10000; done 2>/dev/null")
    guest.check("until test -s /late/open; do usleep 10000; done")
    unplug(guest)
    assert backend.wait() == 0
    assert guest.agent.result(user).status == 0
    assert "not connected" in guest.run("ls /late/name").output
    assert guest.check("cat /first/name") == "first"
    guest.check("umount -l /late")
