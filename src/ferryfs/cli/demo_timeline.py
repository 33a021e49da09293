"""What happened when during a migration: QEMU's events and the daemons' logs on one axis, and as text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from ferryfs.errors import PeerError

GUEST: Final = "guest"
SOURCE_QEMU: Final = "QEMU, source"
SOURCE_DAEMON: Final = "ferryfsd, source"
DESTINATION_DAEMON: Final = "ferryfsd, destination"
DESTINATION_QEMU: Final = "QEMU, destination"
# In the order in which they are shown.
SIDES: Final = (GUEST, SOURCE_QEMU, SOURCE_DAEMON, DESTINATION_DAEMON, DESTINATION_QEMU)

BAR_WIDTH: Final = 44

# The daemon's own words; each ends when its line is written, and names how long it took.
_COLLECTED = re.compile(
    r"Migration: (?P<inodes>\d+) inodes looked at in (?P<seconds>[\d.]+) s while the guest works on"
)
_WRITTEN = re.compile(
    r"the state is written: (?P<locate>\d+) ms to locate (?P<inodes>\d+) inodes, (?P<write>\d+) ms to write"
)
_SAVED = re.compile(r"State saved: (?P<bytes>\d+) bytes, (?P<total>\d+) ms")
_RESTORED = re.compile(r"Migration: (?P<inodes>\d+) inodes and (?P<files>\d+) open files restored in (?P<took>\d+) ms")
_LOADED = re.compile(r"State loaded: (?P<bytes>\d+) bytes, (?P<total>\d+) ms")


@dataclass(frozen=True, slots=True)
class Span:
    """Something that one side did, in seconds since the migration began."""

    side: str
    text: str
    start: float
    end: float

    @property
    def milliseconds(self) -> float:
        """How long it took."""
        return 1000 * (self.end - self.start)


@dataclass(frozen=True, slots=True)
class Timeline:
    """A migration; all times in seconds since it began. ``writes`` is when the host saw the guest's writer write."""

    spans: tuple[Span, ...]
    stopped: float
    resumed: float
    end: float
    writes: tuple[float, ...] = field(default=())

    @property
    def downtime_ms(self) -> float:
        """From the guest's stop at the source to its first instruction at the destination."""
        return 1000 * (self.resumed - self.stopped)

    @property
    def pause_ms(self) -> float:
        """Between the writer's last write at the source and its first at the destination; 0 when not both were seen."""
        middle = (self.stopped + self.resumed) / 2
        before = [when for when in self.writes if when <= middle]
        after = [when for when in self.writes if when > middle]
        return 1000 * (after[0] - before[-1]) if before and after else 0.0


def timeline(
    source_events: Sequence[Mapping[str, Any]],
    destination_events: Sequence[Mapping[str, Any]],
    source_log: str,
    destination_log: str,
    writes: Iterable[float] = (),
) -> Timeline:
    """Put together what each side told, by the clock of the one host that they all run on.

    :raises PeerError: an event that every migration has is missing.
    """
    began = _event(source_events, "MIGRATION", "setup", "active")
    active = _event(source_events, "MIGRATION", "active")
    stopped = _event(source_events, "STOP")
    sent = _event(source_events, "MIGRATION", "completed")
    arriving = _event(destination_events, "MIGRATION", "active")
    resumed = _event(destination_events, "RESUME")
    arrived = _event(destination_events, "MIGRATION", "completed")
    seen = [when for when in writes if when >= began]
    # Until the guest is at work again.
    end = max(sent, resumed, arrived, *[when for when in seen if when > resumed][:1])
    spans = [
        Span(GUEST, "runs at the source", began, stopped),
        Span(GUEST, "stands still", stopped, resumed),
        Span(GUEST, "runs at the destination", resumed, end),
        Span(SOURCE_QEMU, "sends memory while the guest works on", active, stopped),
        Span(SOURCE_QEMU, "sends the rest of memory and the devices", stopped, sent),
        Span(DESTINATION_QEMU, "takes memory and devices in", arriving, arrived),
        *_source_daemon(_lines(source_log)),
        *_destination_daemon(_lines(destination_log)),
    ]
    moved = [Span(span.side, span.text, max(span.start - began, 0.0), span.end - began) for span in spans]
    moved.sort(key=lambda span: (span.start, SIDES.index(span.side)))
    shown = tuple(when - began for when in seen if when <= end)
    return Timeline(tuple(moved), stopped - began, resumed - began, end - began, shown)


