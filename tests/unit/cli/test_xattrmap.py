"""``ferryfs xattrmap test``: what it says about rules and names."""

from pathlib import Path

import pytest

from ferryfs.cli.xattrmap import main
from ferryfs.errors import OptionError


def test_names_both_ways(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", "/map/trusted./user.virtiofs./", "trusted.a", "user.virtiofs.trusted.a"]) == 0
    said = capsys.readouterr().out
    assert "guest uses  trusted.a -> user.virtiofs.trusted.a  (rule 1)" in said
    assert "host lists  trusted.a -> hidden  (rule 2)" in said
    assert "guest uses  user.virtiofs.trusted.a -> EPERM  (rule 3)" in said
    assert "host lists  user.virtiofs.trusted.a -> trusted.a  (rule 1)" in said


def test_rules_from_a_file_and_what_is_worth_knowing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rules").write_text(":prefix:client:security.:user.vm.:\n:ok:client:user.::\n")
    assert main(["test", f"@{tmp_path / 'rules'}", "trusted.x"]) == 0
    said = capsys.readouterr().out
    assert "no rule is left for other names on the client side: they are refused" in said
    assert "security.capability becomes user.vm.security.capability" in said
    assert "guest uses  trusted.x -> EPERM  (no rule)" in said


@pytest.mark.parametrize("argv", [["test"], ["try", ":ok:all:::"], ["test", ":ok:"], ["test", "@/nonexistent"]])
def test_wrong_words(argv: list[str]) -> None:
    with pytest.raises(OptionError):
        main(argv)
