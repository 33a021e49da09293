"""The report for people who like pictures: one HTML file with everything in it. Needs pygal (the extra "bench")."""

from __future__ import annotations

import html
import importlib
from typing import Any, Final

from ferryfs.bench import report
from ferryfs.bench.measure import Cell
from ferryfs.errors import SetupError

STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; color: #222 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .15em .7em; text-align: right }
th:first-child, td:first-child { text-align: left } tr:nth-child(even) { background: #f4f4f4 }
.missed { color: #b00; font-weight: bold } .plots { display: flex; flex-wrap: wrap } .plots > div { flex: 1 1 34em }
"""


def page(run: report.Run) -> str:
    """The whole report. Raises SetupError where pygal is missing."""
    depths = dict.fromkeys(cell.in_flight for cell in run.cells)
    plots = [_relative(run, depth, field) for depth in depths for field in ("rate", "cpu_us")]
    sections = [
        ("Operations a second", report.rates(run)),
        ("Processor time of the daemon, µs an operation", report.costs(run)),
        ("Latency of a request, µs: p50 / p99 / p99.9", report.latencies(run)),
        ("Memory (RssAnon) and start", report.memory(run)),
    ]
    tables = "\n".join(f"<h2>{html.escape(title)}</h2>\n{_table(text)}" for title, text in sections)
    daemons = "".join(
        f"<li><b>{html.escape(name)}</b>: <code>{html.escape(command)}</code></li>"
        for name, command in run.daemons.items()
    )
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>ferryfs bench</title><style>{STYLE}</style></head><body>
<h1>Daemons side by side</h1>
<p>{html.escape(str(run.machine))}; load averages {html.escape(run.load)}; {run.rounds} turns of {run.seconds} s each,
in alternation; the front-end {"polls" if run.polling else "sleeps while it waits"}.</p>
<p><code>{html.escape(run.command)}</code></p><ul>{daemons}</ul>
<div class="plots">{"".join(f"<div>{plot}</div>" for plot in plots)}</div>
{tables}
</body></html>
"""


def _relative(run: report.Run, depth: int, field: str) -> str:
    """A chart of the first daemon against each other one, row by row, at one depth."""
    try:
        pygal: Any = importlib.import_module("pygal")
    except ModuleNotFoundError as error:
        raise SetupError(
            "The HTML report needs pygal, which is missing: pip install 'ferryfs[bench]', or leave out --html."
        ) from error
    first, *others = run.daemons
    points = [cells for cells in run.points() if cells[0].in_flight == depth]
    what = "Rate" if field == "rate" else "Processor time an operation"
    chart: Any = pygal.HorizontalBar(
        title=f"{what} of {first}, {depth} in flight (1 = the same as the other)",
        height=max(260, 26 * len(points) * max(1, len(others))),
        disable_xml_declaration=True,
        js=[],
        legend_at_bottom=True,
        print_values=True,
        formatter=lambda value: f"{value:.2f}",
    )
    chart.x_labels = [cells[0].row for cells in points]
    for name in others:
        chart.add(f"to {name}", [_ratio(cells, name, field) for cells in points])
    text: str = chart.render(is_unicode=True)
    return text


def _ratio(cells: list[Cell], name: str, field: str) -> float | None:
    other = next((cell for cell in cells if cell.daemon == name), None)
    return None if other is None else round(cells[0].ratio(other, field), 3)


def _table(markdown: str) -> str:
    lines = [[word.strip() for word in line.strip("| ").split("|")] for line in markdown.splitlines()]
    head, _, *body = lines
    rows = ["".join(f"<th>{html.escape(word)}</th>" for word in head)]
    rows += ["".join(_cell(word) for word in line) for line in body]
    return "<table>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</table>"


def _cell(word: str) -> str:
    missed = word.startswith("**")
    return f'<td class="missed">{html.escape(word.strip("*"))}</td>' if missed else f"<td>{html.escape(word)}</td>"
