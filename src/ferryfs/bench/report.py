"""A finished run as tables for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ferryfs.bench.bars import BARS, Check, bare_share
from ferryfs.bench.results import BARE, Cell, Point, Run

MISSES_NAMED: Final = 12


@dataclass(frozen=True, slots=True)
class Table:
    """A table: words, the first column for names."""

    head: list[str]
    lines: list[list[str]]

    def markdown(self) -> str:
        rule = ["---", *["--:"] * (len(self.head) - 1)]
        return "\n".join(f"| {' | '.join(line)} |" for line in [self.head, rule, *self.lines])


@dataclass(frozen=True, slots=True)
class Column:
    """A metric and how it is shown; ``ratio``: also as ours to each anchor's, ``good``: where a higher one is good."""

    metric: str
    title: str
    ratio: bool = False
    higher_is_better: bool = False


# What is shown of each set, a table for each line.
TABLES: Final[dict[str, tuple[Column, ...]]] = {
    "micro": (
        Column("rate", "Operations a second", ratio=True, higher_is_better=True),
        Column("cpu_us", "Processor time of the daemon, µs an operation", ratio=True),
        Column("latency", "Latency of a request, µs: p50 / p99 / p99.9"),
    ),
    "cold": (Column("rate", "Reads a second", ratio=True, higher_is_better=True),),
    "requests": (Column("requests_each", "Requests for each operation of the program"),),
    "workloads": (
        Column("seconds", "Seconds", ratio=True),
        Column("daemon_s", "Processor time of the daemon, s", ratio=True),
        Column("mount_s", "Processor time of `ferryfs mount`, s"),
        Column("requests", "Requests"),
    ),
    "guest": (
        Column("daemon_s", "Processor time of the daemon, s", ratio=True),
        Column("seconds", "Seconds of the guest", ratio=True),
        Column("daemon_part", "Processor time of the daemon as a part of the guest's seconds"),
        Column("requests", "Requests"),
    ),
    "fio": (
        Column("rate", "Operations a second", ratio=True, higher_is_better=True),
        Column("daemon_s", "Processor time of the daemon, s"),
        Column("mount_s", "Processor time of `ferryfs mount`, s"),
    ),
    "head-of-line": (Column("latency", "Latency of getattr beside a load, µs: p50 / p99 / p99.9"),),
}
LATENCY: Final = ("p50_us", "p99_us", "p999_us")


def number(value: float) -> str:
    """A figure with three digits, or all of them where there are more."""
    if value == 0:
        return "0"
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def bars(run: Run) -> Table:
    """Each bar: how many places reach it, and which ones don't."""
    lines = []
    for bar in BARS:
        checks = list(bar.checks(run))
        missed = sorted((check for check in checks if not check.holds), key=lambda check: check.margin)
        if not checks:
            lines.append([bar.what, bar.wanted, "not measured", ""])
            continue
        state = f"{len(checks) - len(missed)} of {len(checks)}"
        lines.append([bar.what, bar.wanted, f"**{state}**" if missed else state, _named(checks, missed)])
    return Table(["bar", "wanted", "reached", "missed by; or the closest"], lines)


def _named(checks: list[Check], missed: list[Check]) -> str:
    if not missed:
        closest = min(checks, key=lambda check: check.margin)
        return f"{closest.where} {number(closest.value)}"
    words = [f"{check.where} {number(check.value)}" for check in missed[:MISSES_NAMED]]
    return "; ".join(words) + ("; …" if len(missed) > MISSES_NAMED else "")


def tables(run: Run, of: str) -> list[tuple[str, Table]]:
    """The tables of a set, each with its title."""
    points = list(run.points(of))
    columns = TABLES.get(of)
    if columns is None:
        metrics = dict.fromkeys(metric for point in points for cell in point.cells.values() for metric in cell.turns[0])
        return [(METRIC_TITLES.get(of, of), _by_metric(points, list(metrics)))]
    return [(column.title, _by_subject(run, points, column)) for column in columns]


