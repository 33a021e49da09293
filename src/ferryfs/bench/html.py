"""The report for people who like pictures: one HTML file with everything in it, nothing fetched from anywhere."""

from __future__ import annotations

from html import escape
from importlib.resources import files
from itertools import groupby

from ferryfs.bench import charts, report
from ferryfs.bench.results import Point, Run
from ferryfs.bench.sets import NAMES, part


def page(run: Run) -> str:
    """The whole report."""
    sets = run.sets()
    links = "".join(f'<a href="#{escape(name)}">{escape(name)}</a>' for name in ["bars", *sets])
    daemons = "".join(
        f"<li><b>{escape(name)}</b> <code>{escape(command)}</code></li>" for name, command in run.daemons.items()
    )
    commands = "".join(f"<li><code>{escape(command)}</code></li>" for command in run.commands)
    style = files("ferryfs.bench").joinpath("report.css").read_text()
    notes = "".join(f"<li>{escape(note)}</li>" for note in run.notes)
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>ferryfs bench</title><style>{style}</style></head><body>
<h1>Daemons side by side</h1>
<p class="machine">{escape(str(run.machine))} · load averages {escape(run.load)}</p>
<nav>{links}</nav>
<ul>{daemons}</ul>
<details><summary>How it was measured</summary><p>{escape(report.READING)}</p><ul>{commands}</ul></details>
{f"<details><summary>Left out</summary><ul>{notes}</ul></details>" if notes else ""}
<h2 id="bars">The bars</h2>
<p class="about">What is wanted of {escape(run.first)} beside the faster one of the others, row by row.</p>
<div class="scroll">{_bars(run)}</div>
{"".join(_section(run, name) for name in sets)}
</body></html>
"""


def _bars(run: Run) -> str:
    lines = []
    for what, wanted, state, named in report.bars(run).lines:
        kind = "bad" if state.startswith("**") else "none" if state == "not measured" else "good"
        chip = f'<span class="chip {kind}">{escape(state.strip("*"))}</span>'
        lines.append(
            f"<tr><td>{escape(what)}</td><td>{escape(wanted)}</td><td>{chip}</td><td>{escape(named)}</td></tr>"
        )
    head = "".join(f"<th>{escape(word)}</th>" for word in report.bars(run).head)
    return f'<table class="bars"><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'


def _section(run: Run, name: str) -> str:
    about = run.settings.get(name, part(name).ABOUT if name in NAMES else "")
    figures = "".join(
        f"<figure><figcaption>{escape(title)}</figcaption>{svg}</figure>" for title, svg in _plots(run, name)
    )
    tables = "".join(
        f"<h3>{escape(title)}</h3><div class=scroll>{_table(table)}</div>" for title, table in report.tables(run, name)
    )
    body = f"<details><summary>Figures</summary>{tables}</details>" if figures else tables
    return (
        f'<h2 id="{escape(name)}">{escape(name)}</h2><p class="about">{escape(about)}</p>'
        f"{f'<div class=plots>{figures}</div>' if figures else ''}{body}"
    )


def _key(names: list[str], first: int = 0) -> str:
    """Which colour is whose; ``first``: the series of the first name."""
    spans = "".join(f'<span><i class="s{i}"></i>{escape(name)}</span>' for i, name in enumerate(names, first))
    return f'<p class="key">{spans}</p>'


def _plots(run: Run, name: str) -> list[tuple[str, str]]:
    """The charts of a set, as far as it has what they show."""
    points = list(run.points(name))
    plots: list[tuple[str, str]] = []
    if name == "micro":
        cases = sorted(dict.fromkeys(point.case for point in points), key=_case_order)
        for case in cases:
            shown = [point for point in points if point.case == case]
            if "queue" not in case:
                title = f"{case} in flight" if case.isdigit() else f"{case.replace(',', ' in flight,')}"
                plots += [
                    (f"Speed, {title} (right: faster)", _ratios(run, shown, "rate")),
                    (f"Processor time of the daemon, {title} (left: less)", _ratios(run, shown, "cpu_us")),
                ]
        plots += [
            (f"Latency, {case} in flight: p50 to p99", _ranges(run, [p for p in points if p.case == case]))
            for case in ("1", "16")
            if case in cases
        ]
    if name == "head-of-line":
        plots.append(("getattr beside a load: p50 to p99", _ranges(run, points)))
    if name in ("workloads", "guest"):
        for case, group in groupby(sorted(points, key=lambda point: point.case), key=lambda point: point.case):
            shown = list(group)
            plots += [
                (f"Processor time of the daemon, {case} (left: less)", _ratios(run, shown, "daemon_s")),
                (f"Time, {case} (left: less)", _ratios(run, shown, "seconds")),
                (f"Seconds, {case}", _bars_of(run, shown, "seconds", "s")),
            ]
    if name == "cold":
        plots.append(("Reads a second", _bars_of(run, points, "rate", "/s")))
    if name == "fio":
        plots.append(("Operations a second (right: faster)", _ratios(run, points, "rate")))
    return [(title, svg) for title, svg in plots if svg]


def _case_order(case: str) -> tuple[bool, int, str]:
    words = case.split(",")
    return len(words) > 1, int(words[0]) if words[0].isdigit() else 0, case


def _ratios(run: Run, points: list[Point], metric: str) -> str:
    """Ours to each other daemon."""
    others = [name for name in run.daemons if name != run.first]
    lines = []
    for point in points:
        ours = point.cells.get(run.first)
        if ours is None or not ours.has(metric):
            continue
        found = [point.cells.get(name) for name in others]
        values = [ours.ratio(cell, metric) if cell is not None and cell.has(metric) else None for cell in found]
        if any(value is not None for value in values):
            lines.append(charts.Line(point.row, [None, *values]))
    if not lines:
        return ""
    return _key([f"to {name}" for name in others], 1) + charts.ratios(lines, metric, higher_is_better=metric == "rate")


def _ranges(run: Run, points: list[Point]) -> str:
    subjects = [name for name in run.subjects(points) if any(_latency(point, name) for point in points)]
    lines = [(point.row, [_latency(point, name) for name in subjects]) for point in points]
    return _key(subjects) + charts.ranges(lines, "latency", unit="µs") if subjects else ""


def _latency(point: Point, name: str) -> tuple[float, float] | None:
    cell = point.cells.get(name)
    return (cell.median("p50_us"), cell.median("p99_us")) if cell is not None and cell.has("p99_us") else None


def _bars_of(run: Run, points: list[Point], metric: str, unit: str) -> str:
    subjects = run.subjects(points)
    alike = len({point.case for point in points}) == 1
    lines = []
    for point in points:
        cells = [point.cells.get(name) for name in subjects]
        values = [cell.median(metric) if cell is not None and cell.has(metric) else None for cell in cells]
        if any(value is not None for value in values):
            lines.append(charts.Line(point.row if alike else f"{point.row}, {point.case}", values))
    return _key(subjects) + charts.bars(lines, metric, unit=unit) if lines else ""


def _table(table: report.Table) -> str:
    head = "".join(f"<th>{escape(word)}</th>" for word in table.head)
    body = "".join("<tr>" + "".join(_cell(word) for word in line) + "</tr>" for line in table.lines)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(word: str) -> str:
    missed = word.startswith("**")
    return f'<td class="missed">{escape(word.strip("*"))}</td>' if missed else f"<td>{escape(word)}</td>"
