"""`ferryfs bench` as it is typed: every row on a real daemon, its files, and what it refuses."""

import json
import sys
from pathlib import Path

import pytest

from ferryfs.bench.rows import ROWS
from ferryfs.cli.bench import main
from ferryfs.errors import OptionError, PeerError

DAEMON = f"{sys.executable} -m ferryfs.cli.daemon --shared-dir={{share}} --sandbox=none"
QUICK = ("--daemon", DAEMON, "--rounds", "1", "--seconds", "0.01")


def test_every_row_on_our_daemon(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    files = tmp_path / "run.json", tmp_path / "run.md"
    share = ["--share", str(tmp_path)]
    assert main([*QUICK, "--in-flight", "3", "--json", str(files[0]), "--markdown", str(files[1]), *share]) == 0
    run = json.loads(files[0].read_text())
    assert {cell["row"] for cell in run["cells"]} == {row.name for row in ROWS}
    assert all(turn["rate"] > 0 and turn["cpu_us"] > 0 for cell in run["cells"] for turn in cell["turns"])
    assert all(f"| {row.name} |" in files[1].read_text() for row in ROWS)
    # Nothing is left of the share.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.json", "run.md"]
    # A run of the same machine is laid beside.
    again = [*QUICK, "--in-flight", "3", "--rows", "getattr,rename", *share]
    with pytest.raises(OptionError, match="was measured on another machine"):
        main([*again, "--compare", str(_of_another_machine(files[0], tmp_path / "other.json"))])
    assert main([*again, "--compare", str(files[0])]) == 0
    assert "to before" in capfd.readouterr().out


def _of_another_machine(source: Path, target: Path) -> Path:
    run = json.loads(source.read_text())
    run["machine"]["processors"] += 1
    target.write_text(json.dumps(run))
    return target


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rows", "getattr,fly"], "there is no row 'fly' in these sets; there are getattr, "),
        (["--in-flight", "1,many"], "--in-flight: '1,many' is no list of numbers from 1 to 64"),
        (["--in-flight", "65"], "--in-flight: '65' is no list of numbers from 1 to 64"),
        (["--against", "virtiofsd"], "--against: 'virtiofsd' is not NAME=COMMAND"),
        (["--against", "ferryfsd=x"], "'ferryfsd' is taken; give each daemon a name of its own"),
    ],
)
def test_what_is_refused(words: list[str], said: str) -> None:
    with pytest.raises(OptionError) as caught:
        main([*QUICK, *words])
    assert said in str(caught.value)


def test_a_daemon_that_answers_wrongly_ends_the_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    daemon = DAEMON + " --readonly"
    with pytest.raises(PeerError, match="the row 'rename' with Read-only file system"):
        main(["--daemon", daemon, "--rounds", "1", "--seconds", "0.01", "--rows", "rename", "--share", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []
