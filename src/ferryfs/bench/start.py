"""Start to ready, and many daemons on one host: time until the socket takes a connection, until the first answer."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from ferryfs.bench.guest import BenchGuest
from ferryfs.bench.plan import Daemon, Plan
from ferryfs.bench.results import BARE, Cell, Turn

NAME: Final = "start"
ABOUT: Final = "start of one daemon, beside that of the bare interpreter; many daemons on one host"
MOUNTS: Final = False
ROW: Final = "one daemon"
MANY: Final = (1, 4, 16, 64)


def names() -> list[str]:
    """The rows."""
    return [ROW, "interpreter", "many daemons"]


def run(plan: Plan) -> list[Cell]:
    """Starts in turn; many daemons one kind after the other."""
    cells: list[Cell] = []
    with plan.folder() as share:
        if plan.wants(ROW):
            taken: dict[str, list[Turn]] = {daemon.name: [] for daemon in plan.daemons}
            interpreter: list[Turn] = []
            for order in plan.turns(plan.daemons):
                interpreter.append(_interpreter())
                for daemon in order:
                    taken[daemon.name].append(_start(daemon, share))
            found = [Cell(NAME, ROW, "", name, tuple(turns)) for name, turns in taken.items()]
            plan.progress(found)
            cells += [*found, Cell(NAME, "interpreter", "", BARE, tuple(interpreter))]
        if plan.wants("many daemons"):
            for count in [count for count in MANY if count == 1 or count <= 64 * plan.scale]:
                found = [
                    Cell(NAME, "many daemons", str(count), d.name, (_many(d, share, count),)) for d in plan.daemons
                ]
                plan.progress(found)
                cells += found
    return cells


def _interpreter() -> Turn:
    """What Python itself takes to start and end, as the daemon starts it: without `site` where it does so."""
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", "pass"])
    process.wait()
    return {"interpreter_ms": (time.monotonic() - began) * 1000}


def _start(daemon: Daemon, share: Path) -> Turn:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ferryfs-bench-")))
        guest = stack.enter_context(BenchGuest(daemon.name, daemon.line(share), folder))
        return {
            "ready_ms": guest.connected_s * 1000,
            "answered_ms": guest.answered_s * 1000,
            "start_cpu_ms": guest.cpu_ns() / 1e6,
            "idle_mib": guest.memory().anonymous / 1024,
        }


def _many(daemon: Daemon, share: Path, count: int) -> Turn:
    """All of them at once; memory as the kernel divides it among those that share it."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ferryfs-bench-")))
        began = time.monotonic()
        running = [
            stack.enter_context(BenchGuest(f"{daemon.name}-{i}", daemon.line(share), folder)) for i in range(count)
        ]
        seconds = time.monotonic() - began
        anonymous = sum(guest.memory().anonymous for guest in running)
        return {"each_mib": anonymous / 1024 / count, "start_each_ms": seconds * 1000 / count}
