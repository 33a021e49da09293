"""Whole libvirt daemons, several on this machine: each takes its own folders for the machine's.

Some facts. Where libvirtd keeps configuration, sockets and state is compiled in, so each daemon has a mount namespace
in which folders of its own lie over those; the sockets are reached from outside through the same folders. Two daemons
that migrate to each other must not have the same host UUID. A guest whose agent port nobody holds open switches itself
off: whoever moves it connects to the destination's port before it runs there.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

import pytest

from ferryfs.guest.image import PORT_NAME
from managers.libvirt import CONFIGURATION, PATIENCE_SECONDS, POLL_SECONDS, REAPER

DAEMON: Final = shutil.which("libvirtd", path=f"{os.environ['PATH']}:/usr/sbin")
FOLDERS: Final = {
    "etc": "/etc/libvirt",
    "run": "/run/libvirt",
    "lib": "/var/lib/libvirt",
    "cache": "/var/cache/libvirt",
    "log": "/var/log/libvirt",
}
# $1 is the folder with ours, $2 the daemon.
START: Final = "\n".join(
    [
        "set -e",
        *(f'mkdir -p {theirs}; mount --bind "$1/{ours}" {theirs}' for ours, theirs in FOLDERS.items()),
        'exec "$2" --config /etc/libvirt/libvirtd.conf --pid-file "$1/pid"',
    ]
)

needs_libvirtd = pytest.mark.skipif(DAEMON is None, reason="there is no libvirtd: apt-get install libvirt-daemon")


class Host:
    """One libvirt daemon, as if it were on a machine of its own. ``folder`` takes everything that it writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in FOLDERS:
            (folder / name).mkdir(parents=True)
        (folder / "etc" / "qemu.conf").write_text(CONFIGURATION)
        settings = {"host_uuid": str(uuid.uuid4()), "auth_unix_rw": "none", "log_outputs": "3:stderr"}
        lines = [f'{key} = "{value}"\n' for key, value in settings.items()]
        (folder / "etc" / "libvirtd.conf").write_text("".join(lines))
        self.uri = f"qemu+unix:///system?mode=legacy&socket={folder / 'run' / 'libvirt-sock'}"
        self._log = folder / "libvirtd.log"
        namespace = ["unshare", "--mount", "--propagation", "private"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*namespace, sys.executable, "-c", REAPER, "sh", "-c", START, "sh", str(folder), str(DAEMON)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def __enter__(self) -> Self:
        self.wait_for((self.folder / "run" / "libvirt-sock").exists, "its socket")
        return self

    def __exit__(self, *unused: object) -> None:
        # Of a test that failed; a QEMU outlives its libvirt.
        subprocess.run(["virsh", "-c", self.uri, "destroy", "ferry"], capture_output=True, check=False)
        pid = self.folder / "pid"
        if pid.exists():
            os.kill(int(pid.read_text()), signal.SIGTERM)
        self._process.wait(PATIENCE_SECONDS)

    def wait_for(self, happened: Callable[[], bool], what: str) -> None:
        """Fails the test when it does not come about, or the daemon ends."""
        until = time.monotonic() + PATIENCE_SECONDS
        while not happened():
            if self._process.poll() is not None or time.monotonic() > until:
                pytest.fail(f"libvirtd: {what} does not come: {self._log.read_text(errors='replace')}")
            select.select([], [], [], POLL_SECONDS)

    def begin(self, *words: str) -> subprocess.Popen[str]:
        """Start a command of virsh; ``finish`` waits for it."""
        command = ["virsh", "-c", self.uri, *words]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def finish(self, command: subprocess.Popen[str], unless: str = "") -> str:
        """What the command said; fails the test unless it went well, or said this."""
        said, _ = command.communicate(timeout=PATIENCE_SECONDS)
        if command.returncode and not (unless and unless in said):
            logs = [self._log, *self.folder.glob("log/qemu/*.log")]
            pytest.fail("\n".join([f"virsh: {said}", *(path.read_text(errors="replace") for path in logs)]))
        return said

    def destroy(self) -> None:
        """Ends the guest.

        1. libvirtd sends QEMU a SIGTERM, 2. its thread for QEMU's monitor sees that end, and removes a domain that was
        never defined, 3. the first one goes on, and says that there is no such domain. It is gone, as it should be.
        """
        self.finish(self.begin("destroy", "ferry"), unless="no domain with matching uuid")

    def command(self, *words: str) -> str:
        """Run one command of virsh to its good end."""
        return self.finish(self.begin(*words))

    def port(self) -> Path:
        """The socket of the guest's agent, as soon as there is one."""
        places = self.folder / "run" / "qemu" / "channel"
        self.wait_for(lambda: any(places.glob(f"*/{PORT_NAME}")), "the guest's port")
        return next(places.glob(f"*/{PORT_NAME}"))

    def daemon_log(self) -> str:
        """What libvirt kept of the daemons' output."""
        return "".join(path.read_text(errors="replace") for path in self.folder.glob("log/qemu/*-virtiofsd.log"))
