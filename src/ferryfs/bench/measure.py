"""Taking the measurements: every daemon in turn, slice by slice, so that a busy moment hits all of them."""

from __future__ import annotations

import contextlib
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from ferryfs.bench.guest import BenchGuest
from ferryfs.bench.rows import Row
from ferryfs.errors import PeerError
from ferryfs.frontend.load import LoadGenerator, LoadResult

WARM_UP_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Slice:
    """One turn of one daemon at one row: rate in operations a second, times in microseconds."""

    rate: float
    cpu_us: float
    p50_us: float
    p99_us: float
    p999_us: float
    own_cpu_us: float
    """Processor time of the front-end, an operation: where it is large, the front-end is the limit."""


@dataclass(frozen=True, slots=True)
class Cell:
    """All turns of one daemon at one row with so many requests in flight."""

    row: str
    in_flight: int
    daemon: str
    slices: tuple[Slice, ...]

    def median(self, field: str) -> float:
        """The middle of a field over the turns."""
        return statistics.median(self._values(field))

    def spread(self, field: str) -> float:
        """Half the distance between the quartiles, as a part of the median."""
        values = self._values(field)
        middle = statistics.median(values)
        if len(values) < 2 or not middle:
            return 0.0
        low, _, high = statistics.quantiles(values, n=4)
        return (high - low) / 2 / middle

    def ratio(self, other: Cell, field: str) -> float:
        """Ours to the other's, as the median over the turns: each turn is compared with its neighbour in time."""
        pairs = zip(self._values(field), other._values(field), strict=True)
        return statistics.median([mine / theirs for mine, theirs in pairs if theirs] or [1.0])

    def _values(self, field: str) -> list[float]:
        return [float(getattr(one, field)) for one in self.slices]


def percentile(ordered: Sequence[int], part: float) -> float:
    """The value below which ``part`` of the ordered ones lie; 0 where there are none."""
    return float(ordered[min(len(ordered) - 1, int(part * len(ordered)))]) if ordered else 0.0


def _slice(guest: BenchGuest, row: Row, requests: int, load: LoadGenerator, seconds: float, polling: bool) -> Slice:
    before, own = guest.cpu_ns(), os.times()
    result = load.run(seconds=seconds, polling=polling)
    used, own_after = guest.cpu_ns() - before, os.times()
    _check(guest, row, result)
    operations = result.done / requests
    timed = sorted(
        latency
        for latency, position in zip(result.latencies_ns, result.positions, strict=True)
        if position % requests == row.timed
    )
    own_s = own_after.user + own_after.system - own.user - own.system
    return Slice(
        rate=operations / result.seconds,
        cpu_us=used / 1000 / operations,
        p50_us=percentile(timed, 0.5) / 1000,
        p99_us=percentile(timed, 0.99) / 1000,
        p999_us=percentile(timed, 0.999) / 1000,
        own_cpu_us=own_s * 1e6 / operations,
    )


def _check(guest: BenchGuest, row: Row, result: LoadResult) -> None:
    if result.errors and result.first_error is not None:
        position, number = result.first_error
        raise PeerError(
            f"{guest.name} answered request {position} of the row {row.name!r} with {os.strerror(number)}, "
            f"and {result.errors} of {result.done} in all with an error."
        )


def measure_row(
    guests: Sequence[BenchGuest], row: Row, in_flight: int, *, rounds: int, seconds: float, polling: bool = False
) -> list[Cell]:
    """One row at one depth for all daemons, in turn, ``rounds`` times ``seconds`` each."""
    slices: list[list[Slice]] = [[] for _ in guests]
    with contextlib.ExitStack() as stack:
        loads: list[tuple[LoadGenerator, int]] = []
        for guest in guests:
            stack.callback(guest.ram.rewind, guest.ram.mark())
            lanes = stack.enter_context(row.lanes(guest, in_flight))
            requests = row.requests or sum(not one.hiprio for one in lanes[0])
            loads.append((LoadGenerator(guest.queue, lanes, guest.hiprio), requests))
        for guest, (load, _) in zip(guests, loads, strict=True):
            _check(guest, row, load.run(seconds=WARM_UP_S))
        for turn in range(rounds):
            # Who comes first changes, so that nobody always follows the same neighbour.
            order = range(len(guests)) if turn % 2 == 0 else reversed(range(len(guests)))
            for i in order:
                load, requests = loads[i]
                slices[i].append(_slice(guests[i], row, requests, load, seconds, polling))
        del loads
    return [Cell(row.name, in_flight, guest.name, tuple(taken)) for guest, taken in zip(guests, slices, strict=True)]


def measure(
    guests: Sequence[BenchGuest],
    rows: Sequence[Row],
    depths: Sequence[int],
    *,
    rounds: int,
    seconds: float,
    polling: bool = False,
    progress: Callable[[list[Cell]], None] = lambda _: None,
) -> list[Cell]:
    """Every row at every depth; ``progress`` hears of each."""
    cells: list[Cell] = []
    for row in rows:
        for in_flight in depths:
            new = measure_row(guests, row, in_flight, rounds=rounds, seconds=seconds, polling=polling)
            progress(new)
            cells += new
    return cells
