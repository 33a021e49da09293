"""``ferryfs install-descriptor``: the file that libvirt looks for."""

import json
from pathlib import Path

import pytest

from ferryfs.cli.install_descriptor import NAME, main
from ferryfs.errors import OptionError, SetupError


def test_file_names_the_daemon_and_what_it_can(tmp_path: Path) -> None:
    assert main([f"--prefix={tmp_path}", "--binary=/opt/ferryfsd"]) == 0
    content = json.loads((tmp_path / "share/qemu/vhost-user" / NAME).read_text())
    assert content["type"] == "fs"
    assert content["binary"] == "/opt/ferryfsd"
    assert "separate-options" in content["features"]


def test_it_comes_before_virtiofsds() -> None:
    assert NAME < "50-virtiofsd.json"


def test_print_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"--prefix={tmp_path}", "--binary=/x", "--print"]) == 0
    assert json.loads(capsys.readouterr().out)["binary"] == "/x"
    assert not list(tmp_path.iterdir())


def test_what_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "share").touch()
    with pytest.raises(SetupError, match="can't be written"):
        main([f"--prefix={tmp_path}", "--binary=/x"])
    with pytest.raises(OptionError, match="unknown argument"):
        main(["--destdir=/x"])
