"""``ferryfs bench``: daemons side by side, driven in turn by the same compiled front-end."""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ferryfs.bench import report
from ferryfs.bench.guest import guests
from ferryfs.bench.machine import Machine, load_average
from ferryfs.bench.measure import Cell, measure
from ferryfs.bench.rows import ROWS, Row, prepare
from ferryfs.errors import OptionError

OWN = "ferryfsd --shared-dir={share} --sandbox=none"


def main(argv: Sequence[str]) -> int:
    """Runs the sub-command; 0."""
    args = _parser().parse_args(argv)
    rows = _rows(args.rows)
    depths = _numbers("--in-flight", args.in_flight)
    base = Path(args.share) if args.share else None
    with tempfile.TemporaryDirectory(prefix="ferryfs-bench-", dir=base) as folder:
        share = Path(folder)
        commands = _commands(args.daemon, args.against, share)
        machine = Machine.here(share)
        previous = report.Run.load_json(Path(args.compare)) if args.compare else None
        if previous is not None:
            machine.check_same(previous.machine, args.compare)
        prepare(share, [name for name, _ in commands])
        print(f"{machine}; load {load_average()}", file=sys.stderr)
        with guests(commands) as running:
            idle = {guest.name: guest.memory() for guest in running}
            ready = {guest.name: guest.ready_s for guest in running}
            cells = measure(
                running, rows, depths, rounds=args.rounds, seconds=args.seconds, polling=args.polling, progress=_show
            )
            after = {guest.name: guest.memory() for guest in running}
    run = report.Run(
        machine=machine,
        command=shlex.join(["ferryfs", "bench", *argv]),
        load=load_average(),
        daemons=dict(commands) | ({} if previous is None else {"before": previous.command}),
        rounds=args.rounds,
        seconds=args.seconds,
        polling=args.polling,
        idle_kib={name: memory.anonymous for name, memory in idle.items()} | _of(previous, "idle_kib"),
        after_kib={name: memory.anonymous for name, memory in after.items()} | _of(previous, "after_kib"),
        ready_s=ready | _of(previous, "ready_s"),
        cells=cells if previous is None else [*cells, *previous.under("before", cells)],
    )
    if args.html:
        from ferryfs.bench import html

        Path(args.html).write_text(html.page(run))
    if args.json:
        run.save(Path(args.json))
    text = report.markdown(run)
    if args.markdown:
        Path(args.markdown).write_text(text)
    print(text)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ferryfs bench",
        description="Measures vhost-user-fs daemons side by side: all run at once and are driven in turn.",
        epilog="In a command {share} stands for the shared directory, which is made for the run and removed again.",
    )
    parser.add_argument(
        "--daemon", default=OWN, metavar="COMMAND", help=f"the daemon that is looked at (default: {OWN})"
    )
    parser.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="NAME=COMMAND",
        help="a daemon to compare it with; can be given again",
    )
    parser.add_argument("--rows", metavar="NAME,…", help=f"only these: {', '.join(row.name for row in ROWS)}")
    parser.add_argument("--in-flight", default="1,16,32", metavar="N,…", help="requests in flight (default: 1,16,32)")
    parser.add_argument(
        "--rounds", type=int, default=5, metavar="N", help="turns of each daemon at each row (default: 5)"
    )
    parser.add_argument("--seconds", type=float, default=0.3, metavar="S", help="length of a turn (default: 0.3)")
    parser.add_argument(
        "--polling", action="store_true", help="the front-end looks for answers all the time and never sleeps"
    )
    parser.add_argument(
        "--share", metavar="DIR", help="where to make the shared directory (default: the folder for temporary files)"
    )
    parser.add_argument("--json", metavar="FILE", help="write every turn to FILE")
    parser.add_argument("--markdown", metavar="FILE", help="write the tables to FILE")
    parser.add_argument("--html", metavar="FILE", help="write a report with charts to FILE (needs pygal)")
    parser.add_argument(
        "--compare", metavar="FILE", help="set an earlier run's JSON beside this one; it must be of this machine"
    )
    return parser


def _rows(names: str | None) -> list[Row]:
    if names is None:
        return list(ROWS)
    known = {row.name: row for row in ROWS}
    wanted = [name.strip() for name in names.split(",")]
    for name in wanted:
        if name not in known:
            raise OptionError(f"--rows: there is no row {name!r}; there are {', '.join(known)}.")
    return [known[name] for name in wanted]


def _numbers(option: str, text: str) -> list[int]:
    try:
        numbers = [int(word) for word in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(1 <= number <= 64 for number in numbers):
        raise OptionError(f"{option}: {text!r} is no list of numbers from 1 to 64, as 1,16,32 is.")
    return numbers


def _commands(own: str, against: Sequence[str], share: Path) -> list[tuple[str, str]]:
    """Name and command of each daemon, ours first."""
    commands = [("ferryfsd", own)]
    for text in against:
        name, equals, command = text.partition("=")
        if not equals or not name.replace("-", "").replace(".", "").replace("_", "").isalnum():
            raise OptionError(
                f"--against: {text!r} is not NAME=COMMAND, as virtiofsd='virtiofsd --shared-dir={{share}}' is."
            )
        if name in dict(commands):
            raise OptionError(f"--against: two daemons are called {name!r}; give each a name of its own.")
        commands.append((name, command))
    return [(name, command.replace("{share}", str(share))) for name, command in commands]


def _of(previous: report.Run | None, field: str) -> dict[str, Any]:
    """What an earlier run says of the daemon that it looked at."""
    if previous is None:
        return {}
    values: dict[str, Any] = getattr(previous, field)
    return {"before": values[next(iter(previous.daemons))]}


def _show(cells: list[Cell]) -> None:
    first = cells[0]
    parts = [f"{cell.daemon} {cell.median('rate'):,.0f}/s {cell.median('cpu_us'):.2f} us" for cell in cells]
    print(f"{first.row:16} {first.in_flight:3}  {'  '.join(parts)}", file=sys.stderr)
