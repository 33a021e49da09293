"""Linux guests for the tests of this folder: booted once a test or once a module, with daemons of every kind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest
from daemons import EVERY_DAEMON, OWN, StartDaemon, daemon_command, daemons

from ferryfs.guest import accelerator
from ferryfs.guest.command_line import Machine, Share
from ferryfs.guest.image import find_parts, initramfs
from ferryfs.guest.machine import Guest

TAG = "share"
MOUNT_POINT = "/mnt"


class Boot(Protocol):
    """Boots a guest with shares, and ends it when the scope ends."""

    def __call__(
        self,
        *shares: Share,
        python: bool = False,
        cpus: int = 2,
        memory: int = 512,
        incoming: str = "",
        release: str = "",
        extra: tuple[str, ...] = (),
    ) -> Guest: ...


@contextmanager
def booting() -> Iterator[Boot]:
    """A scope that guests live in."""
    with ExitStack() as running:

        def boot(
            *shares: Share,
            python: bool = False,
            cpus: int = 2,
            memory: int = 512,
            incoming: str = "",
            release: str = "",
            extra: tuple[str, ...] = (),
        ) -> Guest:
            parts = find_parts(python=python, release=release)
            chosen = accelerator.choose(find_parts())
            machine = Machine(
                parts.kernel, initramfs(parts), chosen, shares, cpus=cpus, memory=memory, incoming=incoming, extra=extra
            )
            return running.enter_context(Guest(machine))

        yield boot


@pytest.fixture
def boot(start_daemon: StartDaemon) -> Iterator[Boot]:
    """Boots guests that end before the daemons of the same test."""
    with booting() as boot:
        yield boot


@dataclass(frozen=True)
class Mounted:
    """A guest that has a directory of this host mounted: the two sides of one share."""

    daemon: str
    guest: Guest
    shared: Path

    @property
    def inside(self) -> str:
        """The share's mount point in the guest."""
        return MOUNT_POINT


def mounted_share(daemon: str, folder: Path, options: Sequence[str], *, python: bool = False) -> Iterator[Mounted]:
    """The body of a fixture: a directory below ``folder``, served by one daemon, mounted in a guest."""
    shared = folder / "shared"
    shared.mkdir()
    with daemons(folder) as start, booting() as boot:
        backend = start(daemon_command(daemon), shared, options)
        guest = boot(Share(TAG, backend.socket), python=python)
        guest.check(f"mount -t virtiofs {TAG} {MOUNT_POINT}")
        yield Mounted(daemon, guest, shared)
        guest.check(f"umount {MOUNT_POINT}")


@pytest.fixture(scope="module", params=EVERY_DAEMON)
def mounted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    """One guest a module and daemon, with a share mounted."""
    yield from mounted_share(request.param, tmp_path_factory.mktemp("share"), ["--xattr"])


@pytest.fixture
def own() -> tuple[str, ...]:
    """The command of our daemon."""
    return daemon_command(OWN)


@pytest.fixture(params=EVERY_DAEMON)
def daemon(request: pytest.FixtureRequest) -> str:
    """Each daemon's name."""
    name: str = request.param
    return name
