"""The part of the benchmark that boots a guest: short, with two daemons beside each other."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from ferryfs.bench.results import Run
from ferryfs.cli.bench import main
from ferryfs.guest.backend import own_daemon

OWN = shlex.join([*own_daemon(), "--shared-dir={share}", "--sandbox=none"])


def test_workloads_in_a_guest(tmp_path: Path) -> None:
    short = ("--set=guest", "--rounds=1", "--scale=0.001", "--rows=find,cp -r", f"--share={tmp_path}")
    files = [f"--{kind}={tmp_path / 'run'}.{kind}" for kind in ("json", "markdown", "html")]
    assert main(["--daemon", OWN, f"--against=other={OWN}", *short, *files]) == 0
    run = Run.load_json(tmp_path / "run.json")
    assert run.notes == []
    cases = {cell.case.partition(",")[0] for cell in run.cells}
    assert cases == {"cache=auto", "cache=always"}
    measured = sorted((cell.row, cell.subject) for cell in run.cells)
    assert measured == sorted(
        (row, who) for row in ("find", "cp -r") for who in ("bare", "ferryfsd", "other") for _ in cases
    )
    for cell in run.cells:
        assert cell.median("seconds") > 0
        if cell.subject != "bare":
            # A LOOKUP, and OPENDIR, READDIRPLUS, READDIR, RELEASEDIR of at least six folders; a few dozen files in all.
            assert 1 + 4 * 6 <= cell.median("requests") < 1000
            assert cell.median("daemon_s") > 0
            assert cell.median("daemon_s") == pytest.approx(cell.median("daemon_part") * cell.median("seconds"))
    assert "Seconds of the guest" in (tmp_path / "run.markdown").read_text()
    assert "Processor time of the daemon, cache=auto" in (tmp_path / "run.html").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.html", "run.json", "run.markdown"]
