"""The demo's timeline: made of events and logs as QEMU and ferryfsd write them."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree

import pytest

from ferryfs.cli.demo_report import page, picture
from ferryfs.cli.demo_timeline import DESTINATION_DAEMON, GUEST, SOURCE_DAEMON, SOURCE_QEMU, Span, as_text, timeline
from ferryfs.errors import PeerError

BEGAN = 1_800_000_000


def _event(name: str, milliseconds: int, **data: str) -> dict[str, object]:
    stamp = {"seconds": BEGAN + milliseconds // 1000, "microseconds": milliseconds % 1000 * 1000}
    return {"event": name, "timestamp": stamp, "data": data}


def _line(milliseconds: int, message: str) -> str:
    return json.dumps({"time": f"2027-01-15T08:00:{milliseconds / 1000:06.3f}Z", "level": "info", "message": message})


SOURCE = [
    _event("MIGRATION", 0, status="setup"),
    _event("MIGRATION", 10, status="active"),
    _event("STOP", 500),
    _event("MIGRATION", 500, status="device"),
    _event("MIGRATION", 640, status="completed"),
]
DESTINATION = [
    _event("MIGRATION", 5, status="active"),
    _event("RESUME", 620),
    _event("MIGRATION", 625, status="completed"),
]
SOURCE_LOG = "\n".join(
    [
        "Waiting for vhost-user socket connection...",
        _line(310, "Migration: 1154 inodes looked at in 0.3 s while the guest works on; 0 are not in a directory."),
        _line(560, "Migration: the state is written: 20 ms to locate 1154 inodes, 30 ms to write."),
        _line(561, "State saved: 274896 bytes, 52 ms."),
    ]
)
DESTINATION_LOG = "\n".join(
    [
        _line(600, "Migration: 1153 inodes and 4 open files restored in 25 ms."),
        _line(601, "State loaded: 274896 bytes, 80 ms."),
    ]
)
WRITES = [BEGAN - 1.0, BEGAN + 0.1, BEGAN + 0.48, BEGAN + 0.65, BEGAN + 0.9]


def _spans(spans: tuple[Span, ...], side: str) -> list[tuple[str, int, int]]:
    return [(span.text, round(span.start * 1000), round(span.end * 1000)) for span in spans if span.side == side]


def test_each_phase_is_where_its_side_said() -> None:
    """A log line says when a phase ended and how long it took; QEMU's events are when they happened."""
    found = timeline(SOURCE, DESTINATION, SOURCE_LOG, DESTINATION_LOG, WRITES)
    assert _spans(found.spans, GUEST) == [
        ("runs at the source", 0, 500),
        ("stands still", 500, 620),
        ("runs at the destination", 620, 650),
    ]
    assert _spans(found.spans, SOURCE_QEMU) == [
        ("sends memory while the guest works on", 10, 500),
        ("sends the rest of memory and the devices", 500, 640),
    ]
    assert _spans(found.spans, SOURCE_DAEMON) == [
        ("locates 1154 inodes in the background", 10, 310),
        ("makes sure where 1154 inodes are", 510, 530),
        ("writes the state", 530, 560),
    ]
    assert _spans(found.spans, DESTINATION_DAEMON) == [
        ("reads the state, 274,896 bytes", 521, 575),
        ("restores 1153 inodes and opens 4 files again", 575, 600),
    ]
    assert (round(found.downtime_ms), round(found.pause_ms)) == (120, 170)
    assert [span.start for span in found.spans] == sorted(span.start for span in found.spans)


def test_a_daemon_without_such_a_log_has_no_phases() -> None:
    """With another daemon the events alone make the timeline."""
    found = timeline(SOURCE, DESTINATION, "[2027 INFO] Waiting\n{}\n[1]\n", "")
    assert {span.side for span in found.spans} == {GUEST, SOURCE_QEMU, "QEMU, destination"}
    assert found.pause_ms == 0
    assert "the writer" not in as_text(found)


def test_a_missing_event_is_named() -> None:
    """A migration that failed has no timeline."""
    with pytest.raises(PeerError, match="no STOP in this migration"):
        timeline([event for event in SOURCE if event["event"] != "STOP"], DESTINATION, "", "")


def test_the_text_has_a_bar_a_phase() -> None:
    """All bars are as wide as the axis; the guest's three fill it one after the other."""
    lines = as_text(timeline(SOURCE, DESTINATION, SOURCE_LOG, DESTINATION_LOG, WRITES)).splitlines()
    bars = [re.search("▕(.*)▏ ", line) for line in lines]
    assert {len(bar.group(1)) for bar in bars if bar} == {44}
    assert sum(bar is not None for bar in bars) == 11
    assert any("downtime 120 ms" in line for line in lines)
    assert any("paused for 170 ms" in line for line in lines)


def test_the_picture_stands_alone() -> None:
    """An SVG that parses, every bar inside it, and a page that loads nothing from elsewhere."""
    found = timeline(SOURCE, DESTINATION, SOURCE_LOG, DESTINATION_LOG, WRITES)
    drawn = ElementTree.fromstring(picture(found, 0.0, found.end))
    width = float(drawn.attrib["viewBox"].split()[2])
    bars = drawn.findall("./g/rect")
    assert len(bars) == 11
    assert all(
        0 <= float(bar.attrib["x"]) <= float(bar.attrib["x"]) + float(bar.attrib["width"]) <= width for bar in bars
    )
    text = page(found, {"downtime": "120 ms"}, ["<all> is right"], {"QEMU": "10.0"}, "It moved.")
    assert "&lt;all&gt; is right" in text
    assert not re.search(r"""(src|href)=|url\(|@import""", text)
