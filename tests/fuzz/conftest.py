"""Those that hostile input must not hurt: a daemon for all cases of a module, a device in this process for each."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from daemons import daemons
from engine_calls import prepare
from engine_guest import Guest

from ferryfs.guest.backend import Backend, own_daemon
from ferryfs.passthrough.config import ShareConfig

from .lab import SIZE
from .monitor import served


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    folder = tmp_path_factory.mktemp("frontend")
    shared = folder / "shared"
    shared.mkdir()
    (shared / "file").write_bytes(b"content")
    with daemons(folder) as start:
        backend = start(own_daemon(), shared, ["--sandbox=none", "--keep-listening", "--log-level=warn"])
        served(backend)
        yield backend


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    shared = tmp_path / "shared"
    shared.mkdir()
    prepare(shared)
    with Guest(shared, ShareConfig(xattr=True), size=SIZE, at_end=True) as guest:
        yield guest
