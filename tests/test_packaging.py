"""What a package installs beside the programs: the systemd unit, as systemd reads it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from ferryfs.cli.options_sources import load
from ferryfs.guest.backend import own_daemon

UNIT = Path(__file__).parents[1] / "packaging" / "ferryfsd@.service"
PROGRAM = "/usr/bin/ferryfsd"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze: apt install systemd")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    """Every setting is one that systemd knows, with a value that it takes; the program is where it is here."""
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace(PROGRAM, own_daemon()[0]))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_daemon_understands_what_the_unit_starts(tmp_path: Path) -> None:
    """The file that the unit's comment shows is enough."""
    text = UNIT.read_text()
    command = next(line for line in text.splitlines() if line.startswith("ExecStart="))
    words = command.removeprefix("ExecStart=").replace("/etc/ferryfs/%i.toml", str(tmp_path / "vm1.toml")).split()
    shown = next(line for line in text.splitlines() if line.startswith("#     shared-dir"))
    (tmp_path / "vm1.toml").write_text(shown.lstrip("# ") + "\n")
    assert words[0] == PROGRAM
    options = load(words[1:], {}).options
    assert (options.shared_dir, options.keep_listening) == ("/srv/vm1", True)
