"""Directories for the POSIX checks."""

import os
import tempfile
from collections.abc import Iterator
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
