"""The tables of docs/migration-scenarios.md, played.

Run as a program (``python -m interop.matrix [--table NAME] [--page FILE] DAEMON …``) it prints them; with ``--page`` it
puts each into that page, where that has ``<!-- table: NAME -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import argparse
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from leaks import keep_apart

from interop.cases import CHANGES_THERE, MODES, WAYS, Case, Way, alone, changes_at, holdings_in, title
from interop.holdings import HOLDINGS
from interop.outcomes import SEVERITY
from interop.places import PLACES, SAME
from interop.stage import BEFORE, COLLECTED, COLLECTING, SAVED, THERE

TIMES = (BEFORE, COLLECTING, COLLECTED, SAVED)
Daemons = Sequence[str]


@dataclass(frozen=True)
class Cell:
    """Lines that are played with each of the daemons."""

    daemons: Daemons
    cases: Sequence[Case]

    def text(self) -> str:
        tallies = [_tally([alone(case, daemon) for case in self.cases]) for daemon in self.daemons]
        return tallies[0] if len(set(tallies)) == 1 else " / ".join(tallies)


@dataclass(frozen=True)
class Table:
    """``heads`` of the columns, the first of which has the rows' titles."""

    heads: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]

    def lines(self) -> Iterator[str]:
        """As Markdown."""
        yield f"| {' | '.join(self.heads)} |"
        yield f"|{'---|' * len(self.heads)}"
        for name, cells in self.rows:
            yield f"| {name} | {' | '.join(cell.text() for cell in cells)} |"


def _tally(outcomes: Sequence[str]) -> str:
    if len(outcomes) < 2:
        return "".join(outcomes) or "-"
    counts = Counter(outcomes)
    return ", ".join(f"{counts[outcome]} {outcome}" for outcome in SEVERITY if counts[outcome])


def changed(moment: str, daemons: Daemons) -> Table:
    """Every change at that moment, by default options."""
    columns = [(daemon, mode) for daemon in daemons for mode in MODES]
    rows = []
    for change, by_guest in changes_at(moment):
        name = f"{'the guest ' if by_guest else ''}{title(change)}"
        cases = (Case(Way(mode), SAME, moment, change, by_guest) for _, mode in columns)
        rows.append((name, [Cell([daemon], [case]) for (daemon, _), case in zip(columns, cases, strict=True)]))
    return Table(["", *(f"{daemon}, {mode}" for daemon, mode in columns)], rows)


def ways(daemons: Daemons) -> Table:
    """All changes at every moment, by all options."""
    rows = []
    for way in WAYS:
        lines = [[Case(way, SAME, moment, *change) for change in changes_at(moment)] for moment in TIMES]
        rows.append((str(way), [Cell(daemons, cases) for cases in lines]))
    return Table(["mode, on-error, checks", *TIMES], rows)


def held(daemons: Daemons) -> Table:
    """Everything that the guest may hold."""
    columns = [(daemon, mode) for daemon in daemons for mode in MODES]
    rows = []
    for scenario in HOLDINGS:
        cells = [Cell([daemon], [Case(Way(mode), scenario=scenario)]) for daemon, mode in columns]
        rows.append((title(scenario), cells))
    return Table(["", *(f"{daemon}, {mode}" for daemon, mode in columns)], rows)


def held_ways(daemons: Daemons) -> Table:
    """All of that, by all options."""
    rows = []
    for way in WAYS:
        cases = [Case(way, scenario=scenario) for scenario in HOLDINGS]
        rows.append((str(way), [Cell([daemon], cases) for daemon in daemons]))
    return Table(["mode, on-error, checks", *daemons], rows)


def held_elsewhere(mode: str, daemons: Daemons) -> Table:
    """The same, to another directory, where what is lost is an error for the guest."""
    rows = []
    for scenario in HOLDINGS:
        cells = []
        for where in PLACES[1:]:
            case = Case(Way(mode, "guest-error"), where, scenario=scenario)
            cells.append(Cell(daemons, [case] if scenario in holdings_in(where) else []))
        rows.append((title(scenario), cells))
    return Table(["", *PLACES[1:]], rows)


def elsewhere(where: str, daemons: Daemons) -> Table:
    """Everything that may have been done in the destination's own directory."""
    rows = []
    for way in WAYS:
        cells = [Cell(daemons, [Case(way, where, THERE, change)]) for change in CHANGES_THERE]
        rows.append((str(way), cells))
    return Table(["mode, on-error, checks", *map(title, CHANGES_THERE)], rows)


TABLES: dict[str, Callable[[Daemons], Table]] = {
    **{moment: partial(changed, moment) for moment in TIMES},
    "held": held,
    "held, by all options": held_ways,
    **{f"held, {mode}": partial(held_elsewhere, mode) for mode in MODES},
    "ways": ways,
    **{where: partial(elsewhere, where) for where in PLACES},
}


def put(page: Path, name: str, lines: Sequence[str]) -> None:
    """Replaces a table of a page. Raises ValueError where the page has no place for it."""
    block = re.compile(rf"(<!-- table: {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    text, count = block.subn(lambda found: "\n".join([found[1], *lines, "", found[2]]), page.read_text())
    if count != 1:
        raise ValueError(f"{page} has {count} places for the table {name!r}.")
    page.write_text(text)


def main() -> None:
    """Plays and prints the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("daemons", nargs="*", default=["ferryfsd"], metavar="DAEMON")
    parser.add_argument("--table", action="append", choices=TABLES, help="only this one; may be given again")
    parser.add_argument("--page", type=Path, help="put them into this page")
    arguments = parser.parse_args()
    keep_apart()
    os.umask(0o022)
    for name in arguments.table or TABLES:
        print(f"\n### {name}\n")
        lines = []
        for line in TABLES[name](arguments.daemons).lines():
            print(line, flush=True)
            lines.append(line)
        if arguments.page:
            put(arguments.page, name, lines)


if __name__ == "__main__":
    main()
