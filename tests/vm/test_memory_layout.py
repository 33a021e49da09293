"""The guest's memory is laid out anew below the rings while they run, by the chipset's registers."""

from __future__ import annotations

from pathlib import Path

from daemons import StartDaemon, daemon_command

from ferryfs.guest.command_line import Share
from vm.conftest import Boot

HOST_BRIDGE = "/sys/bus/pci/devices/0000:00:00.0/config"
# Q35's PAM registers: what is read and written in parts of the first megabyte.
PAM = (0x90, 0x91, 0x92, 0x93, 0x96)


def test_a_guest_changes_what_its_chipset_shows(
    daemon: str, start_daemon: StartDaemon, boot: Boot, tmp_path: Path
) -> None:
    """QEMU takes the region with the rings away and adds it again: nothing is lost, and the daemon lives."""
    (tmp_path / "file").write_text("content")
    backend = start_daemon(daemon_command(daemon), tmp_path)
    guest = boot(Share("share", backend.socket), memory=256, cpus=1)
    guest.check("mkdir /share && mount -t virtiofs share /share")
    for turn, value in enumerate((r"\060", r"\000", r"\063", r"\020")):
        for register in PAM:
            guest.run(f"printf '{value}' | dd of={HOST_BRIDGE} bs=1 seek={register} conv=notrunc 2>/dev/null")
            assert guest.check("cat /share/file") == "content"
        guest.check(f"echo {turn} >/share/{turn}")
        assert (tmp_path / str(turn)).read_text() == f"{turn}\n"
    assert backend.process is not None
    assert backend.process.poll() is None
