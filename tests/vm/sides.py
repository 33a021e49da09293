"""QEMUs with a daemon each, and a proxy between the two: something can be done at any of their messages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from daemons import OWN, daemon_command
from interop.cutting import CuttingProxy

from ferryfs.guest import moving
from ferryfs.guest.backend import Backend
from ferryfs.guest.command_line import Share
from ferryfs.guest.machine import Guest
from ferryfs.wire.vhost_user import Request
from vm.conftest import TAG, Boot, booting

# In the middle of the state, which is more than 200 bytes long.
MIDDLE_BYTES = 100


@dataclass
class Side:
    """A QEMU, its daemon, and what is between them."""

    guest: Guest
    backend: Backend
    proxy: CuttingProxy

    def die(self, who: str) -> None:
        """The one or the other, on the spot."""
        (self.guest if who == "QEMU" else self.backend).kill()

    def at(self, message: Request, then: Callable[[], None]) -> None:
        """Does something when QEMU has sent that message, and the daemon has not got it."""
        self.proxy.before[message] = then

    def at_place(self, first: Request, place: int, then: Callable[[], None]) -> None:
        """The same at a message that comes so many messages after that one."""

        def count() -> None:
            self.proxy.at[len(self.proxy.passed) + place] = then

        self.at(first, count)

    def in_the_middle(self, then: Callable[[], None]) -> None:
        """The same in the middle of the state."""
        self.proxy.tap_state(MIDDLE_BYTES, then)


class Sides:
    """Starts one after the other in a folder, all of which serve ``shared``; all end with ``stack``."""

    def __init__(self, folder: Path, shared: Path, stack: ExitStack, *, python: bool = False) -> None:
        self.shared = shared
        self._folder = folder
        self._stack = stack
        self._boot: Boot = stack.enter_context(booting())
        self._python = python
        self._count = 0

    def start(
        self,
        incoming: str = "defer",
        options: Sequence[str] = (),
        arrange: Callable[[Backend, CuttingProxy], None] = lambda *_: None,
    ) -> Side:
        """A QEMU that waits for a guest, or with ``incoming`` empty boots one. ``options`` are the daemon's.

        ``arrange`` is called before QEMU starts.
        """
        self._count += 1
        path = self._folder / f"daemon{self._count}"
        backend = Backend(daemon_command(OWN), self.shared, path, path.with_suffix(".log"), options)
        self._stack.enter_context(backend)
        proxy = self._stack.enter_context(CuttingProxy(path.with_suffix(".proxy"), path))
        arrange(backend, proxy)
        share = Share(TAG, path.with_suffix(".proxy"))
        return Side(self._boot(share, memory=256, cpus=1, incoming=incoming, python=self._python), backend, proxy)


def begin(source: Side, target: Side, bandwidth: int = 0) -> None:
    """Starts to move the guest."""
    uri = f"unix:{target.guest.folder / 'migration'}"
    moving.listen(target.guest, uri)
    moving.start(source.guest, uri, capabilities=["return-path"], bandwidth=bandwidth)


def move(source: Side, target: Side) -> None:
    """Moves the guest for good; the source ends."""
    moving.move(source.guest, target.guest)
    source.guest.stop()
    assert source.backend.wait() == 0
