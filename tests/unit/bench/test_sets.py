"""Each part of the benchmark, as short as it can be: it runs, its rows come out, and nothing is left of it."""

from __future__ import annotations

import os
import shlex
import tempfile
from pathlib import Path

import pytest

from ferryfs.bench import sets
from ferryfs.bench.micro import names as micro_rows
from ferryfs.bench.results import Run
from ferryfs.cli.bench import main
from ferryfs.errors import OptionError
from ferryfs.guest.backend import own_daemon

OWN = shlex.join([*own_daemon(), "--shared-dir={share}", "--sandbox=none"])


def bench(tmp_path: Path, *words: str) -> Run:
    """A run of our own daemon."""
    files = [f"--{kind}={tmp_path / 'run'}.{kind}" for kind in ("json", "markdown", "html")]
    # Files are written by the hundred MiB: in memory, where that can be.
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as base:
        short = (f"--share={base}", "--rounds=1", "--seconds=0.002", "--scale=0.01")
        assert main(["--daemon", OWN, *short, *files, *words]) == 0
        assert os.listdir(base) == [], "the shared directory is gone"
    assert "## The bars" in (tmp_path / "run.markdown").read_text()
    return Run.load_json(tmp_path / "run.json")


def test_micro_rows(tmp_path: Path) -> None:
    run = bench(tmp_path, "--in-flight=1", "--queues=1", "--front-end=sleeping")
    rows = [row for row in micro_rows() if not any(f"The row {row!r} was left out" in note for note in run.notes)]
    assert len(rows) >= len(micro_rows()) - 1, "a file system may lack extended attributes"
    measured = {(cell.row, cell.subject) for cell in run.cells if cell.case == "1"}
    assert measured == {(row, who) for row in rows for who in ("ferryfsd", "bare")}
    assert all(cell.median("rate") > 0 for cell in run.cells)


def test_micro_cases(tmp_path: Path) -> None:
    """Two daemons, several queues, a front-end that polls."""
    run = bench(tmp_path, "--rows=getattr", "--in-flight=1,64", "--queues=2", "--against", f"other={OWN}")
    cases = {case: {cell.subject for cell in run.cells if cell.case == case} for case in (c.case for c in run.cells)}
    alone, beside = {"ferryfsd"}, {"ferryfsd", "other", "bare"}
    assert cases == {
        **dict.fromkeys(["1", "64", "1, polling", "16, polling"], beside),
        **dict.fromkeys(["16, 1 queue", "16, 2 queues"], alone),
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="file handles can only be opened by root")
def test_migration(tmp_path: Path) -> None:
    run = bench(tmp_path, "--set=migration", "--scale=0.001", "--against", f"other={OWN}")
    rows = ("find-paths", "find-paths lazy", "file-handles", "file-handles lazy")
    assert {(cell.row, cell.case, cell.subject) for cell in run.cells} == {
        (row, "1,000", who) for row in rows for who in ("ferryfsd", "other")
    }
    assert run.notes == []
    assert all(cell.median("downtime_ms") > 0 and cell.median("stream_mib") > 0 for cell in run.cells)


def test_a_migration_that_fails_is_a_note(tmp_path: Path) -> None:
    """Nobody's turn came to an end: there is no row, and the reason is said."""
    words = ["--set=migration", "--scale=0.001", "--rows=find-paths", "--daemon", f"{OWN} --migration-search-limit=-1"]
    run = bench(tmp_path, *words)
    assert run.cells == []
    assert [note for note in run.notes if "ferryfsd, find-paths, 1,000 inodes" in note]


def test_the_other_parts_without_a_mount(tmp_path: Path) -> None:
    run = bench(tmp_path, "--set=cold,head-of-line,scale,start", "--scale=0.001")
    rows = {part: {cell.row for cell in run.cells if cell.set == part} for part in run.sets()}
    assert rows == {
        "cold": {"read 4k random, cold"},
        "head-of-line": {"nothing", "fsync", "cold reads", "1M writes", "readdirplus 100,000"},
        "scale": {"inodes", "inodes, forgotten", "directory"},
        "start": {"one daemon", "interpreter", "many daemons"},
    }
    assert {cell.subject for cell in run.cells if cell.set == "head-of-line"} == {"ferryfsd", "bare", "bare, woken"}
    (ended,) = [cell for cell in run.cells if cell.row == "inodes, forgotten"]
    assert ended.median("end_ms") > 0


def test_without_qemu_the_guest_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    run = bench(tmp_path, "--set=guest", "--rows=cp -r")
    assert run.notes == ["guest was left out: there is no `qemu-system-x86_64` on this machine."]


def test_without_a_kernel_the_guest_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "qemu-system-x86_64").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("FERRYFS_CACHE", str(tmp_path))
    [note] = bench(tmp_path, "--set=guest", "--rows=cp -r").notes
    assert note.startswith(f"guest was left out: no guest kernel in {tmp_path}/guest/kernel: run `scripts/setup`")


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--set", "macro"], "there is no set 'macro'"),
        (["--rows", "getattr,nothing"], "there is no row 'nothing'"),
        (["--in-flight", "0"], "is no list of numbers"),
        (["--against", "virtiofsd"], "is not NAME=COMMAND"),
        (["--against", "bare=x"], "'bare' is taken"),
        (["--front-end", "dozing"], "neither sleeping nor polling"),
        (["--rounds", "0"], "--rounds is 1 or more"),
        (["--join", "none.json"], "can't be read"),
    ],
)
def test_what_can_not_be_is_refused(words: list[str], what: str) -> None:
    with pytest.raises(OptionError, match=what):
        main(words)


def test_parts_and_rows_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--list"])
    text = capsys.readouterr().out
    assert all(f"{name}: {sets.part(name).ABOUT}" in text for name in sets.NAMES)
