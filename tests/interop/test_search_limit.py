"""--migration-search-limit: how long a destination that can't open file handles looks for what is not where it was."""

from __future__ import annotations

from pathlib import Path

import pytest
from daemons import StartDaemon

from interop.mounting import needs_fuse
from interop.outcomes import REFUSED, RIGHT
from interop.stage import SAVED, Stage

pytestmark = needs_fuse

# Over before the second entry is looked at.
AN_INSTANT = "0.000001"


def moves_far(host: Path) -> None:
    """To where only a walk of the share leads."""
    (host / "another" / "folder").mkdir(parents=True)
    (host / "src" / "main.c").rename(host / "another" / "folder" / "main.c")


@pytest.mark.parametrize(
    ("option", "outcome", "says"),
    [
        ((), RIGHT, "1 of them found by a search of"),
        (("--migration-search-limit=0",), REFUSED, ""),
        ((f"--migration-search-limit={AN_INSTANT}",), REFUSED, ", which --migration-search-limit ended."),
    ],
    ids=["default", "none", "an-instant"],
)
def test_search_limit(
    option: tuple[str, ...], outcome: str, says: str, tmp_path: Path, start_daemon: StartDaemon
) -> None:
    """The host moves an open file between save and load. Refused means that the guest goes on at the source."""
    stage = Stage("ferryfsd", tmp_path, start_daemon, ["--modcaps=-dac_read_search", *option])
    with stage.set_up():
        assert stage.play(change=moves_far, moment=SAVED) == [outcome]
    assert says in stage.target_log()
    assert ("by a search" in stage.target_log()) == bool(says)
