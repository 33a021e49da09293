"""The bars: what ferryfs is meant to reach beside the faster one of its anchors, as a table, and who reaches it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from ferryfs.bench.results import BARE, WOKEN, Cell, Point, Run
from ferryfs.bench.rows import ROWS

BULK: Final = {row.name for row in ROWS if row.bytes >= 128 << 10}
CHEAP: Final = ("getattr", "lookup hit", "readlink", "read 4k", "write 4k")
TREE: Final = ("git status", "find", "diff -r", "make", "npm tree")
SWITCHES: Final = ", switches"
"""What the case of a workload ends with that was run with --negative-timeout."""
ONE: Final = ", one processor"
"""What is in the case of a workload whose program, mount and daemon share one processor."""
LAZY: Final = " lazy"
"""What the row of a migration ends with whose destination has --migration-restore=lazy."""
MANY_INODES: Final = 100_000
BARE_SHARE_MOST: Final = 0.3
FRONT_END_MOST: Final = 0.85


@dataclass(frozen=True, slots=True)
class Check:
    """One place that a bar speaks of: what was reached there, and what is wanted."""

    where: str
    value: float
    limit: float
    at_least: bool

    @property
    def holds(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    @property
    def margin(self) -> float:
        """How far on the good side it is: 1 on the line, below 1 missed."""
        if self.at_least:
            return self.value / self.limit if self.limit else float(self.holds)
        return self.limit / self.value if self.value else 2.0


@dataclass(frozen=True, slots=True)
class Bar:
    """One line of the table: what is wanted, in words, and the checks that a run allows."""

    what: str
    wanted: str
    checks: Callable[[Run], Iterator[Check]]


def bare_share(point: Point, first: str) -> float | None:
    """The part of the faster anchor's processor time that is bare system calls; None where it was not measured."""
    anchor, bare = point.fastest(first, "cpu_us", lowest=True), point.cells.get(BARE)
    if anchor is None or bare is None or not bare.has("cpu_us"):
        return None
    return bare.median("cpu_us") / anchor.median("cpu_us")


def _pairs(run: Run, of: str, metric: str, *, lowest: bool) -> Iterator[tuple[Point, Cell, Cell]]:
    """Ours and the best anchor's cell at every point that has both."""
    for point in run.points(of):
        ours, anchor = point.cells.get(run.first), point.fastest(run.first, metric, lowest=lowest)
        if ours is not None and anchor is not None and ours.has(metric):
            yield point, ours, anchor


def _at(point: Point) -> str:
    return f"{point.row}, {point.case}"


def _above_bare(run: Run) -> Iterator[Check]:
    for point, ours, anchor in _pairs(run, "micro", "cpu_us", lowest=True):
        bare = point.cells.get(BARE)
        if point.case != "16" or point.row in BULK or bare is None:
            continue
        theirs = anchor.median("cpu_us") - bare.median("cpu_us")
        if theirs > 0:
            yield Check(point.row, (ours.median("cpu_us") - bare.median("cpu_us")) / theirs, 0.3, at_least=False)


def _total_cpu(run: Run) -> Iterator[Check]:
    for point, ours, anchor in _pairs(run, "micro", "cpu_us", lowest=True):
        if point.case == "16" and point.row in CHEAP:
            yield Check(point.row, ours.ratio(anchor, "cpu_us"), 0.5, at_least=False)


def _rate_alone(run: Run) -> Iterator[Check]:
    for point, ours, anchor in _pairs(run, "micro", "rate", lowest=False):
        if point.case == "1" and point.row not in BULK:
            share = bare_share(point, run.first)
            limit = 1.1 if share is not None and share < BARE_SHARE_MOST else 1.0
            yield Check(point.row, ours.ratio(anchor, "rate"), limit, at_least=True)


def _rate_many(run: Run) -> Iterator[Check]:
    for point, ours, anchor in _pairs(run, "micro", "rate", lowest=False):
        share = bare_share(point, run.first)
        limited = ours.has("front_end_share") and ours.median("front_end_share") > FRONT_END_MOST
        if point.case in ("16", "32") and share is not None and share < BARE_SHARE_MOST and not limited:
            yield Check(_at(point), ours.ratio(anchor, "rate"), 1.5, at_least=True)


def _queues(run: Run) -> Iterator[Check]:
    for point in run.points("micro"):
        if point.case != "16, 2 queues":
            continue
        one = run.point("micro", point.row, "16, 1 queue")
        if one is not None:
            ratio = point.cells[run.first].ratio(one.cells[run.first], "cpu_us")
            yield Check(point.row, ratio, 1.1, at_least=False)


def _bulk_rate(run: Run) -> Iterator[Check]:
    for point, ours, anchor in _pairs(run, "micro", "rate", lowest=False):
        if point.row in BULK:
            yield Check(_at(point), ours.ratio(anchor, "rate"), 0.97, at_least=True)


