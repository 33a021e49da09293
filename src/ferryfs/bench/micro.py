"""The micro set: one operation after the other, every daemon and the bare system calls in turn, slice by slice, so that
a busy moment hits all of them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ferryfs.bench.bare import BareShare
from ferryfs.bench.calls import CallLoop
from ferryfs.bench.guest import BenchGuest, guests
from ferryfs.bench.plan import Plan
from ferryfs.bench.results import BARE, Cell, Turn
from ferryfs.bench.rows import ROWS, VARIED, Row
from ferryfs.bench.share import prepare
from ferryfs.errors import PeerError
from ferryfs.frontend.load import LoadGenerator, LoadResult

NAME: Final = "micro"
ABOUT: Final = "one FUSE operation after the other, driven by a compiled front-end without a kernel client"
MOUNTS: Final = False
SETTLE_S: Final = 0.1
WARM_UP_S: Final = 0.03
SAMPLES: Final = 1 << 16
VARIED_IN_FLIGHT: Final = 16


@dataclass(frozen=True, slots=True)
class Setting:
    """How rows are driven: by so many request queues, with a front-end that polls or sleeps."""

    queues: int = 1
    polling: bool = False

    def case(self, in_flight: int) -> str:
        """What the results call it."""
        more = f", {self.queues} queues" if self.queues > 1 else ", polling" if self.polling else ""
        return f"{in_flight}{more}"


def names() -> list[str]:
    """The rows."""
    return [row.name for row in ROWS]


def run(plan: Plan) -> list[Cell]:
    """All rows."""
    with plan.folder() as share:
        prepare(share, [daemon.name for daemon in plan.daemons] + [BARE])
        rows = [row for row in ROWS if plan.wants(row.name)]
        varied = [row for row in rows if row.name in VARIED]
        cells: list[Cell] = []
        with _guests(plan, share) as all_guests:
            for row in rows:
                if not row.options and "sleeping" in plan.front_ends:
                    cells += _depths(plan, all_guests, share, row, row.depths or plan.in_flight, Setting())
            for row in varied if "polling" in plan.front_ends else []:
                cells += _depths(plan, all_guests, share, row, (1, VARIED_IN_FLIGHT), Setting(polling=True))
        for options in dict.fromkeys(row.options for row in rows if row.options):
            with _guests(plan, share, options) as all_guests:
                for row in rows:
                    if row.options == options:
                        cells += _depths(plan, all_guests, share, row, row.depths or plan.in_flight, Setting())
        # The reference daemon has one request queue; the others are beside one queue of their own.
        counts = sorted({1, *plan.queues})
        if varied and len(counts) > 1:
            cells += _queues(plan, share, varied, counts)
    return cells


def _guests(
    plan: Plan, share: Path, options: Sequence[str] = (), queues: int = 1
) -> contextlib.AbstractContextManager[list[BenchGuest]]:
    return guests([(daemon.name, daemon.line(share, *options)) for daemon in plan.daemons], queues)


def _queues(plan: Plan, share: Path, rows: list[Row], counts: list[int]) -> list[Cell]:
    """The daemon that is looked at, with so many queues: each count is measured in turn with the others."""
    cells = []
    with contextlib.ExitStack() as stack:
        command = plan.daemons[0].line(share)
        try:
            all_guests = [stack.enter_context(guests([(plan.daemons[0].name, command)], count))[0] for count in counts]
        except PeerError as error:
            plan.note(f"Rows with several queues were left out: {error}")
            return []
        for row in rows:
            with contextlib.ExitStack() as lanes:
                drivers = [
                    _driver(lanes, guest, row, VARIED_IN_FLIGHT, Setting(count), plan.seconds)
                    for guest, count in zip(all_guests, counts, strict=True)
                ]
                taken = _take(plan, drivers)
            for count, turns in zip(counts, taken, strict=True):
                case = f"{VARIED_IN_FLIGHT}, {count} queue{'s' * (count > 1)}"
                cells.append(Cell(NAME, row.name, case, plan.daemons[0].name, turns))
            plan.progress(cells[-len(counts) :])
    return cells


Driver = Callable[[], Turn]


def _depths(
    plan: Plan, all_guests: list[BenchGuest], share: Path, row: Row, depths: Sequence[int], setting: Setting
) -> Iterator[Cell]:
    for in_flight in depths:
        with contextlib.ExitStack() as stack:
            try:
                subjects, drivers = [BARE], [_bare_driver(stack.enter_context(BareShare(share)), row, plan.seconds)]
            except OSError as error:
                plan.note(f"The row {row.name!r} was left out: the file system of {share.parent} answers {error}.")
                return
            for guest in all_guests:
                try:
                    driver = _driver(stack, guest, row, in_flight, setting, plan.seconds)
                except Unsupported:
                    plan.note(f"{guest.name} does not know the request of the row {row.name!r}.")
                    continue
                subjects.append(guest.name)
                drivers.append(driver)
            taken = _take(plan, drivers)
        case = setting.case(in_flight)
        cells = [Cell(NAME, row.name, case, who, turns) for who, turns in zip(subjects, taken, strict=True)]
        plan.progress(cells)
        yield from cells


def _take(plan: Plan, drivers: list[Driver]) -> list[tuple[Turn, ...]]:
    taken: list[list[Turn]] = [[] for _ in drivers]
    for order in plan.turns(range(len(drivers))):
        for i in order:
            taken[i].append(drivers[i]())
    return [tuple(turns) for turns in taken]


def _bare_driver(bare: BareShare, row: Row, seconds: float) -> Driver:
    loop = CallLoop(row.bare(bare))
    loop.run(WARM_UP_S)

    def turn() -> Turn:
        # A third of a turn is enough for what never waits for anybody else.
        done, wall_s, cpu_s = loop.run(seconds / 3)
        return {"rate": done / wall_s, "cpu_us": cpu_s / done * 1e6}

    return turn


class Unsupported(Exception):
    """The daemon answers that it does not have such a request."""


def _driver(
    stack: contextlib.ExitStack, guest: BenchGuest, row: Row, in_flight: int, setting: Setting, seconds: float
) -> Driver:
    """Prepares a row in a guest's memory; ``stack`` gives the memory back, and ends what the row keeps open."""
    stack.callback(guest.ram.rewind, guest.ram.mark())
    lanes = stack.enter_context(row.lanes(guest, in_flight))
    requests = row.requests or sum(not one.hiprio for one in lanes[0])
    used = guest.queues[: setting.queues]
    loads = [
        LoadGenerator(queue, lanes[i :: len(used)], guest.hiprio if len(used) == 1 else None)
        for i, queue in enumerate(used)
    ]
    _check(guest, row, loads[0].run(seconds=WARM_UP_S))

    def turn() -> Turn:
        # The scheduler places threads that have just met otherwise than those that have been at work together: with one
        # request in flight they are twice as fast at first. What a guest meets is the latter.
        _run(loads, min(SETTLE_S, 10 * seconds), setting.polling)
        before, own = guest.cpu_ns(), time.process_time_ns()
        results = _run(loads, seconds, setting.polling)
        daemon_ns, own_ns = guest.cpu_ns() - before, time.process_time_ns() - own
        for result in results:
            _check(guest, row, result)
        operations = sum(result.done for result in results) / requests
        wall_s = max(result.seconds for result in results)
        timed = sorted(
            latency
            for result in results
            for latency, position in zip(result.latencies_ns, result.positions, strict=True)
            if position % requests == row.timed
        )
        return {
            "rate": operations / wall_s,
            "cpu_us": daemon_ns / 1000 / operations,
            "p50_us": percentile(timed, 0.5) / 1000,
            "p99_us": percentile(timed, 0.99) / 1000,
            "p999_us": percentile(timed, 0.999) / 1000,
            "front_end_us": own_ns / 1000 / operations,
            "front_end_share": own_ns / 1e9 / wall_s,
        }

    return turn


def _run(loads: list[LoadGenerator], seconds: float, polling: bool) -> list[LoadResult]:
    """All generators at once, each in a thread of its own."""
    if len(loads) == 1:
        return [loads[0].run(seconds=seconds, polling=polling, capacity=SAMPLES)]
    results: list[LoadResult] = []
    threads = [
        threading.Thread(
            target=lambda load=load: results.append(load.run(seconds=seconds, polling=polling, capacity=SAMPLES))
        )
        for load in loads
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(results) < len(loads):
        raise PeerError("A queue of several was not served: the message above says what was wrong with it.")
    return results


def _check(guest: BenchGuest, row: Row, result: LoadResult) -> None:
    if result.errors and result.first_error is not None:
        position, number = result.first_error
        if number in (errno.ENOSYS, errno.EOPNOTSUPP):
            raise Unsupported
        raise PeerError(
            f"{guest.name} answered request {position} of the row {row.name!r} with {os.strerror(number)}, "
            f"and {result.errors} of {result.done} in all with an error."
        )


def percentile(ordered: Sequence[int], part: float) -> float:
    """The value below which ``part`` of the ordered ones lie; 0 where there are none."""
    return float(ordered[min(len(ordered) - 1, int(part * len(ordered)))]) if ordered else 0.0
