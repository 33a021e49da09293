"""The tables of scenarios through `ferryfs mount` and `ferryfs migrate`: ferryfsd never loses anything in them."""

from __future__ import annotations

import itertools
import os
import shutil
from pathlib import Path

import pytest
from daemons import StartDaemon

from interop.cases import (
    FIND_PATHS,
    MODES,
    Case,
    Way,
    changes_at,
    every_place,
    expected,
    expected_holding,
    holdings_in,
    pairwise,
    play,
    play_together,
    title,
)
from interop.holdings import HOLDINGS, many_inodes, read_only
from interop.matrix import TABLES, TIMES
from interop.mounting import needs_fuse
from interop.outcomes import RIGHT
from interop.places import PLACES, SAME
from interop.stage import COLLECTED, SAVED, Stage

pytestmark = needs_fuse
needs_images = pytest.mark.skipif(
    shutil.which("mkfs.ext4") is None or not os.path.exists("/dev/loop-control"),
    reason="no mkfs.ext4 or no loop devices: apt install e2fsprogs, modprobe loop",
)


@pytest.mark.parametrize(
    ("way", "moment"),
    [
        *itertools.product(map(Way, MODES), TIMES),
        *itertools.product([Way(FIND_PATHS, "guest-error", "verify and confirm")], [COLLECTED, SAVED]),
    ],
    ids=str,
)
def test_what_is_changed(way: Way, moment: str, tmp_path: Path, start_daemon: StartDaemon) -> None:
    """The guest goes on with the very files that it had open, also with one whose last name goes between save and load:
    the source has it open as long as it runs, and the destination opens it by its handle.
    """
    stage = Stage("ferryfsd", tmp_path, start_daemon, way.options)
    with stage.set_up():
        outcomes = {
            (title(change), by_guest): stage.play(change=change, moment=moment, by_guest=by_guest)
            for change, by_guest in changes_at(moment)
        }
    assert outcomes == {line: [RIGHT] for line in outcomes}


@pytest.mark.parametrize("mode", MODES)
def test_what_the_guest_holds(mode: str, tmp_path: Path, start_daemon: StartDaemon) -> None:
    """One after the other, each in one move."""
    stage = Stage("ferryfsd", tmp_path, start_daemon, Way(mode).options)
    writable = [scenario for scenario in HOLDINGS if scenario is not read_only]
    with stage.set_up():
        outcomes = {title(scenario): stage.play([scenario]) for scenario in writable}
    assert outcomes == {title(scenario): [RIGHT] for scenario in writable}


@pytest.mark.parametrize("mode", MODES)
def test_a_share_that_is_read_only(mode: str, tmp_path: Path, start_daemon: StartDaemon) -> None:
    assert play(Case(Way(mode), scenario=read_only), "ferryfsd", tmp_path, start_daemon) == RIGHT


@needs_images
@pytest.mark.parametrize("where", [where for where in PLACES if where != SAME])
def test_what_the_guest_holds_elsewhere(where: str, tmp_path: Path, start_daemon: StartDaemon) -> None:
    """All of it at once (but the 5,000 inodes), to another directory; what is lost is an error for the guest."""
    case = Case(Way(FIND_PATHS, "guest-error"), where)
    held = [scenario for scenario in holdings_in(where) if scenario not in (many_inodes, read_only)]
    outcomes = play_together(case, held, "ferryfsd", tmp_path, start_daemon)
    assert dict(zip(map(title, held), outcomes, strict=True)) == {
        title(scenario): expected_holding(scenario, where) for scenario in held
    }


@needs_images
@pytest.mark.parametrize("case", pairwise(list(every_place())), ids=str)
def test_where_it_goes(case: Case, tmp_path: Path, start_daemon: StartDaemon) -> None:
    """Every pair of mode, on-error, checks, sort of directory and change; all of it is what matrix.py prints."""
    assert play(case, "ferryfsd", tmp_path, start_daemon) == expected(case)


@pytest.mark.parametrize("name", TABLES)
def test_the_page_has_every_line(name: str) -> None:
    """What the program would print, as far as that is known without playing it."""
    page = Path(__file__).parents[2] / "docs" / "migration-scenarios.md"
    _, _, rest = page.read_text().partition(f"<!-- table: {name} -->\n")
    lines = rest.partition("<!-- end -->")[0].splitlines()
    shown = [line.split(" | ")[0].removeprefix("| ") for line in lines if line.startswith("| ")][1:]
    assert shown == [row for row, _ in TABLES[name](["ferryfsd"]).rows]
