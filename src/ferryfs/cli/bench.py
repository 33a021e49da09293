"""``ferryfs bench``: daemons side by side, driven in turn."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from ferryfs.bench import sets
from ferryfs.bench.machine import Machine, load_average
from ferryfs.bench.plan import Daemon, Plan
from ferryfs.bench.results import Cell, Run, join
from ferryfs.errors import FerryError, OptionError
from ferryfs.frontend import kernel

OWN: Final = "ferryfsd --shared-dir={share} --sandbox=none"
QUICK: Final = {"rounds": 3, "seconds": 0.05, "scale": 0.1, "in_flight": "1,16", "queues": "1,2"}
FULL: Final = {"rounds": 5, "seconds": 0.15, "scale": 1.0, "in_flight": "1,16,32,64", "queues": "1,2,4"}
SHOWN: Final = (
    "rate",
    "seconds",
    "p99_us",
    "requests_each",
    "ready_ms",
    "each_mib",
    "forget_us",
    "readdirplus_new_entry_us",
    "downtime_ms",
)


def main(argv: Sequence[str]) -> int:
    """Runs the sub-command; 0."""
    args = arguments_parser().parse_args(argv)
    with _orderly_end():
        run = _joined(args.join) if args.join else _measured(args, argv)
    if args.compare:
        run = run.beside(Run.load_json(Path(args.compare)), args.compare)
    if args.json:
        run.save(Path(args.json))
    if args.html:
        from ferryfs.bench import html

        Path(args.html).write_text(html.page(run))
    from ferryfs.bench import report

    text = report.markdown(run)
    if args.markdown:
        Path(args.markdown).write_text(text)
    else:
        print(text)
    return 0


@contextlib.contextmanager
def _orderly_end() -> Iterator[None]:
    """SIGTERM and SIGHUP are as Ctrl-C meanwhile: daemons, mounts and files are taken away."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    old = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _joined(files: Sequence[str]) -> Run:
    return join((name, Run.load_json(Path(name))) for name in files)


def _measured(args: argparse.Namespace, argv: Sequence[str]) -> Run:
    parts = [sets.part(name) for name in _sets(args.set)]
    plan = _plan(args, [name for part in parts for name in part.names()])
    if any(part.MOUNTS for part in parts):
        kernel.own_mounts()
    base = plan.base or Path(Plan.default_base())
    machine = Machine.here(base)
    if args.compare:
        machine.check_same(Run.load_json(Path(args.compare)).machine, args.compare)
    print(f"{machine}; load {load_average()}", file=sys.stderr)
    run = Run(
        machine=machine,
        commands=[shlex.join(["ferryfs", "bench", *argv])],
        load=load_average(),
        daemons={daemon.name: daemon.command for daemon in plan.daemons},
        settings={},
        cells=[],
        notes=plan.notes,
    )
    measured: list[Cell] = []

    def progress(cells: list[Cell]) -> None:
        measured.extend(cells)
        _show(cells)

    plan.progress = progress
    for part in parts:
        how = {part.NAME: f"{part.ABOUT}; {plan.rounds} turns of each daemon, in alternation"}
        measured.clear()
        try:
            run = replace(run, cells=run.cells + part.run(plan), settings=run.settings | how)
        except (KeyboardInterrupt, FerryError):
            run = replace(run, cells=run.cells + measured, settings=run.settings | how)
            raise
        finally:
            # What was measured stays, whatever comes then.
            if args.json:
                run.save(Path(args.json))
    return replace(run, load=f"{run.load} before, {load_average()} after")


