"""The operator's command: what it lists, and what it says to what it does not know."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from ferryfs.cli import tool
from ferryfs.cli.migrate import report


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in tool.COMMANDS)
    assert tool.main([]) == 2


def test_an_unknown_command_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(["mout"]) == 2
    assert "'mout'" in capsys.readouterr().err


def test_an_error_is_one_sentence_and_its_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(["migrate", "/nowhere", "/nothing"]) == 2
    assert capsys.readouterr().err == "ferryfs migrate: No `ferryfs mount` of this user serves /nowhere.\n"


@pytest.mark.parametrize("name", ["mount", "migrate", "save"])
def test_commands_explain_themselves(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        tool.main([name, "--help"])
    assert ended.value.code == 0
    assert "MOUNTPOINT" in capsys.readouterr().out


def test_nothing_is_imported_before_it_is_asked_for() -> None:
    check = "import sys, ferryfs.cli.tool as t; t.main(['--help']); sys.exit('ferryfs.cli.mount' in sys.modules)"
    assert importlib.util.find_spec("ferryfs.cli.mount") is not None
    subprocess.run([sys.executable, "-c", check], check=True, stdout=subprocess.DEVNULL)


def test_the_downtime_is_what_lies_between_the_pause_and_the_answer() -> None:
    phases = [["connect", 1.0], ["collect", 1.0], ["drain", 0.001], ["save", 0.002], ["start", 0.003], ["write", 1.0]]
    last = report({"phases": phases, "bytes": 77}).splitlines()[-1].split()
    assert last == ["downtime", "6.0", "ms", "state", "of", "77", "bytes"]


def test_a_destination_that_had_to_be_kicked_is_named() -> None:
    assert "until it was kicked" in report({"phases": [["save", 0.002]], "bytes": 77, "kicked": True})
    assert "kicked" not in report({"phases": [["save", 0.002]], "bytes": 77, "kicked": False})
