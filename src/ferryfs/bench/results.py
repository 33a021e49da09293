"""What was measured, as data: cells of turns, and a run that goes to a file and comes back."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Self

from ferryfs.bench.machine import Machine
from ferryfs.errors import OptionError

FORMAT: Final = 2
BARE: Final = "bare"
"""The subject of a cell that no daemon had a part in: the same system calls, or programs, on the same directory."""
WOKEN: Final = "bare, woken"
"""A thread that is sent a message for each system call, and answers with one."""

Turn = dict[str, float]


@dataclass(frozen=True, slots=True)
class Cell:
    """All turns of one subject (a daemon, or BARE) at one row in one case.

    ``set``: the part of the benchmark; ``case``: what else was fixed, as requests in flight or a cache policy. A turn
    maps the names of metrics to figures; a metric's unit ends its name (``cpu_us``, ``rss_kib``), a rate has none.
    """

    set: str
    row: str
    case: str
    subject: str
    turns: tuple[Turn, ...]

    def has(self, metric: str) -> bool:
        """Whether every turn measured it."""
        return bool(self.turns) and all(metric in turn for turn in self.turns)

    def median(self, metric: str) -> float:
        """The middle of a metric over the turns."""
        return statistics.median(self.values(metric))

    def spread(self, metric: str) -> float:
        """Half the distance between the quartiles, as a part of the median."""
        values = self.values(metric)
        middle = statistics.median(values)
        if len(values) < 2 or not middle:
            return 0.0
        low, _, high = statistics.quantiles(values, n=4)
        return (high - low) / 2 / middle

    def ratio(self, other: Cell, metric: str) -> float:
        """Ours to the other's, as the median over the turns: each turn is compared with its neighbour in time."""
        pairs = zip(self.values(metric), other.values(metric), strict=True)
        return statistics.median([mine / theirs for mine, theirs in pairs if theirs] or [1.0])

    def values(self, metric: str) -> list[float]:
        """The metric in every turn."""
        return [turn[metric] for turn in self.turns]


@dataclass(frozen=True, slots=True)
class Point:
    """The cells of one row in one case, by subject."""

    set: str
    row: str
    case: str
    cells: dict[str, Cell]

    def anchors(self, first: str) -> list[Cell]:
        """The daemons that ``first`` is compared with."""
        return [cell for name, cell in self.cells.items() if name != first and not name.startswith(BARE)]

    def fastest(self, first: str, metric: str, *, lowest: bool) -> Cell | None:
        """That one of the anchors which is best at a metric."""
        candidates = [cell for cell in self.anchors(first) if cell.has(metric)]
        choose = min if lowest else max
        return choose(candidates, key=lambda cell: cell.median(metric)) if candidates else None


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that was measured; ``daemons``: command by name, the first is the one looked at.

    ``settings``: how it was measured, a sentence a set. ``notes``: what was left out, and why.
    """

    machine: Machine
    commands: list[str]
    load: str
    daemons: dict[str, str]
    settings: dict[str, str]
    cells: list[Cell]
    notes: list[str] = field(default_factory=list)

    @property
    def first(self) -> str:
        """The daemon that is looked at."""
        return next(iter(self.daemons))

    def save(self, path: Path) -> None:
        """Writes the run as JSON."""
        path.write_text(json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n")

    @classmethod
    def load_json(cls, path: Path) -> Self:
        """Reads what ``save`` wrote. Raises OptionError for any other file."""
        try:
            data: dict[str, Any] = json.loads(path.read_text())
            if data.pop("format") != FORMAT:
                raise ValueError("another format")
            data["machine"] = Machine(**data["machine"])
            data["cells"] = [Cell(**{**cell, "turns": tuple(cell["turns"])}) for cell in data["cells"]]
            return cls(**data)
        except OSError as error:
            raise OptionError(f"{path} can't be read: {error.strerror}.") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise OptionError(f"{path} is no run that `ferryfs bench --json` wrote: {error}.") from error

    def sets(self) -> list[str]:
        """The sets of which there are cells, in their order."""
        return list(dict.fromkeys(cell.set for cell in self.cells))

    def points(self, of: str) -> Iterator[Point]:
        """The cells of a set by row and case."""
        found: dict[tuple[str, str], dict[str, Cell]] = {}
        for cell in self.cells:
            if cell.set == of:
                found.setdefault((cell.row, cell.case), {})[cell.subject] = cell
        for (row, case), cells in found.items():
            yield Point(of, row, case, cells)

    def subjects(self, points: Iterable[Point]) -> list[str]:
        """Whoever has a cell there: the daemons, ours first, then what stands beside them."""
        found = dict.fromkeys(name for point in points for name in point.cells)
        return [name for name in self.daemons if name in found] + [name for name in found if name not in self.daemons]

    def point(self, of: str, row: str, case: str) -> Point | None:
        """One of them, where there is one."""
        return next((point for point in self.points(of) if (point.row, point.case) == (row, case)), None)

    def beside(self, earlier: Run, what: str) -> Run:
        """This run with the first daemon of an earlier one as "before", where both measured the same.

        Raises OptionError when they can't be laid side by side: other machines, other turns, or nothing in common.
        """
        self.machine.check_same(earlier.machine, what)
        places = {(cell.set, cell.row, cell.case): len(cell.turns) for cell in self.cells if cell.subject == self.first}
        found = [
            replace(cell, subject="before")
            for cell in earlier.cells
            if cell.subject == earlier.first and places.get((cell.set, cell.row, cell.case)) == len(cell.turns)
        ]
        if len(found) != len(places):
            raise OptionError(f"{what} lacks rows or cases of this run, or had other --rounds: give the same options.")
        daemons = self.daemons | {"before": earlier.daemons[earlier.first]}
        return replace(self, daemons=daemons, cells=[*self.cells, *found])


def join(runs: Iterable[tuple[str, Run]]) -> Run:
    """Several runs (with the files that they come from) as one; a later one's cells stand for an earlier one's of the
    same row. Raises OptionError where they are of different machines or daemons.
    """
    (_, whole), *others = runs
    for name, run in others:
        whole.machine.check_same(run.machine, name)
        if list(run.daemons) != list(whole.daemons):
            raise OptionError(f"{name} measured other daemons ({', '.join(run.daemons)}): it can't be joined.")
        new = {(cell.set, cell.row, cell.case) for cell in run.cells}
        whole = replace(
            whole,
            commands=[*whole.commands, *run.commands],
            settings=whole.settings | run.settings,
            notes=list(dict.fromkeys([*whole.notes, *run.notes])),
            cells=[cell for cell in whole.cells if (cell.set, cell.row, cell.case) not in new] + run.cells,
        )
    return whole
