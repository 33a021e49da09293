"""A daemon's share, mounted by ``ferryfs mount`` for the time of one turn, with what it cost."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ferryfs.bench import usage
from ferryfs.bench.plan import Daemon
from ferryfs.errors import SetupError
from ferryfs.frontend import kernel
from ferryfs.frontend.control import ask

END_TIMEOUT_S: Final = 30.0
ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Cost:
    """What was used so far: processor time of daemon and mount in seconds, and requests by the name of their opcode."""

    daemon_s: float
    mount_s: float
    requests: dict[str, int]

    def since(self, before: Cost) -> Cost:
        """What was used between two moments."""
        return Cost(
            self.daemon_s - before.daemon_s,
            self.mount_s - before.mount_s,
            {name: count - before.requests.get(name, 0) for name, count in self.requests.items()},
        )


class MountedShare:
    """A mount that is there now."""

    def __init__(self, path: Path) -> None:
        self.path = path
        status = ask(str(path), "status")
        self._mount_pid = int(status["pid"])
        self._daemon_pids = usage.processes(int(status["daemon_pid"]))
        self._exit = os.pidfd_open(self._mount_pid)

    def cost(self) -> Cost:
        """Used so far."""
        requests = {str(name): int(count) for name, count in ask(str(self.path), "status")["by_opcode"].items()}
        return Cost(usage.cpu_ns(self._daemon_pids) / 1e9, usage.cpu_ns([self._mount_pid]) / 1e9, requests)

    def end(self) -> None:
        """Unmounts and waits until mount and daemon are gone, whatever state they are in."""
        with uninterrupted():
            with contextlib.suppress(OSError):
                # A program that just ended may hold it for a moment: the mount ends when that lets go.
                kernel.unmount(str(self.path), detach=True)
            ended = select.select([self._exit], [], [], END_TIMEOUT_S)[0]
            os.close(self._exit)
            if not ended:
                # Somebody holds it, or has a copy of the mount, or the daemon hangs.
                for pid in (self._mount_pid, *self._daemon_pids):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                raise SetupError(f"The mount on {self.path} did not end within {END_TIMEOUT_S:.0f} s; it was killed.")


@contextlib.contextmanager
def mounted(daemon: Daemon, share: Path, *options: str) -> Iterator[MountedShare]:
    """Starts a daemon for a share, with more options, and mounts it; all is gone afterwards, also after Ctrl-C."""
    with tempfile.TemporaryDirectory(prefix="ferryfs-bench-") as folder, contextlib.ExitStack() as stack:
        mountpoint = Path(folder) / "mnt"
        mountpoint.mkdir()
        command = [sys.executable, "-m", "ferryfs.cli.tool", "mount", "--daemon", daemon.line(share, *options)]
        with uninterrupted():
            # A session of its own: Ctrl-C in a terminal is for us, who then take the mount away in order.
            done = subprocess.run(
                [*command, f"{folder}/socket", str(mountpoint)],
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            if done.returncode:
                last = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
                raise SetupError(f"The share of {daemon.name} can't be mounted: {last[0]}")
            found = MountedShare(mountpoint)
            stack.callback(found.end)
        yield found


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Signals that end the run wait until the end of the block, which must not stop halfway. For the main thread."""
    came = []
    old = {number: signal.signal(number, lambda number, _: came.append(number)) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
    if came:
        raise KeyboardInterrupt
