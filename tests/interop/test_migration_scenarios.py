"""The table of scenarios through `ferryfs mount` and `ferryfs migrate`: ferryfsd never loses anything in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from daemons import StartDaemon

from interop.matrix import Case, every_case, expected, pairwise, play
from interop.mounting import needs_fuse
from interop.mounts_over import mounts_over_the_file
from interop.scenarios import CHANGES, HOLDINGS, MODES, MOMENTS, REFUSED, RIGHT, holdings, host_changes, title

pytestmark = needs_fuse


def expected_of(change: Callable[[Path], None], mode: str, moment: str) -> tuple[str, ...]:
    """What ferryfsd may make of a change by the host."""
    if change is not mounts_over_the_file:
        return (RIGHT,)
    # No name in the share leads to the file any more, and a path would lead a virtiofsd to the one above it.
    if mode == "find-paths" or moment == "between":
        return (REFUSED,)
    # A handle does without a name; while collecting, one may have been noted already, and then it proves the wrong.
    return (RIGHT,) if moment == "before" else (RIGHT, REFUSED)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("mode", MODES)
def test_what_the_host_does(mode: str, moment: str, tmp_path: Path, start_daemon: StartDaemon) -> None:
    """The guest goes on with the very files that it had open, also with one whose last name goes between save and load:
    the source has it open as long as it runs, and the destination opens it by its handle. Where that can't be, the
    guest goes on with them at the source.
    """
    outcomes = host_changes("ferryfsd", mode, moment, tmp_path, start_daemon)
    assert outcomes.keys() == {title(change) for change in CHANGES}
    wrong = [change for change in CHANGES if outcomes[title(change)] not in expected_of(change, mode, moment)]
    assert wrong == [], outcomes


@pytest.mark.parametrize("mode", MODES)
def test_what_the_guest_holds(mode: str, tmp_path: Path, start_daemon: StartDaemon) -> None:
    assert holdings("ferryfsd", mode, tmp_path, start_daemon) == {title(scenario): RIGHT for scenario in HOLDINGS}


@pytest.mark.skipif(
    shutil.which("mkfs.ext4") is None or not os.path.exists("/dev/loop-control"),
    reason="no mkfs.ext4 or no loop devices: apt install e2fsprogs, modprobe loop",
)
@pytest.mark.parametrize("case", pairwise(list(every_case())), ids=str)
def test_where_it_goes(case: Case, tmp_path: Path, start_daemon: StartDaemon) -> None:
    """Every pair of mode, on-error, checks, sort of directory and change; all of it is what matrix.py prints."""
    assert play(case, "ferryfsd", tmp_path, start_daemon) in expected(case)
