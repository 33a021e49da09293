"""The checks on a bare directory of the host: the oracle. What fails here is a mistake in the check."""

from pathlib import Path

import pytest
from posix_suite import CHECKS, run


@pytest.mark.parametrize("name", CHECKS)
def test_bare(name: str, bare_directory: Path, bare_features: frozenset[str]) -> None:
    result = run(CHECKS[name], bare_directory, bare_features)
    if result.status == "skipped":
        pytest.skip(result.detail)
    assert result.status == "passed", result.detail


def test_there_are_enough_checks() -> None:
    assert len(CHECKS) >= 180