def _bulk_cpu(run: Run) -> Iterator[Check]:
    for point, ours, anchor in _pairs(run, "micro", "cpu_us", lowest=True):
        if point.row in BULK:
            yield Check(_at(point), ours.ratio(anchor, "cpu_us"), 1.0, at_least=False)


def _no_requests(run: Run) -> Iterator[Check]:
    for point in run.points("requests"):
        ours = point.cells.get(run.first)
        if ours is not None and ours.has("requests_each"):
            yield Check(_at(point), ours.median("requests_each"), 0.01, at_least=False)


def _trees(run: Run, *, switches: bool, one: bool = False) -> Iterator[Check]:
    for point, ours, anchor in _pairs(run, "workloads", "seconds", lowest=True):
        if point.row in TREE and point.case.endswith(SWITCHES) is switches and (ONE in point.case) is one:
            yield Check(_at(point), 1 / ours.ratio(anchor, "seconds"), 1.5 if switches else 1.3, at_least=True)


def _cold_read(run: Run) -> Iterator[Check]:
    for point, ours, anchor in _pairs(run, "cold", "rate", lowest=False):
        if point.case == "16":
            yield Check(point.row, ours.ratio(anchor, "rate"), 3.0, at_least=True)


def _head_of_line(run: Run, beside: str) -> Iterator[Check]:
    for point in run.points("head-of-line"):
        ours, bare = point.cells.get(run.first), point.cells.get(beside)
        if ours is not None and bare is not None:
            yield Check(point.row, ours.ratio(bare, "p99_us"), 2.0, at_least=False)


def _of_scale(run: Run, metric: str, limit: float) -> Iterator[Check]:
    for of in ("scale", "start"):
        for point in run.points(of):
            ours = point.cells.get(run.first)
            if ours is not None and ours.has(metric):
                yield Check(_at(point), ours.median(metric), limit, at_least=False)


def _migration(run: Run, metric: str, limit: float, *, lazy: bool = False) -> Iterator[Check]:
    for point, ours, anchor in _pairs(run, "migration", metric, lowest=True):
        if point.row.endswith(LAZY) is lazy and int(point.case.replace(",", "")) >= MANY_INODES:
            yield Check(_at(point), ours.ratio(anchor, metric), limit, at_least=False)


def _collecting(run: Run) -> Iterator[Check]:
    """By paths: with file handles a reference daemon collects nothing."""
    return (check for check in _migration(run, "collect_cpu_ms", 0.1) if check.where.startswith("find-paths"))


BARS: Final = (
    Bar("processor time above the bare system calls, 16 in flight", "at most 0.3 of the faster one's", _above_bare),
    Bar("processor time of getattr, lookup hit, readlink, 4k, 16 in flight", "at most 0.5 of its", _total_cpu),
    Bar("rate with 1 in flight", "at least 1.0 times; 1.1 where less than 30 % are bare calls", _rate_alone),
    Bar("rate with 16 and 32 in flight, less than 30 % in bare calls", "at least 1.5 times", _rate_many),
    Bar("processor time with 2 queues", "at most 1.1 times that with 1", _queues),
    Bar("rate of 128k and 1M", "at least 0.97 times", _bulk_rate),
    Bar("processor time of 128k and 1M", "at most 1.0 times", _bulk_cpu),
    Bar("requests of a repeated lookup miss and of a close, each", "none", _no_requests),
    Bar(
        "git status, find, diff -r, make, npm tree: speed",
        "at least 1.3 times",
        lambda run: _trees(run, switches=False),
    ),
    Bar("the same with --negative-timeout", "at least 1.5 times", lambda run: _trees(run, switches=True)),
    Bar(
        "git status, … with program, mount and daemon on one processor",
        "at least 1.3 times",
        lambda run: _trees(run, switches=False, one=True),
    ),
    Bar(
        "the same with --negative-timeout, on one processor",
        "at least 1.5 times",
        lambda run: _trees(run, switches=True, one=True),
    ),
    Bar("cold random reads, 16 in flight: rate", "at least 3 times", _cold_read),
    Bar(
        "p99 of getattr beside a busy neighbour",
        "at most 2 times that of a bare statx thread",
        lambda run: _head_of_line(run, BARE),
    ),
    Bar(
        "the same beside a bare thread that has to be woken",
        "at most 2 times its p99",
        lambda run: _head_of_line(run, WOKEN),
    ),
    Bar("memory of an idle share, MiB", "at most 25", lambda run: _of_scale(run, "idle_mib", 25.0)),
    Bar("bytes an inode", "at most 150", lambda run: _of_scale(run, "bytes_per_inode", 150.0)),
    Bar("start to ready, ms", "at most 120", lambda run: _of_scale(run, "ready_ms", 120.0)),
    Bar("downtime of a migration", "at most a quarter", lambda run: _migration(run, "downtime_ms", 0.25)),
    Bar("the same, lazy", "at most a fifteenth", lambda run: _migration(run, "downtime_ms", 1 / 15, lazy=True)),
    Bar("processor time of collecting paths", "at most a tenth", _collecting),
)
