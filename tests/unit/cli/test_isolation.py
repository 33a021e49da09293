"""When the daemon's interpreter starts again isolated, and that it does."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from ferryfs.cli.isolation import isolate, needs_restart, restart_command

SHOW = (
    "import os, sys; from ferryfs.cli.isolation import isolate; isolate(os.environ); "
    "print(sys.flags.isolated, sys.path[0])"
)


@pytest.mark.parametrize(
    ("environ", "needed"),
    [
        ({}, False),
        ({"PATH": "/bin"}, False),
        ({"PYTHONPATH": ""}, False),
        ({"PYTHONPATH": "/x"}, True),
        ({"PYTHONDONTWRITEBYTECODE": "1"}, True),
    ],
)
def test_variables_that_count(environ: dict[str, str], needed: bool) -> None:
    assert needs_restart(environ, "") is needed


def test_user_site_counts_only_where_it_is_used() -> None:
    assert not needs_restart({}, "/home/somebody/.local/lib/python3/site-packages")


def test_command_is_repeated_with_one_word_more() -> None:
    assert restart_command(["/usr/bin/python3", "/usr/bin/ferryfsd", "--help"]) == [
        "/usr/bin/python3",
        "-I",
        "/usr/bin/ferryfsd",
        "--help",
    ]
    assert restart_command([]) == []


def test_process_starts_again_isolated(tmp_path: Path) -> None:
    (tmp_path / "stat.py").write_text("")
    command = [sys.executable, "-c", SHOW]
    plain = subprocess.run(command, capture_output=True, text=True, check=True, env={}, cwd=tmp_path).stdout.split()
    assert plain[0] == "0"
    assert plain[1] != ""
    again = subprocess.run(
        command, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(tmp_path)}, cwd=tmp_path
    ).stdout.split()
    assert again[0] == "1"
    assert str(tmp_path) not in again


def test_interpreter_that_can_not_start_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence, as for every other failure of a start."""
    monkeypatch.setattr(sys, "executable", "/nonexistent/python3")
    monkeypatch.setattr(sys, "flags", SimpleNamespace(isolated=False, safe_path=True))
    with pytest.raises(SystemExit) as caught:
        isolate({"PYTHONPATH": "/x"})
    assert caught.value.code == (
        "error: /nonexistent/python3 can't be started again with -I: No such file or directory"
    )
