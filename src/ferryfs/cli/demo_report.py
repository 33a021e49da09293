"""The demo's report: one HTML file with everything in it, the migration's timeline as a picture on top."""

from __future__ import annotations

import html
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from ferryfs.cli.demo_timeline import GUEST, SIDES, Span, Timeline

# The picture, in its own units.
WIDTH: Final = 1080
LABELS: Final = 170
RIGHT: Final = 24
ROW: Final = 34
BAR: Final = 22
TOP: Final = 30
TICKS_AT_MOST: Final = 9
# About the width of a letter, to see whether a text fits into its bar.
LETTER: Final = 6.4

WRITER: Final = "writer in the guest"
CLASSES: Final = {
    "stands still": "still",
    "QEMU, source": "qemu",
    "QEMU, destination": "qemu",
    "ferryfsd, source": "ferry",
    "ferryfsd, destination": "ferry",
    GUEST: "guest",
}

STYLE: Final = """
:root { color-scheme: light dark; --text: #1d2733; --soft: #5b6875; --line: #d8dee5; --page: #fff; --card: #f6f8fa;
  --guest: #2b8a57; --still: #d9480f; --qemu: #6b7f99; --ferry: #1769c2; --band: #fdeee6; --good: #2b8a57 }
@media (prefers-color-scheme: dark) { :root { --text: #e4e9ee; --soft: #9aa7b4; --line: #35404b; --page: #14191f;
  --card: #1c232b; --guest: #3fae74; --still: #f0743e; --qemu: #7388a3; --ferry: #4a9bef; --band: #33241c;
  --good: #4fc08a } }
body { font: 15px/1.55 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; color: var(--text); background: var(--page);
  max-width: 1080px; margin: 2.5em auto; padding: 0 1.2em }
h1 { font-size: 1.7em; margin: 0 } h2 { font-size: 1.15em; margin: 2em 0 .6em }
.lead { color: var(--soft); margin: .3em 0 1.6em }
.figures { display: flex; flex-wrap: wrap; gap: .8em; margin-bottom: 1.6em }
.figures div { flex: 1 1 9em; padding: .7em 1em; background: var(--card); border: 1px solid var(--line);
  border-radius: 8px }
.figures b { display: block; font-size: 1.6em; line-height: 1.2; font-variant-numeric: tabular-nums }
.figures span { color: var(--soft); font-size: .87em } .figures div:first-child b { color: var(--still) }
svg { width: 100%; height: auto; display: block } svg text { fill: var(--text); font-size: 12px }
svg .soft { fill: var(--soft) } svg .inside { fill: #fff } svg .grid { stroke: var(--line) }
svg .band { fill: var(--band) }
.guest { fill: var(--guest) } .still { fill: var(--still) } .qemu { fill: var(--qemu) }
.ferry { fill: var(--ferry) }
.writes { stroke: var(--guest); stroke-width: 1.2; opacity: .75 }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .3em .8em; border-bottom: 1px solid var(--line); vertical-align: top }
th { color: var(--soft); font-weight: 500 } .number { text-align: right; white-space: nowrap }
ul.proof { list-style: none; padding: 0 }
ul.proof li::before { content: "✓"; color: var(--good); font-weight: bold; margin-right: .6em }
code { font: .9em ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25em 1.2em }
dt { color: var(--soft) } dd { margin: 0 }
"""


