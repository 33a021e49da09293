"""Migration of many cached inodes and a thousand open files: downtime, collecting, processor time, bytes, memory."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ferryfs.bench.bars import LAZY
from ferryfs.bench.guest import BenchGuest, start_daemon
from ferryfs.bench.moving import move
from ferryfs.bench.plan import Daemon, Plan
from ferryfs.bench.results import Cell, Turn
from ferryfs.errors import FerryError

NAME: Final = "migration"
ABOUT: Final = "a guest with many cached inodes (names of 16 bytes) and 1,000 open files moves to another daemon"
MOUNTS: Final = False
MODES: Final = ("find-paths", "file-handles")
INODES: Final = (10_000, 100_000, 1_000_000)
IN_FOLDER: Final = 1_000
LOAD_TURNS: Final = 2.5
"""How much longer than a turn of micro rows the guest's rate is looked at, with and without collecting."""
ONCE_FROM: Final = 1_000_000
"""With so many inodes there is one turn, whatever the plan says: a minute of one daemon."""


@dataclass(frozen=True, slots=True)
class _Subject:
    daemon: Daemon
    lazy: bool


def names() -> list[str]:
    """The rows."""
    return [row for mode in MODES for row in (mode, mode + LAZY)]


def run(plan: Plan) -> list[Cell]:
    """Each daemon moves a guest to another process of its kind, in turn; both processes are fresh."""
    cells: list[Cell] = []
    for count in sorted({plan.scaled(count, IN_FOLDER) for count in INODES}):
        with plan.folder() as share:
            folders = _tree(share, count)
            for mode in MODES:
                for found in _rows(plan, share, folders, count, mode):
                    plan.progress(found)
                    cells += found
    return cells


def _rows(plan: Plan, share: Path, folders: Sequence[str], count: int, mode: str) -> Iterator[list[Cell]]:
    """The cells of a mode. The anchors have no lazy form: their turns stand in both rows."""
    first = plan.daemons[0]
    subjects = [_Subject(daemon, False) for daemon in plan.daemons if plan.wants(mode) or daemon is not first]
    if plan.wants(mode + LAZY):
        subjects.insert(1, _Subject(first, True))
    if not (plan.wants(mode) or plan.wants(mode + LAZY)):
        return
    taken: dict[_Subject, list[Turn]] = {subject: [] for subject in subjects}
    rounds = 0
    for order in plan.turns(subjects):
        rounds += 1
        for subject in order:
            options = [f"--migration-mode={mode}", *(["--migration-restore=lazy"] if subject.lazy else [])]
            line = subject.daemon.line_for_many(share, *options)
            try:
                taken[subject].append(_turn(subject.daemon.name, line, folders, count, LOAD_TURNS * plan.seconds))
            except FerryError as error:
                plan.note(f"{subject.daemon.name}, {mode}, {count:,} inodes: {error}")
        if count >= ONCE_FROM:
            break
    for row, lazy in ((mode, False), (mode + LAZY, True)):
        found = [
            Cell(NAME, row, f"{count:,}", subject.daemon.name, tuple(turns))
            for subject, turns in taken.items()
            if len(turns) == rounds and subject.lazy is (lazy and subject.daemon is first)
        ]
        if plan.wants(row) and found:
            yield found


def _turn(name: str, line: str, folders: Sequence[str], count: int, load_s: float) -> Turn:
    with contextlib.ExitStack() as undo:
        folder = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="ferryfs-bench-")))
        guest = undo.enter_context(BenchGuest(name, line, folder))
        destination = start_daemon(line, folder / "destination.sock")
        undo.callback(destination.end)
        return move(guest, destination, folders, count, load_s)


def _tree(share: Path, count: int) -> list[str]:
    """Folders with so many files in all; every tenth has content."""
    folders = []
    for start in range(0, count, IN_FOLDER):
        folders.append(f"{start:016}")
        place = share / folders[-1]
        place.mkdir()
        for i in range(start, min(start + IN_FOLDER, count)):
            (place / f"{i:016}").write_bytes(b"%d" % i if i % 10 == 0 else b"")
    return folders
