"""The parts of the benchmark that mount: short, in a process of their own, and nothing is left of them, also after
SIGTERM.
"""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ferryfs.bench.results import Run
from ferryfs.guest.backend import own_daemon
from interop.mounting import ferryfs, needs_fuse

pytestmark = needs_fuse

OWN = shlex.join([*own_daemon(), "--shared-dir={share}", "--sandbox=none"])
SHORT = ("--daemon", OWN, "--rounds=1", "--seconds=0.002", "--scale=0.002")


def test_workloads_and_requests(tmp_path: Path) -> None:
    rows = "git clone,npm tree,lookup miss,close after reading"
    words = ("--set=workloads,requests", f"--rows={rows}", f"--share={tmp_path}", f"--json={tmp_path / 'run.json'}")
    ferryfs("bench", *SHORT, *words)
    run = Run.load_json(tmp_path / "run.json")
    left_out = {row for row in rows.split(",") if any(note.startswith(f"{row} was left out") for note in run.notes)}
    assert {cell.row for cell in run.cells} == set(rows.split(",")) - left_out
    tree = run.point("workloads", "npm tree", "cache=auto, switches")
    assert tree is not None
    assert set(tree.cells) == {"bare", "ferryfsd"}
    assert tree.cells["ferryfsd"].median("n_LOOKUP") > 0
    cases = {cell.case for cell in run.cells if cell.row == "npm tree"}
    assert cases == {
        f"cache={cache}{one}{switches}"
        for cache in ("auto", "always")
        for one in ("", ", one processor")
        for switches in ("", ", switches")
    }
    for row in ("lookup miss", "close after reading"):
        (cell,) = [cell for cell in run.cells if cell.row == row]
        assert cell.median("requests_each") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_a_missing_tool_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = ferryfs("bench", *SHORT, "--set=workloads", "--rows=make", f"--share={tmp_path}")
    assert "make was left out: there is no `make` on this machine." in done.stdout


def test_nothing_is_left_after_sigterm(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ferryfs.cli.tool", "bench", *SHORT, "--rounds=1000", f"--share={tmp_path}"]
    process = subprocess.Popen(
        [*command, "--set=requests,workloads", "--rows=lookup miss,npm tree", f"--json={tmp_path / 'run.json'}"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    with process.stderr:
        # The machine, the first part; then mounts come and go.
        assert " x " in process.stderr.readline()
        assert process.stderr.readline().startswith("lookup miss")
        while not _mounts_of(process.pid):
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
    assert process.wait(60) == 130
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
    assert [cell.row for cell in Run.load_json(tmp_path / "run.json").cells] == ["lookup miss"]


def _mounts_of(pid: int) -> bool:
    """Whether a FUSE mount is in the process' mount namespace."""
    return "fuse.ferryfs" in Path(f"/proc/{pid}/mounts").read_text()
