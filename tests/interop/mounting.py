"""`ferryfs mount` as a user runs it, for tests: started, waited for, unmounted, and nothing may be left of it."""

from __future__ import annotations

import os
import select
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from ferryfs.frontend.control import ask, control_path
from ferryfs.guest.backend import own_daemon, reference_daemon

PATIENCE_SECONDS = 60.0

Command = tuple[str, ...]

needs_fuse = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mount(2) needs root"),
    pytest.mark.skipif(not Path("/dev/fuse").exists(), reason="there is no /dev/fuse here: modprobe fuse"),
]

NAMES = ("ferryfsd", "virtiofsd-1.13.2", "virtiofsd-1.14.0")


def daemon_command(name: str) -> Command:
    """How to start the daemon of that name; skips the test when it was not fetched."""
    if name == "ferryfsd":
        return own_daemon()
    command = reference_daemon(name.removeprefix("virtiofsd-"))
    if command is None:
        pytest.skip(f"{name} is not here: scripts/peers fetches it")
    return command


def daemon_line(name: str, shared: Path, *options: str) -> str:
    """What --daemon takes."""
    return shlex.join([*daemon_command(name), "--shared-dir", str(shared), "--sandbox=none", *options])


def ferryfs(*words: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs the operator's command to its end."""
    command = [sys.executable, "-m", "ferryfs.cli.tool", *map(str, words)]
    done = subprocess.run(
        command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    if check and done.returncode:
        pytest.fail(f"{shlex.join(command)} ended with status {done.returncode}: {done.stderr}")
    return done


@contextmanager
def mounted(socket: Path, mountpoint: Path, *options: str) -> Iterator[Path]:
    """A mount in the background; unmounted by umount(8) afterwards, whatever happened."""
    ferryfs("mount", *options, socket, mountpoint)
    with ExitStack() as stack:
        process = os.pidfd_open(ask(str(mountpoint), "status")["pid"])
        stack.callback(os.close, process)
        try:
            yield mountpoint
        finally:
            status = subprocess.run(["umount", mountpoint], check=False).returncode
            if status:
                subprocess.run(["umount", "--lazy", mountpoint], check=False)
            ended = select.select([process], [], [], PATIENCE_SECONDS)[0]
    assert status == 0
    assert ended, "the process of the mount goes on after the unmount"
    # A failure leaves its log there; the suite's own rules look for processes and mounts.
    assert not control_path(str(mountpoint)).with_suffix(".log").exists()
