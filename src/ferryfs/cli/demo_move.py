"""The second half of the demo: the guest moves to another QEMU and daemon while it works, and everything is checked."""

from __future__ import annotations

import contextlib
import shlex
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from ferryfs.cli import demo_report
from ferryfs.cli.demo_timeline import Timeline, as_text, timeline
from ferryfs.errors import PeerError, SetupError
from ferryfs.guest import moving
from ferryfs.guest.backend import Backend
from ferryfs.guest.busy import NAMES, BusyGuest, fill
from ferryfs.guest.machine import Guest

WATCH_SECONDS = 0.002
# How long the writer works before the move and after it.
WORK_SECONDS = 0.3


class Step(Protocol):
    """Tells of a step: the side that acts, and what it does; gives a list that takes what is shown below."""

    def __call__(self, side: str, text: str) -> contextlib.AbstractContextManager[list[str]]: ...


@dataclass(frozen=True, slots=True)
class Side:
    """A QEMU and the daemon that serves it."""

    guest: Guest
    backend: Backend


class Watch:
    """Notes when a file grew, as seen on the host every two milliseconds; use it as a context manager."""

    def __init__(self, path: Path) -> None:
        self.times: list[float] = []
        self._path = path
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        size = -1
        while not self._end.wait(WATCH_SECONDS):
            now = self._path.stat().st_size if self._path.exists() else 0
            if now != size:
                self.times.append(time.time())
                size = now

    def wait_more(self, seconds: float) -> None:
        """Return when the file still grew after that time.

        :raises PeerError: it does not grow any more.
        """
        deadline = time.time() + seconds
        while not self.times or self.times[-1] < deadline:
            if self._end.wait(WATCH_SECONDS) or time.time() > deadline + moving.MOVE_TIMEOUT:
                raise PeerError(f"the guest's writer has stopped: {self._path} does not grow any more.")


def move(step: Step, source: Side, start_destination: Callable[[], Side], shared: Path, report: Path) -> Side:
    """Move the guest of ``source``, which has ``shared`` mounted, while it works; write the report; return where it is.

    :raises FerryError: it does not arrive, or something is not as it was; the text says what.
    """
    with step("host", f"makes a directory of {len(NAMES)} files, and a file to read from"):
        fill(shared)
    with step("guest", "starts two programs that will not notice the move") as shown:
        busy = BusyGuest(source.guest, shared)
        shown.append(
            "one reads a file, writes to another one that has no name any more, appends to a third,\n"
            f"and is in the middle of listing the {len(NAMES)} files; the other one writes and checks, on and on"
        )
    with Watch(shared / "log") as watch:
        watch.wait_more(WORK_SECONDS)
        destination = start_destination()
        with step("host", "moves the guest to the other QEMU, by `migrate` in the first one's monitor") as shown:
            moved = moving.move(source.guest, destination.guest)
            shown.append(f"QEMU says: {moved.memory / 1e6:.1f} MB of memory sent, {moved.downtime} ms of downtime")
        with step("guest", "goes on at the destination, with all that it has open"):
            watch.wait_more(WORK_SECONDS)
            busy.look(destination.guest, "moved")
    with step("host", "ends the first QEMU; its daemon ends by itself"):
        source.guest.stop()
        _ended_well(source.backend)
    with step("guest", "ends its programs; what they saw is compared with what the host has") as shown:
        rounds = busy.end(destination.guest)
        proof = _proof(rounds)
        shown.extend(proof)
    found = timeline(
        source.guest.monitor.history,
        destination.guest.monitor.history,
        source.backend.log_text(),
        destination.backend.log_text(),
        watch.times,
    )
    with step("host", "puts QEMU's events and the daemons' logs together") as shown:
        shown.append(as_text(found))
        _write(report, _page(found, source, destination, moved, rounds, proof))
    return destination


def _ended_well(backend: Backend) -> None:
    if status := backend.wait():
        raise PeerError(f"the daemon ended with status {status}: {backend.log_text().strip()}")


def _proof(rounds: int) -> list[str]:
    return [
        "the open file was read to its end, no line lost or repeated, from where it was before the move",
        "the unlinked file has all that was written to it before and after, and still no name",
        "the appended file has each word once, in order",
        f"the half-read directory was listed to its end: each of {len(NAMES)} names exactly once",
        f"the writer wrote, renamed and read back {rounds} times without an error, and the host has every line",
    ]


def _page(found: Timeline, source: Side, destination: Side, moved: moving.Moved, rounds: int, proof: list[str]) -> str:
    version = destination.guest.monitor.execute("query-version")["qemu"]
    figures = {
        "downtime, from stop to first instruction": f"{found.downtime_ms:.0f} ms",
        "pause of the writer, as the host saw it": f"{found.pause_ms:.0f} ms",
        "the whole migration": f"{found.end:.2f} s",
        "guest memory sent": f"{moved.memory / 1e6:.0f} MB",
        "rounds of the writer": f"{rounds}",
    }
    machine = {
        "daemon, source": shlex.join(source.backend.command),
        "daemon, destination": shlex.join(destination.backend.command),
        "QEMU": f"{version['major']}.{version['minor']}.{version['micro']}, {source.guest.machine.accelerator}",
        "guest": f"{source.guest.machine.kernel.name}, {source.guest.machine.cpus} processors, "
        f"{source.guest.machine.memory} MiB",
    }
    lead = (
        "A Linux guest with open files, an unlinked open file, a half-read directory and a busy writer went from one "
        "QEMU and ferryfsd to another, on this machine."
    )
    return demo_report.page(found, figures, proof, machine, lead)


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SetupError(
            f"the report can't be written to {path}: {error.strerror}; name another file with --report."
        ) from error