def _event(events: Sequence[Mapping[str, Any]], name: str, *statuses: str) -> float:
    for event in events:
        if event["event"] == name and (not statuses or event["data"]["status"] in statuses):
            stamp = event["timestamp"]
            return float(stamp["seconds"] + stamp["microseconds"] / 1e6)
    raise PeerError(f"QEMU told of no {' '.join([name, *statuses[:1]])} in this migration.")


def _lines(log: str) -> list[tuple[float, str]]:
    """(time, message) of each line of a log with --log-format=json; another daemon's log gives none."""
    found = []
    for line in log.splitlines():
        try:
            record = json.loads(line)
            when = datetime.strptime(record["time"], "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
            found.append((when.timestamp(), str(record["message"])))
        except (ValueError, KeyError, TypeError):
            continue
    return found


def _source_daemon(lines: Sequence[tuple[float, str]]) -> list[Span]:
    spans = []
    for when, message in lines:
        if found := _COLLECTED.search(message):
            text = f"locates {found['inodes']} inodes in the background"
            spans.append(Span(SOURCE_DAEMON, text, when - float(found["seconds"]), when))
        elif found := _WRITTEN.search(message):
            wrote = when - int(found["write"]) / 1000
            text = f"makes sure where {found['inodes']} inodes are"
            spans.append(Span(SOURCE_DAEMON, text, wrote - int(found["locate"]) / 1000, wrote))
            spans.append(Span(SOURCE_DAEMON, "writes the state", wrote, when))
    return spans


def _destination_daemon(lines: Sequence[tuple[float, str]]) -> list[Span]:
    spans = []
    for when, message in lines:
        if found := _RESTORED.search(message):
            text = f"restores {found['inodes']} inodes and opens {found['files']} files again"
            spans.append(Span(DESTINATION_DAEMON, text, when - int(found["took"]) / 1000, when))
        elif found := _LOADED.search(message):
            began = when - int(found["total"]) / 1000
            text = f"reads the state, {int(found['bytes']):,} bytes"
            ends = spans[-1].start if spans else when
            spans.append(Span(DESTINATION_DAEMON, text, min(began, ends), ends))
    return spans


def as_text(what: Timeline) -> str:
    """The phases in the order in which they began, each with a bar on the axis of the whole migration."""
    rows = [f"{'from':>8}  {'took':>8}  {'':{BAR_WIDTH + 2}}  who does what"]
    for span in what.spans:
        times = f"{1000 * span.start:5.0f} ms  {span.milliseconds:5.0f} ms"
        rows += [f"{times}  ▕{_bar(span, what.end)}▏  {span.side} {span.text}"]
    rows.append(
        f"downtime {what.downtime_ms:.0f} ms: from the stop at the source to the first instruction at the destination"
    )
    if what.pause_ms:
        rows.append(f"the writer in the guest paused for {what.pause_ms:.0f} ms, as the host saw its file grow")
    return "\n".join(rows)


def _bar(span: Span, end: float) -> str:
    """Full cells, with the eighth of a cell that the ends fall into; never empty."""
    scale = 8 * BAR_WIDTH / end
    first, last = int(span.start * scale), max(int(span.end * scale), int(span.start * scale) + 1)
    cells = []
    for cell in range(BAR_WIDTH):
        filled = min(last, 8 * cell + 8) - max(first, 8 * cell)
        # A partly filled cell is drawn from the left, which is right at a bar's end and near enough at its beginning.
        cells.append(" ▏▎▍▌▋▊▉█"[max(filled, 0)])
    return "".join(cells)
