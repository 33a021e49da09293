"""Charts as SVG: words and numbers in, one element out. Colours come from report.css, by series (s0, s1, …)."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

LABEL_PX: Final = 215
PLOT_PX: Final = 420
LINE_PX: Final = 22
MARGIN_PX: Final = 34
RIGHT_PX: Final = 56


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart: its label, and a value for each series; None where there is none."""

    label: str
    values: Sequence[float | None]


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers for a logarithmic axis: 1, 2 and 5 of each decade, fewer where there are many decades."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if len(decades) <= 3 else (1,)
    return [tick for decade in decades for step in steps if low <= (tick := step * 10.0**decade) <= high]


def _text(x: float, y: float, words: str, kind: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{html.escape(words)}</text>'


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:g}"


def _frame(lines: Sequence[Line], ticks: Sequence[tuple[float, str]], marks: Sequence[str], title: str) -> str:
    """Axis, labels and whatever was drawn into it."""
    height = MARGIN_PX + LINE_PX * len(lines) + 10
    width = LABEL_PX + PLOT_PX + RIGHT_PX
    parts = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(title)}">']
    for x, words in ticks:
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{MARGIN_PX - 6}" y2="{height - 6}" class="grid"/>')
        parts.append(_text(x, MARGIN_PX - 12, words, "tick"))
    for i, line in enumerate(lines):
        parts.append(_text(LABEL_PX - 10, _middle(i) + 4, line.label, "label"))
    return "".join([*parts, *marks, "</svg>"])


def _middle(i: int) -> float:
    return MARGIN_PX + LINE_PX * i + LINE_PX / 2


def ratios(lines: Sequence[Line], title: str, *, higher_is_better: bool) -> str:
    """Dots on a logarithmic axis around 1, a series a colour; the better side is shaded."""
    values = [value for line in lines for value in line.values if value and value > 0]
    reach = max([1.6, *(max(value, 1 / value) for value in values)]) * 1.15
    low, high = math.log(1 / reach), math.log(reach)

    def at(value: float) -> float:
        return LABEL_PX + (math.log(value) - low) / (high - low) * PLOT_PX

    height = MARGIN_PX + LINE_PX * len(lines) + 4
    better = at(1) if higher_is_better else LABEL_PX
    top, bottom = MARGIN_PX - 6, height - 2
    shade = f'<rect x="{better:.1f}" y="{top}" width="{PLOT_PX / 2:.1f}" height="{bottom - top}" class="better"/>'
    middle = f'<line x1="{at(1):.1f}" x2="{at(1):.1f}" y1="{top}" y2="{bottom}" class="one"/>'
    marks = [shade, middle]
    for i, line in enumerate(lines):
        for series, value in enumerate(line.values):
            if value is not None and value > 0:
                tip = f"<title>{html.escape(line.label)}: {value:.2f}</title>"
                marks.append(
                    f'<circle cx="{at(value):.1f}" cy="{_middle(i):.1f}" r="5" class="s{series}">{tip}</circle>'
                )
    ticks = [(at(tick), f"{tick:g}x") for tick in _ticks(1 / reach, reach)]
    return _frame(lines, ticks, marks, title)


def bars(lines: Sequence[Line], title: str, *, unit: str) -> str:
    """A bar for each series of each line, from 0 on; each line has as many thin bars as there are series."""
    most = max([value for line in lines for value in line.values if value] or [1.0])
    marks = []
    for i, line in enumerate(lines):
        shown = [(series, value) for series, value in enumerate(line.values) if value is not None]
        thick = (LINE_PX - 4) / max(1, len(shown))
        for k, (series, value) in enumerate(shown):
            y = MARGIN_PX + LINE_PX * i + 2 + k * thick
            tip = f"<title>{html.escape(line.label)}: {_plain(value)} {unit}</title>"
            marks.append(
                f'<rect x="{LABEL_PX}" y="{y:.1f}" width="{max(1.0, value / most * PLOT_PX):.1f}" '
                f'height="{max(1.0, thick - 1):.1f}" class="bar s{series}">{tip}</rect>'
            )
    step = 10.0 ** math.floor(math.log10(most))
    step = step if most / step >= 3 else step / 2
    ticks = [(LABEL_PX + k * step / most * PLOT_PX, f"{k * step:g} {unit}") for k in range(int(most / step) + 1)]
    return _frame(lines, ticks, marks, title)


def ranges(lines: Sequence[tuple[str, Sequence[tuple[float, float] | None]]], title: str, *, unit: str) -> str:
    """From a low to a high value for each series of each line, on a logarithmic axis: a dot and a tail."""
    values = [value for _, pairs in lines for pair in pairs if pair for value in pair if value > 0]
    low, high = math.log(min(values, default=1.0) / 1.2), math.log(max(values, default=10.0) * 1.2)

    def at(value: float) -> float:
        return LABEL_PX + (math.log(value) - low) / (high - low) * PLOT_PX

    marks = []
    for i, (label, pairs) in enumerate(lines):
        step = (LINE_PX - 6) / max(1, len(pairs))
        for series, pair in enumerate(pairs):
            if pair is None or min(pair) <= 0:
                continue
            y = MARGIN_PX + LINE_PX * i + 3 + (series + 0.5) * step
            start, end = at(pair[0]), at(pair[1])
            tip = f"<title>{html.escape(label)}: {_plain(pair[0])} to {_plain(pair[1])} {unit}</title>"
            marks.append(
                f'<g class="s{series}"><line x1="{start:.1f}" x2="{end:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
                f'<circle cx="{start:.1f}" cy="{y:.1f}" r="2.6"/>{tip}</g>'
            )
    ticks = [(at(tick), f"{_plain(tick)} {unit}") for tick in _ticks(math.exp(low), math.exp(high))]
    return _frame([Line(label, ()) for label, _ in lines], ticks, marks, title)
