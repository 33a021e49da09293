"""fio on a mount of the real Linux FUSE client: what a program that reads and writes as fast as it can gets."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ferryfs.bench.cold import evict, fill
from ferryfs.bench.mounting import mounted
from ferryfs.bench.plan import Daemon, Plan
from ferryfs.bench.results import BARE, Cell, Turn
from ferryfs.errors import SetupError

NAME: Final = "fio"
ABOUT: Final = "fio on `ferryfs mount`, each turn with a fresh daemon and mount"
MOUNTS: Final = True
FILE_BYTES: Final = 256 << 20
SECONDS: Final = 2.0
DIRECT: Final = "--allow-direct-io"


@dataclass(frozen=True, slots=True)
class Job:
    """One way of reading or writing. ``cold``: the file is not in the host's page cache; ``direct``: O_DIRECT, which
    the daemon passes on to the host.
    """

    name: str
    rw: str
    size: str
    engine: str
    depth: int = 1
    cold: bool = False
    direct: bool = False


JOBS: Final = (
    Job("randread 4k, psync, warm", "randread", "4k", "psync"),
    Job("randread 4k, psync, cold", "randread", "4k", "psync", cold=True),
    Job("randread 4k, libaio 16, O_DIRECT", "randread", "4k", "libaio", depth=16, cold=True, direct=True),
    Job("randwrite 4k, psync", "randwrite", "4k", "psync"),
    Job("randwrite 4k, libaio 16, O_DIRECT", "randwrite", "4k", "libaio", depth=16, direct=True),
    Job("read 1M, psync, warm", "read", "1m", "psync"),
    Job("read 1M, psync, cold", "read", "1m", "psync", cold=True),
    Job("write 1M, psync", "write", "1m", "psync"),
)


def names() -> list[str]:
    """The rows."""
    return [job.name for job in JOBS]


def run(plan: Plan) -> list[Cell]:
    """Every job."""
    jobs = [job for job in JOBS if plan.wants(job.name)]
    if not jobs or not plan.tool("fio", NAME):
        return []
    cells: list[Cell] = []
    with plan.folder() as share:
        file = share / "data"
        fill(file, plan.scaled(FILE_BYTES, 4 << 20))
        for job in jobs:
            subjects: list[Daemon | None] = [None, *plan.daemons]
            taken: dict[str, list[Turn]] = {daemon.name if daemon else BARE: [] for daemon in subjects}
            for order in plan.turns(subjects):
                for daemon in order:
                    taken[daemon.name if daemon else BARE].append(_turn(plan, job, daemon, file))
            found = [Cell(NAME, job.name, "", name, tuple(turns)) for name, turns in taken.items()]
            plan.progress(found)
            cells += found
    return cells


def _turn(plan: Plan, job: Job, daemon: Daemon | None, file: Path) -> Turn:
    if job.cold:
        evict(file)
    if daemon is None:
        return _fio(plan, job, file)
    with mounted(daemon, file.parent, *([DIRECT] if job.direct else [])) as mount:
        before = mount.cost()
        turn = _fio(plan, job, mount.path / file.name)
        cost = mount.cost().since(before)
    requests = float(sum(cost.requests.values()))
    return {**turn, "daemon_s": cost.daemon_s, "mount_s": cost.mount_s, "requests": requests}


def _fio(plan: Plan, job: Job, file: Path) -> Turn:
    command = [
        *("fio", "--output-format=json", "--name=job", f"--filename={file}", f"--size={file.stat().st_size}"),
        *(f"--rw={job.rw}", f"--bs={job.size}", f"--ioengine={job.engine}", f"--iodepth={job.depth}"),
        *(f"--direct={int(job.direct)}", "--invalidate=0", "--allow_file_create=0", "--time_based=1"),
        *("--randrepeat=1", "--thread", f"--runtime={max(0.1, SECONDS * min(1.0, plan.scale)) * 1000:.0f}ms"),
    ]
    done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    try:
        report: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
        side = report["jobs"][0]["read" if "read" in job.rw else "write"]
    except (ValueError, KeyError, IndexError) as error:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["it said nothing"]
        raise SetupError(f"fio failed at {job.name!r} on {file}: {last[0]}") from error
    return {"rate": float(side["iops"]), "mib_s": side["bw_bytes"] / (1 << 20)}
