"""A share, its mount, and the daemons of one kind that the mount goes to one after the other."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from daemons import daemon_command

from ferryfs.errors import PeerError
from ferryfs.frontend.control import ask
from ferryfs.guest.backend import Backend
from ferryfs.wire.vhost_user import Request
from interop.changes import Change, nothing
from interop.cutting import CuttingProxy
from interop.holdings import two_files
from interop.mounting import mounted
from interop.outcomes import REFUSED, WARNED, WRONG, Scenario, worst

# When somebody changes something: before the migration, while the source collects, when it has collected and the
# guest is about to be stopped, between save and load; or in the destination's own directory, before the migration.
BEFORE, COLLECTING, COLLECTED, SAVED, THERE = MOMENTS = ("before", "collecting", "collected", "saved", "there")

COLLECT_S = 0.2
# Starts a daemon that serves a directory with these options.
Start = Callable[[Sequence[str], Path, Sequence[str]], Backend]


class Stage:
    """Set up, and then one line after the other is played on it. ``options`` are those of all daemons."""

    def __init__(self, daemon: str, folder: Path, start: Start, options: Sequence[str]) -> None:
        self._daemon = daemon
        self._folder = folder
        self._start = start
        self._count = 0
        self._proxies = ExitStack()
        self._started: list[Backend] = []
        self._options = ["--sandbox=none", "--modcaps=+dac_read_search", *options]
        self.share = folder / "share"
        self.mountpoint = folder / "mount"

    @contextmanager
    def set_up(self) -> Iterator[None]:
        for path in (self.share, self.mountpoint):
            path.mkdir(exist_ok=True)
        # A daemon is reached through its proxy as long as it serves the mount.
        with self._proxies:
            self._source, path = self._serve(self.share)
            with mounted(path, self.mountpoint):
                yield
        # Each ends by itself when its front-end has gone; a signal in the middle of that would change its status.
        for daemon in self._started:
            daemon.wait()

    def _serve(self, directory: Path) -> tuple[CuttingProxy, Path]:
        """A new daemon behind a proxy, and where that listens."""
        backend = self._start(daemon_command(self._daemon), directory, self._options)
        path = self._folder / f"proxy{len(self._started)}"
        self._started.append(backend)
        return self._proxies.enter_context(CuttingProxy(path, backend.socket)), path

    def target_log(self) -> str:
        """What the last destination has said."""
        return self._started[-1].log_text()

    def play(
        self,
        scenarios: Sequence[Scenario] = (two_files,),
        change: Change = nothing,
        moment: str = BEFORE,
        *,
        by_guest: bool = False,
        arrive: Callable[[], Path] | None = None,
    ) -> list[str]:
        """What becomes of each in one move. A refusal counts as such only when the source has it right afterwards.

        ``change`` is what somebody does in the folder of the first, ``by_guest`` through the mount. ``arrive`` makes
        what the destination serves when the guest holds what it holds.
        """
        self._count += 1
        names = [f"line{self._count}-{number}" for number in range(len(scenarios))]
        with _closing() as stack:
            stack.callback(unmount_below, self.share)
            held = []
            for name, scenario in zip(names, scenarios, strict=True):
                host = self.share / name
                host.mkdir()
                held.append(scenario(self.mountpoint / name, host, stack))

            def act(root: Path = self.mountpoint if by_guest else self.share) -> None:
                change(root / names[0])

            if moment == BEFORE:
                act()
            served = arrive() if arrive else self.share
            if not os.path.samefile(served, self.share):
                for name, one in zip(names, held, strict=True):
                    one.copied(served / name)
            if moment == THERE:
                act(served)
            target, path = self._serve(served)
            if moment == SAVED:
                target.before[Request.SET_DEVICE_STATE_FD] = act
            if moment == COLLECTED:
                self._source.before[Request.SET_VRING_ENABLE] = act
            if moment == COLLECTING:
                timer = threading.Timer(COLLECT_S / 2, act)
                timer.start()
                stack.callback(timer.join)
            collect_s = COLLECT_S if moment in (COLLECTING, COLLECTED) else 0.1
            try:
                ask(str(self.mountpoint), "migrate", {"destination": str(path), "collect_s": collect_s})
            except PeerError:
                return [worst([REFUSED, one.judge()]) for one in held]
            self._source = target
            for one in held:
                one.arrived()
            warned = "changed at another time than the source's" in self.target_log()
            return [WARNED if outcome == WRONG and warned else outcome for outcome in (one.judge() for one in held)]


@contextmanager
def _closing() -> Iterator[ExitStack]:
    """Lets go of what the guest holds. What became of it was judged: closing a file that was lost says so once more."""
    stack = ExitStack()
    try:
        yield stack
    finally:
        with suppress(OSError):
            stack.close()


def unmount_below(folder: Path) -> None:
    """What a line has mounted in the share goes with it."""
    for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
        where = line.split()[1]
        if where.startswith(f"{folder}/"):
            subprocess.run(["umount", "--lazy", where], check=True)
