"""Every way to migrate, to every sort of directory, after every change there: what may come of it, and what does."""

from __future__ import annotations

import itertools
import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path

from ferryfs.guest.backend import Backend
from interop.changes import CHANGES, GUEST_CHANGES, Change, nothing, renames, replaces, unlinks, unlinks_and_recreates
from interop.holdings import (
    HOLDINGS,
    OPTIONS,
    deep_and_long,
    dropped_dentries,
    hard_links,
    odd_name,
    submount,
    two_files,
    unlinked_by_the_guest,
)
from interop.outcomes import CARRIED, FAILED, REFUSED, RIGHT, WARNED, Scenario
from interop.places import BOUND, CLONE, COPY, FAR_COPY, FRESH, PLACES, SAME, place
from interop.stage import BEFORE, COLLECTING, THERE, Stage, Start

FIND_PATHS, FILE_HANDLES = MODES = ("find-paths", "file-handles")
ON_ERROR = ("abort", "guest-error")
SWITCHES = {"verify": "--migration-verify-handles", "confirm": "--migration-confirm-paths"}
CHECKS = ("", "verify", "confirm", "verify and confirm")
# What is done in the destination's directory.
CHANGES_THERE: tuple[Change, ...] = (nothing, renames, replaces, unlinks_and_recreates, unlinks)


def title(thing: object) -> str:
    """A function's name in words."""
    return str(getattr(thing, "__name__", thing)).replace("_", " ")


@dataclass(frozen=True)
class Way:
    """How a guest migrates: the daemons' options."""

    mode: str
    on_error: str = "abort"
    checks: str = ""

    @property
    def options(self) -> list[str]:
        switches = [switch for word, switch in SWITCHES.items() if word in self.checks]
        return [f"--migration-mode={self.mode}", f"--migration-on-error={self.on_error}", *switches]

    def __str__(self) -> str:
        return ", ".join((self.mode, self.on_error, self.checks or "no checks"))


# The checks are about paths: both daemons refuse them with the other mode.
WAYS = tuple(
    Way(mode, on_error, checks)
    for mode, on_error, checks in itertools.product(MODES, ON_ERROR, CHECKS)
    if mode == FIND_PATHS or not checks
)


@dataclass(frozen=True)
class Case:
    """One line: what the guest holds, what is done to it and when, and where and how it goes."""

    way: Way
    place: str = SAME
    moment: str = BEFORE
    change: Change = nothing
    by_guest: bool = False
    scenario: Scenario = two_files

    def __str__(self) -> str:
        who = "the guest " if self.by_guest else ""
        return f"{self.way}, {self.place}, {title(self.scenario)}, {self.moment}: {who}{title(self.change)}"


def expected(case: Case) -> str:
    """What ferryfsd makes of a file that somebody has changed."""
    way, change = case.way, case.change
    lost = REFUSED if way.on_error == "abort" else FAILED
    if case.place in (SAME, BOUND):
        # Whatever was done to the name: what is open is found by its handle, or travels.
        return RIGHT
    if way.mode == FILE_HANDLES and case.place != CLONE:
        # Whatever on-error says: handles mean nothing there.
        return REFUSED
    if "verify" in way.checks and case.place in (COPY, FAR_COPY):
        # The root's handle differs, which the source wanted to be noticed.
        return REFUSED
    if "verify" in way.checks and case.place == FRESH:
        # There the root's handle is equal, and those of files are not.
        return lost
    if change is nothing:
        return CARRIED
    if way.mode == FILE_HANDLES:
        # The clone's file is open in this test, so that its handle is good whatever became of its name.
        return CARRIED
    if change is replaces and case.place != CLONE:
        # Type and size are all there is to compare; the time of change is a warning.
        return WARNED
    return lost


def expected_holding(scenario: Scenario, where: str) -> str:
    """What ferryfsd makes of what a guest holds when it goes there, by paths, and what is lost is an error."""
    if scenario is submount:
        # What is mounted in the share at the source is not at the destination.
        return RIGHT if where == SAME else FAILED
    is_written = scenario in (hard_links, unlinked_by_the_guest, dropped_dentries, odd_name)
    return CARRIED if is_written and where not in (SAME, BOUND) else RIGHT


def holdings_in(where: str) -> list[Scenario]:
    """What the guest may hold when it goes there: cp(1) makes no copy of a path that is too long for a system call."""
    return [one for one in HOLDINGS if one is not deep_and_long or where not in (COPY, FAR_COPY, FRESH)]


def changes_at(moment: str) -> Iterator[tuple[Change, bool]]:
    """(what is done then in the directory that both sides serve, whether by the guest)."""
    for change in CHANGES:
        yield change, False
    # Later it is stopped.
    if moment in (BEFORE, COLLECTING):
        for change in GUEST_CHANGES:
            yield change, True


def every_place() -> Iterator[Case]:
    """Everything that may have been done in the destination's own directory."""
    for where, way, change in itertools.product(PLACES, WAYS, CHANGES_THERE):
        yield Case(way, where, THERE, change)


def pairwise(cases: Sequence[Case]) -> list[Case]:
    """As few of them as have every pair of values; always the same ones."""

    def pairs(case: Case) -> set[tuple[object, ...]]:
        values = [(one.name, getattr(part, one.name)) for part in (case, case.way) for one in fields(part)]
        return set(itertools.combinations([value for value in values if value[0] != "way"], 2))

    shuffled = list(cases)
    random.Random(3).shuffle(shuffled)
    left = set().union(*map(pairs, shuffled))
    chosen = []
    while left:
        best = max(shuffled, key=lambda case: len(pairs(case) & left))
        chosen.append(best)
        left -= pairs(best)
    return chosen


def play(case: Case, daemon: str, folder: Path, start: Start) -> str:
    """Its outcome, with a mount and daemons of its own."""
    [outcome] = play_together(case, [case.scenario], daemon, folder, start)
    return outcome


def play_together(case: Case, scenarios: Sequence[Scenario], daemon: str, folder: Path, start: Start) -> list[str]:
    """The outcome of each, all held by one guest."""
    options = [*case.way.options, *(option for one in scenarios for option in OPTIONS.get(one, ()))]
    with place(case.place, folder) as (share, arrive):
        stage = Stage(daemon, folder, start, options)
        stage.share = share
        with stage.set_up():
            return stage.play(scenarios, case.change, case.moment, by_guest=case.by_guest, arrive=arrive)


def alone(case: Case, daemon: str) -> str:
    """Its outcome, outside of a test."""
    with tempfile.TemporaryDirectory(prefix="ferryfs-matrix-") as name, ExitStack() as running:
        folder = Path(name)

        def start(command: Sequence[str], shared: Path, options: Sequence[str]) -> Backend:
            # Not judged by its exit status: the outcome of the line is what counts here.
            path = Path(tempfile.mkdtemp(dir=folder)) / "socket"
            return running.enter_context(Backend(command, shared, path, path.with_suffix(".log"), options))

        return play(case, daemon, folder, start)
