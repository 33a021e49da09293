"""What an entry of known_differences.toml allows."""

from differences import Difference

ALWAYS = Difference(checks=("names.*",), reason="It can't.")
SOMETIMES = Difference(checks=("names.*",), reason="It loses a race.", sometimes=("Stale file handle", "No memory"))


def test_what_is_to_fail_has_to_fail() -> None:
    assert ALWAYS.objection("names.long", "failed", "OSError") == ""
    assert "passes now" in ALWAYS.objection("names.long", "passed", "")


def test_what_loses_a_race_fails_in_no_other_way() -> None:
    assert SOMETIMES.objection("names.long", "passed", "") == ""
    assert SOMETIMES.objection("names.long", "failed", "OSError: [Errno 116] Stale file handle: 'a'") == ""
    assert "AssertionError" in SOMETIMES.objection("names.long", "failed", "AssertionError: length")