METRIC_TITLES: Final = {
    "scale": "Memory and cost of many inodes",
    "start": "Start and memory of daemons",
    "migration": "Downtime and cost of a migration",
}


def _by_subject(run: Run, points: list[Point], column: Column) -> Table:
    """A column for each subject, then the ratios."""
    subjects = run.subjects(points)
    shown = [point for point in points if any(_has(cell, column.metric) for cell in point.cells.values())]
    subjects = [name for name in subjects if any(name in p.cells and _has(p.cells[name], column.metric) for p in shown)]
    others = [name for name in subjects if name not in (run.first, BARE)] if column.ratio else []
    micro_cpu = column.metric == "cpu_us"
    lines = []
    for point in shown:
        ours = point.cells.get(run.first)
        line = [point.row, point.case, *[_figure(point.cells.get(name), column) for name in subjects]]
        line += [_ratio(ours, point.cells.get(name), column) for name in others]
        if micro_cpu:
            share = bare_share(point, run.first)
            line.append("" if share is None else f"{share:.0%}")
            busy = ours is not None and ours.has("front_end_share")
            line.append(f"{ours.median('front_end_share'):.0%}" if busy and ours is not None else "")
        lines.append(line)
    head = ["row", "case", *subjects, *[f"to {name}" for name in others]]
    return Table([*head, "bare share", "front-end"] if micro_cpu else head, lines)


def _has(cell: Cell, metric: str) -> bool:
    return cell.has(LATENCY[0] if metric == "latency" else metric)


def _figure(cell: Cell | None, column: Column) -> str:
    if cell is None or not _has(cell, column.metric):
        return ""
    if column.metric == "latency":
        return " / ".join(number(cell.median(metric)) for metric in LATENCY)
    spread = f" ±{cell.spread(column.metric):.0%}" if len(cell.turns) > 1 and column.ratio else ""
    return number(cell.median(column.metric)) + spread


def _ratio(ours: Cell | None, other: Cell | None, column: Column) -> str:
    if ours is None or other is None or not ours.has(column.metric) or not other.has(column.metric):
        return ""
    value = ours.ratio(other, column.metric)
    worse = value < 1.0 if column.higher_is_better else value > 1.0
    return f"**{value:.2f}**" if worse else f"{value:.2f}"


def _by_metric(points: list[Point], metrics: list[str]) -> Table:
    """A line for each subject of each point, a column for each metric."""
    lines = [
        [point.row, point.case, name, *[number(cell.median(metric)) if cell.has(metric) else "" for metric in metrics]]
        for point in points
        for name, cell in point.cells.items()
    ]
    return Table(["row", "case", "daemon", *[_unit(metric) for metric in metrics]], lines)


def _unit(metric: str) -> str:
    name, _, unit = metric.rpartition("_")
    units = {"us": "µs", "ms": "ms", "s": "s", "mib": "MiB"}
    return f"{name.replace('_', ' ')}, {units[unit]}" if name and unit in units else metric.replace("_", " ")


READING: Final = """\
Figures are medians of the turns, ± half the distance of the quartiles; a ratio is the median over pairs of neighbouring
turns. Bold: slower or dearer than the other. "bare": the same system calls (or programs) on the same directory without
any daemon, in the same run; "bare share": their part of the faster anchor's processor time. "front-end": the processor
that the load generator used itself; near 100 % it is the limit."""


def markdown(run: Run) -> str:
    """The whole run as Markdown."""
    parts = [
        "Made by\n\n" + "\n".join(f"    {command}" for command in run.commands),
        f"on {run.machine}; load averages {run.load}.",
        "\n".join(f"* `{name}`: `{command}`" for name, command in run.daemons.items()),
        "\n".join(f"* {name}: {how}" for name, how in run.settings.items()),
        READING,
        *(["Left out:\n\n" + "\n".join(f"* {note}" for note in run.notes)] if run.notes else []),
        "### The bars",
        bars(run).markdown(),
    ]
    for of in run.sets():
        for title, table in tables(run, of):
            parts += [f"### {of}: {title}", table.markdown()]
    return "\n\n".join(parts) + "\n"
