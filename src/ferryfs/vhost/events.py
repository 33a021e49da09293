"""What the device's threads have to tell, as sentences in the log: a guest's malformed requests, and our troubles.

The threads post numbers without the GIL (``engine/events.pxd``); the same event is counted there, not repeated. Here
they become text, no more lines a second than a log can bear.
"""

from __future__ import annotations

import enum
import logging
import os
import time
from collections.abc import Callable, Sequence
from typing import Final

_LOG = logging.getLogger("ferryfs.vhost")

LINES_PER_SECOND: Final = 20
"""Most log lines that a guest can cause: enough to see what is going on, too few to fill a disk in a hurry."""

Event = tuple[int, int, int, int, str]
"""What ``Device.drain_events`` gives: kind, queue (-1: none), error (0: none), count, text."""


class EventKind(enum.IntEnum):
    """The kinds of ``engine/events.pxd``; what ``error`` is goes by the kind."""

    BAD_CHAIN = 1
    BAD_REQUEST = 2
    BROKEN_RING = 3
    TROUBLE = 4
    NO_THREAD = 5
    FILE_LIMIT = 6


CHAIN_FAULTS: Final = {
    1: "a descriptor that does not exist",
    2: "a loop, or more descriptors than the ring has",
    3: "an address outside of guest memory",
    4: "readable descriptors behind writable ones",
    5: "a malformed indirect table",
    6: "more bytes than any request may have",
    7: "more descriptors than there was memory for",
}
"""The faults of ``ring/chain.pxd``: what the chain of a BAD_CHAIN has."""


def sentence(event: Event) -> str:
    """The event as one line, whose fault it is included."""
    kind, queue, error, count, text = event
    where = f"Queue {queue}: " if queue >= 0 else ""
    match kind:
        case EventKind.BAD_CHAIN:
            fault = CHAIN_FAULTS.get(error, f"fault {error}")
            what = f"the guest's request is not readable, its chain has {fault}; it was answered with nothing"
        case EventKind.BAD_REQUEST:
            what = f"the guest's request is malformed ({text}) and was answered with an error"
        case EventKind.BROKEN_RING:
            what = "the guest's ring makes no sense and was stopped; resetting the device in the guest starts it again"
        case EventKind.NO_THREAD:
            what = f"no thread can be started ({os.strerror(error)}), so slow requests hold up others"
        case EventKind.FILE_LIMIT:
            what = "the guest has as many files open as it may, and gets ENFILE: give --rlimit-nofile a higher number"
        case _:
            what = f"{text} ({os.strerror(error)})" if error else text
    return f"{where}{what}{f', {count} times' if count > 1 else ''}."


class EventLog:
    """Writes a device's events to the log; ``drain`` is the device's ``drain_events``."""

    def __init__(self, drain: Callable[[], Sequence[Event]]) -> None:
        self._drain = drain
        self._second = 0
        self._lines = 0
        self._dropped = 0

    def drain(self) -> None:
        """Write out all that is there."""
        for event in self._drain():
            second = int(time.monotonic())
            if second != self._second:
                self._second, self._lines = second, 0
                self._tell_dropped()
            if self._lines >= LINES_PER_SECOND:
                self._dropped += 1
                continue
            self._lines += 1
            _LOG.warning("%s", sentence(event))

    def finish(self) -> None:
        """Write out the rest, and how much was left out."""
        self.drain()
        self._tell_dropped()

    def _tell_dropped(self) -> None:
        if self._dropped:
            _LOG.warning("%d more lines like these were left out.", self._dropped)
            self._dropped = 0
