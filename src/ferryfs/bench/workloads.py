"""Whole programs on a mount of the real Linux FUSE client: each turn a fresh daemon, a fresh mount, and the programs.

"bare" runs the same programs in a directory of the host. Requests are those that the client made; the processor time of
`ferryfs mount`, which takes the place of the guest's virtio driver and the monitor, is shown beside the daemon's.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ferryfs.bench import programs, trees
from ferryfs.bench.bars import ONE, SWITCHES, TREE
from ferryfs.bench.mounting import mounted
from ferryfs.bench.plan import Daemon, Plan
from ferryfs.bench.results import BARE, Cell, Turn
from ferryfs.errors import SetupError

NAME: Final = "workloads"
ABOUT: Final = "programs on `ferryfs mount`, each turn with a fresh daemon and mount; the host's page cache is warm"
MOUNTS: Final = True
CACHES: Final = ("auto", "always")
NEGATIVE_TIMEOUT: Final = "--negative-timeout=60"

Command = Sequence[str]


@dataclass(frozen=True, slots=True)
class Workload:
    """One workload in a directory of its own.

    ``fill`` makes what is there from the beginning; ``reset``, before every turn and untimed, the state that a turn
    starts from. ``commands`` are run one after the other with the directory, in the mount, as working directory.
    """

    name: str
    what: str
    fill: Callable[[Path, Plan], None]
    commands: Callable[[Plan], list[Command]]
    tools: tuple[str, ...] = ()
    reset: Callable[[Path], None] = lambda _: None


def program(name: str, *numbers: int) -> Command:
    """One of ours."""
    return (sys.executable, "-I", "-S", programs.__file__, name, *map(str, numbers))


def _two_trees(place: Path, plan: Plan) -> None:
    trees.sources(place / "a", plan.scaled(3000, 24))
    shutil.copytree(place / "a", place / "b")


def _tar(place: Path, plan: Plan) -> None:
    trees.sources(place / "packed", plan.scaled(5000, 24))
    subprocess.run(["tar", "-C", str(place), "-cf", str(place / "sources.tar"), "packed"], check=True)
    shutil.rmtree(place / "packed")


def _nothing(place: Path, _: Plan) -> None:
    place.mkdir(parents=True)


def _only(*kept: str) -> Callable[[Path], None]:
    """Removes whatever is in a directory beside these."""

    def reset(place: Path) -> None:
        for entry in place.iterdir():
            if entry.name not in kept:
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()

    return reset


WORKLOADS: Final = (
    Workload(
        "git status",
        "git status in a repository of 5,000 files",
        lambda place, plan: trees.repository(place, plan.scaled(5000, 24)),
        lambda _: [(*trees.GIT, "--no-optional-locks", "status", "--porcelain")],
        tools=("git",),
    ),
    Workload(
        "git clone",
        "git clone of it, status and fsck of the clone",
        lambda place, plan: trees.repository(place / "origin", plan.scaled(2000, 24)),
        lambda _: [
            (*trees.GIT, "clone", "-q", "--no-local", "origin", "copy"),
            (*trees.GIT, "-C", "copy", "status", "--porcelain"),
            (*trees.GIT, "-C", "copy", "fsck"),
        ],
        tools=("git",),
        reset=_only("origin"),
    ),
    Workload(
        "find",
        "find with the sizes of 30,000 files of packages",
        lambda place, plan: trees.packages(place, plan.scaled(30_000, 40)),
        lambda _: [("find", ".", "-type", "f", "-size", "+100k")],
        tools=("find",),
    ),
    Workload(
        "diff -r",
        "diff -r of two trees of 3,000 files",
        _two_trees,
        lambda _: [("diff", "-r", "a", "b")],
        tools=("diff",),
    ),
    Workload(
        "make",
        "make -j2 of a C library of 120 files with 24 headers in 6 directories",
        lambda place, plan: trees.c_project(place, plan.scaled(120, 4)),
        lambda _: [("make", "-s", "-j2")],
        tools=("make", "cc", "ar"),
        reset=trees.clean_project,
    ),
    Workload(
        "npm tree",
        "resolving and reading modules in a tree of 30,000 small files, as node does",
        lambda place, plan: trees.packages(place, plan.scaled(30_000, 40)),
        lambda _: [program("resolve")],
    ),
    Workload(
        "npm install",
        "writing 30,000 small files and removing them",
        _nothing,
        lambda plan: [program("install", plan.scaled(30_000, 40) // 5 * 5)],
        reset=_only(),
    ),
    Workload(
        "tar x",
        "extracting 5,000 files",
        _tar,
        lambda _: [("tar", "-xf", "sources.tar")],
        tools=("tar",),
        reset=_only("sources.tar"),
    ),
    Workload(
        "sqlite",
        "1,000 inserts, ten a transaction",
        _nothing,
        lambda plan: [program("inserts", plan.scaled(1000, 10))],
        reset=_only(),
    ),
    Workload(
        "postmark",
        "500 mails, 4,000 transactions",
        _nothing,
        lambda plan: [program("postmark", plan.scaled(500, 5), plan.scaled(4000, 10))],
        reset=_only(),
    ),
)


def names() -> list[str]:
    """The rows."""
    return [workload.name for workload in WORKLOADS]


def run(plan: Plan) -> list[Cell]:
    """All workloads, with each cache policy; those of the bar also with our own switches."""
    cells: list[Cell] = []
    for workload in WORKLOADS:
        if not plan.wants(workload.name) or not all(plan.tool(tool, workload.name) for tool in workload.tools):
            continue
        with plan.folder() as share:
            place = share / workload.name.replace(" ", "-")
            workload.fill(place, plan)
            _turn(plan, workload, None, share, ())  # so that no turn is the one that finds the host's cache cold
            for case, options, own in _cases(workload):
                with one_processor() if ONE in case else contextlib.nullcontext():
                    cells += _measure(plan, workload, share, case, options, own)
    return cells


def _cases(workload: Workload) -> Iterator[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    """Name, options of all daemons, options of ours only."""
    for cache in CACHES:
        yield f"cache={cache}", (f"--cache={cache}",), ()
        if workload.name in TREE:
            yield f"cache={cache}{SWITCHES}", (f"--cache={cache}",), (NEGATIVE_TIMEOUT,)
            yield f"cache={cache}{ONE}", (f"--cache={cache}",), ()
            yield f"cache={cache}{ONE}{SWITCHES}", (f"--cache={cache}",), (NEGATIVE_TIMEOUT,)


@contextlib.contextmanager
def one_processor() -> Iterator[None]:
    """Whatever is started meanwhile runs on one processor only.

    With several, each of a request's four wake-ups goes to an idle one. In a virtual machine that takes longer than all
    the rest of a small request, and says nothing of the daemon.
    """
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _measure(
    plan: Plan, workload: Workload, share: Path, case: str, options: tuple[str, ...], own: tuple[str, ...]
) -> list[Cell]:
    subjects: list[Daemon | None] = [None, *plan.daemons]
    taken: dict[str, list[Turn]] = {daemon.name if daemon else BARE: [] for daemon in subjects}
    for order in plan.turns(subjects):
        for daemon in order:
            more = (*options, *own) if daemon is plan.daemons[0] else options
            taken[daemon.name if daemon else BARE].append(_turn(plan, workload, daemon, share, more))
    cells = [Cell(NAME, workload.name, case, name, tuple(turns)) for name, turns in taken.items()]
    plan.progress(cells)
    return cells


def _turn(plan: Plan, workload: Workload, daemon: Daemon | None, share: Path, options: Sequence[str]) -> Turn:
    name = workload.name.replace(" ", "-")
    workload.reset(share / name)
    if daemon is None:
        return _timed(workload.commands(plan), share / name)
    with mounted(daemon, share, *options) as mount:
        before = mount.cost()
        turn = _timed(workload.commands(plan), mount.path / name)
        cost = mount.cost().since(before)
    return {
        **turn,
        "daemon_s": cost.daemon_s,
        "mount_s": cost.mount_s,
        "requests": float(sum(cost.requests.values())),
        **{f"n_{op}": float(count) for op, count in cost.requests.items() if count},
    }


def _timed(commands: list[Command], place: Path) -> Turn:
    environment = {**os.environ, "GIT_CONFIG_NOSYSTEM": "1", "HOME": "/nonexistent", "LC_ALL": "C"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    for command in commands:
        done = subprocess.run(
            command,
            cwd=place,
            env=environment,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or [""]
            raise SetupError(f"{command[0]} failed with status {done.returncode} in {place}: {last[0]}")
    seconds = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    own = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "programs_s": own}