def page(
    what: Timeline, figures: Mapping[str, str], proof: Sequence[str], machine: Mapping[str, str], lead: str
) -> str:
    """The whole report; ``figures`` are the large numbers below the title by what they mean."""
    margin = max((what.resumed - what.stopped) * 0.25, 0.02)
    close_begin = max(what.stopped - margin, 0.0)
    close_end = min(what.resumed + margin, what.end)
    cards = "".join(f"<div><b>{_safe(value)}</b><span>{_safe(name)}</span></div>" for name, value in figures.items())
    rows = "".join(
        f'<tr><td class="number">{1000 * span.start:.0f} ms</td><td class="number">{span.milliseconds:.0f} ms</td>'
        f"<td>{_safe(span.side)}</td><td>{_safe(span.text)}</td></tr>"
        for span in what.spans
    )
    facts = "".join(f"<dt>{_safe(name)}</dt><dd><code>{_safe(value)}</code></dd>" for name, value in machine.items())
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>A guest moves</title><style>{STYLE}</style></head><body>
<h1>A guest moves, and nothing it holds is lost</h1>
<p class="lead">{_safe(lead)}</p>
<div class="figures">{cards}</div>
<h2>The whole migration</h2>
{picture(what, 0.0, what.end)}
<h2>Around the stop</h2>
{picture(what, close_begin, close_end)}
<h2>Phases</h2>
<table><tr><th class="number">from</th><th class="number">took</th><th>who</th><th>what</th></tr>{rows}</table>
<h2>What was checked afterwards</h2>
<ul class="proof">{"".join(f"<li>{_safe(line)}</li>" for line in proof)}</ul>
<h2>How it was made</h2>
<dl>{facts}</dl>
</body></html>
"""


def _safe(text: str) -> str:
    return html.escape(text)


def picture(what: Timeline, begin: float, end: float) -> str:
    """An SVG of what happened from ``begin`` to ``end``: a row a side, the time without the guest as a band."""
    height = TOP + ROW * (len(SIDES) + 1) + 22
    across = (WIDTH - LABELS - RIGHT) / max(end - begin, 1e-6)

    def x(when: float) -> float:
        return LABELS + (min(max(when, begin), end) - begin) * across

    band = x(what.resumed) - x(what.stopped)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="Timeline of the migration">',
        f'<rect class="band" x="{x(what.stopped):.1f}" y="{TOP - 6}" width="{band:.1f}" height="{height - TOP - 14}"/>',
        *_axis(begin, end, x, height),
    ]
    for row, side in enumerate((*SIDES, WRITER)):
        middle = TOP + ROW * row + BAR / 2 + 4
        parts.append(f'<text x="{LABELS - 12}" y="{middle:.1f}" text-anchor="end">{_safe(side)}</text>')
    shown = [span for span in what.spans if span.end >= begin and span.start <= end]
    parts += [_bar(span, x(span.start), x(span.end)) for span in shown]
    y = TOP + ROW * len(SIDES) + 2
    seen = [when for when in what.writes if begin <= when <= end]
    parts += [f'<path class="writes" d="M{x(when):.1f} {y}v{BAR - 4}"/>' for when in seen]
    return "\n".join([*parts, "</svg>"])


def _bar(span: Span, left: float, right: float) -> str:
    """A bar with its text: inside where it fits, else nothing; pointing at it shows the whole."""
    y = TOP + ROW * SIDES.index(span.side)
    width = max(right - left, 2.0)
    kind = CLASSES.get(span.text) or CLASSES[span.side]
    took = f"{span.milliseconds:.0f} ms"
    label = next((one for one in (f"{span.text}, {took}", span.text, took) if len(one) * LETTER + 12 <= width), "")
    inside = f'<text class="inside" x="{left + 7:.1f}" y="{y + 15}">{_safe(label)}</text>' if label else ""
    return (
        f"<g><title>{_safe(f'{span.side} {span.text}: {took}')}</title>"
        f'<rect class="{kind}" x="{left:.1f}" y="{y}" width="{width:.1f}" height="{BAR}" rx="3"/>{inside}</g>'
    )


def _axis(begin: float, end: float, x: Callable[[float], float], height: int) -> list[str]:
    """A line and a time at each round number of milliseconds."""
    step = next(step for step in _steps() if (end - begin) * 1000 / step <= TICKS_AT_MOST)
    parts = []
    for count in range(int(-(-begin * 1000 // step)), int(end * 1000 // step) + 1):
        at = x(count * step / 1000)
        parts.append(f'<path class="grid" d="M{at:.1f} {TOP - 6}V{height - 20}"/>')
        parts.append(f'<text class="soft" x="{at:.1f}" y="14" text-anchor="middle">{count * step} ms</text>')
    return parts


def _steps() -> Iterator[int]:
    """1, 2, 5, 10, 20, 50 …"""
    for power in itertools.count():
        for digit in (1, 2, 5):
            yield digit * 10**power
