"""A finished run: as JSON, and as tables for people."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final, Self

from ferryfs.bench.machine import Machine
from ferryfs.bench.measure import Cell, Slice
from ferryfs.errors import OptionError

FORMAT: Final = 1
CPU_BAR: Final = {"getattr": 0.5, "lookup hit": 0.5, "lookup miss": 0.5}


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that was measured in one run; ``daemons``: command by name, the first is the one looked at."""

    machine: Machine
    command: str
    load: str
    daemons: dict[str, str]
    rounds: int
    seconds: float
    polling: bool
    idle_kib: dict[str, int]
    after_kib: dict[str, int]
    ready_s: dict[str, float]
    cells: list[Cell]

    def save(self, path: Path) -> None:
        """Writes the run as JSON."""
        path.write_text(json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n")

    @classmethod
    def load_json(cls, path: Path) -> Self:
        """Reads what ``save`` wrote. Raises OptionError for any other file."""
        try:
            data = json.loads(path.read_text())
            if data.pop("format") != FORMAT:
                raise ValueError("another format")
            data["machine"] = Machine(**data["machine"])
            data["cells"] = [
                Cell(**{**cell, "slices": tuple(Slice(**one) for one in cell["slices"])}) for cell in data["cells"]
            ]
            return cls(**data)
        except OSError as error:
            raise OptionError(f"{path} can't be read: {error.strerror}.") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise OptionError(f"{path} is no run that `ferryfs bench --json` wrote: {error}.") from error

    def points(self) -> Iterator[list[Cell]]:
        """The cells of each row and depth, in the order of the daemons."""
        keys = dict.fromkeys((cell.row, cell.in_flight) for cell in self.cells)
        for key in keys:
            yield [cell for cell in self.cells if (cell.row, cell.in_flight) == key]

    def under(self, name: str, beside: list[Cell]) -> list[Cell]:
        """The cells of the daemon that was looked at, under another name, as far as they fit beside those of a new run.

        Raises OptionError where the runs can't be laid side by side: other turns, or no row in common.
        """
        first = next(iter(self.daemons))
        places = {(cell.row, cell.in_flight): len(cell.slices) for cell in beside}
        found = [
            replace(cell, daemon=name)
            for cell in self.cells
            if cell.daemon == first and places.get((cell.row, cell.in_flight)) == len(cell.slices)
        ]
        if len(found) != len(places):
            raise OptionError(
                "The earlier run lacks rows or depths of this one, or had other --rounds: give the same options."
            )
        return found


def _table(head: list[str], lines: list[list[str]]) -> str:
    rule = ["---", *["--:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, rule, *lines])


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def rates(run: Run) -> str:
    """Operations a second; the ratio is that of neighbouring turns."""
    names = list(run.daemons)
    lines = []
    for cells in run.points():
        line = [cells[0].row, str(cells[0].in_flight)]
        line += [f"{_plain(cell.median('rate'))} ±{cell.spread('rate'):.0%}" for cell in cells]
        line += [_mark(cells[0].ratio(other, "rate"), at_least=1.0) for other in cells[1:]]
        lines.append(line)
    return _table(["operation", "in flight", *names, *[f"to {name}" for name in names[1:]]], lines)


def costs(run: Run) -> str:
    """Processor time of the daemon, an operation."""
    names = list(run.daemons)
    lines = []
    for cells in run.points():
        line = [cells[0].row, str(cells[0].in_flight), *[f"{cell.median('cpu_us'):.2f}" for cell in cells]]
        bar = CPU_BAR.get(cells[0].row, 1.0)
        line += [_mark(cells[0].ratio(other, "cpu_us"), at_most=bar) for other in cells[1:]]
        line.append(f"{cells[0].median('own_cpu_us'):.2f}")
        lines.append(line)
    head = ["operation", "in flight", *names, *[f"to {name}" for name in names[1:]], "front-end"]
    return _table(head, lines)


def latencies(run: Run) -> str:
    """Microseconds from the request's queueing to its answer's being seen."""
    lines = []
    for cells in run.points():
        line = [cells[0].row, str(cells[0].in_flight)]
        line += [" / ".join(_plain(cell.median(f"{p}_us")) for p in ("p50", "p99", "p999")) for cell in cells]
        lines.append(line)
    return _table(["operation", "in flight", *run.daemons], lines)


def memory(run: Run) -> str:
    """Private memory and time to ready."""
    lines = [
        [
            name,
            f"{run.idle_kib[name] / 1024:.1f}",
            f"{run.after_kib[name] / 1024:.1f}",
            f"{run.ready_s[name] * 1000:.0f}",
        ]
        for name in run.daemons
    ]
    return _table(["daemon", "idle, MiB", "after the run, MiB", "start to socket, ms"], lines)


def _mark(value: float, *, at_least: float | None = None, at_most: float | None = None) -> str:
    good = (at_least is None or value >= at_least) and (at_most is None or value <= at_most)
    return f"{value:.2f}" if good else f"**{value:.2f}**"


def markdown(run: Run) -> str:
    """The whole run as Markdown."""
    front_end = "polls" if run.polling else "sleeps while it waits"
    daemons = "\n".join(f"* `{name}`: `{command}`" for name, command in run.daemons.items())
    return f"""\
Made by `{run.command}`

on {run.machine}; load averages {run.load}. The front-end {front_end}; {run.rounds} turns of
{run.seconds} s for each daemon at each line, in alternation. Figures are medians of the turns, ± half the distance of
the quartiles; ratios are medians over pairs of neighbouring turns. Bold: misses its bar.

{daemons}

### Operations a second (bar: at least 1.00 times)

{rates(run)}

### Processor time of the daemon, µs an operation (bar: getattr and lookup at most 0.50 times, else 1.00)

{costs(run)}

### Latency of a request, µs: p50 / p99 / p99.9

{latencies(run)}

### Memory (RssAnon) and start

{memory(run)}
"""
