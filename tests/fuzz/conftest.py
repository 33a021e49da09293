"""One daemon for all cases of a module: whatever a front-end does, the next one is served."""

from collections.abc import Iterator

import pytest
from daemons import daemons

from ferryfs.guest.backend import Backend, own_daemon

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
