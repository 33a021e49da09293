"""Collecting beside others that want the same processor: it takes little of it, and nobody waits for it."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ferryfs.migration.collect.pace import Pace
from migration.sides import Side

BUSY = ("sh", "-c", "while :; do :; done")


@pytest.fixture
def one_processor() -> Iterator[None]:
    """This thread, and all that it starts, share a processor."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@pytest.fixture
def hogs(one_processor: None) -> Iterator[list[int]]:
    """Processes that keep that processor busy."""
    with ExitStack() as stack:
        processes = [stack.enter_context(subprocess.Popen(BUSY)) for _ in range(2)]
        for process in processes:
            stack.callback(process.kill)
        yield [process.pid for process in processes]


def used_s(pid: int) -> float:
    """Processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_migration_ends_at_once_on_a_busy_machine(tmp_path: Path, hogs: list[int]) -> None:
    """The front-end waits for the answer, and the guest for the front-end.

    Measured by what the others did meanwhile, so that it does not matter what else this machine does.
    """
    for number in range(2000):
        (tmp_path / f"{number}").touch()
    with Side(tmp_path) as source:
        for number in range(2000):
            source.walk(f"{number}")
        before = sum(used_s(pid) for pid in hogs)
        for _ in range(5):
            source.migrator.log_all(True)
            source.migrator.log_all(False)
        source.migrator.log_all(True)
        source.stop()
        assert source.save()
        assert sum(used_s(pid) for pid in hogs) - before < 2.0


def test_rests_when_somebody_waits_for_the_processor(hogs: list[int]) -> None:
    """A twentieth of a processor that others want; a fair part would be a third."""
    cancelled = threading.Event()
    pace = Pace(cancelled)
    began, worked = time.monotonic(), time.thread_time()
    while (passed := time.monotonic() - began) < 1.0:
        assert not pace()
    assert time.thread_time() - worked < passed / 8
    cancelled.set()
    assert pace()


def test_does_not_rest_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not preempted, it never waits."""

    class Waiting(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            raise AssertionError("it rested")

    pace = Pace(Waiting())
    monkeypatch.setattr("resource.getrusage", lambda _: _Usage())
    assert not any(pace() for _ in range(1000))


class _Usage:
    ru_nivcsw = 7
