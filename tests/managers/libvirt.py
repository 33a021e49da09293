"""libvirt's QEMU driver inside virsh (``qemu:///embed?root=…``): a libvirt of its own, that touches nothing of ours.

Some facts. In this mode virsh is the daemon: machines live as long as it does. It reads commands from standard input,
one a line, and says how each ended. ``ROOT/etc/qemu.conf`` is the driver's configuration. libvirt waits until a
QEMU that it killed is gone altogether; QEMU is an orphan, and the tests take orphans in without waiting for them: hence
REAPER.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Final, Self

import pytest

from ferryfs.guest import accelerator
from ferryfs.guest.image import PORT_NAME, Parts, initramfs

# The first of which migration and save with virtiofs were tried here.
OLDEST: Final = (11, 0)
PATIENCE_SECONDS: Final = 240.0
POLL_SECONDS: Final = 0.02
CONFIGURATION: Final = """\
stdio_handler = "file"
security_driver = "none"
user = "root"
group = "root"
remember_owner = 0
cgroup_controllers = []
namespaces = []
"""
# Waits for every orphan of the command that it runs, as an init would.
REAPER: Final = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
child = os.spawnvp(os.P_NOWAIT, sys.argv[1], sys.argv[1:])
while True:
    pid, status = os.wait()
    if pid == child:
        sys.exit(os.waitstatus_to_exitcode(status))
"""


def _missing() -> str:
    """Why libvirt can't be had here; empty when it can."""
    if os.geteuid() != 0:
        return "libvirt's driver is used as root here: run the tests as root"
    if shutil.which("virsh") is None:
        return "there is no virsh: apt-get install libvirt-clients libvirt-daemon-driver-qemu"
    shown = subprocess.run(["virsh", "--version"], capture_output=True, text=True, check=True).stdout
    version = tuple(int(part) for part in re.findall(r"\d+", shown)[:2])
    return "" if version >= OLDEST else f"libvirt {shown.strip()} is older than 11.0"


needs_libvirt = pytest.mark.skipif(bool(_missing()), reason=_missing())


class Libvirt:
    """One virsh with its driver. ``folder`` takes everything that it writes."""

    def __init__(self, folder: Path) -> None:
        root = folder / "root"
        (root / "etc").mkdir(parents=True)
        (root / "etc" / "qemu.conf").write_text(CONFIGURATION)
        self.root = root
        self._log = folder / "virsh.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", REAPER, "virsh", "-c", f"qemu:///embed?root={root}"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                # libvirt finds "ferryfsd" by its path, and its interpreter by ours.
                env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(PATIENCE_SECONDS)

    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def command(self, words: str, answer: str) -> None:
        """Runs one command of virsh; fails the test unless its answer contains ``answer``."""
        before = len(self.said())
        assert self._process.stdin is not None
        self._process.stdin.write(words.encode() + b"\n")
        self._process.stdin.flush()
        until = time.monotonic() + PATIENCE_SECONDS
        while answer not in self.said()[before:]:
            if "error: " in self.said()[before:] or self._process.poll() is not None or time.monotonic() > until:
                pytest.fail(f"virsh {words}: {self.said()[before:]}\n{self.daemon_log()}")
            select.select([], [], [], POLL_SECONDS)

    def daemon_log(self) -> str:
        """What libvirt kept of the daemons' output."""
        return "".join(path.read_text(errors="replace") for path in self.root.glob("log/qemu/*-virtiofsd.log"))


def domain(parts: Parts, filesystem: str, agent: Path | None = None) -> str:
    """A machine with one file system, as libvirt's XML; ``agent`` is the socket of the guest's agent, None for
    libvirt's choice.
    """
    path = f' path="{agent}"' if agent else ""
    kind = "kvm" if accelerator.choose(parts) == "kvm" else "qemu"
    cpu = '<cpu mode="host-passthrough"/>' if kind == "kvm" else '<cpu mode="maximum"/>'
    return f"""
<domain type="{kind}">
  <name>ferry</name>
  <memory unit="MiB">384</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch="x86_64" machine="q35">hvm</type>
    <kernel>{parts.kernel}</kernel>
    <initrd>{initramfs(parts)}</initrd>
    <cmdline>console=ttyS0 quiet panic=-1</cmdline>
  </os>
  {cpu}
  <memoryBacking><source type="memfd"/><access mode="shared"/></memoryBacking>
  <devices>
    <emulator>{shutil.which("qemu-system-x86_64")}</emulator>
    <filesystem type="mount" accessmode="passthrough">
      <driver type="virtiofs" queue="1024"/>
      {filesystem}
      <target dir="ferry"/>
    </filesystem>
    <channel type="unix"><source mode="bind"{path}/><target type="virtio" name="{PORT_NAME}"/></channel>
    <controller type="usb" model="none"/>
    <memballoon model="none"/>
  </devices>
</domain>
"""
