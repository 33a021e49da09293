"""vhost/events.py: what is told of a guest, and how much; its numbers against those of the compiled side."""

import errno
import re
from pathlib import Path

import pytest

from ferryfs.vhost import events as ev
from ferryfs.vhost.events import EventKind

SOURCE = Path(__file__).parents[3] / "src/ferryfs"


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (
            (EventKind.BAD_CHAIN, 2, 3, 1, ""),
            "Queue 2: the guest's request is not readable, its chain has an address outside of guest memory; it was",
        ),
        ((EventKind.BAD_CHAIN, 2, 99, 1, ""), "its chain has fault 99;"),
        (
            (EventKind.BAD_REQUEST, 1, errno.EINVAL, 7, "opcode 15: too short"),
            "Queue 1: the guest's request is malformed (opcode 15: too short) and was answered with an error, 7 times.",
        ),
        ((EventKind.BROKEN_RING, 0, 0, 1, ""), "Queue 0: the guest's ring makes no sense and was stopped"),
        ((EventKind.TROUBLE, -1, errno.EIO, 1, "eventfd"), "eventfd (Input/output error)."),
        ((EventKind.TROUBLE, -1, 0, 3, "further events, not kept"), "further events, not kept, 3 times."),
        ((EventKind.NO_THREAD, 1, errno.EAGAIN, 1, ""), "no thread can be started (Resource temporarily unavailable)"),
        ((77, 1, 0, 1, "something new"), "Queue 1: something new."),
    ],
)
def test_sentence(event: ev.Event, said: str) -> None:
    assert said in ev.sentence(event)


def test_chain_faults_are_those_of_the_ring() -> None:
    chain = (SOURCE / "ring/chain.pxd").read_text()
    numbers = {int(number) for _, number in re.findall(r"^    CHAIN_(\w+) = (\d+)\b(?= |$)", chain, re.MULTILINE)}
    assert set(ev.CHAIN_FAULTS) == {number for number in numbers if 0 < number < 100}


def test_kinds_are_those_of_the_engine() -> None:
    engine = (SOURCE / "engine/events.pxd").read_text()
    kinds = {name: int(number) for name, number in re.findall(r"^    EVENT_(\w+) = (\d+)", engine, re.MULTILINE)}
    assert {kind.name: int(kind) for kind in EventKind} == {
        name: number for name, number in kinds.items() if name not in ("SLOTS", "TEXT")
    }


def test_log(caplog: pytest.LogCaptureFixture) -> None:
    ev.EventLog(lambda: [(EventKind.TROUBLE, 0, 0, 1, "one"), (EventKind.TROUBLE, 1, 0, 2, "two")]).drain()
    assert caplog.messages == ["Queue 0: one.", "Queue 1: two, 2 times."]


def test_log_of_a_hostile_guest(caplog: pytest.LogCaptureFixture) -> None:
    """A hundred thousand events are some lines (a few seconds' worth) and a count of the rest."""
    log = ev.EventLog(lambda: [(EventKind.TROUBLE, 0, 0, 1, f"event {number}") for number in range(1000)])
    for _ in range(100):
        log.drain()
    log.finish()
    told = [message for message in caplog.messages if message.startswith("Queue 0: event")]
    left_out = [int(message.split()[0]) for message in caplog.messages if "were left out" in message]
    assert 0 < len(told) <= 10 * ev.LINES_PER_SECOND
    assert len(told) + sum(left_out) == 101_000
