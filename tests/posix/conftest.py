"""Directories for the POSIX checks."""

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from posix_suite import probe
from posix_suite.runner import remove


def _base() -> Path:
    # Not pytest's own directory: other users, whom the checks play, must be able to get there. And not /tmp, which is
    # a tmpfs on some machines.
    return Path(os.environ.get("FERRYFS_TEST_DIRECTORY", "/var/tmp"))


@pytest.fixture(scope="session")
def bare_directory() -> Iterator[Path]:
    """A directory on a file system of the host, open to all users."""
    path = Path(tempfile.mkdtemp(prefix="ferryfs-posix-", dir=_base())).resolve()
    path.chmod(0o755)
    yield path
    remove(path)


@pytest.fixture(scope="session")
def bare_features(bare_directory: Path) -> frozenset[str]:
    """What the bare directory has."""
    return probe(bare_directory)


_differences: pytest.StashKey[Counter[str]] = pytest.StashKey()


@pytest.fixture
def note_difference(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Called with the reason by a test in which a known difference was seen: they are listed at the end of the run."""
    seen = request.config.stash.setdefault(_differences, Counter())

    def note(reason: str) -> None:
        seen[reason] += 1

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """What was expected to fail and did."""
    seen = config.stash.get(_differences, Counter())
    if seen:
        terminalreporter.section("known differences of mounts")
        for reason, count in seen.most_common():
            terminalreporter.write_line(f"{count:4} checks: {reason}")
