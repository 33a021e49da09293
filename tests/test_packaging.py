"""What a package installs beside the programs: the systemd unit, as systemd reads it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from ferryfs.cli.options_sources import load
from ferryfs.errors import OptionError
from ferryfs.guest.backend import own_daemon

UNIT = Path(__file__).parents[1] / "packaging" / "ferryfsd@.service"
PROGRAM = "ferryfsd"
"""Without a folder: systemd looks into /usr/local/bin, where pip installs, and /usr/bin, where a package does."""


def settings() -> dict[str, str]:
    """Name and value of each line of the unit; of several with one name the last."""
    return dict(line.split("=", 1) for line in UNIT.read_text().splitlines() if line[:1].isupper())


def test_hardening_leaves_the_share_and_its_devices_alone() -> None:
    """Each of these hides a part of the tree that may be shared, or makes a device cgroup that refuses mknod.

    systemd.exec(5): ProtectClock= implies DeviceAllow=char-rtc, ProtectKernelModules= hides /usr/lib/modules.
    """
    hiding = {"ProtectSystem", "ProtectHome", "ProtectKernelModules", "ProtectKernelTunables", "ProtectControlGroups"}
    hiding |= {"ProtectProc", "PrivateTmp", "InaccessiblePaths", "ReadOnlyPaths", "TemporaryFileSystem"}
    devices = {"ProtectClock", "PrivateDevices", "DeviceAllow", "DevicePolicy"}
    assert not settings().keys() & (hiding | devices)


def test_wrong_options_are_not_tried_again() -> None:
    assert settings()["RestartPreventExitStatus"] == str(OptionError.exit_code)
    assert settings()["Restart"] == "on-failure"


def test_every_user_may_reach_the_socket() -> None:
    """Who may connect is for the socket's own group: QEMU of libvirt runs as another user."""
    assert settings()["RuntimeDirectoryMode"] == "0755"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze: apt install systemd")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    """Every setting is one that systemd knows, with a value that it takes; the program is where it is here."""
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace(f"ExecStart={PROGRAM}", f"ExecStart={own_daemon()[0]}"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_daemon_understands_what_the_unit_starts(tmp_path: Path) -> None:
    """The file that the unit's comment shows is enough."""
    text = UNIT.read_text()
    command = next(line for line in text.splitlines() if line.startswith("ExecStart="))
    words = command.removeprefix("ExecStart=").replace("/etc/ferryfs/%i.toml", str(tmp_path / "vm1.toml")).split()
    shown = next(line for line in text.splitlines() if line.startswith("#     shared-dir"))
    (tmp_path / "vm1.toml").write_text(shown.lstrip("# ") + "\n")
    assert words[0] == PROGRAM
    options = load(words[1:], {}).options
    assert (options.shared_dir, options.keep_listening) == ("/srv/vm1", True)
