"""Every test here leaves as many file descriptors behind as it found."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from .bare_daemon import Daemon


def open_descriptors() -> dict[str, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the one of this listing
    return found


@pytest.fixture(autouse=True)
def no_descriptor_is_left() -> Iterator[None]:
    before = open_descriptors()
    yield
    assert open_descriptors() == before


@pytest.fixture
def daemon(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Daemon]:
    share = tmp_path / "share"
    share.mkdir()
    daemon = Daemon(tmp_path / "s.sock", share, getattr(request, "param", False))
    yield daemon
    daemon.process.kill()
    daemon.process.wait()
    daemon.stderr.close()
