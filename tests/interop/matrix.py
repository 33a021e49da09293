"""Every way to migrate, to every sort of directory, after every change there: what may come of it, and what does.

Run as a program (``python -m interop.matrix [--place N] [--few] DAEMON …``) it prints the tables of
docs/migration-scenarios.md.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path

from daemons import StartDaemon
from leaks import keep_apart

from ferryfs.guest.backend import Backend
from interop.places import BOUND, CLONE, COPY, FAR_COPY, FRESH, PLACES, SAME, place
from interop.scenarios import (
    CARRIED,
    FAILED,
    MODES,
    REFUSED,
    RIGHT,
    WARNED,
    Both,
    Stage,
    nothing,
    renames,
    replaces,
    title,
    unlinks,
    unlinks_and_recreates,
)

ON_ERROR = ("abort", "guest-error")
CHECKS = ("", "verify", "confirm", "verify and confirm")
CHANGES: tuple[Callable[[Path], None], ...] = (nothing, renames, replaces, unlinks_and_recreates, unlinks)
SWITCHES = {"verify": "--migration-verify-handles", "confirm": "--migration-confirm-paths"}


@dataclass(frozen=True)
class Case:
    """One cell. The change is made in the destination's directory, before the migration."""

    mode: str
    on_error: str
    checks: str
    place: str
    change: Callable[[Path], None]

    @property
    def options(self) -> list[str]:
        switches = [switch for word, switch in SWITCHES.items() if word in self.checks]
        return [f"--migration-on-error={self.on_error}", *switches]

    def __str__(self) -> str:
        return ", ".join(filter(None, (self.mode, self.on_error, self.checks, self.place, title(self.change))))


def expected(case: Case) -> tuple[str, ...]:
    """What ferryfsd may do with it. Several only where it says why."""
    lost = REFUSED if case.on_error == "abort" else FAILED
    if case.place in (SAME, BOUND):
        # Whatever was done to the name: what is open is found by its handle, or travels.
        return (RIGHT,)
    if case.mode == "file-handles" and case.place != CLONE:
        # Whatever on-error says: handles mean nothing there.
        return (REFUSED,)
    if "verify" in case.checks and case.place in (COPY, FAR_COPY):
        # The root's handle differs, which the source wanted to be noticed.
        return (REFUSED,)
    if "verify" in case.checks and case.place == FRESH:
        # There the root's handle is equal, and those of files are not.
        return (lost,)
    if case.change is nothing:
        return (CARRIED,)
    if case.mode == "file-handles":
        # The clone's file is open in this test, so that its handle is good whatever became of its name.
        return (CARRIED,)
    if case.change is replaces and case.place != CLONE:
        # Type and size are all there is to compare; the time of change is a warning.
        return (WARNED,)
    return (lost,)


def every_case(places: Sequence[str] = PLACES, checks: Sequence[str] = CHECKS) -> Iterator[Case]:
    for where, mode, on_error, check, change in itertools.product(places, MODES, ON_ERROR, checks, CHANGES):
        # The checks are about paths: both daemons refuse them with the other mode.
        if mode == "find-paths" or not check:
            yield Case(mode, on_error, check, where, change)


def pairwise(cases: Sequence[Case]) -> list[Case]:
    """As few of them as have every pair of values; always the same ones."""
    names = [field.name for field in fields(Case)]

    def pairs(case: Case) -> set[tuple[str, object, str, object]]:
        return {(a, getattr(case, a), b, getattr(case, b)) for a, b in itertools.combinations(names, 2)}

    shuffled = list(cases)
    random.Random(3).shuffle(shuffled)
    left = set().union(*map(pairs, shuffled))
    chosen = []
    while left:
        best = max(shuffled, key=lambda case: len(pairs(case) & left))
        chosen.append(best)
        left -= pairs(best)
    return chosen


def play(case: Case, daemon: str, folder: Path, start: StartDaemon) -> str:
    """Its outcome, with a mount and daemons of its own."""
    with place(case.place, folder) as (share, arrive):
        stage = Stage(daemon, case.mode, folder, start, case.options)
        stage.share = share
        with stage.set_up():
            return stage.play(Both, case.change, "there", arrive)


def _alone(case: Case, daemon: str) -> str:
    with tempfile.TemporaryDirectory(prefix="ferryfs-matrix-") as name, ExitStack() as running:

        def start(
            command: Sequence[str],
            shared: Path,
            options: Sequence[str] = (),
            *,
            socket: Path | None = None,
            allowed: Sequence[str] = (),
        ) -> Backend:
            # Not judged by its exit status: the outcome of the line is what counts here.
            target = Path(name) / "target"
            return running.enter_context(Backend(command, shared, target, target.with_suffix(".log"), options))

        return play(case, daemon, Path(name), start)


def main() -> None:
    """Prints a table in Markdown for each sort of directory."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("daemons", nargs="*", default=["ferryfsd"], metavar="DAEMON")
    parser.add_argument("--place", type=int, action="append", choices=range(len(PLACES)), help="only this one")
    parser.add_argument("--few", action="store_true", help="only without checks, and with verify")
    arguments = parser.parse_args()
    keep_apart()
    os.umask(0o022)
    for where in [PLACES[number] for number in arguments.place or range(len(PLACES))]:
        print(f"\n### To {where}\n\n| mode, on-error, checks | {' | '.join(map(title, CHANGES))} |")
        print(f"|---|{'---|' * len(CHANGES)}")
        cases = every_case([where], CHECKS[:2] if arguments.few else CHECKS)
        for words, line in itertools.groupby(cases, key=lambda case: (case.mode, case.on_error, case.checks or "none")):
            cells = []
            for case in line:
                outcomes = [_alone(case, daemon) for daemon in arguments.daemons]
                cells.append(outcomes[0] if len(set(outcomes)) == 1 else " / ".join(outcomes))
            print(f"| {', '.join(words)} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
