"""Requests that should not be there: what the real client asks a daemon where it could know the answer already."""

from __future__ import annotations

import subprocess
from typing import Final

from ferryfs.bench.mounting import mounted
from ferryfs.bench.plan import Plan
from ferryfs.bench.results import Cell
from ferryfs.bench.workloads import NEGATIVE_TIMEOUT, program

NAME: Final = "requests"
ABOUT: Final = "requests that the real client makes for each operation of a program"
MOUNTS: Final = True
TIMES: Final = 1000
# Row, program, the request that should not be there, options of the daemon that is looked at.
ROWS: Final = (
    ("lookup miss", "misses", "LOOKUP", (NEGATIVE_TIMEOUT,)),
    ("close after reading", "closes", "FLUSH", ()),
)


def names() -> list[str]:
    """The rows."""
    return [row for row, *_ in ROWS]


def run(plan: Plan) -> list[Cell]:
    """Counts; once is enough for what is not timed."""
    cells: list[Cell] = []
    for row, name, op, options in ROWS:
        if not plan.wants(row):
            continue
        times = plan.scaled(TIMES, 100)
        with plan.folder() as share:
            (share / "file").write_bytes(bytes(100))
            found = []
            for daemon in plan.daemons:
                more = options if daemon is plan.daemons[0] else ()
                with mounted(daemon, share, *more) as mount:
                    # A first turn, because what is asked once for all is not what is counted.
                    for count in (2, times):
                        before = mount.cost()
                        subprocess.run(program(name, count), cwd=mount.path, check=True)
                        asked = mount.cost().since(before).requests
                turn = {"requests_each": asked.get(op, 0) / times, "all_requests_each": sum(asked.values()) / times}
                found.append(Cell(NAME, row, " ".join(options) or "default", daemon.name, (turn,)))
        plan.progress(found)
        cells += found
    return cells