def arguments_parser() -> argparse.ArgumentParser:
    """Everything the sub-command takes."""
    parser = argparse.ArgumentParser(
        prog="ferryfs bench",
        description="Measures vhost-user-fs daemons side by side: they are driven in turn, and compared turn by turn.",
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
    parser.add_argument("--set", metavar="NAME,…", default="micro", help=f"parts: {', '.join(sets.NAMES)}, or all")
    parser.add_argument("--rows", metavar="NAME,…", help="only these rows")
    parser.add_argument("--list", action=_List, nargs=0, help="show parts and rows")
    parser.add_argument("--quick", action="store_true", help="a first look: shorter turns, fewer cases, smaller trees")
    parser.add_argument("--rounds", type=int, metavar="N", help="turns of each daemon at each row (default: 5)")
    parser.add_argument("--seconds", type=float, metavar="S", help="length of a turn of micro rows (default: 0.15)")
    parser.add_argument("--scale", type=float, metavar="F", help="size of trees, files, directories (default: 1.0)")
    parser.add_argument("--in-flight", metavar="N,…", help="micro: requests in flight (default: 1,16,32,64)")
    parser.add_argument("--queues", metavar="N,…", help="micro: request queues (default: 1,2,4)")
    parser.add_argument(
        "--front-end", default="sleeping,polling", metavar="KIND,…", help="micro: sleeping, polling or both (default)"
    )
    parser.add_argument(
        "--share", metavar="DIR", help="where to make the shared directory (default: the folder for temporary files)"
    )
    parser.add_argument("--json", metavar="FILE", help="write every turn to FILE")
    parser.add_argument("--markdown", metavar="FILE", help="write the tables to FILE instead of printing them")
    parser.add_argument("--html", metavar="FILE", help="write a report with charts to FILE")
    parser.add_argument(
        "--compare", metavar="FILE", help="set an earlier run's JSON beside this one; it must be of this machine"
    )
    parser.add_argument(
        "--join", nargs="+", metavar="FILE", help="measure nothing: report the runs of these JSON files as one"
    )
    return parser


class _List(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        for name in sets.NAMES:
            part = sets.part(name)
            print(f"{name}: {part.ABOUT}\n    {', '.join(part.names())}")
        parser.exit()


def _plan(args: argparse.Namespace, known: Sequence[str]) -> Plan:
    presets = QUICK if args.quick else FULL
    for name, value in presets.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.rounds < 1 or not 0 < args.seconds <= 60 or not 0 < args.scale <= 10:
        raise OptionError("--rounds is 1 or more, --seconds up to 60, --scale up to 10, as in --rounds 5 --scale 0.5.")
    front_ends = _words(args.front_end)
    for name in front_ends:
        if name not in ("sleeping", "polling"):
            raise OptionError(f"--front-end: {name!r} is neither sleeping nor polling.")
    rows = _words(args.rows) if args.rows else []
    for name in rows:
        if name not in known:
            raise OptionError(f"--rows: there is no row {name!r} in these sets; there are {', '.join(known)}.")
    return Plan(
        daemons=_daemons(args.daemon, args.against),
        base=Path(args.share) if args.share else None,
        rounds=args.rounds,
        seconds=args.seconds,
        scale=args.scale,
        rows=frozenset(rows),
        in_flight=_numbers("--in-flight", args.in_flight),
        queues=_numbers("--queues", args.queues),
        front_ends=front_ends,
    )


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _sets(text: str) -> list[str]:
    wanted = list(sets.NAMES) if text == "all" else _words(text)
    for name in wanted:
        if name not in sets.NAMES:
            raise OptionError(f"--set: there is no set {name!r}; there are {', '.join(sets.NAMES)}, all.")
    return wanted


def _numbers(option: str, text: str) -> list[int]:
    try:
        numbers = [int(word) for word in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(1 <= number <= 64 for number in numbers):
        raise OptionError(f"{option}: {text!r} is no list of numbers from 1 to 64, as 1,16,32 is.")
    return numbers


def _daemons(own: str, against: Sequence[str]) -> list[Daemon]:
    """The daemons, ours first."""
    daemons = [Daemon("ferryfsd", own)]
    for text in against:
        name, equals, command = text.partition("=")
        if not equals or not name.replace("-", "").replace(".", "").replace("_", "").isalnum():
            raise OptionError(
                f"--against: {text!r} is not NAME=COMMAND, as virtiofsd='virtiofsd --shared-dir={{share}}' is."
            )
        if name in [daemon.name for daemon in daemons] or name in ("bare", "before"):
            raise OptionError(f"--against: {name!r} is taken; give each daemon a name of its own.")
        daemons.append(Daemon(name, command))
    return daemons


def _show(cells: list[Cell]) -> None:
    """A line on the terminal for what was just measured."""
    metric = next((name for name in SHOWN if any(cell.has(name) for cell in cells)), "")
    parts = [f"{cell.subject} {cell.median(metric):,.4g}" for cell in cells if cell.has(metric)]
    if any(cell.has("cpu_us") for cell in cells):
        parts = [
            f"{cell.subject} {cell.median(metric):,.0f}/s {cell.median('cpu_us'):.2f} us"
            for cell in cells
            if cell.has("cpu_us")
        ]
    unit = "" if metric == "rate" else f" ({metric})"
    print(f"{cells[0].row:16} {cells[0].case:14}{unit} {'  '.join(parts)}", file=sys.stderr)
