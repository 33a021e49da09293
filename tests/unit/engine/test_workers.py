"""The threads behind the rings: how many there are."""

from __future__ import annotations

from pathlib import Path

from engine_guest import REQUESTS, Guest


def workers() -> int:
    """Threads of this process that serve rings."""
    return sum((task / "comm").read_text().strip() == "ferry-worker" for task in Path("/proc/self/task").iterdir())


def test_a_ring_that_is_stopped_and_started_keeps_its_thread(tmp_path: Path) -> None:
    """Where a limit of threads is reached, another one could not be had."""
    with Guest(tmp_path) as guest:
        guest.serves()
        before = workers()
        for _ in range(300):
            guest.device.set_vring_enable(REQUESTS, False)
            guest.device.set_vring_enable(REQUESTS, True)
        assert workers() == before
        guest.serves()
